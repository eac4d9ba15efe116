"""What passes along edges: the few operations that every graph layer is made of, on a table or on a jraph graph.

Row ``i`` of a neighbour table receives from the spots that it lists; in a jraph graph messages run from senders to
receivers (see :func:`spatialjax.graphs.to_graphs_tuple`). Both give the same numbers; the table is about twice as fast
on a CPU. Edges of weight 0 carry nothing, so padding changes nothing.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import jraph
from jaxtyping import Array, Bool, Float

from spatialjax.slices import Neighbors

#: What a graph layer accepts.
Graph = Neighbors | jraph.GraphsTuple


class Attention(NamedTuple):
    """Shares that a spot gives to its neighbours and to itself; together 1.

    Attributes
    ----------
    edges
        Share of each edge and head, 0 on unused ones: (n, k, heads) on a table, (edges, heads) on a jraph graph.
    own
        (n, heads), share of the spot itself.
    """

    edges: Float[Array, "*edges heads"]
    own: Float[Array, "n heads"]


def edge_weight(graph: Graph) -> Float[Array, "*edges"]:
    """Weight of each edge: (n, k) on a table, (edges,) on a jraph graph."""
    return jnp.asarray(graph.weight if isinstance(graph, Neighbors) else graph.edges["weight"])


def used(graph: Graph) -> Bool[Array, "*edges"]:
    """True for edges of a weight other than 0."""
    return edge_weight(graph) != 0


def gather(graph: Graph, values: Float[Array, "n *p"]) -> Float[Array, "*edges_p"]:
    """Value of the neighbour at the far end of each edge."""
    return jnp.asarray(values)[graph.index if isinstance(graph, Neighbors) else graph.senders]


def spread(graph: Graph, values: Float[Array, "n *p"]) -> Float[Array, "*edges_p"]:
    """Value of the spot at the near end of each edge; on a table with 1 in place of k."""
    return jnp.asarray(values)[:, None] if isinstance(graph, Neighbors) else jnp.asarray(values)[graph.receivers]


def total(graph: Graph, messages: Float[Array, "*edges_p"], *, count: int) -> Float[Array, "n *p"]:
    """Sum over the edges of each spot; ``count`` is the number of spots, padding included."""
    if isinstance(graph, Neighbors):
        return messages.sum(1)
    return jraph.segment_sum(messages, graph.receivers, count)


def weighted_total(graph: Graph, share: Float[Array, "*edges"], values: Float[Array, "n *p"]) -> Float[Array, "n *p"]:
    """Sum over the neighbours of share × value.

    Parameters
    ----------
    graph
        The neighbours.
    share
        Factor of each edge, or of each edge and head (then the second axis of ``values`` holds the heads).
    values
        Value of each spot.
    """
    values = jnp.asarray(values)
    heads = share.ndim > edge_weight(graph).ndim
    if isinstance(graph, Neighbors) and heads and share.shape[-1] == 1:
        return weighted_total(graph, share[..., 0], values[:, 0])[:, None]
    if isinstance(graph, Neighbors):
        return jnp.einsum("nkh,nkhp->nhp" if heads else "nk,nkp->np", share, gather(graph, values))
    share = share.reshape(*share.shape, *(1,) * (values.ndim - share.ndim))
    return total(graph, share * gather(graph, values), count=values.shape[0])


def degree(graph: Graph, *, count: int) -> Float[Array, "n"]:
    """Sum of the edge weights of each spot."""
    return total(graph, edge_weight(graph), count=count)


def softmax(graph: Graph, logits: Float[Array, "*edges heads"], own: Float[Array, "n heads"]) -> Attention:
    """Softmax over the neighbours of each spot and the spot itself; unused edges get 0, an isolated spot itself.

    Parameters
    ----------
    graph
        The neighbours; only whether an edge is used counts, not its weight.
    logits
        Logit of each edge and head.
    own
        Logit of the spot itself for each head.
    """
    real = used(graph)[..., None]
    low = jnp.where(real, logits, -jnp.inf)
    top = low.max(1) if isinstance(graph, Neighbors) else jraph.segment_max(low, graph.receivers, own.shape[0])
    top = jax.lax.stop_gradient(jnp.maximum(top, own))
    edges = jnp.where(real, jnp.exp(jnp.where(real, logits - spread(graph, top), 0.0)), 0.0)
    self_part = jnp.exp(own - top)
    norm = total(graph, edges, count=own.shape[0]) + self_part
    return Attention(edges / spread(graph, norm), self_part / norm)


def attend(graph: Graph, attention: Attention, values: Float[Array, "n heads p"]) -> Float[Array, "n heads p"]:
    """Mean over each spot and its neighbours with the shares of ``attention``.

    Parameters
    ----------
    graph
        The neighbours.
    attention
        From :func:`softmax`.
    values
        Value of each spot and head.
    """
    return attention.own[..., None] * values + weighted_total(graph, attention.edges, values)


def propagate(
    h: Float[Array, "n p"],
    graph: Graph,
    *,
    normalisation: Literal["symmetric", "left", "none"] = "symmetric",
    self_loop: Literal["before", "after", "none"] = "before",
) -> Float[Array, "n p"]:
    """One pass of the values over the edges, Â h.

    Parameters
    ----------
    h
        Values of the spots.
    graph
        The neighbours; weights at least 0.
    normalisation
        ``"symmetric"`` is D^-1/2 A D^-1/2 (Kipf and Welling 2017), ``"left"`` the mean D^-1 A, ``"none"`` the sum A.
    self_loop
        ``"before"`` adds the spot itself with weight 1 and normalises with it, ``"after"`` adds it to what was
        normalised without it (as GraphST does), ``"none"`` leaves it out; an isolated spot then gets 0.
    """
    h = jnp.asarray(h)
    forward, backward, own = _coefficients(graph, h.shape[0], normalisation, with_self=self_loop == "before")
    weight = edge_weight(graph) * spread(graph, forward)
    passed = weighted_total(graph, weight * gather(graph, backward), h)
    if self_loop == "none":
        return passed
    return passed + (h if self_loop == "after" else own[:, None] * h)


def _coefficients(graph: Graph, count: int, normalisation: str, *, with_self: bool) -> tuple[Any, Any, Any]:
    """Factors of the receiver and of the sender of an edge, and the weight of the self loop."""
    size = degree(graph, count=count) + float(with_self)
    ones = jnp.ones_like(size)
    if normalisation == "none":
        return ones, ones, ones
    inverse = jnp.where(size > 0, 1.0 / jnp.where(size > 0, size, 1.0), 0.0)
    if normalisation == "left":
        return inverse, ones, inverse
    if normalisation == "symmetric":
        root = jnp.sqrt(inverse)
        return root, root, inverse
    raise ValueError(f"Expected normalisation to be 'symmetric', 'left' or 'none', found {normalisation!r}.")


def neighbour_readout(h: Float[Array, "n p"], graph: Graph) -> Float[Array, "n p"]:
    """Summary of the surroundings of each spot: sigmoid of the unit-length mean of the spot and its neighbours.

    The local context that GraphST (Long et al. 2023) contrasts spots with; see ``losses.local_infomax``.

    Parameters
    ----------
    h
        Values of the spots.
    graph
        The neighbours.
    """
    mean = propagate(h, graph, normalisation="left", self_loop="before")
    return jax.nn.sigmoid(mean * jax.lax.rsqrt((mean**2).sum(-1, keepdims=True) + 1e-12))
