"""Algorithms made of familiar things: a loss and an optimizer, turns of several, a closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from spatialjax.algorithm.core import Algorithm, Model
from spatialjax.algorithm.sources import tiles_of
from spatialjax.tiles import Tile


class Trained(NamedTuple):
    """State of ``minimize``.

    Attributes
    ----------
    params
        Dict of named groups.
    aux
        Batch statistics and moving averages of the model.
    moments
        State of the optimizer for the groups that all rows share.
    local_moments
        State of the optimizer for the local tables, one for each row; None where there is no local table.
    """

    params: dict[str, Any]
    aux: Any
    moments: Any
    local_moments: Any


def minimize(model: Model, optimizer: optax.GradientTransformation, local: Sequence[str] = ()) -> Algorithm:
    """Train a model by gradients of its weighted mean loss, sum / weight.

    Parameters
    ----------
    model
        What to train. Its loss and read-out see the rows of the present tile of each local table, not the whole one.
    optimizer
        Any optax optimizer, also one that needs the value of the loss, or without local tables a line search.
    local
        Groups of ``params`` that are tables with one row for each row of the data (the first axis of every leaf). Each
        row has an optimizer state of its own, and only the core rows of the present tile are updated, parameters and
        moments alike; so what an optimizer does across parameters, such as clipping by a global norm, it does by row.

    Returns
    -------
    Algorithm
        ``start`` is a dict with some of the groups of ``params``; ``info`` holds ``loss`` and the metrics.

    Raises
    ------
    ValueError
        If ``optimizer`` accumulates gradients over steps (``optax.MultiSteps``) and there are local tables; when run,
        if ``local`` or ``start`` name no group of the model, or ``start`` has other shapes than it.
    """
    if local and isinstance(optimizer, optax.MultiSteps):
        raise ValueError("Expected an optimizer that updates at every step for local tables, found optax.MultiSteps.")
    optimizer = optax.with_extra_args_support(_transformation(optimizer))

    def init(key: Any, data: Any, start: Any = None) -> Trained:
        params, aux = model.init(key, data)
        params = _warm(params, start)
        shared, tables = _part(params, local)
        moments = optimizer.init(shared)
        local_moments = jax.vmap(optimizer.init)(tables) if local else None
        if local and _accumulates((moments, local_moments)):
            raise ValueError("Expected an optimizer that updates at every step for local tables, found MultiSteps.")
        return Trained(params, aux, moments, local_moments)

    def step(key: Any, state: Trained, data: Any) -> tuple[Trained, dict[str, Any]]:
        tile = _only_tile(data) if local else None
        shared, tables = _part(state.params, local)
        seen = _gather(tile, tables)

        def mean_loss(shared: Any, seen: Any) -> tuple[Any, Any]:
            (total, weight), rest = model.loss({**shared, **seen}, state.aux, key, data)
            return weighted_mean(total, weight), rest

        (loss, (aux, metrics)), (slope, local_slope) = jax.value_and_grad(mean_loss, (0, 1), has_aux=True)(shared, seen)
        updates, moments = optimizer.update(
            slope, state.moments, shared, value=loss, grad=slope, value_fn=lambda p: mean_loss(p, seen)[0]
        )
        shared = optax.apply_updates(shared, updates)
        local_moments = state.local_moments
        if local:
            rows = _gather(tile, local_moments)
            each = jax.vmap(lambda slope, own, row: optimizer.update(slope, own, row, value=loss, grad=slope))
            moved, rows = each(local_slope, rows, seen)
            tables = _scatter(tile, optax.apply_updates(seen, moved), tables)
            local_moments = _scatter(tile, rows, local_moments)
        return Trained({**shared, **tables}, aux, moments, local_moments), {"loss": loss, **metrics}

    def readout(key: Any, state: Trained, data: Any) -> Any:
        tile = _only_tile(data) if local else None
        shared, tables = _part(state.params, local)
        return model.readout(key, {**shared, **_gather(tile, tables)}, state.aux, data)

    return Algorithm(init, step, readout)


class Turn(NamedTuple):
    """One of the losses of ``alternate``.

    Attributes
    ----------
    loss
        As in ``Model``.
    names
        Groups of ``params`` that this turn moves.
    optimizer
        What moves them.
    every
        The turn is taken at steps 0, ``every``, 2 ``every``, …; in between its work is skipped (for the members of a
        list under ``how="vmap"`` it is done and dropped).
    """

    loss: Callable[..., Any]
    names: tuple[str, ...]
    optimizer: optax.GradientTransformation
    every: int = 1


class Alternating(NamedTuple):
    """State of ``alternate``; ``moments`` and ``infos`` hold optimizer state and last information of each turn."""

    step: Int[Array, ""]
    params: dict[str, Any]
    aux: Any
    moments: tuple[Any, ...]
    infos: tuple[dict[str, Float[Array, ""]], ...]


def alternate(*turns: Turn | tuple[Any, ...], init: Callable[..., Any], readout: Callable[..., Any]) -> Algorithm:
    """Train in turns: adversarial and block-wise schemes.

    Parameters
    ----------
    turns
        ``Turn``s or tuples ``(loss, names, optimizer, every)``; each sees what the turns before it have changed in the
        same step, and a key of its own.
    init
        As in ``Model``.
    readout
        As in ``Model``.

    Returns
    -------
    Algorithm
        ``info`` holds ``loss0``, ``loss1``, … and the metrics of every turn as ``name0``, …, those of the last time for
        a turn that is not due.

    Raises
    ------
    ValueError
        If there is no turn, ``every`` is below 1, or (at the first step) a turn names a group that the model lacks.
    """
    taken = tuple(Turn(*turn) for turn in turns)
    if not taken or any(turn.every < 1 for turn in taken):
        raise ValueError(f"Expected at least one turn, each with every >= 1, found {[turn.every for turn in taken]}.")
    optimizers = [_transformation(turn.optimizer) for turn in taken]

    def take(number: int, key: Any, params: Any, *, aux: Any, moments: Any, data: Any) -> tuple[Any, ...]:
        turn = taken[number]
        fixed, moved = _part(params, turn.names)

        def mean_loss(moved: Any) -> tuple[Any, Any]:
            (total, weight), rest = turn.loss({**fixed, **moved}, aux, key, data)
            return weighted_mean(total, weight), rest

        (loss, (new, metrics)), slope = jax.value_and_grad(mean_loss, has_aux=True)(moved)
        updates, moments = optimizers[number].update(slope, moments, moved)
        info = {f"{name}{number}": jnp.asarray(value) for name, value in {"loss": loss, **metrics}.items()}
        return {**fixed, **optax.apply_updates(moved, updates)}, new, moments, info

    def start_state(key: Any, data: Any, start: Any = None) -> Alternating:
        params, aux = init(key, data)
        params = _warm(params, start)
        moments = tuple(opt.init(_part(params, turn.names)[1]) for opt, turn in zip(optimizers, taken, strict=True))
        infos = []
        for number, own in enumerate(moments):
            shapes = jax.eval_shape(
                lambda params, aux, own, n=number: take(n, key, params, aux=aux, moments=own, data=data)[3],
                params,
                aux,
                own,
            )
            infos.append(jax.tree.map(lambda value: jnp.zeros(value.shape, value.dtype), shapes))
        return Alternating(jnp.int32(0), params, aux, moments, tuple(infos))

    def step(key: Any, state: Alternating, data: Any) -> tuple[Alternating, dict[str, Any]]:
        params, aux, moments, infos = state.params, state.aux, list(state.moments), list(state.infos)
        for number, turn in enumerate(taken):
            own_key = jax.random.fold_in(key, number)

            def due(params: Any, aux: Any, own: Any, _: Any, n: int = number, k: Any = own_key) -> tuple[Any, ...]:
                return take(n, k, params, aux=aux, moments=own, data=data)

            carried = (params, aux, moments[number], infos[number])
            if turn.every == 1:
                params, aux, moments[number], infos[number] = due(*carried)
            else:
                # A select would do the work of every turn at every step.
                params, aux, moments[number], infos[number] = jax.lax.cond(
                    state.step % turn.every == 0, due, lambda *same: same, *carried
                )
        info = {name: value for one in infos for name, value in one.items()}
        return Alternating(state.step + 1, params, aux, tuple(moments), tuple(infos)), info

    return Algorithm(start_state, step, lambda key, state, data: readout(key, state.params, state.aux, data))


def solve(function: Callable[..., Any]) -> Algorithm:
    """A closed form, or a solver with a loop of its own, as an algorithm of one step.

    Parameters
    ----------
    function
        ``(key, data) -> result``; runs once, in the read-out.
    """

    def init(key: Any, data: Any, start: Any = None) -> tuple[()]:
        del key, data, start
        return ()

    def step(key: Any, state: tuple[()], data: Any) -> tuple[tuple[()], dict[str, Any]]:
        del key, data
        return state, {"done": True}

    def readout(key: Any, state: tuple[()], data: Any) -> Any:
        del state
        return function(key, data)

    return Algorithm(init, step, readout)


def weighted_mean(total: Float[Array, ""], weight: Float[Array, ""]) -> Float[Array, ""]:
    """``total / weight``, and 0 with zero gradient where the weight is 0 (a tile without real spots)."""
    return jnp.where(weight > 0, total / jnp.where(weight > 0, weight, 1), 0)


def _transformation(optimizer: Any) -> Any:
    return optimizer.gradient_transformation() if isinstance(optimizer, optax.MultiSteps) else optimizer


def _accumulates(moments: Any) -> bool:
    def found(node: Any) -> bool:
        return isinstance(node, optax.MultiStepsState)

    return any(found(node) for node in jax.tree.leaves(moments, is_leaf=found))


def _part(params: dict[str, Any], names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The groups that are not named, and those that are."""
    missing = sorted(set(names) - set(params))
    if missing:
        raise ValueError(f"Expected names of groups among {sorted(params)}, found {missing}.")
    return {n: p for n, p in params.items() if n not in names}, {n: params[n] for n in names}


def _warm(params: dict[str, Any], start: Any) -> dict[str, Any]:
    """Parameters with the groups of ``start`` in place of their own."""
    if start is None:
        return params
    warm = _part(params, tuple(start))[1]
    shapes, found = (jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree) for tree in (warm, dict(start)))
    if shapes != found:
        raise ValueError(f"Expected start values of shapes and types {shapes}, found {found}.")
    return {**params, **jax.tree.map(jnp.asarray, dict(start))}


def _only_tile(data: Any) -> Tile | None:
    tiles = tiles_of(data)
    if len(tiles) > 1:
        raise ValueError(f"Expected at most one tile in the data of a model with local tables, found {len(tiles)}.")
    return tiles[0] if tiles else None


def _gather(tile: Tile | None, tables: Any) -> Any:
    return tables if tile is None else jax.tree.map(tile.gather, tables)


def _scatter(tile: Tile | None, rows: Any, tables: Any) -> Any:
    return rows if tile is None else jax.tree.map(tile.scatter, rows, tables)
