"""The loop: compiled chunks of steps inside a host loop that reports, saves and stops."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from spatialjax.algorithm.checkpoint import History, Store, deferred_interrupt, digest, environment
from spatialjax.algorithm.sources import HostSource, Tiled, on_device, on_host, sources, tiles_of

#: Largest number of steps of one compiled chunk: the places of its buffer of information.
LARGEST_CHUNK = 1024
#: Seconds between two reports that the length of a chunk aims at.
REPORT_SECONDS = 1.0
#: Seconds between two checkpoints.
SAVE_SECONDS = 20.0
STATUS = ("running", "done", "not finite")
RUNNING, DONE, NOT_FINITE = range(3)
_INIT, _STEP, _READOUT = range(3)


class Progress(NamedTuple):
    """What a progress callback receives, about once a second.

    Attributes
    ----------
    label
        Which member and phase of the call is running.
    steps
        Steps taken so far; 0 in the first report, before anything is compiled.
    max_steps
        Budget of steps.
    info
        Numbers of the last step; under ``vmap`` arrays with one number a member, each of its own last step.
    """

    label: str
    steps: int
    max_steps: int
    info: dict[str, Any]


class Run(NamedTuple):
    """How far a run has come (members along a leading axis under ``vmap``)."""

    state: Any
    steps: Int[Array, "*m"]
    status: Int[Array, "*m"]


class Inputs(NamedTuple):
    """Key and data of a run: the arguments of the compiled functions that stay the same."""

    key: Any
    leaves: list[Any]


class Program(NamedTuple):
    """What the compiled functions depend on besides shapes; ``axes`` is None for one member alone."""

    algorithm: Any
    tree: Any
    axes: tuple[int | None, ...] | None = None

    def map(self, function: Callable[..., Any], inputs: Inputs, *carried: Any) -> Any:
        """Call ``function(key, data, start, *carried)``, for each member where there are several."""

        def call(inputs: Inputs, *carried: Any) -> Any:
            return function(inputs.key, *jax.tree.unflatten(self.tree, inputs.leaves), *carried)

        if self.axes is None:
            return call(inputs, *carried)
        return jax.vmap(call, in_axes=(Inputs(0, list(self.axes)), *[0] * len(carried)))(inputs, *carried)


@partial(jax.jit, static_argnums=0)
def begin(program: Program, inputs: Inputs) -> Run:
    """The run before its first step."""

    def one(key: Any, data: Any, start: Any) -> Run:
        data = on_device(data, jnp.int32(0))
        state = program.algorithm.init(jax.random.fold_in(key, _INIT), data, start=start)
        # The state is donated to the first chunk, so it must not share a buffer with the data.
        return Run(jax.tree.map(lambda leaf: _firm(jnp.copy(leaf)), state), jnp.int32(0), jnp.int32(RUNNING))

    return program.map(one, inputs)


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def advance(program: Program, run: Run, inputs: Inputs, *, stop: Any) -> tuple[Run, dict[str, Any]]:
    """Take steps until ``stop``, and the information of each."""
    step = jax.jit(program.algorithm.step)

    def one(key: Any, data: Any, _: Any, run: Run) -> tuple[Run, dict[str, Any]]:
        key = jax.random.fold_in(key, _STEP)
        first = run.steps
        state, info = jax.eval_shape(step, key, run.state, on_device(data, first))
        _check_step(run.state, state, info)
        buffer = {name: jnp.zeros(LARGEST_CHUNK, value.dtype) for name, value in info.items() if name != "done"}

        def unfinished(carry: tuple[Run, Any]) -> Any:
            return (carry[0].steps < stop) & (carry[0].status == RUNNING)

        def body(carry: tuple[Run, Any]) -> tuple[Run, Any]:
            run, buffer = carry
            t = run.steps
            state, info = step(jax.random.fold_in(key, t), run.state, on_device(data, t))
            state = jax.tree.map(_firm, state)
            ends = jnp.asarray(info.pop("done", False), bool)
            finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(value)) for value in info.values()] or [jnp.bool_(True)]))
            status = jnp.where(finite, jnp.where(ends, DONE, RUNNING), NOT_FINITE).astype(jnp.int32)
            buffer = {name: places.at[t - first].set(info[name]) for name, places in buffer.items()}
            return Run(state, t + 1, status), buffer

        return jax.lax.while_loop(unfinished, body, (run, buffer))

    return program.map(one, inputs, run)


@partial(jax.jit, static_argnums=0)
def read(program: Program, state: Any, inputs: Inputs) -> tuple[Any, Any]:
    """The read-out, and whether the state holds a NaN."""

    def one(key: Any, data: Any, _: Any, state: Any) -> tuple[Any, Any]:
        key = jax.random.fold_in(key, _READOUT)
        found = sources(data)

        def part(t: Any) -> tuple[Any, list[Any]]:
            shown = on_device(data, t)
            return program.algorithm.readout(key, state, shown), [tile.replace(values=()) for tile in tiles_of(shown)]

        if found:
            result, parts = jax.lax.map(part, jnp.arange(found[0].sweep))
            result = Tiled(result, parts[0])
        else:
            result = part(0)[0]
        floats = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
        broken = jnp.any(jnp.stack([jnp.any(jnp.isnan(leaf)) for leaf in floats] or [jnp.bool_(False)]))
        return result, broken

    return program.map(one, inputs, state)


def _firm(leaf: Any) -> Any:
    """The same values without the weak type of a Python number, which would drift from step to step."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return leaf
    return jax.lax.convert_element_type(leaf, leaf.dtype)


