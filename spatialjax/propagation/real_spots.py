"""Host work on the real spots of a padded section, so that padding cannot change it."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from spatialjax.slices import Neighbors, Slice


def from_real_spots(section: Slice, compute: Callable[[Slice], Float[np.ndarray, "m q"]]) -> Slice:
    """The section with features that were computed on the host from its real spots alone, and without its graph.

    Parameters
    ----------
    section
        A padded section, with a neighbour table if ``compute`` reads one.
    compute
        Features (m, q) from a slice of numpy arrays that holds the m real spots and no padding.

    Returns
    -------
    Slice
        ``features`` are 0 on padding; ``edges`` are None, because they were used.
    """
    cropped, rows = real_spots(section)
    found = np.asarray(compute(cropped), np.float32)
    features = np.zeros((section.capacity, found.shape[1]), np.float32)
    features[rows] = found
    return section.replace(features=jnp.asarray(features), edges=None)


def real_spots(section: Slice) -> tuple[Slice, Int[np.ndarray, " m"]]:
    """The real spots of a padded section as a slice of numpy arrays without padding, and their rows.

    Parameters
    ----------
    section
        A padded section, with or without a neighbour table; edges to padding are taken off.
    """
    rows = np.flatnonzero(np.asarray(section.mask))
    edges = section.edges
    if edges is not None:
        place = np.zeros(section.capacity, np.int32)
        place[rows] = np.arange(len(rows))
        index, weight = np.asarray(edges.index)[rows], np.asarray(edges.weight)[rows]
        real = np.asarray(section.mask)[index]
        own = np.arange(len(rows), dtype=np.int32)[:, None]
        edges = Neighbors(np.where(real, place[index], own), np.where(real, weight, 0).astype(np.float32))
    cropped = Slice(
        features=np.asarray(section.features)[rows],
        xy=np.asarray(section.xy, np.float64)[rows],
        mask=np.ones(len(rows), bool),
        weights=np.asarray(section.weights)[rows],
        edges=edges,
        extra={name: np.asarray(values)[rows] for name, values in section.extra.items()},
    )
    return cropped, rows
