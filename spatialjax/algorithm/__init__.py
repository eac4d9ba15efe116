"""Anything iterative, and the only training loop of the package."""

from spatialjax.algorithm.core import Algorithm, Chain, Fit, Model, fit
from spatialjax.algorithm.loop import Progress
from spatialjax.algorithm.sources import HostSource, Source, Tiled, host_row_source, row_source, tile_source

__all__ = [
    "Algorithm",
    "Chain",
    "Fit",
    "HostSource",
    "Model",
    "Progress",
    "Source",
    "Tiled",
    "fit",
    "host_row_source",
    "row_source",
    "tile_source",
]
