"""Domains of large sections: levels, tiles, fits on a part of the spots, and small sections that stay as they were."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

from spatialjax import clustering, graphs, propagation
from spatialjax.clustering import labels as partitions
from spatialjax.methods import METHODS, run
from spatialjax.methods.domains import consensus as module
from spatialjax.metrics import ari
from spatialjax.propagation import components, multilevel, smoothing
from spatialjax.simulate import simulate_tissue
from spatialjax.slices import make_slice
from spatialjax.tiles import along_curve, compact_parts

LAYERS = 4


@pytest.fixture(scope="module")
def lattice() -> tuple[np.ndarray, sp.csr_matrix, np.ndarray]:
    """A jittered lattice of 3,600 spots, its graph, and a wave and noise on it."""
    rng = np.random.default_rng(0)
    xy = np.stack(np.meshgrid(np.arange(60.0), np.arange(60.0)), -1).reshape(-1, 2) + 0.2 * rng.normal(size=(3600, 2))
    values = np.stack([np.sin(xy[:, 0] / 9.0) + 0.5 * rng.normal(size=3600), rng.normal(size=3600)], 1)
    return xy, graphs.adjacency(graphs.delaunay(xy)), values.astype(np.float32)


@pytest.fixture(scope="module")
def tissue() -> Any:
    """A simulated section of about 6,000 cells in four layers, with its standardised components."""
    section = simulate_tissue(
        jax.random.key(2), n_sections=1, spots=6000, genes=60, layers=LAYERS, lattice="cells", depth=200
    ).sections[0]
    (values,) = propagation.standardized_components([section.counts], kind="counts", number=30)
    return make_slice(values, section.xy), section.domain


def method_of(**options: Any) -> Any:
    return METHODS["domains"]["consensus"].__wrapped__(n_domains=LAYERS, components=(10,), repeats=1, **options)


def labels_of(member: Any, method: Any, *, seed: int = 0) -> np.ndarray:
    found = run(method, jax.random.key(seed), [(member,)])[0].result
    return np.asarray(found.labels)[np.asarray(member.mask)]


@pytest.fixture
def low_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sections of this file count as large, and mixtures are fitted on a third of the spots."""
    for place in (components, smoothing, propagation):
        monkeypatch.setattr(place, "LARGE", 1000)
    monkeypatch.setattr(module, "_FITTED", 2000)


@pytest.mark.parametrize("alpha", [0.0, 2.0, 60.0])
def test_levels_solve_the_system(lattice: Any, alpha: float) -> None:
    """As a factorisation does, to the tolerance in the norm of the system, in few rounds for weak and strong α."""
    _, near, values = lattice
    system = sp.csc_matrix(sp.identity(3600) + alpha * propagation.laplacian(near))
    exact = sp.linalg.spsolve(system, values.astype(float))
    found = propagation.solve_multilevel(near, values, alpha, tolerance=1e-3)
    gap = found.values - exact
    error = np.sqrt((gap * (system @ gap)).sum(0) / (exact * (system @ exact)).sum(0))
    assert bool(found.converged) and int(found.steps) <= 20
    assert error.max() < 3e-3
    assert not bool(propagation.solve_multilevel(near, values, 60.0, max_steps=2).converged)


def test_levels_keep_isolated_spots_and_columns_of_zeros() -> None:
    """A spot without neighbours keeps its value, a column of zeros stays zero, no edge at all is no trouble."""
    near = sp.csr_matrix((700, 700))
    values = np.stack([np.arange(700.0), np.zeros(700)], 1).astype(np.float32)
    np.testing.assert_allclose(propagation.solve_multilevel(near, values, 5.0).values, values, rtol=1e-6)


