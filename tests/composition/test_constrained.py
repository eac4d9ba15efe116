"""Weights with a given sum: against scipy, by the conditions of an optimum, over a graph, and what settles."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp

from spatialjax.composition import accounted_abundance, onto_simplex, simplex_least_squares
from spatialjax.graphs import adjacency, knn

ROWS, TYPES, GENES = 24, 6, 40


def problem(*, alike: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices, targets and totals of weighted least squares; two types may be nearly the same."""
    rng = np.random.default_rng(0)
    profiles = rng.gamma(0.5, 2.0, (TYPES, GENES))
    if alike:
        profiles[1] = profiles[0] * rng.gamma(alike, 1.0 / alike, GENES)
    total = rng.uniform(0.5, 3.0, ROWS)
    seen = rng.poisson(10.0 * total[:, None] * (rng.dirichlet(np.full(TYPES, 0.3), ROWS) @ profiles)) / 10.0
    weight = rng.gamma(2.0, 0.5, (ROWS, GENES))
    gram = np.einsum("ng,kg,lg->nkl", weight, profiles, profiles)
    return gram, np.einsum("ng,kg->nk", weight * seen, profiles), total


def by_scipy(gram: np.ndarray, target: np.ndarray, total: float) -> np.ndarray:
    """Sequential least squares programming, from equal shares."""
    return scipy.optimize.minimize(
        lambda w: 0.5 * w @ gram @ w - target @ w, np.full(len(target), total / len(target)),
        jac=lambda w: gram @ w - target, method="SLSQP", bounds=[(0.0, None)] * len(target),
        constraints={"type": "eq", "fun": lambda w: w.sum() - total, "jac": np.ones_like},
        options={"ftol": 1e-14, "maxiter": 500},
    ).x  # fmt: skip


def assert_optimal(weights: np.ndarray, slope: np.ndarray, total: np.ndarray, *, scale: float) -> None:
    """Weights above 0 have one slope, others none that is lower: no other weights of that sum are better."""
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), total, rtol=1e-5)
    lowest = slope.min(1, keepdims=True)
    np.testing.assert_allclose(np.where(weights > 1e-3, slope - lowest, 0.0), 0.0, atol=scale)


