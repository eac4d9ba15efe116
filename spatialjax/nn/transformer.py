"""Transformer convolution over neighbours that knows how far away they are, and in which direction."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from spatialjax.nn.messages import Attention, Graph, attend, gather, softmax, spread, used


class EdgeGeometry(NamedTuple):
    """Where the neighbours lie, in units of the mean edge.

    Attributes
    ----------
    length
        Length of each edge, 0 on unused ones.
    direction
        Unit vector from the spot to its neighbour, 0 on unused edges.
    """

    length: Float[Array, "*edges"]
    direction: Float[Array, "*edges d"]


def edge_geometry(xy: Float[Array, "n d"], graph: Graph) -> EdgeGeometry:
    """Length and direction of each edge; the unit is the mean used edge, so that the scale comes from the data.

    Parameters
    ----------
    xy
        Coordinates, µm.
    graph
        The neighbours.
    """
    real = used(graph)
    offset = jnp.where(real[..., None], gather(graph, xy) - spread(graph, xy), 0.0)
    length = jnp.sqrt((offset**2).sum(-1) + 1e-12)
    unit = jnp.where(real, length, 0.0).sum() / jnp.maximum(real.sum(dtype=length.dtype), 1.0)
    return EdgeGeometry(jnp.where(real, length / jnp.maximum(unit, 1e-12), 0.0), offset / length[..., None])


class SpatialTransformer(nn.Module):
    """Attention over neighbours and the spot itself, logits q·k/√d + bias(distance), plus a skip connection.

    The graph transformer operator (Shi et al. 2021) with the spatial encoding of Graphormer (Ying et al. 2021): the
    bias of each head is a learned function of the edge, expanded in radial bumps.

    Attributes
    ----------
    features
        Width of each head; the output has heads × features columns.
    heads
        Number of heads.
    bumps
        Number of radial functions, centred from 0 to 3 mean edges.
    directional
        Whether the bias also depends on the direction; the layer then no longer ignores rotations.
    """

    features: int
    heads: int = 4
    bumps: int = 8
    directional: bool = False

    @nn.compact
    def __call__(
        self, h: Float[Array, "n p"], graph: Graph, xy: Float[Array, "n d"]
    ) -> tuple[Float[Array, "n q"], Attention]:
        """Output and attention.

        Parameters
        ----------
        h
            Values of the spots.
        graph
            The neighbours.
        xy
            Coordinates, µm.
        """
        width = self.heads * self.features

        def parts(name: str) -> Any:
            return nn.Dense(width, name=name)(h).reshape(-1, self.heads, self.features)

        query, key, value = parts("query"), parts("key"), parts("value")
        way = edge_geometry(xy, graph)
        code, own = self._bumps(way.length), self._bumps(jnp.zeros(h.shape[0], h.dtype))
        if self.directional:
            code = jnp.concatenate([code, way.direction], -1)
            own = jnp.concatenate([own, jnp.zeros((h.shape[0], xy.shape[-1]), h.dtype)], -1)
        bias = nn.Dense(self.heads, use_bias=False, name="bias")
        scale = self.features**-0.5
        edges = scale * (spread(graph, query) * gather(graph, key)).sum(-1) + bias(code)
        attention = softmax(graph, edges, scale * (query * key).sum(-1) + bias(own))
        out = attend(graph, attention, value).reshape(-1, width)
        return out + nn.Dense(width, name="skip")(h), attention

    def _bumps(self, length: Any) -> Any:
        centres = jnp.linspace(0.0, 3.0, self.bumps)
        return jnp.exp(-0.5 * ((length[..., None] - centres) * (self.bumps - 1) / 3.0) ** 2)
