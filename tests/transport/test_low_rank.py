"""Fused Gromov–Wasserstein with plans of low rank."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialjax.algorithm import fit
from spatialjax.transport import (
    LowRankProblem,
    fused_gromov_wasserstein,
    fused_problem,
    information,
    low_rank_fused_gromov_wasserstein,
    marginal_error,
    objective,
    rounded,
    squared_distances,
    squared_euclidean,
)
from spatialjax.transport.low_rank import _objective, _slope, _thin

SPOTS, CAPACITY = 300, 320
SOLVER = low_rank_fused_gromov_wasserstein(rank=32)


def tissue(spots: int, *, seed: int = 0, capacity: int | None = None, alpha: float = 0.5) -> tuple[Any, Any, Any]:
    """Two samplings of one tissue, the second one turned; the places of both before the turn."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 1, (2, spots, 2))
    turn = np.array([[np.cos(2.0), -np.sin(2.0)], [np.sin(2.0), np.cos(2.0)]])
    wave, phase = rng.normal(size=(2, 20)) * 4, rng.uniform(0, 6, 20)
    features = [np.sin(p @ wave + phase) + 0.3 * rng.normal(size=(spots, 20)) for p in (x, y)]
    spare = (capacity or spots) - spots

    def pad(values: np.ndarray, fill: float = 7.0) -> Any:
        return jnp.asarray(np.concatenate([values, np.full((spare, *values.shape[1:]), fill)]), jnp.float32)

    mass = pad(np.ones(spots), 0.0)
    data = LowRankProblem(pad(x), pad(y @ turn.T), pad(features[0]), pad(features[1]), mass, mass, jnp.float32(alpha))
    return data, x, y


def dense(data: LowRankProblem) -> Any:
    """The same problem with every cost between the sections made."""
    linear = squared_distances(data.source_features, data.target_features)
    inner = [squared_euclidean(p, w) for p, w in ((data.source, data.a), (data.target, data.b))]
    return fused_problem(linear, *inner, a=data.a, b=data.b, alpha=data.alpha)


def factors(data: LowRankProblem, rank: int = 5) -> tuple[Any, Any, Any]:
    """Random factors of any marginals, empty on padding."""
    rng = np.random.default_rng(1)
    pair = [jnp.asarray(rng.uniform(size=(len(m), rank)), jnp.float32) * (m > 0)[:, None] for m in (data.a, data.b)]
    weights = jnp.asarray(rng.uniform(0.5, 1, rank), jnp.float32)
    return pair[0] / pair[0].sum(), pair[1] / pair[1].sum(), weights / weights.sum()


def test_objective_and_slope_are_those_of_the_dense_problem() -> None:
    """Value of the dense plan for any marginals; derivative by each factor up to constants of rows and groups."""
    data, _, _ = tissue(40, capacity=48, alpha=0.4)
    thin, problem = jax.jit(_thin)(data), dense(data)
    left, right, weights = factors(data)

    def value(left: Any, right: Any) -> Any:
        return objective(problem, (left / weights[None, :]) @ right.T)

    found = jax.jit(_objective)(thin, left, right, weights=weights, alpha=data.alpha)
    np.testing.assert_allclose(found, jax.jit(value)(left, right), rtol=1e-4)
    # With exact marginals, terms of the row and of the group alone are all that the slope leaves out.
    left, right = (rounded(f, m / m.sum(), weights) for f, m in ((left, data.a), (right, data.b)))
    for side, (own, other) in enumerate(((left, right), (right, left))):
        slope = jax.jit(_slope, static_argnames="side")
        found = slope(thin, own, other, side=side, weights=weights, alpha=data.alpha)[:40]
        expected = jax.jit(jax.grad(value, argnums=side))(left, right)[:40]
        gap = np.asarray(expected - found)
        gap = gap - gap.mean(0) - gap.mean(1, keepdims=True) + gap.mean()
        assert np.abs(gap).max() < 2e-3 * np.abs(np.asarray(expected)).max()


@pytest.fixture(scope="module")
def small() -> tuple[Any, Any, Any]:
    """A small padded pair, its solution and the true places of the target."""
    data, _, y = tissue(SPOTS, capacity=CAPACITY)
    return fit(SOLVER, jax.random.key(0), data, max_steps=60), data, y


@pytest.fixture(scope="module")
def solved() -> tuple[Any, Any]:
    """3,000 spots, 64 groups."""
    data, x, y = tissue(3000)
    return fit(low_rank_fused_gromov_wasserstein(), jax.random.key(0), data, max_steps=100), (data, x, y)


