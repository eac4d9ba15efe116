"""The sparse solve against scipy's direct solver, with masks, per-column strengths and derivatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import spsolve

from spatialjax import graphs
from spatialjax.propagation import laplacian, neighbour_sum, solve, solve_sparse
from spatialjax.slices import Neighbors

ALPHA = np.array([0.0, 1.5, 20.0], np.float32)


@pytest.fixture(scope="module")
def system():
    rng = np.random.default_rng(0)
    xy = rng.uniform(size=(150, 2))
    table = graphs.delaunay(xy)
    table = Neighbors(
        np.pad(table.index, ((0, 1), (0, 0)), constant_values=150), np.pad(table.weight, ((0, 1), (0, 0)))
    )
    return table, rng.normal(size=(151, 3)).astype(np.float32)


def direct(matrix, values, alpha, *, normalized):
    """Columns by scipy's direct solver, with the Laplacian from its definition."""
    dense = matrix.toarray()
    degree = dense.sum(1)
    bend = np.diag(degree) - dense
    if normalized:
        root = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0)
        bend = root[:, None] * bend * root
    eye = np.eye(len(dense))
    return np.stack([spsolve(sp.csc_matrix(eye + a * bend), v) for a, v in zip(alpha, values.T, strict=True)], 1)


@pytest.mark.parametrize("normalized", [False, True])
def test_both_solvers_agree_with_a_direct_solver(system, normalized):
    """Per-column strengths, either Laplacian, an isolated spot; a constant keeps its value where it should."""
    table, values = system
    expected = direct(graphs.adjacency(table), values, ALPHA, normalized=normalized)
    device = solve(table, jnp.asarray(values), ALPHA, normalized=normalized)
    host = solve_sparse(graphs.adjacency(table), values, ALPHA, normalized=normalized)
    for found in (device, host):
        assert bool(found.converged) and float(found.residual.max()) < 1e-4
        np.testing.assert_allclose(found.values, expected, atol=3e-5)
        np.testing.assert_allclose(np.asarray(found.values)[150], values[150], rtol=1e-6)
    assert host.values.dtype == np.float32
    if not normalized:
        flat = solve_sparse(graphs.adjacency(table), np.ones((151, 1)), 50.0).values
        np.testing.assert_allclose(flat, 1.0, atol=1e-4)


def test_the_sum_over_neighbours_is_the_product_with_the_matrix(system):
    """Of a table as it is and jitted, whose width is no multiple of what is unrolled; an isolated spot has none."""
    table, values = system
    wanted = graphs.adjacency(table) @ values
    for found in (neighbour_sum(table, values), jax.jit(neighbour_sum)(table, jnp.asarray(values))):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert table.index.shape[1] % 8 and not wanted[150].any()


def test_padding_changes_neither_values_nor_gradients(system):
    """More capacity and masked rows that real rows point to change nothing; gradients on padding are 0 and finite."""
    table, values = system
    real = np.arange(151) < 150

    def loss(b, alpha, table, mask):
        return (solve(table, b, alpha, mask=mask).values ** 2).sum()

    wide = Neighbors(
        np.pad(table.index, ((0, 30), (0, 1))), np.pad(table.weight, ((0, 30), (0, 1)), constant_values=1.0)
    )
    wide.weight[:151, -1] = 0.0
    wide.index[:150, -1], wide.weight[:150, -1] = 170, 3.0
    padded = np.pad(values, ((0, 30), (0, 0)), constant_values=7.0)
    got = jax.value_and_grad(loss, (0, 1))(jnp.asarray(padded), ALPHA, wide, np.arange(181) < 150)
    want = jax.value_and_grad(loss, (0, 1))(jnp.asarray(values), ALPHA, table, real)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    np.testing.assert_allclose(got[1][0][:150], want[1][0][:150], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got[1][1], want[1][1], rtol=1e-3)
    assert not np.asarray(got[1][0][150:]).any()


def test_the_derivative_is_that_of_the_solution(system):
    """Implicit derivatives against differences, in the strength of smoothing and in the values."""
    table, values = system
    loss = lambda alpha, b: (solve(table, b, alpha, tolerance=1e-6).values ** 3).sum()
    slope, push = jax.grad(loss, (0, 1))(jnp.float32(2.0), jnp.asarray(values))
    exact = lambda a, v: (direct(graphs.adjacency(table), v, [a] * 3, normalized=False) ** 3).sum()
    wide = values.astype(np.float64)
    assert float(slope) == pytest.approx((exact(2.001, wide) - exact(1.999, wide)) / 0.002, rel=1e-3)
    moved = wide.copy()
    moved[10, 1] += 1e-4
    assert float(push[10, 1]) == pytest.approx((exact(2.0, moved) - exact(2.0, wide)) / 1e-4, rel=1e-2, abs=1e-4)


def test_asymmetric_tables_are_made_symmetric_or_noticed(rng):
    """A k-nearest table: equal to the host solver with symmetric=False, and not called converged in silence without."""
    xy = rng.uniform(size=(80, 2)) ** 3
    table, values = graphs.knn(xy, 4), rng.normal(size=(80, 2)).astype(np.float32)
    device = solve(table, jnp.asarray(values), 3.0, symmetric=False)
    host = solve_sparse(graphs.adjacency(table), values, 3.0)
    assert bool(device.converged) and bool(host.converged)
    np.testing.assert_allclose(device.values, host.values, atol=2e-5)
    assert not bool(solve(table, jnp.asarray(values), 3.0).converged)


def test_too_few_rounds_are_not_called_converged(system):
    """``converged`` and ``residual`` tell the truth of an unfinished solve on either side."""
    table, values = system
    device = solve(table, jnp.asarray(values), 50.0, max_steps=2)
    host = solve_sparse(graphs.adjacency(table), values, 50.0, max_steps=2)
    assert not bool(device.converged) and not bool(host.converged)
    assert float(host.residual.max()) > 1e-3 and int(host.steps) == 2


def test_bad_input_is_refused_with_a_message(rng):
    """Negative strengths and weights, and graphs of another size."""
    graph = sp.csr_matrix(np.ones((3, 3)))
    with pytest.raises(ValueError, match="alpha of at least 0"):
        solve_sparse(graph, np.ones((3, 1)), -1.0)
    with pytest.raises(ValueError, match="negative weights"):
        laplacian(-graph)
    with pytest.raises(ValueError, match="each of 3 spots, found 4"):
        solve_sparse(graph, np.ones((4, 1)), 1.0)
    with pytest.raises(ValueError, match="square"):
        laplacian(graph[:2])
