"""Intervals and probabilities that hold: what pseudo-spots of known composition teach about the stated uncertainty.

Pseudo-spots are made of the reference's own cells, which the signatures that judge them have not seen, with
compositions like those that the spots seem to have. How far the estimates miss there is how far they miss elsewhere, as
long as the cells of the tissue differ from the signatures no more than cells of the reference do. On the host.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

#: Cases of a bin of the estimate, and bins at the most.
CASES, BINS = 40, 16


class Stated(NamedTuple):
    """What a sampler says of proportions, all (n, K).

    Attributes
    ----------
    estimate
        Mean proportion.
    present
        Probability that the type is there.
    low, high
        Ends of the interval of the proportion where the type is there.
    """

    estimate: Float[np.ndarray, "n k"]
    present: Float[np.ndarray, "n k"]
    low: Float[np.ndarray, "n k"]
    high: Float[np.ndarray, "n k"]


class Correction(NamedTuple):
    """What pseudo-spots teach.

    Attributes
    ----------
    centre
        (b,) estimates at which the following are known; between them lies a straight line.
    low, high
        (b,) quantiles of the truth among present types with that estimate.
    below, above
        (b,) by how much the stated ends have to move outward.
    probability, frequency
        (c,) stated probabilities of presence, and how often it was true; neither ever falls.
    """

    centre: Float[np.ndarray, " b"]
    low: Float[np.ndarray, " b"]
    high: Float[np.ndarray, " b"]
    below: Float[np.ndarray, " b"]
    above: Float[np.ndarray, " b"]
    probability: Float[np.ndarray, " c"]
    frequency: Float[np.ndarray, " c"]


def learnt_correction(stated: Stated, truth: Float[np.ndarray, "n k"], *, level: float = 0.9) -> Correction:
    """How stated intervals and probabilities have to be corrected, from spots with a known truth.

    Parameters
    ----------
    stated
        What is said of the pseudo-spots.
    truth
        (n, K) their true proportions; a type is present where it is above 0.
    level
        Share of the truth that an interval should hold.

    References
    ----------
    Romano, Patterson & Candès (2019), NeurIPS (conformalised quantiles); Zadrozny & Elkan (2002), KDD (isotonic
    calibration).
    """
    from sklearn.isotonic import IsotonicRegression

    tail = 0.5 * (1.0 - level)
    present = truth > 0
    counted = present & np.isfinite(stated.low)
    order = np.argsort(stated.estimate[present], kind="stable")
    estimate, true = stated.estimate[present][order], truth[present][order]
    parts = np.array_split(np.arange(len(order)), int(np.clip(len(order) // CASES, 1, BINS)))
    centre = np.array([np.median(estimate[part]) for part in parts])
    low = np.array([np.quantile(true[part], tail) for part in parts])
    high = np.array([np.quantile(true[part], 1.0 - tail) for part in parts])
    where = np.digitize(stated.estimate[counted], _borders(estimate, parts))
    missed = stated.low[counted] - truth[counted], truth[counted] - stated.high[counted]
    below, above = (
        np.array([_upper(side[where == part], 1.0 - tail) for part in range(len(parts))]) for side in missed
    )
    iso = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(
        stated.present.ravel(), present.ravel().astype(float)
    )
    low, high = (IsotonicRegression().fit_transform(np.arange(len(x)), x) for x in (low, high))
    return Correction(centre, low, high, below, above, iso.X_thresholds_, iso.y_thresholds_)


def corrected(stated: Stated, correction: Correction) -> Stated:
    """Stated intervals and probabilities, corrected.

    The ends are the mean of two: quantiles of the truth that belong to the estimate, and the stated ends moved outward.
    Where the sampler never held a type, the first alone.
    """
    at = [np.interp(stated.estimate, correction.centre, value) for value in correction[1:5]]
    low = np.where(np.isfinite(stated.low), 0.5 * (at[0] + np.clip(stated.low - at[2], 0.0, 1.0)), at[0])
    high = np.where(np.isfinite(stated.high), 0.5 * (at[1] + np.clip(stated.high + at[3], 0.0, 1.0)), at[1])
    present = np.interp(stated.present, correction.probability, correction.frequency)
    return Stated(stated.estimate, present, np.minimum(low, stated.estimate), np.maximum(high, stated.estimate))


def _borders(estimate: Float[np.ndarray, " m"], parts: list[np.ndarray]) -> Float[np.ndarray, " c"]:
    return np.array([0.5 * (estimate[a[-1]] + estimate[b[0]]) for a, b in zip(parts[:-1], parts[1:], strict=True)])


def _upper(misses: Float[np.ndarray, " m"], level: float) -> float:
    """The quantile of the misses that covers a new one with the asked probability."""
    if not len(misses):
        return 0.0
    rank = min(int(np.ceil(level * (len(misses) + 1))), len(misses))
    return float(np.sort(misses)[rank - 1])
