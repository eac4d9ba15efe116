"""Factored costs against the dense matrices they stand for."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from spatialjax.transport import costs


@pytest.fixture
def points(rng: np.random.Generator) -> tuple[Any, Any]:
    return rng.normal(size=(17, 2)).astype(np.float32) + 50, rng.normal(size=(13, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def _strict(strict_numerics: Any) -> None:
    """All of this file under strict promotion."""


def test_squared_distances_have_rank_d_plus_2(points: Any) -> None:
    """The factors multiply to the squared distances, though the points lie far from the origin."""
    for xy in points:
        cost = costs.squared_euclidean(jnp.asarray(xy))
        assert cost.left.shape == (len(xy), xy.shape[1] + 2)
        np.testing.assert_allclose(costs.dense(cost), cdist(xy, xy, "sqeuclidean"), atol=2e-5)


def test_distances_are_right_and_have_finite_gradients(points: Any) -> None:
    """Coinciding points (padding) give no NaN in the gradient."""
    xy = jnp.asarray(np.vstack([points[0], np.zeros((2, 2))]), jnp.float32)
    np.testing.assert_allclose(costs.euclidean(xy), cdist(xy, xy), atol=1e-4)
    assert jnp.isfinite(jax.grad(lambda p: costs.euclidean(p).sum())(xy)).all()


def test_distances_between_sections_are_right(rng: np.random.Generator) -> None:
    """Squared, never negative."""
    x, y = rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=(5, 4)).astype(np.float32)
    found = costs.squared_distances(jnp.asarray(x), jnp.asarray(np.vstack([y, x])))
    np.testing.assert_allclose(found, cdist(x, np.vstack([y, x]), "sqeuclidean"), atol=1e-5)
    assert float(found.min()) >= 0


def test_products_do_not_depend_on_how_the_cost_is_held(points: Any, rng: np.random.Generator) -> None:
    """apply, apply_squared and sandwich agree for factored and dense costs, in every mixture."""
    thin = [costs.squared_euclidean(jnp.asarray(xy)) for xy in points]
    full = [costs.dense(cost) for cost in thin]
    plan = jnp.asarray(rng.uniform(size=(17, 13)), jnp.float32)
    np.testing.assert_allclose(costs.apply(thin[0], plan), full[0] @ plan, rtol=1e-5)
    np.testing.assert_allclose(costs.apply_squared(thin[0], plan[:, 0]), full[0] ** 2 @ plan[:, 0], rtol=2e-5)
    expected = np.asarray(full[0], float) @ np.asarray(plan, float) @ np.asarray(full[1], float)
    for source in (thin[0], full[0]):
        for target in (thin[1], full[1]):
            np.testing.assert_allclose(costs.sandwich(source, plan, target), expected, rtol=2e-5)
    np.testing.assert_allclose(costs.dense(costs.scaled(thin[1], 3.0)), 3 * full[1], rtol=1e-5, atol=1e-5)


def test_the_mean_cost_does_not_count_padding(rng: np.random.Generator) -> None:
    """Places without weight may hold anything."""
    cost = rng.uniform(size=(6, 5)).astype(np.float32)
    padded = np.pad(cost, ((0, 3), (0, 2)), constant_values=1e4)
    a, b = jnp.asarray(np.arange(9) < 6, jnp.float32), jnp.asarray(np.arange(7) < 5, jnp.float32)
    np.testing.assert_allclose(costs.mean_cost(jnp.asarray(padded), a, b), cost.mean(), rtol=1e-6)
