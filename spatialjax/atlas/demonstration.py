"""The demonstration: a tissue whose truth is known, reconstructed, and its errors beside those of simple ways."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from spatialjax import datasets
from spatialjax.atlas import intake
from spatialjax.atlas.features import Prepared, prepare
from spatialjax.atlas.pairs import fit_pairs, fitted_poses
from spatialjax.atlas.reconstruction import Options, Reconstruction
from spatialjax.atlas.run import reconstruct_stack
from spatialjax.atlas.watch import Watch
from spatialjax.metrics.alignment import pose_error
from spatialjax.transforms import Affine, identity

#: Simple alignment methods that the demonstration runs beside the reconstruction.
BASELINES = ("moments", "icp")


def demonstrate(
    *, n_sections: int = 5, spots: int = 900, seed: int = 0, watch: Watch | None = None
) -> tuple[Reconstruction, list[dict[str, Any]]]:
    """Simulate a tissue, reconstruct it, and score every section against the truth.

    Parameters
    ----------
    n_sections, spots, seed
        The simulation.
    watch
        Measures and reports the steps.

    Returns
    -------
    tuple
        The reconstruction, and one row for each way of aligning: median and largest error of the sections in units of
        the distance between spots and in degrees, and how many sections have the right side up.
    """
    watch = Watch() if watch is None else watch
    with watch.step("simulate", f"{n_sections} sections of a layered tissue"):
        adatas = datasets.simulated(seed=seed, n_sections=n_sections, spots=spots)
        stack = intake.open_in_order(adatas).stack
    result = reconstruct_stack(stack, Options(seed=seed), watch=watch)
    anchor = stack.names.index(next(p.anchor for p in result.transforms.values() if p.anchor))
    with watch.step("baselines", "the same sections by simple ways"):
        prepared = prepare(stack, method=BASELINES[0])
        ways = {"atlas": [p.transform for p in result.transforms.values()]}
        ways |= {name: _chained(prepared, name, anchor=anchor, seed=seed) for name in BASELINES}
        ways["as given"] = [identity()] * len(adatas)
    scores = [
        score(poses, adatas, anchor=anchor, pitch=stack.sections[0].pitch) | {"way": w} for w, poses in ways.items()
    ]
    return result, scores


def score(poses: list[Affine], adatas: list[Any], *, anchor: int, pitch: float) -> dict[str, Any]:
    """Errors of the poses of all sections but the anchor; a section that is not placed counts as an infinite error.

    Parameters
    ----------
    poses
        Map of each section into the frame of the anchor, µm.
    adatas
        Sections with ``uns['truth']``.
    anchor
        The section whose frame it is.
    pitch
        Distance between spots, µm.
    """
    truths = [Affine(np.asarray(a.uns["truth"]["matrix"]), np.asarray(a.uns["truth"]["shift"])) for a in adatas]
    back = truths[anchor].inverse()
    errors = [
        pose_error(pose, back.compose(truth), np.asarray(adata.obsm["spatial"]))
        for i, (pose, truth, adata) in enumerate(zip(poses, truths, adatas, strict=True))
        if i != anchor
    ]
    moved = np.array([e.displacement if np.isfinite(e.displacement) else np.inf for e in errors]) / pitch
    turned = np.array([e.angle for e in errors if e.parity_right and np.isfinite(e.angle)])
    return {
        "median_pitches": float(np.median(moved)),
        "largest_pitches": float(moved.max()),
        "median_degrees": float(np.median(turned)) if len(turned) else float("nan"),
        "right_side_up": int(sum(e.parity_right for e in errors)),
        "sections": len(errors),
    }


def show(scores: list[dict[str, Any]], console: Any) -> None:
    """Print the errors.

    Parameters
    ----------
    scores
        What :func:`demonstrate` returned.
    console
        A ``rich.console.Console``.
    """
    from rich import box
    from rich.table import Table

    console.print("\nError against the known truth, over all sections but the anchor:")
    names = ("", "median error, spot distances", "largest", "median angle error", "right side up")
    table = Table(*names, box=box.SIMPLE_HEAD)
    for row in scores:
        angle = "–" if np.isnan(row["median_degrees"]) else f"{row['median_degrees']:.2f}°"
        side = f"{row['right_side_up']} of {row['sections']}"
        cells = (row["way"], f"{row['median_pitches']:.2f}", f"{row['largest_pitches']:.2f}", angle, side)
        table.add_row(*cells, style="bold" if row["way"] == "atlas" else None)
    console.print(table)
    console.print("The angle counts sections with the right side up only.", style="dim")


def _chained(prepared: Prepared, method: str, *, anchor: int, seed: int) -> list[Affine]:
    """Each section carried to the anchor over its neighbours by the best poses of ``method``."""
    number = len(prepared.slices)
    pairs = [(i, i + 1) for i in range(number - 1)]
    fits = fit_pairs(prepared, pairs, method=method, key=jax.random.key(seed))
    onward = [fitted_poses(prepared, pair, fit.result)[0][0] for pair, fit in zip(pairs, fits, strict=True)]
    poses = [identity()] * number
    for i in range(anchor - 1, -1, -1):
        poses[i] = poses[i + 1].compose(onward[i])
    for i in range(anchor + 1, number):
        poses[i] = poses[i - 1].compose(onward[i - 1].inverse())
    return poses
