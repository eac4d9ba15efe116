"""Time, memory and progress of the steps of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_TRACED = "/jax/core/compile/jaxpr_trace_duration"
_COMPILED = "/jax/core/compile/backend_compile_duration"


@dataclass(frozen=True)
class Event:
    """One report of progress.

    Attributes
    ----------
    step
        Name of the step of the run.
    message
        What happens now, in words.
    share
        Finished share of the step, 0 to 1; None while unknown.
    state
        ``"start"``, ``"running"``, ``"compiling"``, ``"note"`` (a sentence to keep) or ``"end"``.
    """

    step: str
    message: str
    share: float | None = None
    state: str = "running"


@dataclass(frozen=True)
class Timing:
    """What one step cost.

    Attributes
    ----------
    step
        Name of the step.
    seconds
        Wall time.
    compile_seconds
        Part of it that went into compiling.
    compilations
        Number of programs compiled or loaded from the compilation cache.
    peak_mb
        Largest memory of the process from its start to the end of this step, MB; None where the system does not say.
    restored
        Number of results of the step that were read from the checkpoint of an interrupted run: the times above count
        the reading of these and not what it took to compute them.
    """

    step: str
    seconds: float
    compile_seconds: float
    compilations: int
    peak_mb: float | None
    restored: int = 0


@dataclass
class Watch:
    """Reports the steps of one run and keeps what they cost.

    Attributes
    ----------
    listener
        Called with every :class:`Event`; None for silence.
    timings
        One :class:`Timing` for each finished step, in order.
    """

    listener: Callable[[Event], None] | None = None
    timings: list[Timing] = field(default_factory=list)
    _step: str = ""
    _restored: int = 0

    def say(self, message: str, *, share: float | None = None, state: str = "running") -> None:
        """Pass one message about the current step on to the listener."""
        if self.listener is not None:
            self.listener(Event(self._step, message, share, state))

    def note(self, sentence: str) -> None:
        """Pass a sentence on that the user should still see when the run is over."""
        self.say(sentence, state="note")

    def count_restored(self) -> None:
        """Count one result of the current step as read from a checkpoint."""
        self._restored += 1

    @contextmanager
    def step(self, name: str, message: str) -> Iterator[None]:
        """Measure what happens inside as the step ``name``."""
        self._step, self._restored = name, 0
        self.say(message, state="start")
        start = time.perf_counter()
        with _compilations(self) as compiled:
            yield
        seconds = time.perf_counter() - start
        timing = Timing(name, seconds, sum(compiled), len(compiled), peak_memory(), self._restored)
        self.timings.append(timing)
        self.say(f"{seconds:.1f} s{_from_checkpoint(self._restored)}", share=1.0, state="end")


def _from_checkpoint(restored: int) -> str:
    if restored == 0:
        return ""
    return f" ({restored} result{'s' * (restored > 1)} from the interrupted run)"


def peak_memory() -> float | None:
    """Largest resident memory of this process so far, MB; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


@contextmanager
def _compilations(watch: Watch) -> Iterator[list[float]]:
    """Collect the compile times that JAX reports inside, and say when it compiles."""
    from jax import monitoring

    found: list[float] = []

    def hear(event: str, duration: float, **_: Any) -> None:
        if event == _TRACED and duration > 0.05:
            watch.say("compiling", state="compiling")
        elif event == _COMPILED:
            found.append(duration)

    monitoring.register_event_duration_secs_listener(hear)
    try:
        yield found
    finally:
        monitoring.unregister_event_duration_listener(hear)
