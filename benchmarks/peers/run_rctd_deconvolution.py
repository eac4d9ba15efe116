"""RCTD by rctd-py, full mode.

The package's tables of its likelihood are a download of their own. ``python run_rctd_deconvolution.py FILE`` computes
them for every sigma that it looks for, by the package's grid and its integral over the latent effect.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rctd import RCTDConfig, Reference, run_rctd
from rctd._likelihood import _ht_pdf_norm, build_x_vals
from rctd._sigma import SIGMA_ALL
from scipy import fft
from scipy.interpolate import CubicSpline
from scipy.special import gammaln

PACKAGES = ("rctd-py", "torch", "numpy")
#: What its weights are shares of: profiles sum to 1, so that weights are shares of the counts.
SHARES_OF = "rna"
#: Variable that names the file of tables.
TABLES = "RCTD_Q_MATRICES"
#: Integration step and reach of the package.
STEP, REACH = 4e-3, 20.0


def call(spots: Any, reference: Any, options: dict[str, Any]) -> pd.DataFrame:
    """Weights by the documented defaults; spots that it leaves out are rows of NaN.

    Types with few cells and cells with few counts are not dropped (the defaults, 25 cells and 100 counts, would take
    types of the truth away and most cells of the imaging data), nor spots with few counts. The platform effects are
    its own, estimated at every run. Compilation, which its manual puts at up to hours, is off.
    """
    del options
    config = RCTDConfig(UMI_min=1, counts_MIN=1, UMI_min_sigma=min(300, _usual(spots)), device="cpu", compile=False)
    cells = Reference(reference, cell_type_col="cell_type", cell_min=1, min_UMI=1)
    found = run_rctd(spots, cells, mode="full", config=config)
    weights = np.full((spots.n_obs, len(found.cell_type_names)), np.nan)
    weights[np.asarray(found.pixel_mask, bool)] = np.maximum(np.asarray(found.weights), 0.0)
    return pd.DataFrame(weights, index=spots.obs_names, columns=list(found.cell_type_names))


def _usual(spots: Any) -> int:
    """Counts that half of the spots have: sigma is estimated on these at the least."""
    return int(np.median(np.asarray(spots.X.sum(1)).ravel()))


def write_tables(path: Path) -> None:
    """Logarithm of P(count | intensity, sigma) for counts 0 to 1002 on the package's grid of intensities.

    On the scale of logarithms the integral over the latent effect is a convolution of the Poisson probability with the
    density of the effect, one Fourier transform a count and a sigma.
    """
    intensity = build_x_vals()
    where = np.log(intensity)
    low, high = where[0] - 0.1, where[-1] + 0.1
    latent = np.arange(-round(REACH / STEP), round(REACH / STEP) + 1) * STEP
    wide = np.arange(low - REACH, high + REACH, STEP)
    inner = len(wide) - len(latent) + 1
    size = fft.next_fast_len(len(wide) + len(latent) - 1, real=True)
    counts = np.arange(1003)
    tables = {f"Q_{sigma}": np.empty((len(counts), len(where))) for sigma in SIGMA_ALL}
    density = {s: fft.rfft(_ht_pdf_norm(latent / (s / 100)) / (s / 100) * STEP, size) for s in SIGMA_ALL}
    for part in np.array_split(counts, 20):
        poisson = np.exp(part[:, None] * wide - np.exp(np.minimum(wide, 50.0)) - gammaln(part + 1.0)[:, None])
        transformed = fft.rfft(poisson, size, axis=1)
        for sigma in SIGMA_ALL:
            # The density is even, so that convolution and correlation are one.
            value = fft.irfft(transformed * density[sigma], size, axis=1)[:, len(latent) - 1 :][:, :inner]
            logs = np.log(np.maximum(value, 1e-300))
            tables[f"Q_{sigma}"][part] = CubicSpline(low + np.arange(inner) * STEP, logs, axis=1)(where)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"unfinished-{path.name}")
    np.savez(unfinished, X_vals=intensity, **tables)
    os.replace(unfinished, path)


if __name__ == "__main__":
    write_tables(Path(sys.argv[1]))
