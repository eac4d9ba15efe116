"""The one data type of the package: a tissue section as a padded, masked pytree.

``Slice`` holds what a device computes on. A *batch* of sections is the same type with one more leading axis. Counts
stay sparse on the host (see ``algorithm.sources``). Sections are padded to a few shared capacities, so that a second
section does not compile again, and at least one padding spot is always kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int


@struct.dataclass
class Neighbors:
    """A fixed-width neighbour table.

    Attributes
    ----------
    index
        Row ``i`` lists the neighbours of spot ``i``; unused places hold ``i`` itself.
    weight
        Weight of each edge, 0 on unused places.
    """

    index: Int[Array, "*s n k"]
    weight: Float[Array, "*s n k"]


@struct.dataclass
class Slice:
    """One tissue section, or a batch of sections.

    Attributes
    ----------
    features
        Expression, embedding or other features of each spot; 0 on padding.
    xy
        Coordinates in µm; 0 on padding.
    mask
        True for real spots. At least one spot is padding.
    weights
        Weight of each spot in sums; 0 on padding and in halos.
    edges
        Neighbour table, or None.
    extra
        Further values of each spot, each leaf with the spots first: labels, library sizes, image features.
    """

    features: Float[Array, "*s n p"]
    xy: Float[Array, "*s n d"]
    mask: Bool[Array, "*s n"]
    weights: Float[Array, "*s n"]
    edges: Neighbors | None = None
    extra: dict[str, Any] = struct.field(default_factory=dict)

    @property
    def capacity(self) -> int:
        """Number of places, padding included."""
        return self.xy.shape[-2]


def bucket(size: int) -> int:
    """The capacity that a section of ``size`` spots is padded to: 2^k or 3·2^(k-1), larger than ``size``.

    Examples
    --------
    >>> bucket(254), bucket(256), bucket(3639)
    (256, 384, 4096)
    """
    power = 8
    while True:
        for candidate in (power, power * 3 // 2):
            if candidate > size:
                return candidate
        power *= 2


def make_slice(
    features: Any,
    xy: Any,
    *,
    capacity: int | None = None,
    edges: Neighbors | None = None,
    weights: Any = None,
    extra: dict[str, Any] | None = None,
) -> Slice:
    """Pad the arrays of one section to a shared capacity.

    Parameters
    ----------
    features
        (n, p), any float or integer array; kept as float32.
    xy
        (n, d) coordinates in µm, kept as float32: centre them first when they are far from 0.
    capacity
        Number of places, larger than n; ``bucket(n)`` where left out.
    edges
        Neighbour table of the n spots.
    weights
        (n,) weights of the spots; 1 where left out.
    extra
        Further arrays with n rows.

    Raises
    ------
    ValueError
        If the arrays disagree about n, features or xy are no table, or the capacity leaves no padding spot.
    """
    features, xy = np.asarray(features, np.float32), np.asarray(xy, np.float32)
    if features.ndim != 2 or xy.ndim != 2:
        raise ValueError(f"Expected tables (n, p) and (n, d), found features {features.shape} and xy {xy.shape}.")
    n = len(xy)
    capacity = bucket(n) if capacity is None else capacity
    if len(features) != n:
        raise ValueError(f"Expected features and xy with the same number of rows, found {len(features)} and {n}.")
    if capacity <= n:
        raise ValueError(f"Expected a capacity above {n} spots (one padding spot is kept), found {capacity}.")

    def pad(values: Any) -> np.ndarray:
        values = np.asarray(values)
        if len(values) != n:
            raise ValueError(f"Expected {n} rows in every array of a slice, found {len(values)}.")
        return np.concatenate([values, np.zeros((capacity - n, *values.shape[1:]), values.dtype)])

    mask = np.arange(capacity) < n
    weights = pad(np.ones(n, np.float32) if weights is None else np.asarray(weights, np.float32))
    if edges is not None:
        index = pad(np.asarray(edges.index, np.int32))
        index[n:] = np.arange(n, capacity)[:, None]
        edges = Neighbors(jnp.asarray(index), jnp.asarray(pad(np.asarray(edges.weight, np.float32))))
    return Slice(
        features=jnp.asarray(pad(features)),
        xy=jnp.asarray(pad(xy)),
        mask=jnp.asarray(mask),
        weights=jnp.asarray(weights),
        edges=edges,
        extra={name: jnp.asarray(pad(value)) for name, value in (extra or {}).items()},
    )


def section_members(section: Slice) -> Float[np.ndarray, "n s"]:
    """Which of the sections that were put together each spot belongs to, one column a section, on the host.

    Parameters
    ----------
    section
        One section, or several with their numbers in ``extra["section"]``.

    Returns
    -------
    array
        1 at the section of each real spot, else 0; columns in the order of the numbers.
    """
    real = np.flatnonzero(np.asarray(section.mask))
    number = np.asarray(section.extra["section"]) if "section" in section.extra else np.zeros(section.capacity)
    names, column = np.unique(number[real], return_inverse=True)
    members = np.zeros((section.capacity, len(names)), np.float32)
    members[real, column.reshape(-1)] = 1.0
    return members


def in_canonical_order(section: Slice) -> tuple[Slice, Int[np.ndarray, " n"]]:
    """The section with its real spots sorted by section and place, and where each spot went, on the host.

    A method that draws noise for each spot by its number works on the sorted section, so that a permutation of the
    spots permutes its result. Spots of one section at one place are sorted by their features.

    Parameters
    ----------
    section
        One section, or several with their numbers in ``extra["section"]``.

    Returns
    -------
    tuple
        The sorted section, and ``place``: ``sorted_values[place]`` are the values in the order of ``section``.
    """
    xy, features = np.asarray(section.xy), np.asarray(section.features)
    number = np.asarray(section.extra["section"]) if "section" in section.extra else np.zeros(section.capacity)
    order = np.lexsort([*features.T[::-1], *xy.T[::-1], number, ~np.asarray(section.mask)])
    place = np.empty(section.capacity, np.int32)
    place[order] = np.arange(section.capacity)
    edges = section.edges
    bare = jax.tree.map(lambda leaf: jnp.asarray(leaf)[order], section.replace(edges=None))
    if edges is not None:
        edges = Neighbors(jnp.asarray(place)[edges.index][order], jnp.asarray(edges.weight)[order])
    return bare.replace(edges=edges), place


def stack(slices: Sequence[Any]) -> Any:
    """A batch of equally padded sections (or of any equal pytrees) along a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *slices)


def unstack(batch: Any) -> list[Any]:
    """The members of a batch."""
    size = jax.tree.leaves(batch)[0].shape[0]
    return [jax.tree.map(lambda leaf, i=i: leaf[i], batch) for i in range(size)]
