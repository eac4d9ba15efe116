"""Progress on a terminal: one line a step, with a bar while it runs; plain lines where the output is no terminal.

Where the reader of the output has gone away (``spatialjax … | head -1``), what is left to say is dropped and the work
goes on: the exit code still tells how it ended.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from spatialjax.atlas.interrupted import heeding, remembered
from spatialjax.atlas.watch import Event


@contextmanager
def progress(console: Any = None) -> Iterator[Callable[[Event], None]]:
    """A listener for :class:`Watch` that shows the steps while the block runs, and ends the work after a lost Ctrl-C.

    Parameters
    ----------
    console
        A ``rich.console.Console``; one on standard error where left out.
    """
    console = terminal(stderr=True) if console is None else console
    plain = not console.is_terminal and not console.is_jupyter
    with remembered() as interrupted, nullcontext(_lines(console)) if plain else _bars(console) as listener:
        yield heeding(listener, interrupted)


@contextmanager
def listening(shown: bool | Callable[[Event], None]) -> Iterator[Callable[[Event], None] | None]:
    """The listener that an option ``progress`` asks for.

    Parameters
    ----------
    shown
        Whether to show the steps, or a function that is called with every ``Event``.
    """
    if callable(shown):
        yield shown
    elif shown:
        with progress() as listener:
            yield listener
    else:
        yield None


def terminal(*, stderr: bool = False) -> Any:
    """A ``rich.console.Console`` that falls silent, and stops nothing, where nobody reads it any more.

    Parameters
    ----------
    stderr
        Write to standard error instead of standard output.
    """
    from rich.console import Console

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True
            silence(sys.stderr if stderr else sys.stdout)

    return Terminal(stderr=stderr, highlight=False)


def silence(stream: Any) -> None:
    """Send what a closed stream still gets, now and at the end of the process, to nowhere."""
    try:
        number = stream.fileno()
    except (OSError, ValueError, AttributeError):  # not a stream of the system
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def device_line() -> str:
    """The device that the run uses, in words."""
    import jax

    first = jax.devices()[0]
    if first.platform == "cpu":
        return f"running on the CPU ({os.cpu_count()} cores)"
    number = jax.device_count()
    return f"running on {first.device_kind} ({first.platform}, {number} device{'s' * (number > 1)})"


def _lines(console: Any) -> Callable[[Event], None]:
    from rich.markup import escape

    compiling: set[str] = set()

    def hear(event: Event) -> None:
        if event.state == "start":
            console.print(f"{event.step}: {escape(event.message)}", highlight=False, soft_wrap=True)
        elif event.state == "end":
            console.print(f"{event.step}: done in {escape(event.message)}", highlight=False, soft_wrap=True)
        elif event.state == "compiling" and event.step not in compiling:
            compiling.add(event.step)
            console.print(f"{event.step}: compiling (once for each size of section)", highlight=False, soft_wrap=True)
        elif event.state == "note":
            _note(console, event.message)

    return hear


def _note(console: Any, sentence: str) -> None:
    from rich.markup import escape

    console.print(f"[dim]note:[/dim] {escape(sentence)}", highlight=False, soft_wrap=True)


@contextmanager
def _bars(console: Any) -> Iterator[Callable[[Event], None]]:
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(finished_text="[green]✓[/green]"),
        TextColumn("{task.fields[step]:<11}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.description}[/dim]"),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def hear(event: Event) -> None:
            if event.state == "note":
                _note(bars.console, event.message)
                return
            if event.step not in tasks:
                tasks[event.step] = bars.add_task(escape(event.message), total=None, step=event.step)
            task = tasks[event.step]
            if event.state == "end":
                bars.update(task, total=1.0, completed=1.0)
            elif event.share is not None:
                bars.update(task, total=1.0, completed=min(event.share, 0.999), description=escape(event.message))
            else:
                bars.update(task, description=escape(event.message))

        yield hear