def test_the_projection_is_the_nearest_point() -> None:
    """The conditions of a projection hold; a point that is there stays, equal values share, and one value takes all."""
    points = np.random.default_rng(1).normal(size=(50, 7)) * 3.0
    total = np.linspace(0.5, 4.0, 50)
    found = np.asarray(onto_simplex(jnp.asarray(points, jnp.float32), jnp.asarray(total, jnp.float32)))
    assert_optimal(found, found - points, total, scale=1e-5)
    np.testing.assert_allclose(onto_simplex(jnp.asarray(found), jnp.asarray(total, jnp.float32)), found, atol=1e-6)
    np.testing.assert_allclose(onto_simplex(jnp.array([[5.0, 5.0], [9.0, 1.0]])), [[0.5, 0.5], [1.0, 0.0]], atol=1e-6)
    slope = jax.grad(lambda p: jnp.square(onto_simplex(p)).sum())(jnp.array([[0.4, 0.3, -2.0]]))
    np.testing.assert_allclose(slope, [[0.1, -0.1, 0.0]], atol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_weights_are_those_of_scipy(shared: bool) -> None:
    """One matrix for all rows, or one for each; every row has settled."""
    gram, target, total = problem()
    gram = gram[:1].repeat(ROWS, 0) if shared else gram
    given = jnp.asarray(gram[0] if shared else gram, jnp.float32)
    found = simplex_least_squares(given, jnp.asarray(target, jnp.float32), total=jnp.asarray(total, jnp.float32))
    wanted = np.stack([by_scipy(*row) for row in zip(gram, target, total, strict=True)])
    assert (wanted < 1e-6).any(), "the case needs weights at the border"
    np.testing.assert_allclose(found.weights, wanted, atol=1e-3)
    assert bool(found.converged.all()) and int(found.steps) < 100
    assert float(jnp.maximum(found.primal, found.dual).max()) < 1e-5


def test_types_that_are_nearly_the_same_do_not_keep_it() -> None:
    """Profiles that differ by less than a percent: what is not known well is settled as soon as the rest."""
    gram, target, total = problem(alike=2e4)
    found = simplex_least_squares(*(jnp.asarray(x, jnp.float32) for x in (gram, target)), total=jnp.float32(total))
    assert bool(found.converged.all()) and int(found.steps) < 100
    cost = lambda w: 0.5 * np.einsum("nk,nkl,nl->n", w, gram, w) - (w * target).sum(1)
    wanted = np.stack([by_scipy(*row) for row in zip(gram, target, total, strict=True)])
    assert (cost(np.asarray(found.weights, np.float64)) - cost(wanted) < 1e-5 * np.abs(cost(wanted))).all()


def test_a_row_does_not_depend_on_the_others_and_begins_where_it_is_told() -> None:
    """Rows alone get the weights that they get together; begun at the optimum they stay there."""
    gram, target, total = (jnp.asarray(x, jnp.float32) for x in problem())
    fit = jax.jit(simplex_least_squares)
    whole = fit(gram, target, total=total)
    half = fit(gram[::2], target[::2], total=total[::2])
    np.testing.assert_allclose(half.weights, whole.weights[::2], atol=1e-5)
    again = fit(gram, target, total=total, start=whole.weights)
    np.testing.assert_allclose(again.weights, whole.weights, atol=1e-4)
    few = simplex_least_squares(gram, target, total=total, steps=2)
    assert not bool(few.converged.all())
    np.testing.assert_allclose(few.weights.sum(1), total, rtol=1e-5)
    nothing = simplex_least_squares(jnp.zeros((TYPES, TYPES)), jnp.zeros((2, TYPES)))
    np.testing.assert_allclose(nothing.weights, 1.0 / TYPES)


@pytest.mark.parametrize("strength", [0.0, 3.0, 300.0])
def test_over_a_graph_the_optimum_is_that_of_all_rows_together(strength: float) -> None:
    """By its conditions, with the Laplacian of the graph as a matrix; the stronger, the more alike neighbours are."""
    gram, target, _ = problem()
    table = knn(np.random.default_rng(2).uniform(size=(ROWS, 2)), 4, symmetric=True)
    edges = adjacency(table)
    bend = np.asarray((sp.diags(np.asarray(edges.sum(1)).ravel()) - edges).todense())
    given = (jnp.asarray(gram, jnp.float32), jnp.asarray(target, jnp.float32))
    found = simplex_least_squares(*given, neighbors=table, strength=strength)
    weights = np.asarray(found.weights, np.float64)
    slope = np.einsum("nkl,nl->nk", gram, weights) + strength * bend @ weights - target
    assert_optimal(weights, slope, np.ones(ROWS), scale=2e-4 * np.abs(target).max())
    assert bool(found.converged.all())
    alone = np.asarray(simplex_least_squares(*given).weights, np.float64)
    if strength == 0.0:
        np.testing.assert_allclose(weights, alone, atol=2e-3)
    else:
        rough = [np.einsum("nk,nm,mk->", w, bend, w) for w in (weights, alone)]
        assert rough[0] < (0.9 if strength < 10.0 else 0.2) * rough[1]


def test_cells_account_for_the_counts_of_their_spot() -> None:
    """Their expected counts sum to those of the spot; none where there are no counts."""
    gram, target, _ = (jnp.asarray(x, jnp.float32) for x in problem())
    depth = jnp.linspace(50.0, 400.0, TYPES)
    counts = jnp.arange(ROWS, dtype=jnp.float32) * 100.0
    found = accounted_abundance(gram, target * jnp.minimum(counts, 1.0)[:, None], depth, counts=counts)
    np.testing.assert_allclose(found.weights @ depth, counts, rtol=1e-5)
    assert not np.asarray(found.weights[0]).any()
    again = accounted_abundance(gram, target, depth, counts=counts, start=found.weights)
    np.testing.assert_allclose(again.weights[1:], found.weights[1:], rtol=1e-3, atol=1e-3)
