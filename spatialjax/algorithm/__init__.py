"""Anything iterative, and the only training loop of the package."""

from spatialjax.algorithm.adaptors import Turn, alternate, minimize, solve
from spatialjax.algorithm.combinators import (
    Collected,
    Reducer,
    Visited,
    collect,
    draws,
    map_tiles,
    moments,
    reduce_tiles,
    until,
)
from spatialjax.algorithm.core import Algorithm, Chain, Fit, Model, fit
from spatialjax.algorithm.loop import Progress
from spatialjax.algorithm.sections import joint, unseen
from spatialjax.algorithm.sources import HostSource, Source, Tiled, host_row_source, row_source, tile_source

__all__ = [
    "Algorithm",
    "Chain",
    "Collected",
    "Fit",
    "HostSource",
    "Model",
    "Progress",
    "Reducer",
    "Source",
    "Tiled",
    "Turn",
    "Visited",
    "alternate",
    "collect",
    "draws",
    "fit",
    "host_row_source",
    "joint",
    "map_tiles",
    "minimize",
    "moments",
    "reduce_tiles",
    "row_source",
    "solve",
    "tile_source",
    "unseen",
    "until",
]
