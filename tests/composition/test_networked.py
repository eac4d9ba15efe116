"""What stands beside a network: rows to train on, tables by tiles, cells from shares, the prior of latent places."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import norm

from spatialjax.algorithm import fit, solve
from spatialjax.composition import (
    ScaledRows,
    cells_of_counts,
    cells_of_shares,
    drawn_first,
    latent_prior,
    mean_profiles,
    packed,
    read_by_tiles,
    row_tables,
    shown_markers,
    tilewise,
    training_rows,
    unpacked,
)
from spatialjax.composition.latent import LatentPrior
from spatialjax.tables import Reference, SpotTable


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    """Forty spots of six genes, one of them empty."""
    made = np.random.default_rng(0).poisson(3.0, (40, 6)).astype(np.float32)
    made[5] = 0.0
    return made


def test_the_order_of_the_spots_does_not_reach_the_training_rows(counts: np.ndarray) -> None:
    """The same rows in the same places, without the empty spot and with free places below."""
    order = np.random.default_rng(1).permutation(40)
    genes = np.array([0, 2, 5])
    first, second = (training_rows(SpotTable(sp.csr_matrix(c)), genes) for c in (counts, counts[order]))
    assert np.array_equal(first["values"], second["values"])
    shown = counts[:, genes].any(1).sum()
    assert first["number"] == shown and not first["values"][shown:].any()
    assert sorted(map(tuple, first["values"][:shown])) == sorted(map(tuple, counts[counts[:, genes].any(1)][:, genes]))


def test_spots_without_the_genes_are_refused() -> None:
    """Rows to train on, and markers."""
    nothing = SpotTable(sp.csr_matrix((4, 3), dtype=np.float32))
    with pytest.raises(ValueError, match="none"):
        training_rows(nothing, np.arange(3))
    reference = Reference(sp.csr_matrix(np.eye(3)), np.arange(3), list("abc"))
    with pytest.raises(ValueError, match="none"):
        shown_markers(mean_profiles(reference), nothing, 2)


def test_markers_are_genes_that_the_spots_show() -> None:
    """The best marker of a type is passed over where no spot shows it."""
    cells = np.array([[9, 4, 0, 0], [0, 0, 9, 4]], float)
    reference = Reference(sp.csr_matrix(np.repeat(cells, 3, axis=0)), np.repeat([0, 1], 3), ["a", "b"])
    spots = SpotTable(sp.csr_matrix(np.array([[0, 1, 1, 1]], float)))
    assert shown_markers(mean_profiles(reference), spots, 1).tolist() == [1, 2]


def test_scaled_rows_have_one_total_and_empty_ones_stay_empty(counts: np.ndarray) -> None:
    """Also where they are read as a table of spots."""
    read = SpotTable(ScaledRows(SpotTable(sp.csr_matrix(counts)), 100.0)).rows(3, 9).toarray()
    np.testing.assert_allclose(read.sum(1), [100, 100, 0, 100, 100, 100], rtol=1e-5)
    np.testing.assert_allclose(read[0], 100 * counts[3] / counts[3].sum(), rtol=1e-5)


def test_a_packed_matrix_comes_back(counts: np.ndarray) -> None:
    """Its last column and row, too, where they are empty."""
    wide = np.pad(counts, ((0, 2), (0, 3)))
    assert np.array_equal(unpacked(packed(wide)).toarray(), wide)


def test_what_is_drawn_first_hangs_on_the_key_of_the_run(key: Any) -> None:
    """The draw gets a key, and the phase behind it what was drawn."""

    def draw(key: Any, data: Any) -> Any:
        return {"drawn": np.asarray(jax.random.uniform(key, (3,))) + np.asarray(data)}

    algorithm = drawn_first(draw, solve(lambda key, data: data["drawn"] * 2.0))
    runs = [fit(algorithm, k, np.float32(5.0), max_steps=(1, 1)).result for k in (key, key, jax.random.fold_in(key, 1))]
    assert np.array_equal(runs[0], runs[1]) and not np.allclose(runs[0], runs[2])
    assert ((runs[0] >= 10) & (runs[0] <= 12)).all()


def test_tables_by_tiles_are_those_of_all_rows(counts: np.ndarray, key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three tiles, the last one not full."""
    monkeypatch.setattr(tilewise, "ROWS", 16)
    tables = row_tables(lambda key, data: data["tile"].values["counts"] @ data["tile"].values["shared"])
    genes, weight = np.array([1, 4]), np.array([[1.0, 2.0], [3.0, -1.0]], np.float32)
    found = read_by_tiles(tables, key, SpotTable(sp.csr_matrix(counts)), shared=weight, genes=genes)
    np.testing.assert_allclose(found, counts[:, genes] @ weight, rtol=1e-5)


