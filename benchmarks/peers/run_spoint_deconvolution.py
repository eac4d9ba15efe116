"""Spoint by its authors' package SPACEL, installed without its dependencies beside scvi-tools.

SPACEL 1.1 asks for scvi-tools of 2023, and for R through rpy2 for one lognormal fit. Here scvi-tools is a current one,
whose ``train`` no longer takes ``use_gpu``, and the fit is its closed form. The package's 500,000 pseudo-spots, batches
of 1,024 and 5,000 rounds would take more than a day on a processor; the row says what was taken instead.
"""

from __future__ import annotations

import sys
import tempfile
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import scvi

PACKAGES = ("SPACEL", "scvi-tools", "torch", "scanpy", "numpy")
#: It returns what its pseudo-spots are labelled with, shares of cells.
SHARES_OF = "cells"
#: Pseudo-spots, rows of a batch, and rounds of training.
PSEUDO_SPOTS, BATCH, ROUNDS = 20_000, 128, 1000
#: What the row says of its settings.
TOLD = {"pseudo-spots": PSEUDO_SPOTS, "batch": BATCH, "rounds": ROUNDS}


def call(spots: Any, reference: Any, options: dict[str, Any]) -> pd.DataFrame:
    """The package's defaults, but for the sizes above."""
    _stand_in_for_r()
    _accept_use_gpu()
    from SPACEL import Spoint

    cells, spots = reference.copy(), spots.copy()
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str).astype("category")
    model = Spoint.init_model(
        cells, spots, celltype_key="cell_type", sm_size=PSEUDO_SPOTS, n_threads=1, seed=options["seed"], use_gpu=False
    )
    with tempfile.TemporaryDirectory() as folder:
        model.train(max_steps=ROUNDS, batch_size=BATCH, save_mode="best", save_path=folder)
        found = model.deconv_spatial()
    return found.reindex(spots.obs_names)


def _stand_in_for_r() -> None:
    """``fitdistrplus.fitdist(x, "lnorm")`` is the mean and the standard deviation of log x."""

    def fitted(values: Any, law: str) -> list[tuple[float, float]]:
        if law != "lnorm":
            raise ValueError(f"expected 'lnorm', found {law!r}")
        logs = np.log(np.asarray(values, float))
        return [(float(logs.mean()), float(logs.std()))]

    robjects, packages, package = (ModuleType(f"rpy2{name}") for name in (".robjects", ".robjects.packages", ""))
    robjects.FloatVector = np.asarray
    stand_in = ModuleType("fitdistrplus")
    stand_in.fitdist = fitted
    packages.importr = {"fitdistrplus": stand_in}.__getitem__
    package.robjects, robjects.packages = robjects, packages
    sys.modules |= {"rpy2": package, "rpy2.robjects": robjects, "rpy2.robjects.packages": packages}


def _accept_use_gpu() -> None:
    train = scvi.model.SCVI.train

    def on_cpu(self: Any, *, use_gpu: Any = None, **options: Any) -> Any:
        del use_gpu
        return train(self, accelerator="cpu", enable_progress_bar=False, logger=False, **options)

    scvi.model.SCVI.train = on_cpu
