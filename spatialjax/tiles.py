"""Parts of a table of spots: minibatches of rows, and tiles of a section with a halo around each."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from spatialjax.slices import Neighbors, Slice, bucket


@struct.dataclass
class Tile:
    """Some rows of a table, or a batch of such parts.

    Attributes
    ----------
    values
        What the algorithm computes on, e.g. a ``Slice``; each leaf has the rows first.
    rows
        Row of the whole table that each place holds, halo included; the size of the table on unused places.
    core
        True where the tile owns the row; False in the halo and on unused places. Each row is owned by one tile.
    table
        An array without columns whose length is the number of rows of the whole table.
    """

    values: Any
    rows: Int[Array, "*t b"]
    core: Bool[Array, "*t b"]
    table: Float[Array, "*t n 0"]

    @property
    def size(self) -> int:
        """Number of rows of the whole table."""
        return self.table.shape[-2]

    def scatter(self, values: Float[Array, "..."], onto: Float[Array, "n ..."] | None = None) -> Array:
        """Put values of the core rows back into the order of the whole table.

        Parameters
        ----------
        values
            ``(*t, b, ...)``: one value for each place of the tile, or of each tile of a batch.
        onto
            Table that keeps its rows where the tile owns none; zeros where left out.
        """
        fields = values.shape[self.rows.ndim :]
        onto = jnp.zeros((self.size, *fields), values.dtype) if onto is None else jnp.asarray(onto)
        target = jnp.where(self.core, self.rows, self.size).reshape(-1)
        return onto.at[target].set(jnp.asarray(values).reshape(-1, *fields), mode="drop")

    def gather(self, table: Float[Array, "n ..."]) -> Array:
        """Rows of a whole table in the places of the tile; unused places repeat the last row."""
        return jnp.take(table, self.rows, axis=0, mode="clip")


def row_keys(key: Any, rows: Int[Array, " b"]) -> Any:
    """One random key for each row, the same in every tile that shows the row, core or halo."""
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


def tile(section: Slice, *, size: int, halo: int, capacity: int | None = None) -> Tile:
    """Cut a section into compact tiles of at most ``size`` spots, each with a halo, on the host.

    A read-out that looks ``halo`` hops far along the neighbour table is exact on the core of each tile. The leaves of
    the result are numpy arrays, so that a section larger than the device stays on the host.

    Parameters
    ----------
    section
        One section (not a batch).
    size
        Largest number of core spots of a tile.
    halo
        Number of hops along ``section.edges`` that the halo reaches; 0 for none.
    capacity
        Places of each tile, larger than its core and halo; a shared capacity (``bucket``) where left out.

    Returns
    -------
    Tile
        A batch of tiles whose ``values`` are a batch of slices: core spots first, then the halo with weight 0, then
        padding; neighbours are re-indexed, those outside of the tile dropped.

    Raises
    ------
    ValueError
        If the section is a batch or has no spot, ``size`` or ``halo`` is out of range, a halo is asked for without
        edges, or the capacity is too small.
    """
    if section.xy.ndim != 2:
        raise ValueError(f"Expected one section with xy of shape (n, d), found {section.xy.shape}: tile each member.")
    if size < 1 or halo < 0:
        raise ValueError(f"Expected size >= 1 and halo >= 0, found size={size} and halo={halo}.")
    if halo and section.edges is None:
        raise ValueError("Expected a section with edges for a halo counted in hops, found none: build its graph first.")
    section = jax.tree.map(np.asarray, section)
    real = np.flatnonzero(section.mask)
    if not len(real):
        raise ValueError("Expected a section with at least one real spot, found none.")
    cores = compact_parts(section.xy, real, size=size)
    halos = [_grow(section.edges, core, halo) for core in cores]
    widest = max(len(core) + len(rim) for core, rim in zip(cores, halos, strict=True))
    capacity = bucket(widest) if capacity is None else capacity
    if capacity <= widest:
        raise ValueError(f"Expected a capacity above {widest} spots (core and halo), found {capacity}: raise it.")
    parts = [_cut(section, core, rim, capacity) for core, rim in zip(cores, halos, strict=True)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *parts)


def compact_parts(xy: Float[np.ndarray, "n d"], rows: Int[np.ndarray, " m"], *, size: int) -> list[np.ndarray]:
    """Halve the rows along the longer side until no part has more than ``size``, on the host.

    Parameters
    ----------
    xy
        Coordinates of all spots.
    rows
        The spots to divide.
    size
        Largest number of spots of a part.

    Returns
    -------
    list
        Row numbers of each part, ascending; every one of ``rows`` is in one part.
    """
    if len(rows) <= size:
        return [np.sort(rows)]
    axis = int(np.argmax(np.ptp(xy[rows], axis=0)))
    parts = -(-len(rows) // size)
    cut = len(rows) * (parts // 2) // parts
    order = rows[np.lexsort((rows, xy[rows, axis]))]
    return compact_parts(xy, order[:cut], size=size) + compact_parts(xy, order[cut:], size=size)


def along_curve(xy: Float[np.ndarray, "n 2"], section: Int[np.ndarray, " n"] | None = None) -> Int[np.ndarray, " n"]:
    """Row numbers along a curve that fills the plane, on the host: stretches of equal length are compact patches.

    One row out of each of many equal stretches makes a selection that is even over the tissue.

    Parameters
    ----------
    xy
        Coordinates of the spots.
    section
        Number of the section of each spot: one section comes after the other.

    References
    ----------
    Morton (1966), A computer oriented geodetic data base and a new technique in file sequencing, IBM (the order of
    interleaved binary digits).
    """
    xy = np.asarray(xy, np.float64)
    side = max(float(np.ptp(xy, axis=0).max(initial=0.0)), np.finfo(float).tiny)
    steps = ((xy - xy.min(0, initial=np.inf)) / side * (2**16 - 1)).astype(np.uint64)
    code = np.zeros(len(xy), np.uint64)
    for digit in range(16):
        for axis in range(2):
            code |= ((steps[:, axis] >> np.uint64(digit)) & np.uint64(1)) << np.uint64(2 * digit + axis)
    return np.lexsort((code,) if section is None else (code, section))


def _grow(edges: Neighbors | None, core: np.ndarray, hops: int) -> np.ndarray:
    """Rows that ``core`` reaches in at most ``hops`` hops, without the core itself."""
    if edges is None or hops == 0:
        return np.zeros(0, core.dtype)
    reached, front = np.zeros(len(edges.index), bool), core
    reached[core] = True
    for _ in range(hops):
        used = edges.weight[front] != 0
        front = np.unique(edges.index[front][used])
        front = front[~reached[front]]
        reached[front] = True
    reached[core] = False
    return np.flatnonzero(reached)


def _cut(section: Slice, core: np.ndarray, rim: np.ndarray, capacity: int) -> Tile:
    shown = np.concatenate([core, rim])
    count, total = len(shown), section.capacity
    rows = np.full(capacity, total, np.int32)
    rows[:count] = shown
    owned = np.arange(capacity) < len(core)

    def take(values: np.ndarray) -> np.ndarray:
        out = np.zeros((capacity, *values.shape[1:]), values.dtype)
        out[:count] = values[shown]
        return out

    edges = None
    if section.edges is not None:
        own = np.arange(capacity, dtype=np.int32)
        place = np.full(total, -1, np.int32)
        place[shown] = own[:count]
        index = np.repeat(own[:, None], section.edges.index.shape[1], axis=1)
        found = place[section.edges.index[shown]]
        index[:count] = np.where(found >= 0, found, own[:count, None])
        weight = take(section.edges.weight)
        weight[:count] *= found >= 0
        edges = Neighbors(index, weight)
    values = Slice(
        features=take(section.features),
        xy=take(section.xy),
        mask=np.arange(capacity) < count,
        weights=take(section.weights) * owned.astype(section.weights.dtype),
        edges=edges,
        extra=jax.tree.map(take, section.extra),
    )
    return Tile(values, rows, owned, np.zeros((total, 0), np.float32))
