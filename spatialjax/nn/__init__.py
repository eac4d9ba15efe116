"""Layers of networks on spots and their neighbours (flax linen), blind to padding."""

from spatialjax.nn.attention import (
    GraphAttention,
    GraphAttentionV2,
    TiedAttentionAutoencoder,
    TiedOutput,
    pair_attention,
)
from spatialjax.nn.convolution import ChebyshevConvolution, GraphConvolution, ResidualConvolution, top_eigenvalue
from spatialjax.nn.corruption import hide_rows, masked_rows, shuffled_rows
from spatialjax.nn.dense import BatchNorm, DenseBlock, Discriminator, drop, reverse_gradient
from spatialjax.nn.heads import (
    Bilinear,
    CountHead,
    CountParameters,
    Gaussian,
    GaussianHead,
    draw,
    inner_product,
)
from spatialjax.nn.hexagonal import HexagonalConvolution, array_directions, xy_directions
from spatialjax.nn.messages import Attention, Graph, attend, neighbour_readout, propagate
from spatialjax.nn.transformer import EdgeGeometry, SpatialTransformer, edge_geometry
from spatialjax.nn.variational import CountDecoder, CountEncoder, DenseStack

__all__ = [
    "Attention",
    "BatchNorm",
    "Bilinear",
    "ChebyshevConvolution",
    "CountDecoder",
    "CountEncoder",
    "CountHead",
    "CountParameters",
    "DenseBlock",
    "DenseStack",
    "Discriminator",
    "EdgeGeometry",
    "Gaussian",
    "GaussianHead",
    "Graph",
    "GraphAttention",
    "GraphAttentionV2",
    "GraphConvolution",
    "HexagonalConvolution",
    "ResidualConvolution",
    "SpatialTransformer",
    "TiedAttentionAutoencoder",
    "TiedOutput",
    "array_directions",
    "attend",
    "draw",
    "drop",
    "edge_geometry",
    "hide_rows",
    "inner_product",
    "masked_rows",
    "neighbour_readout",
    "pair_attention",
    "propagate",
    "reverse_gradient",
    "shuffled_rows",
    "top_eigenvalue",
    "xy_directions",
]
