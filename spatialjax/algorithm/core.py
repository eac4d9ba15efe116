"""``Algorithm``, ``Model``, ``Chain`` and ``fit``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spatialjax.algorithm.checkpoint import clear
from spatialjax.algorithm.loop import LARGEST_CHUNK, NOT_FINITE, STATUS, Options, Outcome, Progress, Task, drive
from spatialjax.algorithm.sources import HostSource


class Algorithm(NamedTuple):
    """Anything iterative: gradient training, EM, the outer loop of a transport solver, MCMC.

    Attributes
    ----------
    init
        ``(key, data, start=None) -> state``; ``start`` holds warm values, e.g. from an earlier phase.
    step
        ``(key, state, data) -> (state, info)``; ``info`` is a flat dict of numbers, ``info["done"]`` says "finished".
    readout
        ``(key, state, data) -> result``.
    """

    init: Callable[..., Any]
    step: Callable[..., Any]
    readout: Callable[..., Any]


class Model(NamedTuple):
    """What is trained by gradients.

    Attributes
    ----------
    init
        ``(key, data) -> (params, aux)``; ``params`` is a dict of named groups.
    loss
        ``(params, aux, key, data) -> ((sum, weight), (aux, metrics))``.
    readout
        ``(key, params, aux, data) -> result``.
    """

    init: Callable[..., Any]
    loss: Callable[..., Any]
    readout: Callable[..., Any]


class Chain(NamedTuple):
    """Two phases: ``first`` runs to its end, ``handover`` makes the data of ``second`` of it on the host.

    Not an ``Algorithm``: ``fit`` unrolls it, one member of a list at a time. Either phase may be a chain itself. Wrap
    the phases, not the chain, with combinators. Phase ``i`` runs as it would alone with ``jax.random.fold_in(key, i)``.

    Attributes
    ----------
    first
        The phase that sees the data of ``fit``.
    handover
        ``(fit, data) -> (data, start)`` of the second phase, from the ``Fit`` and the data of the first; on the host,
        so that it may call any library and change shapes. It must give the same again when a run is resumed.
    second
        The phase that follows.
    """

    first: Algorithm | Chain
    handover: Callable[[Fit, Any], tuple[Any, Any]]
    second: Algorithm | Chain


class Fit(NamedTuple):
    """What ``fit`` returns.

    Attributes
    ----------
    result
        What the read-out gave, of a chain that of its last phase; None where a phase before was not finite.
    state
        Final state of the algorithm, of a chain that of the last phase that ran.
    history
        Dict of numpy arrays, one value a step; of a chain a tuple with one dict a phase.
    steps
        Number of steps taken; of a chain a tuple.
    status
        ``"running"`` (the budget ended first), ``"done"`` or ``"not finite"``; of a chain that of the last phase
        that ran.
    """

    result: Any
    state: Any
    history: Any
    steps: Any
    status: str


def fit(
    algorithm: Algorithm | Chain,
    key: Any,
    data: Any,
    *,
    max_steps: int | tuple[int, ...],
    start: Any = None,
    progress: Callable[[Progress], Any] | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = True,
    chunk: int | None = None,
    how: Literal["map", "vmap"] | None = None,
) -> Any:
    """Run an algorithm: the only training loop of the package.

    Parameters
    ----------
    algorithm
        What to run. Compiled programs are kept for each algorithm object: build it once, in a cached factory.
    key
        Random key. Step ``t`` sees a key that depends on ``key`` and ``t`` only; member ``i`` of a list is run as it
        would be alone with ``jax.random.fold_in(key, i)``.
    data
        A pytree: one run. A list: independent runs, one a member. Sections that belong together are a tuple.
    max_steps
        Budget of steps, of a chain a tuple with one budget a phase; 0 gives the read-out of the initial state.
    start
        Warm values for ``init``; for a list of members a list of the same length.
    progress
        Called with a ``Progress`` about once a second.
    checkpoint
        Directory for checkpoints of this call: one about every 20 seconds, at the end of each run and on Ctrl-C, which
        then waits for the chunk on the device.
    resume
        Continue from the checkpoints in the directory (to the same bits, whatever the chunks); False removes them.
    chunk
        Steps between two looks at the clock, at most 1,024; chosen by the clock where left out. It changes no bit.
        With a host source each step is looked at.
    how
        ``"map"`` runs the members of a list one after the other, in bits as alone; ``"vmap"`` those of one shape
        together, equal to tolerance. Where left out, ``"map"`` on a CPU and ``"vmap"`` on an accelerator. Members with
        a host source, and chains, always run one after the other.

    Returns
    -------
    Fit or list of Fit
        In the order of ``data``.

    Raises
    ------
    ValueError
        If an option is out of range, ``start`` does not match the list, or a checkpoint is one of another run.
    TypeError
        If a step changes the shape or type of the state, or returns information that is not a dict of numbers.

    Warns
    -----
    RuntimeWarning
        If information of a step or the final state is not finite; such a member stops, the others go on.
    """
    phases, handovers = _unroll(algorithm)
    budgets = _budgets(algorithm, max_steps, len(phases))
    if how not in (None, "map", "vmap"):
        raise ValueError(f"Expected how to be 'map', 'vmap' or None, found {how!r}.")
    if chunk is not None and not 1 <= chunk <= LARGEST_CHUNK:
        raise ValueError(f"Expected chunk between 1 and {LARGEST_CHUNK}, found {chunk}.")
    directory = None if checkpoint is None else Path(checkpoint)
    if directory is not None and not resume:
        clear(directory)
    options = Options(0, progress, chunk, directory)
    how = how or ("map" if jax.default_backend() == "cpu" else "vmap")
    many = isinstance(data, list)
    if many:
        starts = [None] * len(data) if start is None else start
        if not isinstance(starts, list) or len(starts) != len(data):
            raise ValueError(f"Expected start to be a list of {len(data)} entries, one a member of data.")
        tasks = _tasks(phases[0], key, list(zip(data, starts, strict=True)), how="map" if handovers else how)
    else:
        tasks = [([0], Task(phases[0], key, data, start, label="", folder="run"))]
    fits: dict[int, Fit] = {}
    for positions, task in tasks:
        if handovers:
            found = [_run_chain(task, phases, handovers, budgets=budgets, options=options)]
        else:
            found = _split(drive(task, options._replace(max_steps=budgets[0])), mapped=task.axes is not None)
        fits.update(zip(positions, found, strict=True))
        for position, each in zip(positions, found, strict=True):
            if each.status == STATUS[NOT_FINITE]:
                name = f"Member {position} of the list" if many else "The run"
                warnings.warn(f"{name} is not finite after {each.steps} steps.", RuntimeWarning, stacklevel=2)
    return [fits[position] for position in range(len(data))] if many else fits[0]


def _unroll(algorithm: Algorithm | Chain) -> tuple[list[Algorithm], list[Callable[..., Any]]]:
    if not isinstance(algorithm, Chain):
        return [algorithm], []
    first, between = _unroll(algorithm.first)
    second, after = _unroll(algorithm.second)
    return first + second, [*between, algorithm.handover, *after]


def _budgets(algorithm: Algorithm | Chain, max_steps: int | tuple[int, ...], phases: int) -> tuple[int, ...]:
    chained = isinstance(algorithm, Chain)
    if chained != isinstance(max_steps, tuple) or (chained and len(max_steps) != phases):
        wanted = f"a tuple of {phases} numbers, one a phase" if chained else "one number"
        raise ValueError(f"Expected max_steps to be {wanted}, found {max_steps!r}.")
    budgets = max_steps if chained else (max_steps,)
    if any(not isinstance(budget, int | np.integer) or budget < 0 for budget in budgets):
        raise ValueError(f"Expected max_steps to be whole and >= 0, found {max_steps!r}.")
    return budgets


def _run_chain(
    task: Task,
    phases: list[Algorithm],
    handovers: list[Callable[..., Any]],
    *,
    budgets: tuple[int, ...],
    options: Options,
) -> Fit:
    """Run the phases of one member, each with a checkpoint of its own."""
    data, start, fits = task.data, task.start, []
    for i, (phase, budget) in enumerate(zip(phases, budgets, strict=True)):
        label = f"{task.label}, phase {i + 1} of {len(phases)}".removeprefix(", ")
        part = Task(phase, jax.random.fold_in(task.key, i), data, start, label, f"{task.folder}-phase-{i}")
        last = _split(drive(part, options._replace(max_steps=budget)), mapped=False)[0]
        fits.append(last)
        if last.status == STATUS[NOT_FINITE]:
            break
        if i < len(handovers):
            data, start = handovers[i](last, data)
    result = last.result if len(fits) == len(phases) else None
    return Fit(result, last.state, tuple(f.history for f in fits), tuple(f.steps for f in fits), last.status)


def _tasks(algorithm: Algorithm, key: Any, members: list[tuple[Any, Any]], *, how: str) -> list[tuple[list[int], Task]]:
    """The members, pairs of data and start, one by one or in groups of equal shapes."""
    keys = [jax.random.fold_in(key, position) for position in range(len(members))]
    groups: dict[Any, list[int]] = {}
    for position, member in enumerate(members):
        leaves, tree = jax.tree.flatten(member)
        alone = how == "map" or any(isinstance(leaf, HostSource) for leaf in leaves)
        shapes = () if alone else tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        groups.setdefault(position if alone else (tree, shapes), []).append(position)
    tasks = []
    for name, positions in groups.items():
        folder = f"member-{positions[0]:04d}"
        if isinstance(name, int):
            label = f"member {name + 1} of {len(members)}"
            tasks.append((positions, Task(algorithm, keys[name], *members[name], label, folder)))
            continue
        label = f"members {', '.join(str(position + 1) for position in positions)} of {len(members)}"
        (batch, start), axes = _stack([members[position] for position in positions])
        own = jnp.stack([keys[position] for position in positions])
        tasks.append((positions, Task(algorithm, own, batch, start, label, folder, axes)))
    return tasks


def _stack(members: list[Any]) -> tuple[Any, tuple[int | None, ...]]:
    """Members as one batch; a leaf that is the same object in all of them is stored once (axis None)."""
    columns = list(zip(*[jax.tree.leaves(member) for member in members], strict=True))
    shared = [all(leaf is column[0] for leaf in column) for column in columns]
    leaves = [
        column[0] if same else jnp.stack(jax.device_put(list(column)))
        for column, same in zip(columns, shared, strict=True)
    ]
    axes = tuple(None if same else 0 for same in shared)
    return jax.tree.unflatten(jax.tree.structure(members[0]), leaves), axes


def _split(outcome: Outcome, *, mapped: bool) -> list[Fit]:
    fits = []
    for member, history in enumerate(outcome.histories):
        pick = (lambda leaf, i=member: leaf[i]) if mapped else (lambda leaf: leaf)
        result, run = jax.tree.map(pick, (outcome.result, outcome.run))
        fits.append(Fit(result, run.state, history, int(run.steps), STATUS[int(run.status)]))
    return fits