def test_three_thousand_spots_find_their_places(solved: Any) -> None:
    """The mean of what a spot is matched with lies within the size of a group; the guard is content."""
    found, (data, x, y) = solved
    result = found.result
    assert found.status == "done" and bool(result.converged) and not bool(result.collapsed)
    assert float(result.objective) < 0.25 and float(result.information) > 3
    places = np.asarray(result.carried(jnp.asarray(y, jnp.float32)))
    assert np.median(np.linalg.norm(places - x, axis=1)) < 0.5 / np.sqrt(64)
    for factor, mass in ((result.left, data.a), (result.right, data.b)):
        assert float(marginal_error(factor, mass / mass.sum(), result.weights)) < 1e-4


def test_the_objective_is_near_that_of_a_full_plan(small: Any) -> None:
    """Above the full-rank value by a little; what it says of itself is what the dense plan is; no mass on padding."""
    found, data = small[0].result, small[1]
    full = fit(fused_gromov_wasserstein(epsilon_start=0.2), jax.random.key(0), dense(data), max_steps=100).result
    plan = found.plan()
    np.testing.assert_allclose(found.objective, objective(dense(data), plan), rtol=1e-3)
    assert float(full.objective) * 0.9 < float(found.objective) < float(full.objective) + 0.15
    assert 1 < float(information(plan)) <= float(found.information) * (1 + 1e-4)
    assert float(plan[SPOTS:].sum() + plan[:, SPOTS:].sum()) == 0


def test_order_changes_nothing(small: Any) -> None:
    """Permuted spots: the same objective, the same carried values in their places."""
    plain, data, y = small[0].result, *small[1:]
    places = jnp.asarray(np.concatenate([y, np.zeros((CAPACITY - SPOTS, 2))]), jnp.float32)
    order = np.concatenate([np.random.default_rng(0).permutation(SPOTS), np.arange(SPOTS, CAPACITY)])
    mixed = data.replace(source=data.source[order], source_features=data.source_features[order])
    permuted = fit(SOLVER, jax.random.key(0), mixed, max_steps=60).result
    np.testing.assert_allclose(permuted.objective, plain.objective, rtol=1e-3)
    np.testing.assert_allclose(permuted.carried(places), plain.carried(places)[order], atol=2e-3)


def test_padding_changes_nothing(small: Any) -> None:
    """Other values on the padding: the same bits of the factors."""
    plain, data = small[0].result, small[1]
    real = np.arange(CAPACITY) < SPOTS
    other = jax.tree.map(lambda leaf: jnp.where(real[:, None], leaf, -3.0) if leaf.ndim == 2 else leaf, data)
    again = fit(SOLVER, jax.random.key(0), other, max_steps=60).result
    assert np.array_equal(again.left, plain.left) and np.array_equal(again.right, plain.right)
    assert not np.asarray(again.left)[SPOTS:].any() and not np.asarray(again.right)[SPOTS:].any()


def test_memory_grows_with_the_spots_not_with_their_square() -> None:
    """Temporary memory of a compiled step at twice the spots is about twice; one dense plan would be four times."""
    solver, sizes = low_rank_fused_gromov_wasserstein(rank=16), []
    for spots in (1024, 2048):
        data, _, _ = tissue(spots)
        state = jax.eval_shape(lambda d: solver.init(None, d), data)
        memory = jax.jit(lambda s, d: solver.step(None, s, d)).lower(state, data).compile().memory_analysis()
        sizes.append(memory.temp_size_in_bytes)
    assert sizes[1] < 2.5 * sizes[0]
    assert sizes[1] < 4 * 2048 * 2048 / 4, "less than a quarter of one dense plan"


def test_a_collapsed_plan_is_told(small: Any) -> None:
    """Without any information the factors of one side say nothing: not converged, and flagged."""
    data = small[1].replace(alpha=jnp.float32(0.0))
    blank = data.replace(**{name: 0 * getattr(data, name) for name in ("source_features", "target_features")})
    found = fit(SOLVER, jax.random.key(0), blank, max_steps=60)
    assert float(found.result.information) < 0.05
    assert bool(found.result.collapsed) and not bool(found.result.converged)


def test_a_start_is_used(small: Any) -> None:
    """Without a step, the factors that were given are what is read out."""
    first, data = small[0].result, small[1]
    again = fit(SOLVER, jax.random.key(0), data, max_steps=0, start=(first.left, first.right, first.weights)).result
    np.testing.assert_allclose(again.left, first.left, atol=1e-7)
    np.testing.assert_allclose(again.objective, first.objective, rtol=1e-4)
