"""Splane: weights of the cell types, losses, the index of Davies and Bouldin, three sections with a batch shift."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import davies_bouldin_score

from spatialjax import clustering, graphs
from spatialjax.methods.card import run
from spatialjax.methods.domains import splane as module
from spatialjax.metrics import ari
from spatialjax.simulate import simulate_tissue
from spatialjax.slices import Slice, make_slice

LAYERS, TYPES = 4, 8
#: Adjusted Rand index with the layers, how much above k-means on the proportions, and at the most with the sections.
FLOOR, MARGIN, MIXED = 0.4, 0.15, 0.15


@pytest.fixture(scope="module")
def shifted() -> tuple[Slice, np.ndarray, np.ndarray]:
    """Three sections whose proportions are noisy and, by type, over- or underestimated in each; layers; sections."""
    rng = np.random.default_rng(0)
    stack = simulate_tissue(jax.random.key(12), n_sections=3, spots=150, genes=4, layers=LAYERS, rotate=False)
    profile = rng.dirichlet(np.full(TYPES, 0.7), LAYERS)
    parts = []
    for one in stack.sections:
        noise = rng.dirichlet(np.ones(TYPES), len(one.xy))
        amount = (0.45 * profile[one.domain] + 0.55 * noise) * np.exp(rng.normal(0, 0.5, TYPES))
        parts.append(amount / amount.sum(1, keepdims=True))
    number = np.repeat(np.arange(3, dtype=np.int32), [len(one.xy) for one in stack.sections])
    domain = np.concatenate([one.domain for one in stack.sections])
    xy = np.concatenate([one.xy for one in stack.sections])
    return make_slice(np.concatenate(parts), xy, extra={"section": number}), domain, number


def clusters(values: Any, section: Slice) -> np.ndarray:
    found = clustering.kmeans(jax.random.key(0), values, section.mask, number=LAYERS)
    return np.asarray(found.labels)[np.asarray(section.mask)]


def test_types_without_a_pattern_weigh_little_and_small_shares_are_none(shifted):
    """Shuffling a type over the spots takes its weight; proportions below the limit are 0 before standardisation."""
    section, _, _ = shifted
    n = int(section.mask.sum())
    shares = np.array(section.features)
    loudest = int(np.argmax(module.compose(section, least=0.01).weights))
    shares[:n, loudest] = np.random.default_rng(1).permutation(shares[:n, loudest])
    shares[:n, 0] = np.where(np.arange(n) % 2, 0.009, 0.5)
    data = module.compose(section.replace(features=jnp.asarray(shares)), least=0.01)
    assert float(data.weights[loudest]) < 0.5 / TYPES
    np.testing.assert_allclose(data.weights.sum(), 1.0, rtol=1e-5)
    values = np.asarray(data.section.features)[np.asarray(data.place)][:n]
    np.testing.assert_allclose(values.mean(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(values.std(0), 1.0, rtol=1e-4)
    assert len(np.unique(values[:, 0].round(4))) == 2
    none = module.compose(section.replace(features=jnp.zeros_like(section.features)), least=0.01)
    np.testing.assert_allclose(none.weights, 1.0 / TYPES)


def test_the_laplacian_is_rescaled_by_its_largest_eigenvalue(shifted):
    """Against a dense solver, of the graph of all sections together."""
    data = module.compose(shifted[0], least=0.01)
    dense = graphs.adjacency(data.section.edges).toarray()[: len(shifted[1]), : len(shifted[1])]
    root = 1.0 / np.sqrt(dense.sum(1))
    expected = np.linalg.eigvalsh(np.eye(len(dense)) - root[:, None] * dense * root[None]).max()
    np.testing.assert_allclose(data.top, expected, rtol=1e-4)


def test_losses_against_the_formula_and_only_over_the_rows_asked_for(shifted):
    """Cosine and divergence of the columns in numpy; what stands in the other rows changes nothing."""
    data = module.compose(shifted[0], least=0.01)
    data = data._replace(pull=jnp.float32(0.0))
    rng = np.random.default_rng(3)
    capacity = data.section.capacity
    z, decoded = rng.normal(size=(capacity, 3)), rng.normal(size=(capacity, TYPES)).astype(np.float32)
    rows = np.asarray(data.section.mask) & (rng.uniform(size=capacity) < 0.5)
    x, y = np.asarray(data.section.features)[rows], decoded[rows]
    cosine = (x * y).sum(0) / np.linalg.norm(x, axis=0) / np.linalg.norm(y, axis=0)
    p, q = (np.exp(v) / np.exp(v).sum(0) for v in (x, y))
    expected = np.asarray(data.weights) @ ((p * np.log(p / q)).sum(0) - cosine)
    found = module.fit_loss(jnp.asarray(z), jnp.asarray(decoded), data, rows=jnp.asarray(rows))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    decoded[~rows] = 1e3
    np.testing.assert_allclose(module.fit_loss(z, decoded, data, rows=jnp.asarray(rows)), expected, rtol=1e-4)


def test_the_index_of_davies_and_bouldin_is_that_of_scikit_learn():
    """Also with an empty cluster and padding."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, 60)
    z = rng.normal(size=(60, 4)) + labels[:, None]
    padded = np.concatenate([z, np.full((4, 4), 9.0)]), np.concatenate([labels, np.zeros(4, int)])
    weights = jnp.asarray(np.arange(64) < 60, jnp.float32)
    found = module.davies_bouldin(*map(jnp.asarray, padded), weights, number=5)
    np.testing.assert_allclose(found, davies_bouldin_score(z, labels), rtol=1e-4)


def test_layers_of_three_sections_are_found_together_across_a_shift(shifted):
    """Layers above the floor and above k-means by the margin; the clusters know little of the sections.

    The adversary is what mixes: without it the discriminator tells the sections apart better.
    """
    section, domain, number = shifted
    method = module.splane(n_domains=LAYERS)
    fitted = run(method, jax.random.key(1), [(section,)])[0]
    found, plain = clusters(fitted.result.values, section), clusters(section.features, section)
    print(
        f"layers {ari(found, domain):.3f}, k-means {ari(plain, domain):.3f}; "
        f"sections {ari(found, number):.3f}, k-means {ari(plain, number):.3f}; "
        f"discriminator {fitted.history['judge'][-20:].mean():.3f}"
    )
    assert ari(found, domain) >= FLOOR
    assert ari(found, domain) >= ari(plain, domain) + MARGIN
    assert ari(found, number) <= MIXED < ari(plain, number)
    assert not bool(fitted.result.converged), "the budget ends before the patience"
    values = np.asarray(fitted.result.values)[np.asarray(section.mask)]
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1.0, atol=1e-3)
    assert values.min() >= 0.0


def test_the_adversary_moves_the_network(shifted):
    """One step with and without it: the same key gives another network, so its gradient arrives."""
    networks = []
    for options in ({}, {"adversary": 0.0}):
        fitted = run(module.splane(n_domains=LAYERS, **options), jax.random.key(0), [shifted[:1]], max_steps=1)[0]
        networks.append(jax.tree.leaves(fitted.state.inner.params["network"]["params"]["layers_0"]))
    assert max(float(jnp.abs(a - b).max()) for a, b in zip(*networks, strict=True)) > 1e-4
