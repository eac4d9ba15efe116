"""Algorithms made of an algorithm: stopping, collecting, and sums over tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from spatialjax.algorithm.core import Algorithm
from spatialjax.algorithm.sources import tiles_of
from spatialjax.tiles import Tile


class Watched(NamedTuple):
    """State of ``until``: that of the algorithm, the best value so far and the steps since."""

    inner: Any
    best: Float[Array, ""]
    since: Int[Array, ""]


def until(algorithm: Algorithm, patience: int, *, monitor: str = "loss", tolerance: float = 0.0) -> Algorithm:
    """Stop when a number has not fallen for ``patience`` steps; each member of a list stops by itself.

    Parameters
    ----------
    algorithm
        What to watch; it may also finish by itself.
    patience
        Number of steps without improvement after which the algorithm is done.
    monitor
        Which number of ``info`` should fall.
    tolerance
        Smallest fall that counts, as a part of the size of the best value.

    Raises
    ------
    ValueError
        If ``patience`` is below 1; when run, if ``info`` has no number ``monitor``.
    """
    if patience < 1:
        raise ValueError(f"Expected patience >= 1, found {patience}.")

    def init(key: Any, data: Any, start: Any = None) -> Watched:
        return Watched(algorithm.init(key, data, start=start), jnp.float32(jnp.inf), jnp.int32(0))

    def step(key: Any, state: Watched, data: Any) -> tuple[Watched, dict[str, Any]]:
        inner, info = algorithm.step(key, state.inner, data)
        if monitor not in info:
            raise ValueError(f"Expected monitor to be one of {sorted(info)}, found {monitor!r}.")
        value = jnp.asarray(info[monitor], jnp.float32)
        least = jnp.where(jnp.isfinite(state.best), state.best - tolerance * jnp.abs(state.best), state.best)
        better = value < least
        since = jnp.where(better, 0, state.since + 1)
        ends = jnp.asarray(info.get("done", False)) | (since >= patience)
        return Watched(inner, jnp.where(better, value, state.best), since), {**info, "done": ends}

    def readout(key: Any, state: Watched, data: Any) -> Any:
        return algorithm.readout(key, state.inner, data)

    return Algorithm(init, step, readout)


class Reducer(NamedTuple):
    """What becomes of the values that ``collect`` sees.

    Attributes
    ----------
    init
        ``value -> memory`` from an example (its numbers must not be used).
    update
        ``(memory, value) -> memory``.
    readout
        ``memory -> result``.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any], Any]
    readout: Callable[[Any], Any]


def moments() -> Reducer:
    """Running mean and variance (Welford's update), as a dict ``mean``, ``variance`` (n - 1) and ``count``.

    References
    ----------
    Welford, B. P. (1962). Note on a method for calculating corrected sums of squares and products. Technometrics 4.
    """

    def init(value: Any) -> Any:
        zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, jnp.result_type(leaf, jnp.float32)), value)
        return jnp.int32(0), zeros, zeros

    def update(memory: Any, value: Any) -> Any:
        count, mean, spread = memory
        count = count + 1
        after = jax.tree.map(lambda m, x: m + (x - m) / count.astype(m.dtype), mean, value)
        spread = jax.tree.map(lambda s, x, m, a: s + (x - m) * (x - a), spread, value, mean, after)
        return count, after, spread

    def readout(memory: Any) -> dict[str, Any]:
        count, mean, spread = memory
        variance = jax.tree.map(lambda s: s / jnp.maximum(count - 1, 1).astype(s.dtype), spread)
        return {"mean": mean, "variance": variance, "count": count}

    return Reducer(init, update, readout)


def draws(size: int) -> Reducer:
    """The latest ``size`` values, as a dict ``draws`` (along a leading axis, oldest first) and ``count`` of all seen.

    Where fewer than ``size`` were seen, the last places are 0.

    Raises
    ------
    ValueError
        If ``size`` is below 1.
    """
    if size < 1:
        raise ValueError(f"Expected size >= 1, found {size}.")

    def init(value: Any) -> Any:
        return jnp.int32(0), jax.tree.map(
            lambda leaf: jnp.zeros((size, *jnp.shape(leaf)), jnp.result_type(leaf)), value
        )

    def update(memory: Any, value: Any) -> Any:
        count, kept = memory
        return count + 1, jax.tree.map(lambda places, x: places.at[count % size].set(x), kept, value)

    def readout(memory: Any) -> dict[str, Any]:
        count, kept = memory
        turn = jnp.where(count > size, count % size, 0)
        return {"draws": jax.tree.map(lambda places: jnp.roll(places, -turn, axis=0), kept), "count": count}

    return Reducer(init, update, readout)


class Collecting(NamedTuple):
    """State of ``collect``: that of the algorithm, the steps taken and the memory of the reducer."""

    inner: Any
    step: Int[Array, ""]
    memory: Any


class Collected(NamedTuple):
    """What ``collect`` reads out: the result of the algorithm, and that of the reducer."""

    result: Any
    collected: Any


