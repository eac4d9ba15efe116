"""Scores of compositions against the truth, nulls that stand beside them, and tables that processes hand over."""

# The interpreters of the peers read this file too: this package is imported inside functions.
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

NULLS = ("null: equal shares", "null: reference", "oracle: mean of the truth")


def read_table(path: Path, *, columns: Any) -> np.ndarray:
    """A table with the columns in this order; a type that it lacks has 0."""
    with np.load(path) as stored:
        values = pd.DataFrame(stored["values"], columns=stored["columns"])
    return values.reindex(columns=columns, fill_value=0.0).to_numpy(np.float64)


def constant_score(estimate: np.ndarray, truth: np.ndarray, width: float, *, level: float = 0.9) -> float:
    """Interval score of one half width around the estimates."""
    low, high = np.maximum(estimate - width, 0.0), np.minimum(estimate + width, 1.0)
    miss = np.maximum(low - truth, 0) + np.maximum(truth - high, 0)
    return float(np.mean(high - low + 2.0 / (1.0 - level) * miss))


def in_cells(shares: np.ndarray, made: Any) -> np.ndarray:
    """Shares of the counts as shares of the cells: divided by the mean counts of a cell of the type."""
    depth = np.asarray(made.reference.X.sum(1)).ravel()
    mean = pd.Series(depth).groupby(made.reference.obs["cell_type"].to_numpy()).mean()
    return shares / mean.loc[made.truth.columns].to_numpy()


def plain_scores(estimate: np.ndarray, made: Any) -> dict[str, float]:
    """Agreement with the truth."""
    from spatialjax.metrics.composition import composition_scores

    left_out = ~np.isfinite(estimate).all(1)
    found = composition_scores(np.where(left_out[:, None], 0.0, estimate), made.truth.to_numpy())._asdict()
    return found if not left_out.any() else {**found, "spots left out": int(left_out.sum())}


def uncertainty_scores(folder: Path, made: Any) -> dict[str, Any]:
    """Intervals of present types, and probabilities of presence."""
    from spatialjax.metrics.composition import interval_scores

    columns, truth = made.truth.columns, made.truth.to_numpy()
    low, high, estimate, presence = (
        read_table(folder / f"{name}.npz", columns=columns) for name in ("q05", "q95", "proportions", "presence")
    )
    there = (truth > 0) & np.isfinite(low)
    stated = interval_scores(low, high, truth, estimate=estimate, counted=there)
    width = float(read_table(folder / "width.npz", columns=["width"])[0, 0])
    present, known = truth > 0, np.isfinite(presence)
    rate = present[known].mean()
    return {
        "interval": {
            "coverage": stated.coverage,
            "width": stated.width,
            "score": stated.score,
            "fair null": constant_score(estimate[there], truth[there], width),
            "oracle null": stated.null_score,
        },
        "presence": {
            "Brier": float(np.mean((presence - present)[known] ** 2)),
            "Brier of the frequency": float(rate * (1 - rate)),
            "P(absent) where absent": float(1 - presence[known & ~present].mean()),
            "P(absent) where present": float(1 - presence[known & present].mean()),
        },
    }


def null(name: str, made: Any) -> np.ndarray:
    """What one of the nulls says."""
    truth = made.truth.to_numpy()
    if name == NULLS[0]:
        return np.full(truth.shape, 1.0 / truth.shape[1])
    shares = made.reference.obs["cell_type"].value_counts(normalize=True).loc[made.truth.columns].to_numpy()
    return np.broadcast_to(shares if name == NULLS[1] else truth.mean(0), truth.shape)


def averaged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means of the numbers of several seeds; texts of the first one, and the first failure."""
    first = next((row for row in rows if row.get("status", "finished") != "finished"), rows[0])
    if first is not rows[0] or len(rows) == 1:
        return first
    found: dict[str, Any] = {}
    for name, value in rows[0].items():
        values = [row[name] for row in rows if name in row]
        if isinstance(value, dict) and name != "versions":
            found[name] = averaged(values)
        else:
            found[name] = float(np.mean(values)) if isinstance(value, int | float) else value
    if "pearson" in found:
        found["pearson, sd of seeds"] = float(np.std([row["pearson"] for row in rows], ddof=1))
    return found
