"""SEDR: what is hidden is hidden, the token learns, layers are found."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layered_tissue import layered

from spatialjax.algorithm import fit
from spatialjax.graphs import adjacency
from spatialjax.methods import METHODS
from spatialjax.methods.card import run
from spatialjax.methods.domains.sedr import _Network
from spatialjax.slices import make_slice

sedr = METHODS["domains"]["sedr"]


@pytest.fixture
def small(rng):
    """Thirty spots with eight components in a slice with padding, and a graph."""
    section = make_slice(rng.normal(size=(30, 8)), rng.uniform(0, 500, (30, 2)), capacity=40)
    return sedr().prepare(section)


def test_features_of_hidden_spots_reach_nothing(small, key):
    """In training no output depends on the features of hidden spots, and outputs depend on the others."""
    network = _Network(12, 4, 0.2)
    hidden = jnp.arange(40) % 3 == 0
    variables = network.init(key, small, hidden)

    def total(features):
        out, _ = network.apply(
            variables, small.replace(features=features), hidden, train=True, key=key, mutable=["batch_stats"]
        )
        return (out.decoded**2).sum() + (out.embedding**2).sum()

    slope = np.asarray(jax.grad(total)(small.features))[:30]
    seen = ~np.asarray(hidden)[:30]
    assert not slope[~seen].any()
    assert np.abs(slope[seen]).min(1).max() > 0 and (np.abs(slope[seen]).sum(1) > 0).all()


def test_the_token_learns_and_the_readout_hides_nothing(small, key):
    """The token leaves 0; the embedding of a spot follows its own features afterwards, and needs no key."""
    method = sedr()
    done = fit(method.algorithm, key, small, max_steps=5)
    token = np.asarray(done.state.params["network"]["token"])
    assert np.abs(token).min() > 0
    moved = small.replace(features=small.features.at[4].add(1.0))
    other = method.algorithm.readout(key, done.state, moved).values
    again = method.algorithm.readout(jax.random.fold_in(key, 1), done.state, small).values
    assert np.abs(np.asarray(other - again))[4].max() > 0
    np.testing.assert_allclose(again, done.result.values, atol=1e-5)


def test_every_part_of_the_loss_is_reported_and_adds_up(small, key):
    """Reconstruction, edges, divergence and masked spots; hiding nothing leaves the last one out."""
    for rate in (0.8, 0.0):
        method = sedr(mask_rate=rate)
        state = method.algorithm.init(key, small)
        _, info = method.algorithm.step(key, state, small)
        parts = [float(info[name]) for name in ("reconstruction", "edges", "divergence", "masked")]
        np.testing.assert_allclose(info["loss"], sum(parts), rtol=1e-5)
        assert min(parts[:3]) > 0 and (parts[3] > 0) == (rate > 0)


def test_the_graph_is_symmetric(small):
    """Two spots are joined where either chose the other."""
    table = adjacency(small.edges).toarray()
    np.testing.assert_array_equal(table, table.T)
    assert table[:30].sum(1).min() >= 6 and not table[30:].any()


@pytest.mark.parametrize("seed", [5, 9])
def test_layers_are_found_better_than_from_components(seed):
    """Adjusted Rand index of at least .5, and .1 above the same mixture of principal components."""
    tissue = layered(seed)
    fitted = run(sedr(), jax.random.key(0), [(tissue.slice("embedding"),)])[0]
    assert bool(fitted.result.converged)
    found, plain = tissue.score(fitted.result.values), tissue.score(tissue.components)
    print(f"seed {seed}: {found:.3f}, components {plain:.3f}")
    assert found >= max(0.5, plain + 0.1)