def collect(
    algorithm: Algorithm, view: Callable[[Any], Any], reducer: Reducer, *, every: int = 1, after: int = 0
) -> Algorithm:
    """Reduce what is seen of the state on the way: draws of a sampler, running means.

    Parameters
    ----------
    algorithm
        What to look at.
    view
        ``state -> value``, a pytree of arrays.
    reducer
        What to do with the values, e.g. ``moments()`` or ``draws(100)``.
    every
        Look after each ``every``-th step; in between nothing is computed, except under ``how="vmap"``.
    after
        Number of first steps that are left out (warm-up).

    Raises
    ------
    ValueError
        If ``every`` is below 1 or ``after`` is negative.
    """
    if every < 1 or after < 0:
        raise ValueError(f"Expected every >= 1 and after >= 0, found every={every} and after={after}.")

    def init(key: Any, data: Any, start: Any = None) -> Collecting:
        inner = algorithm.init(key, data, start=start)
        return Collecting(inner, jnp.int32(0), reducer.init(view(inner)))

    def step(key: Any, state: Collecting, data: Any) -> tuple[Collecting, dict[str, Any]]:
        inner, info = algorithm.step(key, state.inner, data)
        taken = state.step + 1
        due = (taken > after) & ((taken - after) % every == 0)
        memory = jax.lax.cond(
            due,
            lambda memory, inner: reducer.update(memory, view(inner)),
            lambda memory, _: memory,
            state.memory,
            inner,
        )
        return Collecting(inner, taken, memory), info

    def readout(key: Any, state: Collecting, data: Any) -> Collected:
        return Collected(algorithm.readout(key, state.inner, data), reducer.readout(state.memory))

    return Algorithm(init, step, readout)


class Tabled(NamedTuple):
    """State of ``reduce_tiles``: what all spots share, and a pytree of tables with one row a spot."""

    shared: Any
    tables: Any


def reduce_tiles(
    init: Callable[..., Any],
    statistics: Callable[..., tuple[Any, Any]],
    update: Callable[..., tuple[Any, dict[str, Any]]],
    *,
    readout: Callable[..., Any],
) -> Algorithm:
    """Expectation–maximisation, conditional modes and exact likelihoods over the tiles of a section.

    One step visits every tile, in the memory of one tile. Each tile reads the tables of the step before, so that the
    result does not depend on how the section was cut, as long as the halo holds what a spot looks at.

    Parameters
    ----------
    init
        ``(key, data) -> (shared, tables)``; ``tables`` is a pytree with one row for each spot of the whole section.
    statistics
        ``(key, shared, rows, data) -> (sums, rows)`` for one tile: ``rows`` are those of the old tables for the places
        of the tile, core and halo, and the new ones; ``sums`` count core spots only. The key is the same for every
        tile: draw noise by row with ``spatialjax.tiles.row_keys``.
    update
        ``(key, shared, sums) -> (shared, info)`` from the sums over all tiles.
    readout
        ``(key, shared, tables, data) -> result``.

    Returns
    -------
    Algorithm
        Its data are a batch of tiles (``spatialjax.tiles.tile``), or a tuple whose first entry is one and whose rest
        every tile shares. ``start`` is a pair like that of ``init``.
    """

    def begin(key: Any, data: Any, start: Any = None) -> Tabled:
        return Tabled(*(init(key, data) if start is None else start))

    def step(key: Any, state: Tabled, data: Any) -> tuple[Tabled, dict[str, Any]]:
        tiles, rest = (data[0], data[1:]) if isinstance(data, tuple) else (data, None)
        key_tile, key_update = jax.random.split(key)

        def one(tile: Tile) -> tuple[Any, Any]:
            rows = jax.tree.map(tile.gather, state.tables)
            return statistics(key_tile, state.shared, rows, tile if rest is None else (tile, *rest))

        shapes = jax.eval_shape(one, jax.tree.map(lambda leaf: leaf[0], tiles))[0]
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        def add(carry: tuple[Any, Any], tile: Tile) -> tuple[tuple[Any, Any], None]:
            sums, tables = carry
            more, rows = one(tile)
            return (jax.tree.map(jnp.add, sums, more), jax.tree.map(tile.scatter, rows, tables)), None

        (sums, tables), _ = jax.lax.scan(add, (zeros, state.tables), tiles)
        shared, info = update(key_update, state.shared, sums)
        return Tabled(shared, tables), info

    return Algorithm(begin, step, lambda key, state, data: readout(key, state.shared, state.tables, data))


class Visited(NamedTuple):
    """State of ``map_tiles``: tables with one row a spot, and the number of rows that are known."""

    tables: Any
    known: Int[Array, ""]


def map_tiles(function: Callable[[Any, Any], Any], *, total: Callable[[Any], Any] | None = None) -> Algorithm:
    """Compute the rows of a table tile by tile, one tile a step: long work that shows progress and resumes.

    Parameters
    ----------
    function
        ``(key, data) -> rows``: a pytree whose leaves have one row for each place of the tile.
    total
        ``data -> number`` of rows that the tiles own together; the size of the whole table where left out. Give it
        where the table has free places, so that tables of several sizes share a compiled program.

    Returns
    -------
    Algorithm
        Its data hold one source (or a tile that shows everything). It is done after one sweep; the tables are
        ``Fit.state.tables``, the read-out is empty.
    """

    def init(key: Any, data: Any, start: Any = None) -> Visited:
        if start is not None:
            return Visited(*start)
        tile = _one_tile(data)
        shapes = jax.eval_shape(function, key, data)
        tables = jax.tree.map(lambda leaf: jnp.zeros((tile.size, *leaf.shape[1:]), leaf.dtype), shapes)
        return Visited(tables, jnp.int32(0))

    def step(key: Any, state: Visited, data: Any) -> tuple[Visited, dict[str, Any]]:
        tile = _one_tile(data)
        tables = jax.tree.map(tile.scatter, function(key, data), state.tables)
        known = state.known + tile.core.sum()
        return Visited(tables, known), {"done": known >= (tile.size if total is None else total(data)), "rows": known}

    def readout(key: Any, state: Visited, data: Any) -> tuple[()]:
        del key, state, data
        return ()

    return Algorithm(init, step, readout)


def _one_tile(data: Any) -> Tile:
    found = tiles_of(data)
    if len(found) != 1:
        raise ValueError(f"Expected one source or tile in the data, found {len(found)}.")
    return found[0]
