"""Pseudo-spots are exact sums; depth, patterns and folds do what they say."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import scipy.sparse as sp

from spatialjax.composition import (
    PATTERNS,
    calibration_spots,
    drawn_cells,
    held_out,
    region_frequencies,
    scaled_counts,
    summed_cells,
)
from spatialjax.tables import Reference, SpotTable


@pytest.fixture(scope="module")
def cells() -> Reference:
    """120 cells of four types, one of which has a single cell."""
    rng = np.random.default_rng(0)
    types = np.array([0] * 60 + [1] * 39 + [2] * 20 + [3])
    counts = rng.poisson(rng.gamma(0.5, 4.0, (4, 50))[types])
    return Reference(sp.csr_matrix(counts.astype(np.float32)), types, ["a", "b", "c", "d"])


def test_spots_are_the_sums_of_their_cells(cells: Reference) -> None:
    """Counts, numbers of cells and members agree exactly."""
    wanted = np.random.default_rng(1).integers(0, 4, (30, 4))
    made = summed_cells(jax.random.key(0), cells.counts, cells.types, cells=wanted)
    np.testing.assert_array_equal(made.counts.toarray(), (made.members @ cells.counts).toarray())
    by_type = made.members @ np.eye(4)[cells.types]
    np.testing.assert_array_equal(by_type, wanted)
    again = summed_cells(jax.random.key(0), cells.counts, cells.types, cells=wanted)
    assert (made.counts != again.counts).nnz == 0
    with pytest.raises(ValueError, match="found none"):
        summed_cells(jax.random.key(0), cells.counts, np.where(cells.types == 3, -1, cells.types), cells=wanted)


def test_depth_is_scaled_and_zeros_stay() -> None:
    """Means follow the factor of spot and gene, below and above 1; counts stay whole."""
    counts = sp.csr_matrix(np.full((400, 20), 6.0) * (np.arange(20) > 1))
    factor = np.linspace(0.2, 1.7, 20)[None, :] * np.where(np.arange(400) % 2, 1.0, 0.5)[:, None]
    found = scaled_counts(jax.random.key(1), counts, factor).toarray()
    assert not found[:, :2].any() and (found == np.floor(found)).all()
    for odd in (0, 1):
        np.testing.assert_allclose(found[odd::2, 2:].mean(0), 6.0 * factor[odd, 2:], rtol=0.12)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_are_frequencies(pattern: str) -> None:
    """Rows sum to 1 whatever the numbers of types and regions; missing types are missing, rare ones rare."""
    for number in (2, 5, 20):
        found = region_frequencies(jax.random.key(2), pattern, regions=5, number=number)
        np.testing.assert_allclose(found.sum(1), 1.0)
        assert found.shape == (5, number)
    if pattern == "missing_types":
        assert (found.sum(0) == 0).sum() == 4
    if pattern == "dominant":
        assert (found.max(1) > 0.3).all() and len(set(found.argmax(1))) == 1
    if pattern == "regional_rare":
        least = np.where(found > 0, found, 1.0).min()
        assert least < 0.06
    cells = drawn_cells(jax.random.key(3), np.repeat(found, 20, axis=0))
    assert cells.sum(1).min() >= 2 and cells.sum(1).max() <= 10


def test_folds_deal_each_type(cells: Reference) -> None:
    """Every cell is held out once, and types are spread evenly."""
    held = held_out(cells.types, folds=4)
    assert (held.sum(0) == 1).all()
    for kind in range(3):
        sizes = held[:, cells.types == kind].sum(1)
        assert sizes.max() - sizes.min() <= 1


def test_calibration_spots_come_with_signatures_of_other_cells(cells: Reference) -> None:
    """The truth of each row belongs to its counts, and a fold's signatures leave its cells out."""
    rng = np.random.default_rng(4)
    drawn = rng.gamma(1.0, 2.0, (90, 4))
    spots = SpotTable(sp.csr_matrix(rng.poisson(3.0, (90, 50)).astype(np.float32)))
    source, truth, number = calibration_spots(
        jax.random.key(5), spots, cells, drawn=drawn, fitted=drawn, number=80, folds=4
    )
    assert number == 80 and truth.shape == (80, 4)
    np.testing.assert_allclose(truth.sum(1), 1.0)
    seen, judged = np.zeros(80, int), []
    for t in range(source.sweep):
        tile = source.at(t)
        seen[tile.rows[tile.core]] += 1
        judged.append(np.asarray(tile.values["shared"].cells))
        assert not tile.values["counts"][~tile.core].any()
    assert (seen == 1).all()
    assert all(c[0] == 45 for c in judged), "three quarters of the cells of the first type"
    assert all(c[3] == 1 for c in judged), "a lonely cell is on both sides"


def test_known_numbers_of_cells_are_kept(cells: Reference) -> None:
    """With counted cells the pseudo-spots have as many."""
    rng = np.random.default_rng(6)
    counts = sp.csr_matrix(rng.poisson(3.0, (40, 50)).astype(np.float32))
    drawn = np.full((40, 4), 0.2)
    spots = SpotTable(counts, n_cells=np.full(40, 25.0))
    truth = calibration_spots(jax.random.key(7), spots, cells, drawn=drawn, fitted=drawn, number=40)[1]
    assert np.median((truth > 0).sum(1)) == 4, "25 cells of four types leave none out, one cell would"
