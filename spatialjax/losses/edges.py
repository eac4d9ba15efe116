"""Losses on edges of a neighbour table and on sampled pairs that are none."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from spatialjax.losses.spots import Loss
from spatialjax.slices import Neighbors


class Pairs(NamedTuple):
    """The edges of a table and as many pairs that are none, place by place.

    Attributes
    ----------
    first
        (n, 1), number of the spot of each row.
    neighbour, other
        (n, k), number of the neighbour, and of a real spot that is no neighbour.
    positive, negative
        (n, k), weight of the edge and of the pair, 0 where unused.
    """

    first: Int[Array, "n 1"]
    neighbour: Int[Array, "n k"]
    other: Int[Array, "n k"]
    positive: Float[Array, "n k"]
    negative: Float[Array, "n k"]


def sampled_pairs(key: Any, edges: Neighbors, mask: Bool[Array, "n"], *, tries: int = 4) -> Pairs:
    """For each edge of a spot a real spot, drawn at random, that is not its neighbour; never n × n.

    Parameters
    ----------
    key
        Random key; the draw of real spots does not depend on the padding.
    edges
        The neighbours.
    mask
        True for real spots.
    tries
        Spots drawn for each edge, the first that is no neighbour (in either direction) is taken; where all are, as in
        very small sections, the place is left out.
    """
    index, weight = jnp.asarray(edges.index), jnp.asarray(edges.weight)
    n, k = index.shape
    first = jnp.arange(n)[:, None]
    positive = ((weight != 0) & mask[:, None] & mask[index]).astype(jnp.float32)
    real = jnp.argsort(~mask, stable=True)
    count = mask.sum(dtype=jnp.int32)
    place = jnp.floor(jax.random.uniform(key, (n, k, tries)) * count.astype(jnp.float32)).astype(jnp.int32)
    drawn = real[jnp.minimum(place, jnp.maximum(count - 1, 0))]
    listed = ((drawn[..., None] == index[:, None, None]) & (weight != 0)[:, None, None]).any(-1)
    lists = ((index[drawn] == first[..., None, None]) & (weight[drawn] != 0)).any(-1)
    free = ~listed & ~lists & (drawn != first[..., None])
    choice = free.argmax(-1)
    other = jnp.take_along_axis(drawn, choice[..., None], -1)[..., 0]
    return Pairs(first, index, other, positive, positive * free.any(-1))


def edge_cross_entropy(
    positive: Float[Array, "n k"], negative: Float[Array, "n k"], pairs: Pairs, *, weight: Float[Array, "n"]
) -> Loss:
    """Binary cross entropy of the logits of edges and of sampled pairs that are none.

    The dense inner-product loss of a graph auto-encoder (Kipf and Welling 2016) on a balanced sample, so it needs no
    factor for the rare positives.

    Parameters
    ----------
    positive, negative
        Logits of ``(pairs.first, pairs.neighbour)`` and ``(pairs.first, pairs.other)``, e.g. ``nn.inner_product``.
    pairs
        From :func:`sampled_pairs`.
    weight
        Weight of each spot, which its pairs share.

    Returns
    -------
    tuple
        Sum and weight over the pairs of both kinds.
    """
    weight = jnp.asarray(weight, jnp.float32)[:, None]
    total = _where(pairs.positive, jax.nn.softplus(-positive)) + _where(pairs.negative, jax.nn.softplus(negative))
    return (weight * total).sum(), (weight * (pairs.positive + pairs.negative)).sum()


def smoothness(
    z: Float[Array, "n z"],
    edges: Neighbors,
    weight: Float[Array, "n"],
    *,
    norm: Literal["squared", "absolute"] = "squared",
) -> Loss:
    """Mean over the edges of the difference between neighbours, the Laplacian quadratic form of the table.

    Parameters
    ----------
    z
        Embedding of the spots.
    edges
        The neighbours, weighted.
    weight
        Weight of each spot, which its edges share; edges to spots of weight 0 count for the spot that has them.
    norm
        ``"squared"`` sums (z_i − z_j)² over the columns, which over all edges of a symmetric table is twice
        tr(zᵀLz); ``"absolute"`` sums ‖z_i − z_j‖.

    Returns
    -------
    tuple
        Sum and weight over the edges.

    Raises
    ------
    ValueError
        If ``norm`` is unknown.
    """
    gap = z[:, None] - z[edges.index]
    if norm == "squared":
        size = (gap**2).sum(-1)
    elif norm == "absolute":
        size = jnp.abs(gap).sum(-1)
    else:
        raise ValueError(f"Expected norm to be 'squared' or 'absolute', found {norm!r}.")
    factor = jnp.asarray(weight, jnp.float32)[:, None] * edges.weight
    return _where(factor, size).sum(), factor.sum()


def _where(factor: Any, values: Any) -> Any:
    return factor * jnp.where(factor != 0, values, 0.0)