def _check_step(before: Any, after: Any, info: dict[str, Any]) -> None:
    old, new = jax.tree.structure(before), jax.tree.structure(after)
    if old != new:
        raise TypeError(f"Expected step to return a state of the structure it was given, {old}, found {new}.")
    for (path, was), now in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True):
        if (was.shape, was.dtype) != (now.shape, now.dtype):
            name, wanted, found = jax.tree_util.keystr(path), f"{was.dtype}{was.shape}", f"{now.dtype}{now.shape}"
            raise TypeError(
                f"Expected step to keep the shape and type of state{name}, {wanted}, found {found}: "
                "cast it in step or change what init returns."
            )
    if not isinstance(info, dict):
        raise TypeError(f"Expected step to return (state, dict of numbers), found a {type(info).__name__} as second.")
    for name, value in info.items():
        if value.shape != ():
            raise TypeError(f"Expected one number in info[{name!r}], found an array of shape {value.shape}: reduce it.")


class Task(NamedTuple):
    """One run, or one group of runs under ``vmap``: data with sources still in place."""

    algorithm: Any
    key: Any
    data: Any
    start: Any
    label: str
    folder: str
    axes: tuple[int | None, ...] | None = None

    def placed(self) -> Task:
        """The same task with its arrays on the device, where they are put once and not at each step."""
        return self._replace(data=jax.tree.map(_placed, self.data), start=jax.tree.map(_placed, self.start))

    def at(self, t: int) -> tuple[Program, Inputs]:
        """The program, and its inputs at step ``t``."""
        leaves, tree = jax.tree.flatten((on_host(self.data, t), self.start))
        return Program(self.algorithm, tree, self.axes), Inputs(self.key, [_placed(leaf) for leaf in leaves])


def _placed(leaf: Any) -> Any:
    """The leaf on the device, without compiling the copy that ``jnp.asarray`` makes of a numpy array."""
    return leaf if isinstance(leaf, jax.Array | HostSource) else jax.device_put(np.asarray(leaf))


class Options(NamedTuple):
    """How ``fit`` was asked to run its tasks; see there."""

    max_steps: int
    progress: Callable[[Progress], Any] | None = None
    chunk: int | None = None
    checkpoint: Path | None = None


class Outcome(NamedTuple):
    """Final run of a task, its read-out and one history a member."""

    result: Any
    run: Run
    histories: list[History]


def drive(task: Task, options: Options) -> Outcome:
    """Run a task to its end: from its checkpoint where there is one, else from the start.

    Raises
    ------
    ValueError
        If sources do not agree, or the checkpoint is one of another run or has more steps than the budget.
    """
    sources(task.data)
    task = task.placed()
    program, inputs = task.at(0)
    store = None if options.checkpoint is None else _store(task, options.checkpoint)
    run, histories = _first_run(task, store)
    if np.max(run.steps) > options.max_steps:
        raise ValueError(
            f"Expected a checkpoint of at most max_steps={options.max_steps} steps, found one of {np.max(run.steps)}: "
            "raise max_steps or start over with resume=False."
        )
    run, histories = _loop(task, run, histories, options=options, store=store)
    result, broken = _read(task, program, inputs, state=run.state)
    run = run._replace(status=np.where(np.asarray(broken), NOT_FINITE, np.asarray(run.status)))
    return Outcome(result, run, histories)


