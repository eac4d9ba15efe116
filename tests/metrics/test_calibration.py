"""Calibration: coverage of regions, reliability of probabilities, width beside the null."""

from __future__ import annotations

import numpy as np
import pytest

from spatialjax.metrics.calibration import coverage, region_coverage, reliability, width_against_null


def test_regions_of_the_true_covariance_cover_as_often_as_they_say(rng: np.random.Generator) -> None:
    """Normal errors with correlated axes of very different width; half the covariance covers clearly less."""
    root = rng.normal(size=(3, 3)) * np.array([0.01, 5.0, 50.0])[:, None]
    errors = rng.normal(size=(4000, 3)) @ root.T
    stated = np.broadcast_to(root @ root.T, (4000, 3, 3))
    assert coverage(region_coverage(errors, stated)).share == pytest.approx(0.9, abs=0.015)
    assert coverage(region_coverage(errors, stated, level=0.5)).share == pytest.approx(0.5, abs=0.025)
    # Chi-squared with 3 degrees of freedom: P(x < 6.251 / 2) = 0.627.
    assert coverage(region_coverage(errors, stated / 2)).share == pytest.approx(0.627, abs=0.025)


def test_region_of_one_axis_is_its_interval() -> None:
    errors = np.array([[1.6], [1.7], [-1.6], [-1.7]])
    np.testing.assert_array_equal(region_coverage(errors, np.ones((4, 1, 1))), [True, False, True, False])


def test_interval_of_a_share_is_wilsons() -> None:
    """Against the textbook's numbers for 8 of 10, and sensible at the ends."""
    found = coverage([True] * 8 + [False] * 2)
    assert (found.share, found.number) == (0.8, 10)
    np.testing.assert_allclose([found.low, found.high], [0.4902, 0.9433], atol=1e-4)
    all_held = coverage([True] * 20)
    assert all_held.low < 0.9 and all_held.high == pytest.approx(1.0)
    assert np.isnan(coverage([]).share) and coverage([]).number == 0


def test_honest_probabilities_are_reliable_and_overconfident_ones_are_not(rng: np.random.Generator) -> None:
    probability = rng.uniform(size=5000)
    event = rng.uniform(size=5000) < probability
    honest = reliability(probability, event)
    assert honest.calibration_error < 0.03
    assert honest.brier == pytest.approx(1 / 6, abs=0.01) and honest.brier_base == pytest.approx(0.25, abs=0.01)
    np.testing.assert_allclose(honest.predicted, np.arange(0.05, 1, 0.1), atol=0.01)
    np.testing.assert_allclose(honest.observed, honest.predicted, atol=0.07)
    bold = reliability(np.where(probability > 0.5, 0.99, 0.01), event)
    assert bold.calibration_error > 0.2 and bold.brier > honest.brier
    assert np.isnan(bold.observed[5]) and bold.count.sum() == 5000


def test_probabilities_of_zero_and_one_fall_into_the_end_bins() -> None:
    found = reliability(np.array([0.0, 1.0, 1.0]), np.array([False, True, True]), bins=4)
    np.testing.assert_array_equal(found.count, [1, 0, 0, 2])
    assert found.brier == 0.0 and found.calibration_error == 0.0


def test_radii_that_know_the_hard_cases_are_narrower_than_one_for_all(rng: np.random.Generator) -> None:
    """Three cases in four are ten times better than the rest: knowing which beats the null, not knowing does not."""
    scale = np.where(rng.uniform(size=3000) < 0.75, 1.0, 10.0)
    errors = scale * rng.normal(size=3000)
    knows = width_against_null(errors, 1.645 * scale)
    blind = width_against_null(errors, np.full(3000, 3.0))
    assert knows.coverage == pytest.approx(0.9, abs=0.02) and knows.median < 0.7 * knows.null
    assert blind.null == pytest.approx(3.0, abs=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: region_coverage(np.zeros((2, 3)), np.zeros((2, 2, 2))), r"shape \(2, 3, 3\)"),
        (lambda: region_coverage(np.zeros((1, 2)), np.zeros((1, 2, 2))), "positive definite"),
        (lambda: region_coverage(np.zeros((1, 1)), np.ones((1, 1, 1)), level=90), "level between 0 and 1"),
        (lambda: reliability(np.array([0.2, 1.2]), np.array([0, 1])), "between 0 and 1"),
        (lambda: reliability(np.array([0.2]), np.array([0, 1])), "one event for each"),
        (lambda: width_against_null(np.array([]), np.array([])), "one radius for each"),
    ],
)
def test_bad_input_is_refused_with_what_was_expected(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
