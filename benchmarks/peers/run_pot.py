"""Fused Gromov–Wasserstein of POT on PASTE's problem, with lengths in spot pitches and room for the linear programmes.

Costs as PASTE defines them: Kullback–Leibler divergence between the rows of (counts + 0.01), each divided by its sum,
and Euclidean distances within the sections, here divided by the median distance of nearest neighbours; weight 0.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import ot
import pair
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.special import xlogy

LINEAR_PROGRAMME_STEPS = 5_000_000


def shares(adata: Any) -> np.ndarray:
    """Rows of (counts + 0.01) that sum to 1."""
    counts = adata.X.toarray().astype(np.float64) + 0.01
    return counts / counts.sum(1, keepdims=True)


def call(source: Any, target: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The plan."""
    del options
    p, q = shares(source), shares(target)
    linear = xlogy(p, p).sum(1)[:, None] - p @ np.log(q).T
    points = [np.asarray(adata.obsm["spatial"], np.float64) for adata in (source, target)]
    pitch = np.median(np.concatenate([cKDTree(xy).query(xy, k=2)[0][:, 1] for xy in points]))
    plan = ot.gromov.fused_gromov_wasserstein(
        linear,
        *(cdist(xy, xy) / pitch for xy in points),
        alpha=0.1,
        numItermaxEmd=LINEAR_PROGRAMME_STEPS,
    )
    return {"plan": plan}


if __name__ == "__main__":
    pair.run(call, packages=("POT", "numpy"))
