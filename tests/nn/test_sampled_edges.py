"""Edges and sampled pairs that are none: what the inner-product decoder is trained on."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialjax import losses, nn
from spatialjax.slices import Neighbors


@pytest.mark.parametrize("capacity", [31, 50])
def test_sampled_pairs_are_real_and_no_neighbours(capacity: int, key: Any, rng: np.random.Generator) -> None:
    """As many as there are edges, none an edge in either direction, none padding, the same for a larger capacity."""
    index = np.stack([rng.choice(np.delete(np.arange(30), i), 3, replace=False) for i in range(30)])
    index = np.concatenate([index, np.repeat(np.arange(30, capacity)[:, None], 3, 1)])
    weight = np.zeros((capacity, 3), np.float32)
    weight[:30] = 1
    weight[4, 2] = 0
    edges = Neighbors(jnp.asarray(index), jnp.asarray(weight))
    pairs = losses.sampled_pairs(key, edges, jnp.arange(capacity) < 30, tries=8)
    joined = np.zeros((capacity, capacity), bool)
    used = weight > 0
    joined[np.nonzero(used)[0], index[used]] = True
    assert float(pairs.positive.sum()) == float(pairs.negative.sum()) == 89
    rows = np.broadcast_to(pairs.first, index.shape)[used]
    other = np.asarray(pairs.other)[used]
    assert (other < 30).all() and (other != rows).all() and not (joined | joined.T)[rows, other].any()
    smaller = losses.sampled_pairs(key, Neighbors(edges.index[:31], edges.weight[:31]), jnp.arange(31) < 30, tries=8)
    np.testing.assert_array_equal(smaller.other[:30], pairs.other[:30])


def test_edge_cross_entropy_is_the_mean_over_both_kinds(key: Any, rng: np.random.Generator) -> None:
    """Against numpy over the pairs; a section in which all are neighbours has no negatives and stays finite."""
    edges = Neighbors(jnp.asarray([[1], [0], [3], [2]]), jnp.asarray([[1.0], [1.0], [1.0], [0.0]]))
    mask = jnp.arange(4) < 4
    pairs = losses.sampled_pairs(key, edges, mask)
    positive, negative = rng.normal(size=(2, 4, 1))
    total, size = losses.edge_cross_entropy(positive, negative, pairs, weight=jnp.ones(4))
    wanted = (np.logaddexp(0, -positive) + np.logaddexp(0, negative))[:3].sum()
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
    assert float(size) == 6
    full = Neighbors(jnp.asarray([[1], [0]]), jnp.ones((2, 1)))
    pairs = losses.sampled_pairs(key, full, jnp.ones(2, bool))
    total, size = losses.edge_cross_entropy(jnp.zeros((2, 1)), jnp.zeros((2, 1)), pairs, weight=jnp.ones(2))
    np.testing.assert_allclose(total / size, np.log(2), rtol=1e-5)
    assert float(size) == 2


def test_an_embedding_learns_the_graph_from_sampled_pairs(key: Any) -> None:
    """Two rings: some steps along the slope bring the loss of the inner-product decoder down on new samples."""
    ring = np.arange(20)
    index = np.stack([(ring + 1) % 10 + ring // 10 * 10, (ring - 1) % 10 + ring // 10 * 10], 1)
    edges = Neighbors(jnp.asarray(index), jnp.ones((20, 2)))
    weight = jnp.ones(20)

    def mean(z: Any, key: Any) -> Any:
        pairs = losses.sampled_pairs(key, edges, weight > 0)
        positive, negative = (nn.inner_product(z, pairs.first, end) for end in (pairs.neighbour, pairs.other))
        total, size = losses.edge_cross_entropy(positive, negative, pairs, weight=weight)
        return total / size

    def step(z: Any, key: Any) -> Any:
        return z - 4.0 * jax.grad(mean)(z, key), None

    start = 0.1 * jax.random.normal(key, (20, 4))
    keys = jax.random.split(key, 201)
    end = jax.jit(lambda z: jax.lax.scan(step, z, keys[1:])[0])(start)
    before, after = (float(jax.jit(mean)(z, keys[0])) for z in (start, end))
    assert after < 0.7 * before
