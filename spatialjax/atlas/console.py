"""Progress on a terminal: one line a step, with a bar while it runs; plain lines where the output is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from spatialjax.atlas.watch import Event


@contextmanager
def progress(console: Any = None) -> Iterator[Callable[[Event], None]]:
    """A listener for :class:`Watch` that shows the steps while the block runs.

    Parameters
    ----------
    console
        A ``rich.console.Console``; one on standard error where left out.
    """
    from rich.console import Console

    console = Console(stderr=True) if console is None else console
    if not console.is_terminal and not console.is_jupyter:
        yield _lines(console)
        return
    with _bars(console) as listener:
        yield listener


def device_line() -> str:
    """The device that the run uses, in words."""
    import os

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

    return hear


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
