"""Data that come in parts: one tile or one minibatch a step.

A source stands in ``data`` where the algorithm expects a ``Tile``; ``fit`` puts the part of each step in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array

from spatialjax.tiles import Tile


@struct.dataclass
class Source:
    """Parts that are drawn on the device.

    Attributes
    ----------
    arrays
        What the parts are drawn from, with the random key of the draws where there is one.
    at
        ``(arrays, t) -> Tile``, traced. Equal functions share a compiled program.
    sweep
        Number of steps that visit every row once.
    """

    arrays: Any
    at: Callable[[Any, Any], Tile] = struct.field(pytree_node=False)
    sweep: int = struct.field(pytree_node=False)


@dataclass(frozen=True)
class HostSource:
    """Parts that are made on the host, e.g. dense rows of a sparse table.

    Attributes
    ----------
    at
        ``t -> Tile`` of numpy arrays, the same tile whenever it is asked for ``t``, always of the same shapes.
    sweep
        Number of steps that visit every row once.
    """

    at: Callable[[int], Tile]
    sweep: int


@struct.dataclass
class Tiled:
    """Read-outs of the parts of a source.

    Attributes
    ----------
    tiles
        What the read-out gave for each part of one sweep, stacked along a leading axis in visiting order.
    parts
        The rows of each part: a batch of tiles without values.
    """

    tiles: Any
    parts: Tile

    def merge(self, values: Array) -> Array:
        """Per-row values of ``tiles`` (a leaf of it, (sweep, b, ...)) in the order of the whole table (n, ...)."""
        return self.parts.scatter(values)


def is_source(value: Any) -> bool:
    """Whether ``value`` is a source of either kind."""
    return isinstance(value, Source | HostSource)


def sources(data: Any) -> list[Any]:
    """The sources in ``data``.

    Raises
    ------
    ValueError
        If sources in one ``data`` are of both kinds or disagree about the length of a sweep.
    """
    found = [leaf for leaf in jax.tree.leaves(data, is_leaf=is_source) if is_source(leaf)]
    if len({source.sweep for source in found}) > 1:
        lengths = [source.sweep for source in found]
        raise ValueError(f"Expected the sources of one run to have sweeps of one length, found {lengths}.")
    if len({type(source) for source in found}) > 1:
        raise ValueError("Expected the sources of one run to be all on the device or all on the host, found both.")
    return found


def on_host(data: Any, t: int) -> Any:
    """``data`` with the part of step ``t`` in place of each host source."""
    return jax.tree.map(lambda x: x.at(t) if isinstance(x, HostSource) else x, data, is_leaf=is_source)


def on_device(data: Any, t: Any) -> Any:
    """``data`` with the part of step ``t`` in place of each device source; ``t`` may be traced."""
    return jax.tree.map(lambda x: x.at(x.arrays, t) if isinstance(x, Source) else x, data, is_leaf=is_source)


def tiles_of(data: Any) -> list[Tile]:
    """The tiles in ``data``."""
    leaves = jax.tree.leaves(data, is_leaf=lambda x: isinstance(x, Tile))
    return [leaf for leaf in leaves if isinstance(leaf, Tile)]


def tile_source(tiles: Tile) -> Source:
    """A source that visits the tiles of a batch (of ``spatialjax.tiles.tile``) one after the other, again and again."""
    return Source(tiles, _nth_tile, len(tiles.rows))


def row_source(tables: Any, *, size: int, key: Any) -> Source:
    """A source of random minibatches of rows of tables on the device; each sweep has an order of its own.

    Parameters
    ----------
    tables
        Arrays (or a pytree of them) with n rows each.
    size
        Rows of a minibatch; the last one of a sweep may use fewer.
    key
        Random key of the order: two sources with one key draw the same rows, on the device or on the host.

    Raises
    ------
    ValueError
        If the tables disagree about n or ``size`` is below 1.
    """
    count = _count_rows([leaf.shape[0] for leaf in jax.tree.leaves(tables)], size)
    table = jnp.zeros((count, 0), jnp.float32)
    return Source((tables, table, key), _RandomRows(size), -(-count // size))


def host_row_source(tables: dict[str, Any], *, size: int, key: Any) -> HostSource:
    """A source of random minibatches of rows of tables that stay on the host.

    Parameters
    ----------
    tables
        Numpy arrays or scipy sparse matrices with n rows each; sparse rows are given as dense arrays.
    size
        Rows of a minibatch; the last one of a sweep may use fewer.
    key
        Random key of the order: two sources with one key draw the same rows, on the device or on the host.

    Raises
    ------
    ValueError
        If the tables disagree about n or ``size`` is below 1.
    """
    count = _count_rows([table.shape[0] for table in tables.values()], size)
    tables = {name: table.tocsr() if hasattr(table, "tocsr") else np.asarray(table) for name, table in tables.items()}
    order = lru_cache(maxsize=2)(lambda epoch: np.asarray(_order(key, count, epoch)))
    sweep = -(-count // size)

    def at(t: int) -> Tile:
        epoch, part = divmod(int(t), sweep)
        drawn = order(epoch)[part * size : (part + 1) * size]
        rows = np.full(size, count, np.int32)
        rows[: len(drawn)] = drawn
        values = {}
        for name, table in tables.items():
            picked = table[drawn]
            picked = picked.toarray() if hasattr(picked, "toarray") else picked
            values[name] = np.zeros((size, *picked.shape[1:]), picked.dtype)
            values[name][: len(drawn)] = picked
        return Tile(values, rows, rows < count, np.zeros((count, 0), np.float32))

    return HostSource(at, sweep)


def _count_rows(counts: list[int], size: int) -> int:
    if len(set(counts)) != 1:
        raise ValueError(f"Expected tables with the same number of rows, found {counts}.")
    if size < 1:
        raise ValueError(f"Expected minibatches of at least one row, found size={size}.")
    return counts[0]


def _order(key: Any, count: int, epoch: Any) -> Any:
    return jax.random.permutation(jax.random.fold_in(key, epoch), count)


def _nth_tile(tiles: Tile, t: Any) -> Tile:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[t % tiles.rows.shape[0]], tiles)


@dataclass(frozen=True)
class _RandomRows:
    size: int

    def __call__(self, arrays: Any, t: Any) -> Tile:
        tables, table, key = arrays
        count = table.shape[0]
        sweep = -(-count // self.size)
        order = jnp.full(sweep * self.size, count, jnp.int32).at[:count].set(_order(key, count, t // sweep))
        rows = jax.lax.dynamic_slice(order, [t % sweep * self.size], [self.size])
        core = rows < count

        def take(leaf: Any) -> Any:
            picked = jnp.take(leaf, rows, axis=0, mode="clip")
            return jnp.where(core.reshape(-1, *[1] * (picked.ndim - 1)), picked, 0)

        return Tile(jax.tree.map(take, tables), rows, core, table)
