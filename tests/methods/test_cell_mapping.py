"""Methods that place single cells: the likelihood against the exact one, the tables it is made of, tiles, the modes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import nbinom
from test_contract_mapping import CELLS, GENES, SIDE, TYPES, tissue

from spatialjax.checks import InputError
from spatialjax.methods import METHODS, run
from spatialjax.methods.mapping import local_profiles as local
from spatialjax.methods.mapping import tangram as tangram_map
from spatialjax.tables import Reference, SpotTable


@pytest.fixture(scope="module")
def case() -> tuple[SpotTable, Reference, np.ndarray]:
    return tissue(1)


def exact(counts: np.ndarray, mean: np.ndarray, scatter: np.ndarray) -> float:
    """Log likelihood of negative binomial counts with variance ``μ + φ μ²``."""
    size = 1.0 / scatter
    return float(nbinom.logpmf(counts, size, size / (size + mean)).sum())


def test_the_likelihood_is_that_of_negative_binomial_counts_to_second_order() -> None:
    """Against scipy, as a ratio to the mean profile, where the profiles of the spots differ by a few per cent."""
    rng = np.random.default_rng(0)
    genes, spots, cells = 30, 5, 4
    share = rng.dirichlet(np.full(genes, 2.0))
    scatter, depth = rng.uniform(0.05, 0.8, genes), rng.uniform(200, 900, cells)
    counts = rng.poisson(depth[:, None] * share * rng.gamma(3.0, 1 / 3.0, (cells, genes)))
    amount, ratio = rng.uniform(50, 90, spots), rng.normal(1.0, 0.04, (spots, genes))
    mean = rng.uniform(1.0, 4.0, genes)
    values = {"counts": counts, "depth": depth, "amount": amount, "seen": amount[:, None] * ratio, "kind": 0}
    values = {name: jnp.asarray(value, jnp.int32 if name == "kind" else jnp.float32) for name, value in values.items()}
    types = {"share": share, "scatter": scatter, "mean": mean}
    types = {name: jnp.asarray(value, jnp.float32)[None] for name, value in types.items()}
    found = np.asarray(local._log_likelihood(values, types, 2.0))
    expected = amount[:, None] * mean
    profile = (2.0 + expected * ratio) / (2.0 + expected)
    usual = depth[:, None] * share
    wanted = np.array(
        [
            [
                exact(counts[c], usual[c] * profile[s], scatter) - exact(counts[c], usual[c], scatter)
                for s in range(spots)
            ]
            for c in range(cells)
        ]
    )
    assert np.abs(wanted).max() > 0.2
    np.testing.assert_allclose(found, wanted, atol=0.05 * np.abs(wanted).max())


def test_the_scatter_of_a_gene_is_that_of_its_cells() -> None:
    """Moments of simulated counts, whatever the depth of the cells; none for Poisson counts."""
    rng = np.random.default_rng(1)
    cells, genes = 4000, 60
    share, depth = rng.dirichlet(np.full(genes, 3.0)), rng.uniform(1500, 4500, cells)
    truth = np.where(np.arange(genes) % 10, 0.0, 0.5)
    size = np.where(truth > 0, 1.0 / np.maximum(truth, 1e-9), 1.0)
    wave = np.where(truth > 0, rng.gamma(size, 1.0 / size, (cells, genes)), 1.0)
    counts = sp.csr_matrix(rng.poisson(depth[:, None] * share * wave), dtype=np.float32)
    types = np.repeat([0, 1], cells // 2)
    reference = Reference(counts, types, ["a", "b"])
    fitted = local._Fitted(local.mean_signatures(counts, types, number=2), np.ones((3, 2)), np.ones(genes), 0.0)
    found = local._type_tables(fitted, reference, np.arange(genes))["scatter"]
    np.testing.assert_allclose(found, np.broadcast_to(truth, found.shape), atol=0.08)


def test_spots_that_are_equally_near_are_all_neighbours() -> None:
    """On a lattice six neighbours are eight inside; sections share none."""
    grid = np.stack(np.divmod(np.arange(25), 5), 1) * 10.0
    spots = SpotTable(sp.csr_matrix((50, 3)), np.concatenate([grid, grid]), np.repeat([0, 1], 25))
    found = local._neighbourhood(spots, 6)
    assert np.diff(found.indptr)[12] == 9 and not found[:25, 25:].nnz
    np.testing.assert_allclose(found.diagonal(), 1.0)
    assert local._neighbourhood(spots, 0).nnz == 50


def test_tiles_and_blocks_change_nothing(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Smaller ones, the last of each not full, give the same places."""
    method = METHODS["mapping"]["local_profiles"]()
    first = run(method, jax.random.key(0), [case[:2]])[0].result
    monkeypatch.setattr(local, "_CELLS", 64)
    monkeypatch.setattr(local, "_SPOTS", 24)
    again = run(method, jax.random.key(0), [case[:2]])[0]
    assert again.steps[0] == TYPES * 3 * -(-CELLS // 64)
    np.testing.assert_allclose(again.result.position, first.position, atol=0.5)
    np.testing.assert_allclose(again.result.probabilities, first.probabilities, atol=1e-3)


def test_without_any_power_a_cell_lies_where_its_type_is(case: Any) -> None:
    """All cells of a type alike, the last type in its half, and no evidence."""
    method = METHODS["mapping"]["local_profiles"](power=1e-9, anywhere=1e-6, kept=SIDE**2)
    found = run(method, jax.random.key(0), [case[:2]])[0].result
    types = np.asarray(case[1].types)
    for kind in range(TYPES):
        assert np.ptp(found.position[types == kind], axis=0).max() < 1e-2
    assert found.position[-1, 0] > 0.65 * SIDE * 100.0 and abs(found.position[0, 0] - 400.0) < 80.0
    np.testing.assert_allclose(found.probabilities.sum(1), 1.0, atol=1e-4)
    assert np.abs(found.evidence).max() < 1e-4


def test_the_most_telling_genes_are_those_that_vary_over_the_tissue(case: Any) -> None:
    """Half of the genes rise and fall; with half of them used the places are hardly worse."""
    spots, reference, truth = case
    fitted = local._fitted(spots, reference)
    kept = local._telling_genes(fitted, spots, reference, number=GENES // 4)
    assert len(kept) == GENES // 4 and (np.diff(kept) > 0).all()
    miss = []
    for number in (GENES, GENES // 2):
        method = METHODS["mapping"]["local_profiles"](genes=number)
        found = run(method, jax.random.key(0), [case[:2]])[0].result
        miss.append(np.median(np.linalg.norm(found.position - truth, axis=1)))
    assert miss[1] < 1.3 * miss[0]


def test_spots_need_places_and_options_are_checked(case: Any) -> None:
    """One message each."""
    bare = SpotTable(case[0].counts)
    for name in ("local_profiles", "tangram"):
        with pytest.raises(InputError, match="coordinates of the spots"):
            METHODS["mapping"][name]().prepare(bare, case[1])
    for options in ({"power": 0.0}, {"anywhere": 2.0}, {"neighbours": -1}, {"kept": 0}):
        with pytest.raises(ValueError, match="Expected"):
            METHODS["mapping"]["local_profiles"](**options)
    with pytest.raises(ValueError, match="Expected mode"):
        METHODS["mapping"]["tangram"](mode="spots")


def test_tangram_counts_types_spot_by_spot_and_weighs_cells_by_their_counts(case: Any) -> None:
    """Cells of each type are those that the spots hold, whatever the reference has; deep cells fill more of a spot."""
    spots, reference, _ = case
    # One cell of the first type in four: the reference then has it too rarely.
    types = np.asarray(reference.types)
    keep = np.flatnonzero((types > 0) | (np.arange(len(types)) % 4 == 0))
    fewer = Reference(reference.counts[keep], types[keep], reference.names)
    found = METHODS["mapping"]["tangram"](frequencies="fitted", density="depth").prepare(spots, fewer)
    amount = np.bincount(types[keep], found["cells"][: len(keep)], minlength=TYPES)
    seen = METHODS["mapping"]["tangram"](frequencies="reference").prepare(spots, reference)
    right = np.bincount(types, seen["cells"][: len(types)], minlength=TYPES)
    np.testing.assert_allclose(amount / amount.sum(), right / right.sum(), atol=0.1)
    assert (types[keep] == 0).mean() < 0.5 * amount[0] / amount.sum()
    depth = np.asarray(fewer.counts.sum(1)).ravel()
    np.testing.assert_allclose(found["weight"][: len(keep)], found["cells"][: len(keep)] * depth, rtol=1e-5)
    with pytest.raises(ValueError, match="choose 'reference'"):
        METHODS["mapping"]["tangram"](frequencies="coded")


def test_a_map_that_would_not_fit_is_refused(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters fit where cells do not; the message says what does."""
    monkeypatch.setattr(tangram_map, "_LARGEST", 1000)
    with pytest.raises(InputError, match="Use method 'local_profiles'"):
        METHODS["mapping"]["tangram"]().prepare(*case[:2])
    METHODS["mapping"]["tangram"](mode="clusters").prepare(*case[:2])
