"""STAGATE: the loss of the equations, layers that single spots do not show, when it has converged."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from layered_tissue import layered

from spatialjax.algorithm import fit
from spatialjax.graphs import adjacency
from spatialjax.methods import METHODS
from spatialjax.methods.card import run
from spatialjax.slices import make_slice

stagate = METHODS["domains"]["stagate"]


@pytest.fixture
def small(rng):
    """Thirty spots of nine genes in a slice with padding."""
    return make_slice(rng.poisson(1.0, (30, 9)).astype(np.float32), rng.uniform(0, 500, (30, 2)), capacity=40)


@pytest.mark.parametrize("score", ["sigmoid", "leaky_relu"])
def test_the_loss_is_that_of_the_equations_written_out(small, key, score):
    """Dense attention, dense reconstruction, in float64, without padding."""
    method = stagate(hidden=6, latent=3, score=score)
    data = method.prepare(small)
    state = method.algorithm.init(key, data)
    own = {name: np.asarray(value, np.float64) for name, value in state.params["network"].items()}
    x = np.asarray(small.features, np.float64)[:30]
    joined = adjacency(data.edges).toarray()[:30, :30] + np.eye(30) > 0
    h = x @ own["kernel"]
    logit = (h @ own["receiver"].T) + (h @ own["sender"].T).T
    logit = 1 / (1 + np.exp(-logit)) if score == "sigmoid" else np.where(logit > 0, logit, 0.2 * logit)
    share = np.where(joined, np.exp(logit), 0.0)
    share /= share.sum(1, keepdims=True)

    def elu(values):
        return np.where(values > 0, values, np.expm1(np.minimum(values, 0)))

    z = elu(share @ h) @ own["narrow"]
    rebuilt = elu(share @ (z @ own["narrow"].T)) @ own["kernel"].T
    _, info = method.algorithm.step(key, state, data)
    np.testing.assert_allclose(info["loss"], ((x - rebuilt) ** 2).mean(), rtol=1e-4)
    found = method.algorithm.readout(key, state, data).values
    np.testing.assert_allclose(found[:30], z, atol=1e-4 * np.abs(z).max())


@pytest.mark.parametrize("seed", [5, 9])
def test_layers_are_found_better_than_from_components(seed):
    """Adjusted Rand index of at least .7, and .15 above the same mixture of principal components."""
    tissue = layered(seed)
    result = run(stagate(hidden=128), jax.random.key(0), [(tissue.slice("log1p"),)], max_steps=150)[0].result
    found, plain = tissue.score(result.values), tissue.score(tissue.components)
    print(f"seed {seed}: {found:.3f}, components {plain:.3f}")
    assert found >= max(0.7, plain + 0.15)


def test_converged_means_that_all_epochs_were_taken(small, key):
    """1,000 epochs are the only stopping rule of the method."""
    method = stagate(hidden=4, latent=2)
    data = method.prepare(small)
    for steps in (999, 1000):
        assert bool(fit(method.algorithm, key, data, max_steps=steps).result.converged) == (steps == 1000)


def test_a_graph_that_the_section_brings_is_used(small):
    """The neighbour table stays as it is; a reach of 0 is refused."""
    given = stagate().prepare(small)
    assert stagate(reach=3.0).prepare(given).edges is given.edges
    with pytest.raises(ValueError, match="reach above 0"):
        stagate(reach=0.0)
