"""Do stated uncertainties hold: coverage of regions, reliability of probabilities, width beside one width for all."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import chi2, norm


class Coverage(NamedTuple):
    """How often regions held the truth.

    Attributes
    ----------
    share
        Of the regions that held it; NaN without regions.
    low, high
        95 % interval of the share.
    number
        Of regions.
    """

    share: float
    low: float
    high: float
    number: int


class Reliability(NamedTuple):
    """How well probabilities agree with what happened.

    Attributes
    ----------
    predicted
        Mean probability of each bin; NaN in empty bins.
    observed
        Frequency of the event in each bin; NaN in empty bins.
    count
        Number of cases in each bin.
    brier
        Mean squared difference of probability and event (Brier 1950, Mon. Weather Rev. 78).
    brier_base
        The same for one probability for all, the base rate.
    calibration_error
        Mean difference of predicted and observed over bins, weighted by their cases.
    """

    predicted: Float[np.ndarray, " b"]
    observed: Float[np.ndarray, " b"]
    count: Int[np.ndarray, " b"]
    brier: float
    brier_base: float
    calibration_error: float


class WidthAgainstNull(NamedTuple):
    """Stated radii beside one radius for all that holds the truth equally often.

    Attributes
    ----------
    coverage
        Share of errors within their radius.
    median
        Median stated radius.
    null
        The one radius that covers the same share of the errors.
    """

    coverage: float
    median: float
    null: float


def coverage(held: Bool[np.ndarray, " n"]) -> Coverage:
    """Share of the regions that held the truth, with its 95 % interval (Wilson 1927, JASA 22).

    Parameters
    ----------
    held
        Whether each region held the truth.
    """
    held = np.asarray(held, bool).ravel()
    n = len(held)
    if n == 0:
        return Coverage(float("nan"), float("nan"), float("nan"), 0)
    z = norm.ppf(0.975)
    share = float(held.mean())
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Coverage(share, float(middle - half), float(middle + half), n)


def region_coverage(
    errors: Float[np.ndarray, "n d"], covariances: Float[np.ndarray, "n d d"], *, level: float = 0.9
) -> Bool[np.ndarray, " n"]:
    """Whether each error lies inside the region that a normal distribution gives the probability ``level``.

    Parameters
    ----------
    errors
        Estimate less truth, any unit.
    covariances
        Stated covariance of each error, that unit squared.
    level
        Probability of the region.

    Raises
    ------
    ValueError
        If the shapes disagree, a covariance is not positive definite or ``level`` is not between 0 and 1.
    """
    errors, covariances = np.asarray(errors, np.float64), np.asarray(covariances, np.float64)
    _check_level(level)
    n, d = errors.shape
    if covariances.shape != (n, d, d):
        raise ValueError(f"Expected covariances of shape {(n, d, d)} for these errors, found {covariances.shape}.")
    if n and not (np.linalg.eigvalsh(covariances) > 0).all():
        raise ValueError("Expected positive definite covariances, found others; a known place has no region.")
    scaled = np.linalg.solve(covariances, errors[..., None])[..., 0]
    return (errors * scaled).sum(1) <= chi2.ppf(level, d)


def reliability(probability: Float[np.ndarray, " n"], event: Bool[np.ndarray, " n"], *, bins: int = 10) -> Reliability:
    """Predicted probabilities beside observed frequencies, in bins of equal width.

    Parameters
    ----------
    probability
        Predicted probability of the event in each case.
    event
        Whether it happened.
    bins
        Number of bins between 0 and 1.

    Raises
    ------
    ValueError
        If there is no case, the lengths differ or a probability is not between 0 and 1.
    """
    probability, event = np.asarray(probability, np.float64).ravel(), np.asarray(event, np.float64).ravel()
    if len(probability) == 0 or len(probability) != len(event):
        raise ValueError(f"Expected one event for each probability, found {len(event)} for {len(probability)}.")
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("Expected probabilities between 0 and 1, found others or NaN.")
    label = np.minimum((probability * bins).astype(int), bins - 1)
    count = np.bincount(label, minlength=bins)
    known = np.where(count > 0, count, np.nan)
    predicted = np.bincount(label, probability, bins) / known
    observed = np.bincount(label, event, bins) / known
    gap = np.nansum(np.abs(predicted - observed) * count) / len(probability)
    return Reliability(
        predicted,
        observed,
        count,
        brier=float(((probability - event) ** 2).mean()),
        brier_base=float(event.mean() * (1 - event.mean())),
        calibration_error=float(gap),
    )


def width_against_null(errors: Float[np.ndarray, " n"], radii: Float[np.ndarray, " n"]) -> WidthAgainstNull:
    """Stated radii beside the null: one radius for all cases that covers as often.

    Uncertainties that say which cases are good are narrower than the null at the same coverage.

    Parameters
    ----------
    errors
        Size of each error, any unit.
    radii
        Stated radius of each region, that unit.

    Raises
    ------
    ValueError
        If there is no case or the lengths differ.
    """
    errors, radii = np.abs(np.asarray(errors, np.float64)).ravel(), np.asarray(radii, np.float64).ravel()
    if len(errors) == 0 or len(errors) != len(radii):
        raise ValueError(f"Expected one radius for each error, found {len(radii)} for {len(errors)}.")
    share = float((errors <= radii).mean())
    return WidthAgainstNull(share, float(np.median(radii)), float(np.quantile(errors, share, method="higher")))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"Expected a level between 0 and 1, found {level}.")
