"""Every graph layer: the table and the jraph graph agree, padding changes nothing, gradients are finite."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialjax import graphs, nn
from spatialjax.slices import Slice, make_slice

WIDTH = 5

LAYERS = {
    "gcn, narrow": (nn.GraphConvolution(3), ()),
    "gcn, wide, left, self loop after": (nn.GraphConvolution(8, normalisation="left", self_loop="after"), ()),
    "residual": (nn.ResidualConvolution(3), ()),
    "chebyshev": (nn.ChebyshevConvolution(3, order=3), ()),
    "gat": (nn.GraphAttention(3, heads=2), ()),
    "gat, sigmoid, mean": (nn.GraphAttention(3, heads=2, score="sigmoid", join="mean", use_bias=False), ()),
    "gatv2": (nn.GraphAttentionV2(3, heads=2), ()),
    "tied auto-encoder": (nn.TiedAttentionAutoencoder(hidden=6, latent=2), ()),
    "transformer, directional": (nn.SpatialTransformer(3, heads=2, directional=True), ("xy",)),
}


def section(capacity: int) -> Slice:
    """Thirty spots at random with up to four neighbours, one of them isolated."""
    rng = np.random.default_rng(3)
    xy = np.concatenate([rng.uniform(0, 500, (29, 2)), [[5000.0, 5000.0]]])
    return make_slice(rng.normal(size=(30, WIDTH)), xy, capacity=capacity, edges=graphs.knn(xy, 4, max_distance=120.0))


def values(out: Any) -> Any:
    """The values of the spots among what a layer returns."""
    if isinstance(out, nn.TiedOutput):
        return jnp.concatenate([out.latent, out.reconstruction()], 1)
    return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize("name", LAYERS)
def test_table_and_jraph_graph_agree_and_padding_changes_nothing(name: str, key: Any) -> None:
    """Values of real spots and all gradients are equal; features of padding get no gradient."""
    layer, extra = LAYERS[name]
    small, large = section(32), section(40)
    params = jax.jit(layer.init)(key, small.features, small.edges, *(getattr(small, part) for part in extra))
    probe = jax.random.normal(jax.random.fold_in(key, 1), (30, 64))

    def run(params: Any, features: Any, one: Slice, graph: Any) -> Any:
        out = values(layer.apply(params, features, graph, *(getattr(one, part) for part in extra)))[:30]
        return (out * probe[:, : out.shape[1]]).sum(), out

    def all_of(one: Slice, graph: Any) -> Any:
        (_, out), slopes = jax.value_and_grad(run, (0, 1), has_aux=True)(params, one.features, one, graph)
        return out, slopes[0], slopes[1][:30], slopes[1][30:]

    with jax.numpy_dtype_promotion("strict"):
        table = jax.jit(all_of)(small, small.edges)
    wanted = jax.tree.map(np.asarray, table[:3])
    for one, graph in ((large, large.edges), (small, graphs.to_graphs_tuple(small))):
        found = jax.jit(all_of)(one, graph)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), found[:3], wanted)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
        assert not np.asarray(found[3]).any()
    assert any(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(wanted[1]))


def test_layers_map_over_a_batch_of_sections(key: Any) -> None:
    """``vmap`` over stacked sections equals one after the other."""
    layer = nn.GraphAttention(3)
    one = section(32)
    other = one.replace(features=one.features[::-1])
    params = layer.init(key, one.features, one.edges)
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), one, other)
    found = jax.vmap(lambda s: layer.apply(params, s.features, s.edges)[0])(batch)
    wanted = [layer.apply(params, s.features, s.edges)[0] for s in (one, other)]
    np.testing.assert_allclose(found, jnp.stack(wanted), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "word"),
    [
        (nn.GraphConvolution(2, normalisation="row"), "normalisation"),
        (nn.GraphAttention(2, score="tanh"), "score"),
        (nn.GraphAttention(2, join="max"), "join"),
        (nn.ChebyshevConvolution(2, order=-1), "order"),
    ],
)
def test_unknown_options_are_refused(layer: Any, word: str, key: Any) -> None:
    """The message names the option."""
    one = section(32)
    with pytest.raises(ValueError, match=word):
        layer.init(key, one.features, one.edges)
