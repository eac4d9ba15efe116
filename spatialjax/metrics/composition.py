"""How well compositions, and what is said of their uncertainty, agree with a known truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial.distance import jensenshannon


class CompositionScores(NamedTuple):
    """Agreement of estimated and true proportions.

    Attributes
    ----------
    pearson
        Mean over the spots of the correlation across types; 0 where one of them does not vary.
    pearson_all
        Correlation of all entries together.
    rmse
        Root mean squared error of all entries.
    jsd
        Mean over the spots of the Jensen–Shannon divergence (base 2, from 0 to 1).
    aupr
        Area under the precision–recall curve of presence (more than 1 % of the cells), all entries together.
    """

    pearson: float
    pearson_all: float
    rmse: float
    jsd: float
    aupr: float


#: Share of the cells above which a type counts as present.
PRESENT = 0.01


def composition_scores(estimate: Float[np.ndarray, "n k"], truth: Float[np.ndarray, "n k"]) -> CompositionScores:
    """Scores of estimated proportions, types in the same order; the rows of both are made to sum to 1.

    Parameters
    ----------
    estimate, truth
        (n, K) at least 0. A row of zeros in the estimate is taken for equal shares.

    Raises
    ------
    ValueError
        If the shapes differ, a value is negative or not a number, or a row of the truth sums to 0.

    References
    ----------
    Sang-aram et al. (2024), eLife 12:RP88431 (RMSE, AUPR and JSD); Li et al. (2022), Nature Methods 19.
    """
    from sklearn.metrics import average_precision_score

    estimate, truth = _shares(estimate, "estimate"), _shares(truth, "truth")
    if estimate.shape != truth.shape:
        raise ValueError(f"Expected two tables of one shape, found {estimate.shape} and {truth.shape}.")
    divergence = jensenshannon(estimate, truth, base=2, axis=1) ** 2
    present = truth > PRESENT
    aupr = average_precision_score(present.ravel(), estimate.ravel()) if present.any() else float("nan")
    return CompositionScores(
        pearson=float(np.mean(row_correlation(estimate, truth))),
        pearson_all=float(row_correlation(estimate.reshape(1, -1), truth.reshape(1, -1))[0]),
        rmse=float(np.sqrt(np.mean((estimate - truth) ** 2))),
        jsd=float(np.nanmean(divergence)),
        aupr=float(aupr),
    )


def row_correlation(values: Float[np.ndarray, "n k"], others: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    """Pearson's correlation of the rows of two tables; 0 where a row does not vary."""
    values = values - values.mean(1, keepdims=True)
    others = others - others.mean(1, keepdims=True)
    scale = np.sqrt((values**2).sum(1) * (others**2).sum(1))
    return np.where(scale > 0, (values * others).sum(1) / np.where(scale > 0, scale, 1.0), 0.0)


class IntervalScores(NamedTuple):
    """Intervals beside the truth.

    Attributes
    ----------
    coverage
        Share of the intervals that hold the truth.
    width
        Mean width.
    score
        Mean interval score, smaller is better.
    null_score
        That of one constant half width around the estimate, the best one for this truth.
    number
        Of intervals.
    """

    coverage: float
    width: float
    score: float
    null_score: float
    number: int


def interval_scores(
    low: Float[np.ndarray, "n k"],
    high: Float[np.ndarray, "n k"],
    truth: Float[np.ndarray, "n k"],
    *,
    estimate: Float[np.ndarray, "n k"],
    counted: Bool[np.ndarray, "n k"],
    level: float = 0.9,
) -> IntervalScores:
    """Coverage, width and score of intervals, beside the best constant width, which has seen the truth.

    Parameters
    ----------
    low, high
        (n, K) ends of the intervals.
    truth
        (n, K) true values.
    estimate
        (n, K) centre of the null's intervals.
    counted
        Entries that count, e.g. those with a type that is present.
    level
        Share of the truth that an interval should hold.

    References
    ----------
    Gneiting & Raftery (2007), JASA 102 (interval score).
    """
    low, high, truth, estimate = (np.asarray(x, float)[counted] for x in (low, high, truth, estimate))
    if not len(truth):
        return IntervalScores(*[float("nan")] * 4, 0)

    def score(a: np.ndarray, b: np.ndarray) -> float:
        miss = np.maximum(a - truth, 0) + np.maximum(truth - b, 0)
        return float(np.mean(b - a + 2.0 / (1.0 - level) * miss))

    widths = np.quantile(np.abs(truth - estimate), np.linspace(0.5, 1.0, 51))
    null = min(score(np.maximum(estimate - w, 0.0), np.minimum(estimate + w, 1.0)) for w in widths)
    inside = (low <= truth) & (truth <= high)
    return IntervalScores(float(inside.mean()), float((high - low).mean()), score(low, high), null, len(truth))


def _shares(values: Float[np.ndarray, "n k"], what: str) -> Float[np.ndarray, "n k"]:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"Expected a table of finite numbers of at least 0 as {what}, found other values.")
    total = values.sum(1, keepdims=True)
    if what == "truth" and (total == 0).any():
        raise ValueError("Expected rows of the truth that sum to more than 0, found a row of zeros.")
    return np.where(total > 0, values / np.where(total > 0, total, 1.0), 1.0 / values.shape[1])
