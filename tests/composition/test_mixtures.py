"""Mixtures that networks learn from: their rules, and that shares are those of the cells that were mixed."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
import scipy.sparse as sp

from spatialjax.composition import balanced_cells, summed_mixtures, weighted_mixtures

TYPES = np.repeat([0, 1, 2, 3], [60, 20, 10, 10])


def test_weighted_mixtures_carry_the_weights_of_their_types(key: Any) -> None:
    """Cells that show their type alone: values and shares are then the same table, with weights that differ."""
    made = weighted_mixtures(key, sp.csr_matrix(np.eye(4)[TYPES]), TYPES, spots=2000, number=4, cells=5)
    np.testing.assert_allclose(made.values.toarray(), made.shares, atol=1e-12)
    np.testing.assert_allclose(made.shares.sum(1), 1.0)
    assert abs(made.shares.mean(0) - np.bincount(TYPES) / 100).max() < 0.03
    assert len(np.unique(made.shares.round(6))) > 2000


def test_mixtures_hold_all_types_alike_where_asked(key: Any) -> None:
    """A rare type as often as a frequent one."""
    values = sp.csr_matrix(np.eye(4)[TYPES])
    made = weighted_mixtures(key, values, TYPES, spots=2000, number=4, even=True)
    np.testing.assert_allclose(made.shares.mean(0), 0.25, atol=0.02)


def test_balanced_cells_follow_the_published_numbers(key: Any) -> None:
    """From 1 to 20 cells, about ten; rare types are present more often than their frequency says."""
    cells = balanced_cells(key, TYPES, spots=6000, number=4)
    total = cells.sum(1)
    assert total.min() >= 1 and total.max() <= 20 and abs(total.mean() - 9.5) < 0.3
    as_they_are, even = cells[0::3], cells[2::3]
    assert even.sum(0)[3] / even.sum() == pytest.approx(0.25, abs=0.03)
    assert as_they_are.sum(0)[3] / as_they_are.sum() < 0.2
    assert 1 < (cells > 0).sum(1).mean() < 4


def test_a_type_that_no_cell_has_is_never_drawn(key: Any) -> None:
    """Where the balance gives all types alike, too."""
    cells = balanced_cells(key, TYPES, spots=500, number=5)
    assert cells[:, 4].sum() == 0 and cells[:, 3].sum() > 0


def test_sums_are_thinned_to_the_depth_of_the_spots(key: Any) -> None:
    """Depths lie around those given, a sum below keeps all it has, and shares are those of the cells."""
    rng = np.random.default_rng(0)
    counts = sp.csr_matrix(rng.poisson(4.0, (100, 50)))
    cells = balanced_cells(key, TYPES, spots=400, number=4)
    depths = np.exp(rng.normal(np.log(150.0), 0.2, 200))
    made = summed_mixtures(key, counts, TYPES, cells=cells, depths=depths)
    deep = cells.sum(1) >= 3
    log = np.log(np.asarray(made.values.sum(1)).ravel()[deep])
    assert abs(log.mean() - np.log(150.0)) < 0.05 and abs(log.std() - 0.2) < 0.08
    np.testing.assert_allclose(made.shares, cells / cells.sum(1, keepdims=True))
    whole = summed_mixtures(key, counts, TYPES, cells=cells, depths=np.full(9, 1e6))
    assert whole.values.sum() == pytest.approx(200.0 * cells.sum(), rel=0.02)


def test_another_key_draws_other_mixtures(key: Any) -> None:
    """And the same key the same ones."""
    values = sp.csr_matrix(np.eye(4)[TYPES])
    first, again, other = (
        weighted_mixtures(k, values, TYPES, spots=20, number=4).shares for k in (key, key, jax.random.fold_in(key, 1))
    )
    assert np.array_equal(first, again) and not np.allclose(first, other)