def test_levels_shrink_and_aggregates_are_neighbourhoods(lattice: Any) -> None:
    """Each level has less than a third of the rows of the one before; an aggregate is connected within four steps."""
    _, near, _ = lattice
    sizes = multilevel.Hierarchy(sp.csr_matrix(sp.identity(3600) + propagation.laplacian(near), dtype=np.float32)).sizes
    assert len(sizes) >= 2 and all(3 * after < before for before, after in zip(sizes[:-1], sizes[1:], strict=True))
    group = multilevel.aggregates(sp.csr_matrix(near))
    step = sp.csr_matrix(near + sp.identity(3600))
    reached = (step @ step @ step @ step).tocoo()
    together = sp.csr_matrix((group[reached.row] == group[reached.col], (reached.row, reached.col)))
    np.testing.assert_array_equal(np.asarray(together.sum(1)).ravel(), np.bincount(group)[group])


@pytest.mark.parametrize(("alpha", "error"), [(-1.0, "at least 0"), (np.nan, "at least 0")])
def test_a_wrong_strength_is_refused(lattice: Any, alpha: float, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        propagation.solve_multilevel(lattice[1], lattice[2], alpha)


def test_reach_is_where_a_spike_falls_to_a_third(lattice: Any) -> None:
    """The profile of smoothing falls by about e from one reach to the next, far from the spike and the edge."""
    xy, near, _ = lattice
    spike = np.zeros((3600, 1))
    spike[np.argmin(((xy - 30.0) ** 2).sum(1))] = 1.0
    reach = propagation.reach(near, xy, 12.0)
    profile = propagation.solve_sparse(near, spike, 12.0, tolerance=1e-9).values[:, 0]
    away = np.linalg.norm(xy - 30.0, axis=1) / reach
    at = lambda r: profile[np.abs(away - r) < 0.15].mean()
    assert 0.6 < np.log(at(2.0) / at(3.0)) / (1.0 + 0.5 * np.log(1.5)) < 1.4


def test_tiles_smooth_like_the_whole(lattice: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the halo within a hundredth of the spread, without it far off at the seams; coordinates are needed."""
    xy, near, values = lattice
    exact = propagation.smooth(near, values, 3.0)
    gap = lambda: np.abs(propagation.smooth(near, values, 3.0, xy=xy, tile=500) - exact).max() / exact.std()
    assert gap() < 0.05
    monkeypatch.setattr(smoothing, "HALO", 0.0)
    assert gap() > 0.2
    with pytest.raises(ValueError, match="coordinates"):
        propagation.smooth(near, values, 3.0, tile=500)


@pytest.fixture(scope="module")
def method() -> Any:
    """One method for the tests of large sections, so that it is compiled once."""
    return method_of(scales=(0.5, 2.0))


@pytest.mark.usefixtures("low_threshold")
def test_domains_of_tiles_are_those_of_the_whole(tissue: Any, method: Any) -> None:
    """About twelve tiles of a section of 6,000 spots whose members disagree: the same domains, whatever the seed."""
    member, domain = tissue
    assert 5000 < len(domain) < 7500
    in_tiles = method._replace(prepare=method_of(scales=(0.5, 2.0), tile=500).prepare)
    for seed in range(2):
        assert ari(labels_of(member, method, seed=seed), labels_of(member, in_tiles, seed=seed)) >= 0.98


@pytest.mark.usefixtures("low_threshold")
def test_a_part_of_the_spots_gives_the_domains_of_all(tissue: Any, method: Any) -> None:
    """Above the threshold: levels, sums by parts, mixtures of a third of the spots; clear layers are found in all."""
    _, domain = tissue
    n, rng = len(domain), np.random.default_rng(1)
    values = rng.normal(size=(LAYERS, 30))[domain] + 1.5 * rng.normal(size=(n, 30))
    member = make_slice(values, np.asarray(tissue[0].xy)[:n])
    views = method.prepare(member)
    assert sorted(np.asarray(views.along)) == list(range(n))
    found = run(method, jax.random.key(0), [(member,)])[0].result
    assert found.members.dtype == jnp.int8
    assert not np.asarray(found.members)[n:].any()
    assert bool(found.converged)
    assert ari(domain, np.asarray(found.labels)[:n]) > 0.9


def test_components_by_parts_are_those_of_the_whole(lattice: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single precision and sums over blocks change the components in the fourth digit at the most."""
    _, near, waves = lattice
    values = np.concatenate([waves, np.random.default_rng(1).normal(size=(3600, 4))], 1).astype(np.float32)
    one = propagation.spatial_components(values, near, number=3)
    first = propagation.principal_components(values, 3)
    monkeypatch.setattr(components, "LARGE", 1000)
    monkeypatch.setattr(components, "_BLOCK", 700)
    many = propagation.spatial_components(values, near, number=3)
    np.testing.assert_allclose(many.autocorrelation, one.autocorrelation, atol=1e-4)
    np.testing.assert_allclose(many.values[:, 0], one.values[:, 0], atol=2e-3)
    np.testing.assert_allclose(many.axes[:, 0], one.axes[:, 0], atol=2e-3)
    np.testing.assert_allclose(propagation.principal_components(values, 3)[:, 0], first[:, 0], atol=2e-3)


def test_member_labels_are_those_of_the_fit() -> None:
    """Mixtures read the tables in turn, and give the rows that they were fitted on the label of the fit."""
    rng = np.random.default_rng(0)
    tables = [jnp.asarray(rng.normal(size=(2, 90, 4)) + 4 * rng.integers(0, 2, (2, 90, 1)), jnp.float32) for _ in "ab"]
    every = jnp.concatenate(tables * 2)[:, :, :3]
    fitted = clustering.tied_mixtures(jax.random.split(jax.random.key(0), 8), every, number=3)
    found = clustering.member_labels(fitted, tables)
    assert found.dtype == jnp.int8
    np.testing.assert_array_equal(found, fitted.labels)


def test_many_tuples_agree_with_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sparse tables and sums by parts: the same consensus, the same Rand indices to the bit."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 800)
    members = np.where(rng.random((800, 6)) < 0.2, rng.integers(0, 3, (800, 6)), truth[:, None])
    rand = clustering.rand_matrix(members)
    dense = clustering.latent_class(None, members, number=3, start=members[:, 0])
    monkeypatch.setattr(partitions, "DENSE_TUPLES", 40)
    assert len(partitions.distinct(members).codes) > 80
    np.testing.assert_array_equal(clustering.rand_matrix(members), rand)
    sparse = clustering.latent_class(None, members.astype(np.int8), number=3, start=members[:, 0])
    np.testing.assert_array_equal(sparse.labels, dense.labels)
    np.testing.assert_allclose(sparse.probability, dense.probability, atol=1e-4)
    np.testing.assert_array_equal(sparse.confidence, dense.confidence)


def test_distinct_tuples_come_sorted_and_lead_back() -> None:
    """As numpy's unique rows, for any kind of label."""
    rng = np.random.default_rng(3)
    names = np.array(["b", "a", "c"])[rng.integers(0, 3, (60, 3))]
    found = partitions.distinct(names)
    codes = np.stack([np.unique(column, return_inverse=True)[1] for column in names.T], 1)
    rows, back, count = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    np.testing.assert_array_equal(found.codes, rows)
    np.testing.assert_array_equal(found.of_row, back.reshape(-1))
    np.testing.assert_array_equal(found.count, count)


def test_stretches_of_the_curve_are_compact_and_parts_cover(lattice: Any) -> None:
    """A stretch of 60 rows spans a small part of the lattice, sections stay apart, parts hold every row once."""
    xy = lattice[0]
    order = along_curve(xy)
    assert sorted(order) == list(range(3600))
    spans = [np.ptp(xy[order[i : i + 60]], axis=0).max() for i in range(0, 3600, 60)]
    assert np.median(spans) < 20.0
    section = np.arange(3600) % 2
    assert (np.diff(section[along_curve(xy, section)]) >= 0).all()
    parts = compact_parts(xy, np.arange(3600), size=500)
    assert max(map(len, parts)) <= 500 and sorted(np.concatenate(parts)) == list(range(3600))
