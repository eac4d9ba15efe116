"""Graph layers against dense numpy written from the equations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialjax import graphs, nn
from spatialjax.slices import Neighbors


def lattice(width: int = 5) -> np.ndarray:
    """A hexagonal lattice, 100 µm."""
    i, j = np.meshgrid(np.arange(width), np.arange(width), indexing="ij")
    return 100.0 * np.stack([j + 0.5 * (i % 2), i * np.sqrt(3) / 2], -1).reshape(-1, 2)


def weighted(rng: np.random.Generator) -> Neighbors:
    """Neighbours with weights of their own, not symmetric, one row empty."""
    table = graphs.knn(rng.uniform(0, 1, (20, 2)), 4)
    weight = table.weight * rng.uniform(0.5, 2.0, table.weight.shape)
    weight[3] = 0
    return Neighbors(table.index, weight.astype(np.float32))


def attention_matrix(logits: np.ndarray, adjacency: np.ndarray) -> np.ndarray:
    """Softmax over neighbours and self."""
    allowed = (adjacency != 0) | np.eye(len(adjacency), dtype=bool)
    raised = np.where(allowed, np.exp(logits), 0.0)
    return raised / raised.sum(1, keepdims=True)


def elu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.2 * x)


@pytest.mark.parametrize("normalisation", ["symmetric", "left", "none"])
@pytest.mark.parametrize("self_loop", ["before", "after", "none"])
def test_propagate_is_the_matrix_product(normalisation: Any, self_loop: Any, rng: np.random.Generator) -> None:
    """Nine matrices from their definition."""
    table = weighted(rng)
    h = rng.normal(size=(20, 3))
    matrix = graphs.adjacency(table).toarray() + (np.eye(20) if self_loop == "before" else 0)
    size = matrix.sum(1)
    inverse = np.divide(1, size, out=np.zeros(20), where=size > 0)
    if normalisation == "left":
        matrix = inverse[:, None] * matrix
    elif normalisation == "symmetric":
        matrix = np.sqrt(inverse)[:, None] * matrix * np.sqrt(inverse)[None]
    wanted = matrix @ h + (h if self_loop == "after" else 0)
    found = nn.propagate(h.astype(np.float32), table, normalisation=normalisation, self_loop=self_loop)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [2, 9])
def test_graph_convolution_on_either_side_of_the_weights(width: int, rng: np.random.Generator, key: Any) -> None:
    """Â H W + b whichever product is taken first."""
    table = weighted(rng)
    h = rng.normal(size=(20, 4)).astype(np.float32)
    layer = nn.GraphConvolution(width)
    params = jax.jit(layer.init)(key, h, table)
    params["params"]["bias"] = jnp.arange(width, dtype=jnp.float32)
    wanted = np.asarray(nn.propagate(h, table)) @ np.asarray(params["params"]["kernel"]) + np.arange(width)
    np.testing.assert_allclose(jax.jit(layer.apply)(params, h, table), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [4, 2])
def test_residual_convolution(width: int, rng: np.random.Generator, key: Any) -> None:
    """The spot itself, through a matrix where the widths differ, plus the activated convolution."""
    table = weighted(rng)
    h = rng.normal(size=(20, 4)).astype(np.float32)
    layer = nn.ResidualConvolution(width)
    params = jax.jit(layer.init)(key, h, table)
    p = jax.tree.map(np.asarray, params["params"])
    passed = np.asarray(nn.propagate(h, table)) @ p["GraphConvolution_0"]["kernel"]
    wanted = (h if width == 4 else h @ p["kept"]["kernel"]) + np.maximum(passed, 0)
    np.testing.assert_allclose(jax.jit(layer.apply)(params, h, table), wanted, rtol=1e-4, atol=1e-5)


def test_chebyshev_is_the_polynomial_and_the_eigenvalue_that_of_numpy(key: Any, rng: np.random.Generator) -> None:
    """Σ T_k(L̃) H W_k by matrices, with the top eigenvalue estimated."""
    table = graphs.lattice(lattice())
    h = rng.normal(size=(25, 3)).astype(np.float32)
    adjacency = graphs.adjacency(table).toarray()
    root = 1 / np.sqrt(adjacency.sum(1))
    laplacian = np.eye(25) - root[:, None] * adjacency * root[None]
    top = float(nn.top_eigenvalue(table, count=25, steps=200))
    np.testing.assert_allclose(top, np.linalg.eigvalsh(laplacian)[-1], rtol=2e-3)
    layer = nn.ChebyshevConvolution(2, order=3)
    params = jax.jit(layer.init)(key, h, table)
    scaled = 2 / top * laplacian - np.eye(25)
    powers = [np.eye(25), scaled]
    for _ in range(2):
        powers.append(2 * scaled @ powers[-1] - powers[-2])
    wanted = sum(t @ h @ np.asarray(params["params"][f"kernel{k}"]) for k, t in enumerate(powers))
    np.testing.assert_allclose(jax.jit(layer.apply)(params, h, table, top), wanted, rtol=1e-3, atol=1e-4)


def test_the_top_eigenvalue_does_not_see_padding() -> None:
    """Padded spots, without edges, leave it as it was."""
    table = graphs.lattice(lattice())
    index = np.concatenate([table.index, np.repeat(np.arange(25, 33)[:, None], table.index.shape[1], 1)])
    padded = Neighbors(index.astype(np.int32), np.pad(table.weight, ((0, 8), (0, 0))))
    np.testing.assert_allclose(nn.top_eigenvalue(padded, count=33), nn.top_eigenvalue(table, count=25), rtol=1e-5)


@pytest.mark.parametrize(("score", "function"), [("sigmoid", sigmoid), ("leaky_relu", leaky)])
def test_graph_attention(score: Any, function: Any, rng: np.random.Generator, key: Any) -> None:
    """Two heads by dense matrices; the shares of a spot sum to 1, an isolated spot keeps its own value."""
    table = weighted(rng)
    h = rng.normal(size=(20, 4)).astype(np.float32)
    layer = nn.GraphAttention(3, heads=2, score=score, use_bias=False)
    params = jax.jit(layer.init)(key, h, table)
    out, attention = jax.jit(layer.apply)(params, h, table)
    p = {name: np.asarray(value) for name, value in params["params"].items()}
    projected = (h @ p["kernel"]).reshape(20, 2, 3)
    wanted = []
    for head in range(2):
        logits = (projected[:, head] @ p["receiver"][head])[:, None] + (projected[:, head] @ p["sender"][head])[None]
        wanted.append(attention_matrix(function(logits), graphs.adjacency(table).toarray()) @ projected[:, head])
    np.testing.assert_allclose(out, np.concatenate(wanted, 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(attention.edges.sum(1) + attention.own, 1.0, rtol=1e-5)
    np.testing.assert_allclose(out[3], projected[3].reshape(-1), rtol=1e-5)


def test_graph_attention_v2(rng: np.random.Generator, key: Any) -> None:
    """a·LeakyReLU(Uh_i + Vh_j) by dense arrays."""
    table = weighted(rng)
    h = rng.normal(size=(20, 4)).astype(np.float32)
    layer = nn.GraphAttentionV2(3, use_bias=False)
    params = jax.jit(layer.init)(key, h, table)
    p = jax.tree.map(np.asarray, params["params"])
    receiver, sender = h @ p["receiver"]["kernel"], h @ p["sender"]["kernel"]
    logits = leaky(receiver[:, None] + sender[None]) @ p["score"][0]
    wanted = attention_matrix(logits, graphs.adjacency(table).toarray()) @ sender
    np.testing.assert_allclose(jax.jit(layer.apply)(params, h, table)[0], wanted, rtol=1e-4, atol=1e-5)


def test_large_logits_neither_overflow_nor_lose_the_self_loop(key: Any, rng: np.random.Generator) -> None:
    """The softmax subtracts its maximum: finite at logits of a thousand."""
    table = weighted(rng)
    h = 1e4 * rng.normal(size=(20, 4)).astype(np.float32)
    layer = nn.GraphAttention(3)
    params = jax.jit(layer.init)(key, h, table)
    slope = jax.jit(jax.grad(lambda p: layer.apply(p, h, table)[0].sum()))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


def test_tied_auto_encoder(rng: np.random.Generator, key: Any) -> None:
    """Encoder, tied decoder and reconstruction by dense matrices."""
    table = weighted(rng)
    x = rng.normal(size=(20, 7)).astype(np.float32)
    layer = nn.TiedAttentionAutoencoder(hidden=5, latent=2)
    params = jax.jit(layer.init)(key, x, table)
    out = jax.jit(layer.apply)(params, x, table)
    p = {name: np.asarray(value) for name, value in params["params"].items()}
    projected = x @ p["kernel"]
    logits = sigmoid((projected @ p["receiver"][0])[:, None] + (projected @ p["sender"][0])[None])
    matrix = attention_matrix(logits, graphs.adjacency(table).toarray())
    latent = elu(matrix @ projected) @ p["narrow"]
    decoded = elu(matrix @ (latent @ p["narrow"].T))
    np.testing.assert_allclose(out.latent, latent, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out.reconstruction(), decoded @ p["kernel"].T, rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_tied_weights_through_the_decoder_too(rng: np.random.Generator, key: Any) -> None:
    """The slope of both uses together is that of finite differences, and differs from the encoder's alone."""
    table = weighted(rng)
    x = rng.normal(size=(20, 7)).astype(np.float32)
    layer = nn.TiedAttentionAutoencoder(hidden=5, latent=2)
    params = jax.jit(layer.init)(key, x, table)

    def loss(params: Any, *, detached: bool = False) -> Any:
        out = jax.jit(layer.apply)(params, x, table)
        kernel = jax.lax.stop_gradient(out.kernel) if detached else out.kernel
        return ((out.decoded @ kernel.T - x) ** 2).mean()

    slope = jax.jit(jax.grad(loss))(params)["params"]["kernel"]
    way = rng.normal(size=slope.shape).astype(np.float32)

    value = jax.jit(loss)

    def moved(size: float) -> float:
        return float(value({"params": {**params["params"], "kernel": params["params"]["kernel"] + size * way}}))

    np.testing.assert_allclose((slope * way).sum(), (moved(1e-3) - moved(-1e-3)) / 2e-3, rtol=2e-2)
    alone = jax.jit(jax.grad(lambda p: loss(p, detached=True)))(params)["params"]["kernel"]
    assert np.abs(slope - alone).max() > 0.1 * np.abs(slope).max()


