"""What every method that finds domains is compared with: k-means, smoothed components, neighbourhood features."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from spatialjax import graphs
from spatialjax.methods import CARDS, METHODS, run
from spatialjax.metrics import ari
from spatialjax.preprocess import log_normalize
from spatialjax.simulate import simulate_tissue
from spatialjax.slices import make_slice

LAYERS = 4
#: Options in the tests, smallest mean adjusted Rand index over two sections, and by how much k-means is beaten.
FLOORS = {
    "smoothed": ({}, 0.58, 0.1),
    "banksy": ({"weight": 0.2}, 0.58, 0.1),
    "neighbours": ({"rings": 1}, 0.58, 0.1),
}


@pytest.fixture(scope="module")
def tissues() -> list[Any]:
    """Two shallow sections with four layers, on a lattice and of scattered cells: log values, coordinates, layers."""
    found = []
    for seed, lattice in ((1, "hex"), (2, "cells")):
        stack = simulate_tissue(
            jax.random.key(seed), n_sections=1, spots=400, genes=100, layers=LAYERS, lattice=lattice, depth=150
        )
        section = stack.sections[0]
        found.append((log_normalize(section.counts).toarray(), section.xy, section.domain))
    return found


def labels_of(name: str, tissue: Any, **options: Any) -> np.ndarray:
    values, xy, domain = tissue
    member = (make_slice(values, xy, capacity=512),)
    found = run(METHODS["domains"][name](n_domains=LAYERS, **options), jax.random.key(3), [member])[0].result
    return np.asarray(found.labels)[: len(domain)]


@pytest.fixture(scope="module")
def without_space(tissues: Any) -> float:
    """Mean adjusted Rand index of k-means on components."""
    return float(np.mean([ari(labels_of("kmeans", tissue), tissue[2]) for tissue in tissues]))


def test_kmeans_agrees_with_scikit_learn(tissues: Any) -> None:
    """As small a sum of squares, and nearly the same partition of the same components."""
    values = tissues[1][0]
    scores = PCA(20, svd_solver="full").fit_transform(values)
    reference = KMeans(LAYERS, n_init=30, random_state=0).fit(scores)
    found = labels_of("kmeans", tissues[1])
    centres = np.stack([scores[found == k].mean(0) for k in range(LAYERS)])
    assert ((scores - centres[found]) ** 2).sum() < 1.002 * reference.inertia_
    assert ari(found, reference.labels_) > 0.95


@pytest.mark.parametrize("name", FLOORS)
def test_surroundings_recover_layers_better_than_kmeans(name: str, tissues: Any, without_space: float) -> None:
    """Simulated layers above the floor, and above k-means by the margin."""
    options, floor, margin = FLOORS[name]
    score = float(np.mean([ari(labels_of(name, tissue, **options), tissue[2]) for tissue in tissues]))
    assert score > floor, score
    assert score > without_space + margin, (score, without_space)


@pytest.mark.parametrize("name", ["smoothed", "banksy", "neighbours"])
def test_the_graph_of_the_caller_is_used(name: str, tissues: Any) -> None:
    """A graph without edges takes the surroundings away: other features than with neighbours; none is left unread."""
    values, xy, _ = tissues[0]
    table = graphs.knn(xy, 4)
    bare = table.__class__(table.index, np.zeros_like(table.weight))
    prepare = METHODS["domains"][name](n_domains=LAYERS).prepare
    features = [
        np.asarray(prepare(make_slice(values, xy, capacity=512, edges=edges)).features) for edges in (None, table, bare)
    ]
    assert all(np.isfinite(each).all() for each in features)
    for first, second in ((0, 1), (1, 2)):
        assert np.abs(features[first] - features[second]).max() > 0.05


def test_smoothing_follows_alpha(tissues: Any) -> None:
    """α = 0 is PCA; the larger α, the smaller the differences between neighbours."""
    values, xy, _ = tissues[0]
    section = make_slice(values, xy, capacity=512)
    table = graphs.adjacency(graphs.delaunay(xy)).tocoo()

    def roughness(alpha: float) -> float:
        found = np.asarray(METHODS["domains"]["smoothed"](alpha=alpha).prepare(section).features)
        return float(((found[table.row] - found[table.col]) ** 2).sum())

    rough = [roughness(alpha) for alpha in (0.0, 0.3, 3.0)]
    assert rough[0] > 2 * rough[1] > 4 * rough[2]
    plain = np.asarray(METHODS["domains"]["kmeans"]().prepare(section).features)
    np.testing.assert_array_equal(
        np.asarray(METHODS["domains"]["smoothed"](alpha=0.0).prepare(section).features), plain
    )


@pytest.mark.parametrize("name", ["kmeans", "smoothed", "neighbours", "banksy"])
def test_a_shift_between_sections_makes_no_domain(name: str, tissues: Any) -> None:
    """The same section twice, once with a constant added to every gene: both copies get the same domains."""
    values, xy, domain = tissues[0]
    n = len(domain)
    number = np.repeat(np.arange(2, dtype=np.int32), n)
    shifted = np.concatenate([values, values + np.linspace(0, 2, values.shape[1])])
    both = make_slice(shifted, np.concatenate([xy, xy]), extra={"section": number})
    found = run(METHODS["domains"][name](n_domains=LAYERS), jax.random.key(3), [(both,)])[0].result
    labels = np.asarray(found.labels)[: 2 * n]
    assert (labels[:n] == labels[n:]).mean() > 0.97


def test_a_wrong_way_of_clustering_is_refused(tissues: Any) -> None:
    """With the ways that there are."""
    with pytest.raises(ValueError, match="'kmeans' or 'mixture', found 'louvain'"):
        labels_of("smoothed", tissues[0], by="louvain")


def test_the_cards_say_that_they_are_baselines() -> None:
    """In the summary, where tables show it."""
    assert all("baseline" in CARDS["domains"][name].summary for name in (*FLOORS, "kmeans"))
