"""Wavelets, neighbourhood features and spatial components against their definitions in dense algebra."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp

from spatialjax import graphs
from spatialjax import propagation as pr
from spatialjax.slices import Neighbors


@pytest.fixture(scope="module")
def graph():
    rng = np.random.default_rng(1)
    xy = rng.uniform(size=(90, 2))
    return graphs.delaunay(xy), xy, rng.normal(size=(90, 4))


def test_wavelets_of_a_graph_are_differences_of_dense_powers(graph):
    """Each scale against matrix powers, and all scales with the rest add up to the signal."""
    table, _, values = graph
    matrix = graphs.adjacency(table)
    dense = matrix.toarray()
    lazy = 0.5 * (np.eye(90) + dense / dense.sum(1, keepdims=True))
    power = lambda m: np.linalg.matrix_power(lazy, m)
    expected = [np.eye(90) - lazy] + [power(2 ** (j - 1)) - power(2**j) for j in (1, 2, 3)]
    found = pr.wavelets(pr.lazy_diffusion(matrix), values, scales=3)
    np.testing.assert_allclose(found, np.stack(expected) @ values, atol=1e-5)
    np.testing.assert_allclose(found.sum(0) + power(8) @ values, values, atol=1e-5)


def test_scattering_of_a_hypergraph_by_hand(graph):
    """The walk over hyperedges and the moments against dense algebra; row ``i`` is the neighbourhood of spot ``i``."""
    table, _, values = graph
    incidence = pr.neighbourhoods(graphs.adjacency(table))
    h = incidence.toarray()
    assert (h[:, 7] > 0).sum() == (table.weight[7] > 0).sum() + 1
    walk = 0.5 * (np.eye(90) + (h / h.sum(1, keepdims=True)) @ (h / h.sum(0)).T)
    coefficient = np.abs((walk - walk @ walk) @ values)
    found = pr.scattering(pr.hypergraph_diffusion(incidence), incidence, values, scales=1, moments=2)
    assert found.shape == (90, 4 * (1 + 2 * 2))
    mean = (h / h.sum(0)).T
    np.testing.assert_allclose(found[:, :4], mean @ values, atol=1e-5)
    np.testing.assert_allclose(found[:, 12:16], mean @ coefficient, atol=1e-5)
    np.testing.assert_allclose(found[:, 16:], np.sqrt(mean @ coefficient**2), atol=1e-5)


def test_an_isolated_spot_keeps_its_value_under_diffusion():
    """No row of a walk loses mass."""
    matrix = sp.csr_matrix(np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 0]]))
    signal = np.array([[1.0], [3.0], [5.0]])
    assert pr.lazy_diffusion(matrix)(signal)[2, 0] == 5.0
    empty = sp.csr_matrix((3, 2))
    np.testing.assert_allclose(pr.hypergraph_diffusion(empty)(signal), signal)
    with pytest.raises(ValueError, match="negative"):
        pr.lazy_diffusion(-matrix)


def test_gradient_of_a_ramp_is_flat_and_turns_with_the_tissue():
    """On a square lattice the filter of x is the same inside, invariant to rotation, and a constant has none."""
    x, y = np.meshgrid(np.arange(7.0), np.arange(7.0))
    xy = np.stack([x.ravel(), y.ravel()], 1)
    table = graphs.lattice(xy)
    inside = (table.weight > 0).sum(1) == 4
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    ramp = np.stack([xy[:, 0], np.ones(49)], 1)
    found = pr.azimuthal_gradient(table, ramp, xy)
    np.testing.assert_allclose(found[inside, 0], 0.5)
    np.testing.assert_allclose(found, pr.azimuthal_gradient(table, ramp, xy @ turn.T), atol=1e-12)
    assert found[~inside, 1].min() > 0.2 and np.abs(found[inside, 1]).max() < 1e-12
    assert np.abs(pr.azimuthal_gradient(table, ramp, xy, centred=True)[:, 1]).max() < 1e-7


def test_banksy_blocks_have_the_stated_variances(graph):
    """Variances 1 − λ, 2λ/3 and λ/3, and a constant column is 0."""
    table, xy, values = graph
    values = np.concatenate([values, np.full((90, 1), 3.0)], 1)
    found = pr.banksy(pr.gaussian_weights(table, xy), values, xy, weight=0.6, centred=True)
    variance = found.var(0).reshape(3, 5)
    np.testing.assert_allclose(variance[:, :4].mean(1), [0.4, 0.4, 0.2], rtol=1e-4)
    assert variance[:2, 4].max() == 0 and found.dtype == np.float32
    assert pr.banksy(table, values, xy, gradient=False).shape == (90, 10)
    with pytest.raises(ValueError, match="between 0 and 1"):
        pr.banksy(table, values, xy, weight=1.2)


def test_concatenation_of_rings_and_isolated_spots():
    """Means of means, and a spot without neighbours keeps its own value."""
    table = Neighbors(np.array([[1], [0], [2]]), np.array([[1.0], [1.0], [0.0]], np.float32))
    found = pr.concatenation(table, np.array([[1.0], [3.0], [9.0]]), rings=2)
    np.testing.assert_allclose(found, [[1, 3, 1], [3, 1, 3], [9, 9, 9]])


def test_spatial_components_solve_the_generalised_problem(graph):
    """Autocorrelations against scipy.linalg.eigh, unit variance, and features that a linear map mixed do not matter."""
    table, _, values = graph
    matrix = graphs.adjacency(table)
    found = pr.spatial_components(values, matrix, principal=4)
    x = values - values.mean(0)
    w = matrix.toarray() / matrix.toarray().sum(1, keepdims=True)
    c1 = x.T @ w @ x / 90
    expected = scipy.linalg.eigh((c1 + c1.T) / 2, x.T @ x / 90, eigvals_only=True)[::-1]
    np.testing.assert_allclose(found.autocorrelation, expected, atol=1e-8)
    np.testing.assert_allclose(found.values.T @ found.values / 90, np.eye(4), atol=1e-5)
    np.testing.assert_allclose(found.values, x @ found.axes, atol=1e-5)
    mixed = pr.spatial_components(values @ np.diag([5.0, 0.1, 1, 2]), matrix, principal=4)
    np.testing.assert_allclose(mixed.autocorrelation, expected, atol=1e-8)


def test_a_smooth_field_comes_before_louder_noise(rng):
    """What principal components would put last comes first."""
    x, y = np.meshgrid(np.arange(20.0), np.arange(20.0))
    xy = np.stack([x.ravel(), y.ravel()], 1)
    values = np.concatenate([rng.normal(size=(400, 5)) * 3, np.sin(xy[:, :1] / 3)], 1)
    found = pr.spatial_components(sp.csr_matrix(values), graphs.adjacency(graphs.lattice(xy)), number=2)
    assert abs(np.corrcoef(found.values[:, 0], values[:, 5])[0, 1]) > 0.95
    assert found.autocorrelation[0] > 0.9 and found.autocorrelation[1] < 0.35 and found.values.shape == (400, 2)


def test_principal_axes_of_a_wide_table_agree_with_the_svd(rng):
    """The power iteration, dense and sparse, spans the leading space; constant features do not break it."""
    left, right = rng.normal(size=(120, 5)), rng.normal(size=(5, 1100))
    values = left @ right + 0.1 * rng.normal(size=(120, 1100)) + 2.0
    values[:, 3] = 7.0
    for table in (values, sp.csr_matrix(values)):
        axes, mean = pr.principal_axes(table, 5)
        exact = np.linalg.svd(values - values.mean(0), full_matrices=False)[2][:5]
        np.testing.assert_allclose(np.abs(axes.T @ exact.T).diagonal(), 1.0, atol=1e-4)
        np.testing.assert_allclose(mean, values.mean(0), atol=1e-6)
    constant = pr.spatial_components(np.ones((30, 3)), sp.identity(30, format="csr"))
    assert constant.values.shape == (30, 0)