def test_transformer(rng: np.random.Generator, key: Any) -> None:
    """One head by dense arrays: dot products, bumps of the distance in mean edges, skip connection."""
    xy = lattice(4) + rng.normal(size=(16, 2))
    table = graphs.lattice(xy, tolerance=1.3)
    h = rng.normal(size=(16, 4)).astype(np.float32)
    layer = nn.SpatialTransformer(3, heads=1, bumps=4)
    params = jax.jit(layer.init)(key, h, table, xy.astype(np.float32))
    p = jax.tree.map(np.asarray, params["params"])
    query, keys, value, skip = (h @ p[name]["kernel"] + p[name]["bias"] for name in ("query", "key", "value", "skip"))
    adjacency = graphs.adjacency(table).toarray()
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=-1)
    distance = distance / distance[adjacency > 0].mean()
    bumps = np.exp(-0.5 * (distance[..., None] - np.linspace(0, 3, 4)) ** 2)
    logits = query @ keys.T / np.sqrt(3) + bumps @ p["bias"]["kernel"][:, 0]
    wanted = attention_matrix(logits, adjacency) @ value + skip
    np.testing.assert_allclose(
        jax.jit(layer.apply)(params, h, table, xy.astype(np.float32))[0], wanted, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("directional", [False, True])
def test_transformer_ignores_rotation_and_unit_unless_directional(
    directional: bool, rng: np.random.Generator, key: Any
) -> None:
    """A quarter turn and another unit change nothing, but for the directional bias."""
    xy = lattice(4).astype(np.float32)
    table = graphs.lattice(xy)
    h = rng.normal(size=(16, 4)).astype(np.float32)
    layer = nn.SpatialTransformer(3, heads=2, directional=directional)
    params = jax.jit(layer.init)(key, h, table, xy)
    turned = 0.01 * xy @ np.array([[0, -1], [1, 0]], np.float32)
    gap = np.abs(
        jax.jit(layer.apply)(params, h, table, xy)[0] - jax.jit(layer.apply)(params, h, table, turned)[0]
    ).max()
    assert (gap > 1e-3) if directional else (gap < 1e-4)


def test_neighbour_readout(rng: np.random.Generator) -> None:
    """Sigmoid of the unit-length mean over the spot and its neighbours."""
    table = graphs.knn(rng.uniform(0, 1, (20, 2)), 3)
    h = rng.normal(size=(20, 4)).astype(np.float32)
    mean = np.stack([h[[i, *table.index[i]]].mean(0) for i in range(20)])
    wanted = sigmoid(mean / np.linalg.norm(mean, axis=1, keepdims=True))
    np.testing.assert_allclose(nn.neighbour_readout(h, table), wanted, rtol=1e-5)