def _loop(
    task: Task, run: Run, histories: list[History], *, options: Options, store: Store | None
) -> tuple[Run, list[History]]:
    on_the_host = _from_host(task.data)
    fixed = 1 if on_the_host else options.chunk
    length = fixed or 1
    program, inputs = task.at(0)
    pieces = [[history] for history in histories]
    reported = saved = time.perf_counter()
    if options.progress is not None:
        options.progress(Progress(task.label, int(np.max(run.steps)), options.max_steps, {}))
    with deferred_interrupt(store is not None) as interrupted:
        while _unfinished(run, options.max_steps):
            before, began = np.asarray(run.steps), time.perf_counter()
            now = int(before.max())
            if on_the_host:
                inputs = task.at(now)[1]
            stop = jnp.int32(min(now + length, options.max_steps))
            run, info = advance(program, run, inputs, stop=stop)
            info = jax.tree.map(np.asarray, info)
            taken = np.atleast_1d(np.asarray(run.steps) - before)
            for member, count in enumerate(taken):
                pieces[member].append({name: np.atleast_2d(values)[member, :count] for name, values in info.items()})
            ended = time.perf_counter()
            length = fixed or _next_length(length, ended - began)
            halted = interrupted()
            if options.progress is not None and (ended - reported > REPORT_SECONDS or not on_the_host):
                reported = ended
                try:
                    latest = _latest(pieces, alone=task.axes is None)
                    options.progress(Progress(task.label, int(np.max(run.steps)), options.max_steps, latest))
                except KeyboardInterrupt:
                    halted = True
            due = halted or ended - saved > SAVE_SECONDS or not _unfinished(run, options.max_steps)
            if store is not None and due:
                store.save(run, [_join(parts) for parts in pieces])
                saved = time.perf_counter()
            if halted:
                raise KeyboardInterrupt
    return run, [_join(parts) for parts in pieces]


def _unfinished(run: Run, max_steps: int) -> bool:
    return bool(np.any((np.asarray(run.steps) < max_steps) & (np.asarray(run.status) == RUNNING)))


def _from_host(data: Any) -> bool:
    return any(isinstance(source, HostSource) for source in sources(data))


def _next_length(length: int, seconds: float) -> int:
    """The chunk length that brings the next report after about ``REPORT_SECONDS``."""
    wanted = int(length * REPORT_SECONDS / max(seconds, 1e-9))
    return max(1, min(wanted, 8 * length, LARGEST_CHUNK))


def _latest(pieces: list[list[History]], *, alone: bool) -> dict[str, Any]:
    """Numbers of the last step of each member."""
    ends = [next((part for part in reversed(parts) if any(map(len, part.values()))), {}) for parts in pieces]
    last = {name: np.stack([end[name][-1] for end in ends]) for name in ends[0]}
    return {name: values[0] for name, values in last.items()} if alone else last


def _join(parts: list[History]) -> History:
    filled = [part for part in parts if part] or [{}]
    return {name: np.concatenate([part[name] for part in filled]) for name in filled[0]}


def _store(task: Task, directory: Path) -> Store:
    program, inputs = task.at(0)
    # Shapes alone: the text also shows where arrays lie, which changes no bit.
    inputs = jax.eval_shape(lambda same: same, inputs)
    run = jax.eval_shape(partial(begin, program), inputs)
    first = begin.lower(program, inputs).as_text()
    step = advance.lower(program, run, inputs, stop=jnp.int32(0)).as_text()
    fingerprint = {
        "place in the list": task.label or "alone",
        "step (code, options or shapes)": hashlib.blake2b((first + step).encode(), digest_size=16).hexdigest(),
        "data": digest(task.data),
        "start": digest(task.start),
        "key": digest(task.key),
        **environment(),
    }
    return Store(directory / task.folder, fingerprint)


def _first_run(task: Task, store: Store | None) -> tuple[Run, list[History]]:
    program, inputs = task.at(0)
    found = None if store is None else store.load(jax.eval_shape(partial(begin, program), inputs))
    if found is not None:
        return found
    run = begin(program, inputs)
    return run, [{} for _ in np.atleast_1d(run.steps)]


def _read(task: Task, program: Program, inputs: Inputs, *, state: Any) -> tuple[Any, Any]:
    if not _from_host(task.data):
        return read(program, state, inputs)
    if not jax.tree.leaves(jax.eval_shape(partial(read, program), state, inputs)[0]):
        # An empty read-out is the same for every part: the source need not be swept for it.
        return read(program, state, inputs)
    results, parts = [], []
    for t in range(sources(task.data)[0].sweep):
        inputs = task.at(t)[1]
        result, broken = read(program, state, inputs)
        results.append(result)
        parts.append(tiles_of(jax.tree.unflatten(program.tree, inputs.leaves)[0])[0].replace(values=()))
    stack = partial(jax.tree.map, lambda *leaves: jnp.stack(leaves))
    return Tiled(stack(*results), stack(*parts)), broken
