"""Soft matches: weights against the formula, empty rows, features as a tie-break, size."""

from __future__ import annotations

import numpy as np
import pytest

from spatialjax.registration.coupling import soft_matches


def test_weights_follow_the_formula_and_rows_sum_to_one(rng):
    source, target = rng.uniform(0, 100, (20, 2)), rng.uniform(0, 100, (30, 2))
    f, g = rng.normal(size=(20, 3)), rng.normal(size=(30, 3))
    found = soft_matches(
        source, target, bandwidth=20.0, k=30, reach=1e3, features=f, target_features=g, feature_bandwidth=0.7
    )
    near = ((source[:, None] - target) ** 2).sum(-1) / 20**2
    alike = ((f[:, None] - g) ** 2).sum(-1) / 0.7**2
    weight = np.exp(-0.5 * (near + alike))
    np.testing.assert_allclose(found.toarray(), weight / weight.sum(1, keepdims=True), atol=1e-12)


def test_spots_without_counterpart_have_empty_rows_and_k_limits_the_others(rng):
    target = rng.uniform(0, 100, (200, 2))
    source = np.concatenate([rng.uniform(0, 100, (10, 2)), [[500.0, 0]]])
    found = soft_matches(source, target, bandwidth=30.0, k=5)
    assert np.diff(found.indptr).tolist() == [5] * 10 + [0]
    np.testing.assert_allclose(found.sum(1).A1[:10], 1.0)
    distance = np.linalg.norm(source[0] - target, axis=1)
    assert set(found[0].indices) == set(np.argsort(distance)[:5])


def test_features_decide_between_places_at_equal_distance():
    target = np.array([[-1.0, 0], [1, 0]])
    options = {"features": np.array([[1.0]]), "target_features": np.array([[-1.0], [1.0]])}
    weights = soft_matches(np.zeros((1, 2)), target, bandwidth=5.0, **options).toarray()[0]
    assert weights[1] > 0.6
    np.testing.assert_allclose(soft_matches(np.zeros((1, 2)), target, bandwidth=5.0).toarray()[0], 0.5)


def test_very_different_features_do_not_underflow():
    matches = soft_matches(
        np.zeros((1, 2)),
        np.zeros((1, 2)),
        bandwidth=1.0,
        features=np.zeros((1, 1)),
        target_features=np.full((1, 1), 1e6),
        feature_bandwidth=1.0,
    )
    assert matches.toarray().tolist() == [[1.0]]


def test_mistakes_are_refused():
    xy = np.zeros((2, 2))
    with pytest.raises(ValueError, match="bandwidth"):
        soft_matches(xy, xy, bandwidth=0.0)
    with pytest.raises(ValueError, match="both sections"):
        soft_matches(xy, xy, bandwidth=1.0, features=xy)