def test_cells_from_shares_of_counts_and_of_cells(counts: np.ndarray) -> None:
    """Both give the counts of the spot back, and the shares that they were made of."""
    spots, depth = SpotTable(sp.csr_matrix(counts)), np.array([2.0, 8.0])
    shares, total = np.full((40, 2), 0.5), counts.sum(1)
    of_counts, of_cells = cells_of_counts(shares, spots, depth), cells_of_shares(shares, spots, depth)
    for cells in (of_counts, of_cells):
        np.testing.assert_allclose(cells @ depth, total, rtol=1e-5)
        assert not cells[5].any()
    np.testing.assert_allclose(of_counts[0] * depth / total[0], [0.5, 0.5])
    np.testing.assert_allclose(of_cells[0] / of_cells[0].sum(), [0.5, 0.5])


def test_the_prior_of_a_type_with_two_states_has_both(key: Any) -> None:
    """Density against scipy's for one component; two far clusters become two components of their sizes."""
    rng = np.random.default_rng(0)
    types = np.repeat([0, 1], [40, 30])
    mean = rng.normal(0.0, 0.1, (70, 2))
    mean[30:40] += 6.0
    sd = np.full((70, 2), 0.3)
    prior = latent_prior(key, (mean, sd), types, number=2, components=2)
    weight = np.exp(np.asarray(prior.log_weight[0]))
    np.testing.assert_allclose(np.sort(weight), [0.25, 0.75], atol=1e-6)
    far = int(weight.argmin())
    np.testing.assert_allclose(prior.mean[0, far], mean[30:40].mean(0), atol=1e-5)
    np.testing.assert_allclose(prior.sd[0, far], np.sqrt(0.09 + mean[30:40].var(0)), rtol=1e-4)
    one = latent_prior(key, (mean, sd), types, number=2, components=1)
    place = np.array([0.4, -0.2])
    wanted = norm.logpdf(place, mean[40:].mean(0), np.sqrt(0.09 + mean[40:].var(0))).sum()
    told = one.log_density(jnp.broadcast_to(jnp.asarray(place, jnp.float32), (1, 2, 2)))
    assert float(told[0, 1]) == pytest.approx(wanted, rel=1e-4)


def test_a_type_with_one_cell_has_a_prior_with_finite_gradients(key: Any) -> None:
    """Components that are not used weigh nothing and give no NaN."""
    mean, sd = np.zeros((3, 2)), np.full((3, 2), 0.5)
    prior = latent_prior(key, (mean, sd), np.array([0, 0, 1]), number=2, components=3)
    slope = np.asarray(jax.jit(jax.grad(lambda places: prior.log_density(places).sum()))(jnp.ones((4, 2, 2))))
    assert np.isfinite(slope).all() and np.abs(slope).min() > 0


def test_drawn_places_follow_the_mixture_of_their_type(key: Any) -> None:
    """Shares, means and spread of the components; components of weight 0 are never drawn."""
    mean = np.array([[[-5.0, 0.0], [5.0, 1.0]], [[2.0, 2.0], [90.0, 90.0]]])
    sd = np.array([[[0.5, 1.0], [2.0, 0.1]], [[1.0, 3.0], [1.0, 1.0]]])
    prior = LatentPrior(*(jnp.asarray(part) for part in (mean, sd, np.log([[0.25, 0.75], [1.0, 1e-300]]))))
    found = prior.drawn(key, 4000)
    near = found[:, 0, 0] < -1.0
    assert found.shape == (4000, 2, 2) and abs(near.mean() - 0.25) < 0.03
    np.testing.assert_allclose(found[near, 0].mean(0), mean[0, 0], atol=0.15)
    np.testing.assert_allclose(found[~near, 0].std(0), sd[0, 1], rtol=0.1)
    np.testing.assert_allclose(found[:, 1].mean(0), mean[1, 0], atol=0.2)
    assert np.array_equal(found, prior.drawn(key, 4000))
