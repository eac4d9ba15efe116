"""Hypergraph wavelets: an embedding without training that recovers layers."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from spatialjax import clustering
from spatialjax.methods import METHODS, run
from spatialjax.metrics import ari
from spatialjax.preprocess import log_normalize
from spatialjax.propagation import principal_components
from spatialjax.simulate import simulate_tissue
from spatialjax.slices import make_slice

LAYERS = 4


@pytest.fixture(scope="module")
def tissues() -> list[Any]:
    """Two shallow sections with four layers: components, coordinates, layers."""
    found = []
    for seed, lattice in ((1, "hex"), (2, "cells")):
        stack = simulate_tissue(
            jax.random.key(seed), n_sections=1, spots=400, genes=100, layers=LAYERS, lattice=lattice, depth=150
        )
        section = stack.sections[0]
        found.append((principal_components(log_normalize(section.counts).toarray(), 20), section.xy, section.domain))
    return found


def embed(values: Any, xy: Any, **options: Any) -> tuple[Any, Any]:
    section = make_slice(values, xy, capacity=512)
    method = METHODS["domains"]["hypergraph_wavelets"](**options)
    return run(method, jax.random.key(0), [(section,)])[0].result, section


def test_layers_are_recovered_better_than_by_kmeans(tissues: Any) -> None:
    """A mixture on the embedding: above 0.65 on average, and above k-means on components by 0.15."""
    own, plain = [], []
    for values, xy, domain in tissues:
        result, section = embed(values, xy)
        for scores, by, into in ((result.values, "mixture", own), (section.features, "kmeans", plain)):
            found = clustering.regions(jax.random.key(2), scores, section.mask, number=LAYERS, by=by)
            into.append(ari(np.asarray(found.labels)[: len(domain)], domain))
    assert np.mean(own) > 0.65
    assert np.mean(own) > np.mean(plain) + 0.15


def test_coefficients_say_more_than_the_means(tissues: Any) -> None:
    """A feature that alternates in one half of a section has mean 0 in both; only |Ψ f| tells the halves apart."""
    _, xy, _ = tissues[1]
    half = xy[:, 0] > np.median(xy[:, 0])
    values = (np.random.default_rng(0).choice([-1.0, 1.0], len(xy)) * half)[:, None]
    result, _ = embed(values, xy)
    explained = []
    for columns in (np.asarray(result.values)[: len(xy)], values):
        columns = np.column_stack([columns, np.ones(len(xy))])
        rest = half - columns @ np.linalg.lstsq(columns, half.astype(float), rcond=None)[0]
        explained.append(1 - rest.var() / half.var())
    assert explained[0] > 0.7 and explained[1] < 0.1, explained


def test_no_randomness(tissues: Any) -> None:
    """Another key gives the same bits."""
    values, xy, _ = tissues[0]
    section = make_slice(values, xy, capacity=512)
    method = METHODS["domains"]["hypergraph_wavelets"]()
    first, second = (run(method, jax.random.key(seed), [(section,)])[0].result.values for seed in (0, 1))
    np.testing.assert_array_equal(first, second)
