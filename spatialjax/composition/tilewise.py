"""Counts given to the device a tile of dense rows at a time, never more."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from spatialjax.algorithm import HostSource
from spatialjax.slices import bucket
from spatialjax.tables import SpotTable
from spatialjax.tiles import Tile

#: Numbers of a dense tile, and rows at the most.
TILE, ROWS = 2**22, 2048
#: Places of the smallest table.
SMALLEST = 1024


def tile_rows(spots: int, genes: int) -> int:
    """Rows of a tile: as many as the memory of a tile holds, a power of 2."""
    fitting = max(TILE // max(genes, 1), 8)
    return min(2 ** int(np.log2(fitting)), ROWS, capacity(spots))


def capacity(spots: int) -> int:
    """Rows of the tables of so many spots: a few shared sizes, so that another section does not compile again."""
    return max(bucket(spots - 1), SMALLEST)


def count_source(spots: SpotTable, shared: Any, *, genes: Any = None, rows: int | None = None) -> HostSource:
    """Dense counts of stretches of spots, with what they are to be judged by.

    Parameters
    ----------
    spots
        The counts.
    shared
        Goes with every tile: its values are ``{"counts": (b, g), "shared": shared}``.
    genes
        Columns that are given; all where left out.
    rows
        Rows of a tile; chosen by their memory where left out.

    Returns
    -------
    HostSource
        Rows beyond the last spot are 0; the whole table has ``capacity(n)`` places.
    """
    n, width = spots.shape[0], spots.shape[1] if genes is None else len(genes)
    size = tile_rows(n, width) if rows is None else rows

    def at(t: int) -> Tile:
        start = (t % sweep) * size
        part = spots.rows(start, min(start + size, n))
        part = part if genes is None else part[:, genes]
        dense = np.zeros((size, width), np.float32)
        part.astype(np.float32).toarray(out=dense[: part.shape[0]])
        return Tile({"counts": dense, "shared": shared}, *places(start, size, n))

    sweep = -(-n // size)
    return HostSource(at, sweep)


def table_tiles(tables: Any, *, number: int, rows: int) -> Tile:
    """Tables of ``number`` spots and free places below them, cut into tiles of stretches of rows.

    Parameters
    ----------
    tables
        A pytree of tables with ``capacity(number)`` rows each.
    number
        Rows that are spots.
    rows
        Rows of a tile, a divisor of the capacity or at least it.
    """
    total = len(jax.tree.leaves(tables)[0])
    rows = min(rows, total)
    starts = range(0, -(-total // rows) * rows, rows)

    def cut(leaf: Any) -> Any:
        free = jnp.zeros((len(starts) * rows - total, *leaf.shape[1:]), leaf.dtype)
        return jnp.concatenate([leaf, free]).reshape(len(starts), rows, *leaf.shape[1:])

    index, core, table = (np.stack(part) for part in zip(*[places(s, rows, number) for s in starts], strict=True))
    return Tile(jax.tree.map(cut, tables), index, core, table)


def places(start: int, size: int, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, ownership and table of a tile that shows ``size`` rows from ``start`` on, of ``number``."""
    rows = np.arange(start, start + size)
    core = rows < number
    return np.where(core, rows, capacity(number)).astype(np.int32), core, np.zeros((capacity(number), 0), np.float32)


def without_counts(spots: SpotTable) -> Bool[np.ndarray, " n"]:
    """Which spots have no count at all."""
    parts = [spots.rows(start, start + ROWS).sum(1) for start in range(0, spots.shape[0], ROWS)]
    return np.concatenate([np.asarray(part).ravel() for part in parts]) == 0


def in_cells(abundance: Float[np.ndarray, "n k"], spots: SpotTable) -> Float[np.ndarray, "n k"]:
    """Abundances on the scale of the known numbers of cells, where there are any; else as they are."""
    if spots.n_cells is None:
        return abundance.astype(np.float32)
    total = abundance.sum(1, keepdims=True)
    return (abundance / np.where(total > 0, total, 1.0) * np.asarray(spots.n_cells)[:, None]).astype(np.float32)
