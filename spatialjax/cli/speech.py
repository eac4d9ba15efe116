"""What a command says, on standard error to a person and on standard output to whatever reads it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import typer


def say(markup: str) -> None:
    """Print one line for a person, with rich's markup, on standard error."""
    from spatialjax.atlas.console import terminal

    terminal(stderr=True).print(markup, soft_wrap=True)


def note(sentences: Iterable[str]) -> None:
    """Print sentences that a person should know on standard error."""
    for sentence in sentences:
        say(f"[dim]note:[/dim] {escape(sentence)}")


def echo(text: str) -> None:
    """Print plain text on standard output."""
    try:
        typer.echo(text)
    except BrokenPipeError:
        from spatialjax.atlas.console import silence

        silence(sys.stdout)


def escape(text: str) -> str:
    """Text in which nothing is markup."""
    from rich.markup import escape as escaped

    return escaped(text)


def output() -> Any:
    """The console on standard output."""
    from spatialjax.atlas.console import terminal

    return terminal()


def print_table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table on standard output; without a head where every name is empty."""
    from rich import box
    from rich.table import Table

    table = Table(*names, box=box.SIMPLE_HEAD, show_header=any(names))
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    output().print(table)


def conclude(result: Any, folder: Path) -> None:
    """Say what a finished reconstruction found and where it lies."""
    placed = len(result.transforms) - len(result.unplaced)
    for sentence in result.findings:
        say(f"[bold yellow]look:[/bold yellow] {escape(sentence)}")
    note(result.warnings)
    say(
        f"{placed} of {len(result.transforms)} sections placed; open {escape(str(folder / 'report.html'))} and "
        "viewer.html"
    )


def greet() -> None:
    """Say the version and the device that the work runs on."""
    from spatialjax.atlas.console import device_line

    say(f"spatialjax {version()}, {device_line()}")


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["spatialjax", *sys.argv[1:]])


def version() -> str:
    """Version of the package."""
    import spatialjax

    return spatialjax.__version__
