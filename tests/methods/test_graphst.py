"""GraphST: loss and components of the equations without anything as large as the data, graphs, layers."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from layered_tissue import layered

from spatialjax.graphs import adjacency
from spatialjax.methods import METHODS
from spatialjax.methods.card import run
from spatialjax.nn import shuffled_rows
from spatialjax.slices import make_slice

graphst = METHODS["domains"]["graphst"]


@pytest.fixture
def small(rng):
    """Forty spots of twelve genes, one of them constant, in a slice with padding."""
    features = rng.gamma(2.0, size=(40, 12)).astype(np.float32)
    features[:, 3] = 1.0
    return make_slice(features, rng.uniform(0, 500, (40, 2)), capacity=48)


def written_out(data, params):
    """The matrices of the equations, dense, in float64, real spots only."""
    x = np.asarray(data.section.features, np.float64)[:40]
    joined = adjacency(data.section.edges).toarray()[:40, :40]
    inverse = 1 / np.sqrt(joined.sum(1))
    mixing = inverse[:, None] * joined * inverse + np.eye(40)
    own = {name: np.asarray(params[name], np.float64) for name in ("encoder", "decoder")}
    z = mixing @ x @ own["encoder"]
    return x, mixing, own["encoder"], z, mixing @ z @ own["decoder"]


def test_the_loss_is_that_of_the_equations_written_out(small, key):
    """Reconstruction and both contrasts from dense matrices, with the same shuffled rows."""
    method = graphst(latent=8, components=4)
    data = method.prepare(small)
    state = method.algorithm.init(key, data)
    x, mixing, encoder, z, rebuilt = written_out(data, state.params)
    order = np.asarray(shuffled_rows(key, data.section.mask))[:40]
    views = np.maximum(z, 0), np.maximum(mixing @ x[order] @ encoder, 0)
    chosen = adjacency(data.chosen).toarray()[:40, :40] + np.eye(40)
    bilinear = {name: np.asarray(value, np.float64) for name, value in state.params["discriminator"].items()}
    contrast = 0.0
    for own, other in (views, views[::-1]):
        mean = chosen @ own / chosen.sum(1, keepdims=True)
        context = 1 / (1 + np.exp(-mean / np.linalg.norm(mean, axis=1, keepdims=True)))
        right, wrong = (
            np.einsum("ip,pq,iq->i", h, bilinear["kernel"], context) + bilinear["bias"] for h in (own, other)
        )
        contrast += 0.5 * np.log1p(np.exp(-right)).mean() + 0.5 * np.log1p(np.exp(wrong)).mean()
    _, info = method.algorithm.step(key, state, data)
    np.testing.assert_allclose(info["reconstruction"], ((x - rebuilt) ** 2).mean(), rtol=1e-4)
    np.testing.assert_allclose(info["contrast"], contrast, rtol=1e-4)
    np.testing.assert_allclose(info["loss"], 10 * ((x - rebuilt) ** 2).mean() + contrast, rtol=1e-4)


def test_the_embedding_is_the_components_of_the_reconstruction(small, key):
    """Scores of a singular value decomposition of the dense reconstruction, up to the sign of each."""
    method = graphst(latent=8, components=4)
    data = method.prepare(small)
    state = method.algorithm.init(key, data)
    rebuilt = written_out(data, state.params)[-1]
    left, size, _ = np.linalg.svd(rebuilt - rebuilt.mean(0), full_matrices=False)
    values = np.asarray(method.algorithm.readout(key, state, data).values)
    np.testing.assert_allclose(np.abs(values[:40]), np.abs(left[:, :4] * size[:4]), atol=2e-3 * size[0])
    assert not values[40:].any()


def test_genes_are_scaled_without_centring_and_cut(small):
    """Standard deviation 1 where a gene varies, zeros stay, nothing above 10; the section is not changed."""
    before = np.array(small.features)
    scaled = np.asarray(graphst().prepare(small).section.features)[:40]
    np.testing.assert_allclose(np.delete(scaled, 3, 1).std(0, ddof=1), 1.0, rtol=1e-4)
    np.testing.assert_array_equal(scaled[:, 3], 1.0)
    np.testing.assert_array_equal(np.asarray(small.features), before)
    rare = np.zeros((400, 2), np.float32)
    rare[7, 0] = 1.0
    spike = make_slice(rare, np.random.default_rng(0).uniform(0, 9, (400, 2)))
    assert np.asarray(graphst().prepare(spike).section.features).max() == 10.0


def test_one_graph_is_symmetric_and_the_other_one_is_chosen(small):
    """Each spot chose three; an edge of the first graph was chosen by either end."""
    data = graphst().prepare(small)
    chosen, joined = (adjacency(table).toarray()[:40, :40] for table in (data.chosen, data.section.edges))
    assert (chosen.sum(1) == 3).all()
    np.testing.assert_array_equal(joined, np.maximum(chosen, chosen.T))


@pytest.mark.parametrize("seed", [5, 9])
def test_layers_are_found_better_than_from_components(seed, optimized):
    """Adjusted Rand index of at least .6, and .1 above the same mixture of principal components."""
    tissue = layered(seed)
    method = graphst(learning_rate=5e-3)
    with optimized():
        result = run(method, jax.random.key(0), [(tissue.slice("log1p"),)])[0].result
    found, plain = tissue.score(result.values), tissue.score(tissue.components)
    print(f"seed {seed}: {found:.3f}, components {plain:.3f}")
    assert found >= max(0.6, plain + 0.1)


def test_more_components_than_columns_are_refused():
    """The reconstruction has the rank of the latent layer."""
    with pytest.raises(ValueError, match="latent=8"):
        graphst(latent=8, components=9)
