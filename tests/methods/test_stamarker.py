"""STAMarker: planted layers and their markers, the false discovery rate, members that do not touch each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialjax.methods import METHODS
from spatialjax.methods.card import run
from spatialjax.methods.domains.stamarker import _false_discovery_rate, _shadows
from spatialjax.metrics import ari
from spatialjax.slices import make_slice

stamarker = METHODS["domains"]["stamarker"]
LAYERS, MARKERS, NOISE = 3, 8, 30


@pytest.fixture(scope="module")
def planted():
    """Three layers of a square lattice with eight markers each, and genes that say nothing."""
    rng = np.random.default_rng(2)
    xy = np.stack([each.ravel() for each in np.meshgrid(np.arange(18.0), np.arange(15.0))], 1)
    layer = (xy[:, 0] // 6).astype(int)
    rate = np.full((len(xy), LAYERS * MARKERS + NOISE), 2.0)
    for number in range(LAYERS):
        rate[np.ix_(layer == number, np.arange(MARKERS) + number * MARKERS)] = 6.0
    return make_slice(np.log1p(rng.poisson(rate)), xy, capacity=288), layer


@pytest.fixture(scope="module")
def fitted(planted):
    """One run to the end on a small network."""
    method = stamarker(n_domains=LAYERS, members=3, shadows=1.0, hidden=32, latent=8, learning_rate=3e-3)
    return run(method, jax.random.key(0), [(planted[0],)], max_steps=(300, 100))[0]


def of_layers(result, layer):
    """Domain of each layer, by majority."""
    labels = np.asarray(result.labels)[: len(layer)]
    return [np.bincount(labels[layer == number], minlength=LAYERS).argmax() for number in range(LAYERS)]


def test_planted_layers_are_found(planted, fitted):
    """Adjusted Rand index of at least .8."""
    found = ari(np.asarray(fitted.result.labels)[: len(planted[1])], planted[1])
    print(f"adjusted Rand index {found:.3f}")
    assert found >= 0.8


def test_markers_are_found_and_noise_is_not(planted, fitted):
    """At least eight of ten markers in their layer; of the genes that say nothing at most one of twenty."""
    genes, domains = fitted.result.genes, of_layers(fitted.result, planted[1])
    selected = np.asarray(genes.selected)
    hits = [selected[domain, number * MARKERS : (number + 1) * MARKERS].mean() for number, domain in enumerate(domains)]
    wrong = selected[:, LAYERS * MARKERS :].mean()
    print(f"markers {hits}, noise {wrong:.3f}")
    assert np.mean(hits) >= 0.8
    assert wrong <= 0.05
    np.testing.assert_array_equal(selected, np.asarray(genes.false_discovery_rate) <= 0.05)


def test_the_published_rule_is_an_option(planted):
    """Scores above the mean over the genes by some of their standard deviations."""
    options = {"n_domains": LAYERS, "members": 1, "hidden": 8, "latent": 4}
    method = stamarker(rule="deviations", deviations=1.0, **options)
    genes = run(method, jax.random.key(0), [(planted[0],)], max_steps=(3, 3))[0].result.genes
    score = np.asarray(genes.score)
    expected = score > score.mean(1, keepdims=True) + score.std(1, keepdims=True)
    np.testing.assert_array_equal(genes.selected, expected)
    assert expected.any()


def test_rates_are_rates():
    """Scores like those of shadows are seldom selected; planted ones are; a larger score has no larger rate."""
    rng = np.random.default_rng(0)
    shadow = jnp.asarray(rng.normal(size=(4, 100)), jnp.float32)
    seen = rng.normal(size=(4, 200))
    quiet = np.asarray(_false_discovery_rate(jnp.asarray(seen, jnp.float32), shadow))
    assert (quiet <= 0.05).mean() <= 0.01
    seen[:, :20] += 6.0
    loud = np.asarray(_false_discovery_rate(jnp.asarray(seen, jnp.float32), shadow))
    assert (loud[:, :20] <= 0.05).mean() >= 0.95
    assert (loud[:, 20:] <= 0.05).mean() <= 0.02
    assert loud.min() > 0 and loud.max() <= 1
    higher = seen.copy()
    higher[0, 150] += 3.0
    assert _false_discovery_rate(jnp.asarray(higher, jnp.float32), shadow)[0, 150] <= loud[0, 150]


def test_shadows_are_genes_without_their_places(planted):
    """Each shadow holds the values of one gene over the real spots, in another order; padding stays empty."""
    section, layer = planted
    shadow = np.asarray(_shadows(jax.random.key(0), section, 0.5))
    genes, n = np.asarray(section.features), len(layer)
    assert shadow.shape == (section.capacity, round(0.5 * genes.shape[1])) and not shadow[n:].any()
    sums = {tuple(np.sort(column)) for column in genes[:n].T}
    assert all(tuple(np.sort(column)) in sums for column in shadow[:n].T)
    gap = [abs(column[layer == 0].mean() - column[layer == 2].mean()) for column in shadow[:n].T]
    assert max(gap) < 0.4


def test_members_are_trained_each_for_itself(planted):
    """Of three encoders, changing the start of one leaves the steps of the others as they were."""
    method = stamarker(n_domains=LAYERS, members=3, hidden=8, latent=4)
    encoders, data, key = method.algorithm.first, method.prepare(planted[0]), jax.random.key(0)
    state = encoders.init(key, data)
    other = state._replace(params=jax.tree.map(lambda leaf: leaf.at[1].multiply(3.0), state.params))
    moved, changed = (encoders.step(key, each, data)[0].params for each in (state, other))
    for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(changed), strict=True):
        np.testing.assert_array_equal(a[::2], b[::2])


@pytest.mark.parametrize("options", [{"n_domains": 1}, {"members": 0}, {"shadows": 0.0}, {"rule": "mean"}])
def test_options_out_of_range_are_refused(options):
    """The message says what was expected."""
    with pytest.raises(ValueError, match="Expected"):
        stamarker(**options)
