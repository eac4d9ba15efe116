"""The network simplex basis: a spanning tree that stays one, and no cycling where masses tie."""

from __future__ import annotations

import numpy as np
import ot
import pytest

from spatialjax.transport import exact_transport
from spatialjax.transport.simplex import Basis


def every_pair(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    return tuple(index.ravel() for index in np.indices((n, m)))


def first(n: int, m: int, *, seed: int = 0) -> tuple[Basis, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a, b = np.full(n, 1 / n), np.full(m, 1 / m)
    cost = rng.uniform(size=(n, m))
    basis = Basis(a, b, pairs=tuple(index[:5] for index in every_pair(n, m)))
    basis.reprice(cost)
    return basis, cost, a, b


def check(basis: Basis, cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """n + m - 1 pairs, every node reached, prices that add up to the costs, a plan with the marginals."""
    rows, columns = basis.pairs()
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == len(a) + len(b) - 1
    np.testing.assert_allclose(basis.duals[0][rows] + basis.duals[1][columns], cost[rows, columns], atol=1e-12)
    plan = np.zeros(cost.shape)
    plan[rows, columns] = basis.plan()
    np.testing.assert_allclose(plan.sum(1), a, atol=1e-12)
    np.testing.assert_allclose(plan.sum(0), b, atol=1e-12)


@pytest.mark.parametrize("sizes", [(7, 5), (12, 18), (9, 9), (1, 6), (6, 1)])
def test_a_basis_stays_a_spanning_tree_with_the_masses(sizes: tuple[int, int]) -> None:
    """Before and after all pivots; the last one is optimal (POT)."""
    basis, cost, a, b = first(*sizes)
    check(basis, cost, a, b)
    pairs = every_pair(*sizes)
    basis.improve(pairs, cost[pairs], tolerance=1e-12)
    check(basis, cost, a, b)
    np.testing.assert_allclose(basis.plan() @ cost[basis.pairs()], ot.emd2(a, b, cost), rtol=1e-10)


def test_ties_do_not_cycle() -> None:
    """Masses with many equal partial sums and costs of three values: the end is reached, and is optimal."""
    rng = np.random.default_rng(3)
    a, b = np.full(40, 1 / 40), np.full(20, 1 / 20)
    for _ in range(5):
        cost = rng.integers(0, 3, size=(40, 20)).astype(float)
        found = exact_transport(cost, a, b)
        np.testing.assert_allclose(found.objective, ot.emd2(a, b, cost), atol=1e-12)
        np.testing.assert_allclose(found.plan.sum(1), a, atol=1e-12)
    flat = exact_transport(np.ones((40, 20)), a, b)
    np.testing.assert_allclose(flat.objective, 1.0, rtol=1e-12)


def test_a_copy_is_independent() -> None:
    """Pivots of a copy leave the first basis as it was."""
    basis, cost, a, b = first(8, 11)
    before = basis.pairs()
    other = basis.copy()
    other.improve(every_pair(8, 11), cost[every_pair(8, 11)], tolerance=1e-12)
    assert not np.array_equal(np.stack(other.pairs()), np.stack(before))
    assert np.array_equal(np.stack(basis.pairs()), np.stack(before))
    check(basis, cost, a, b)


def test_costs_that_are_not_finite_are_told() -> None:
    """NaN and infinity are refused before any pivot."""
    for bad in (np.nan, np.inf):
        cost = np.ones((3, 2))
        cost[1, 1] = bad
        with pytest.raises(ValueError, match="finite costs"):
            exact_transport(cost, np.full(3, 1 / 3), np.full(2, 1 / 2))
