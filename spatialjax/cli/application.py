"""The application that the commands belong to, how they may end, and its entry point."""

from __future__ import annotations

import functools
import shlex
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from spatialjax.cli.speech import echo, escape, say, version

EXIT_OUTPUT, EXIT_INPUT, EXIT_UNPLACED, EXIT_INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    name="spatialjax",
    help="Serial tissue sections in, an aligned 3D tissue out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def guarded(command: Callable[..., int | None]) -> Callable[..., None]:
    """Turn the ways in which a command may end into exit codes, with one message and no traceback for bad input."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        from spatialjax.atlas.files import OutputError
        from spatialjax.checks import InputError

        try:
            with warnings.catch_warnings():
                # The command says this itself, among its notes.
                warnings.filterwarnings("ignore", message="The pictures add nothing")
                code = command(*args, **kwargs) or 0
        except InputError as error:
            say(f"[bold red]error:[/bold red] {escape(str(error))}")
            code = EXIT_INPUT
        except OutputError as error:
            say(f"[bold red]error:[/bold red] {escape(str(error))}{_how_to_go_on(command.__name__, kwargs)}")
            code = EXIT_OUTPUT
        except KeyboardInterrupt:
            say(f"{_what_is_left(kwargs)}{_how_to_go_on(command.__name__, kwargs)}")
            code = EXIT_INTERRUPTED
        raise typer.Exit(code)

    return run


def main() -> None:
    """Entry point of the command line."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _what_is_left(given: dict[str, Any]) -> str:
    """A sentence on what an interrupted command leaves."""
    from spatialjax.atlas.files import finished_card

    if given.get("out") is not None and finished_card(given["out"]) is not None:
        return f"interrupted: {escape(str(given['out']))} holds a finished run with all its files."
    return "interrupted: nothing that looks finished was left behind."


def _how_to_go_on(command: str, given: dict[str, Any]) -> str:
    """A sentence on how an interrupted run goes on; empty where nothing was kept."""
    from spatialjax.atlas.job import Destination

    if command != "reconstruct" or not Destination(given["out"]).waiting():
        return ""
    words = [word for word in sys.argv[1:] if word not in ("--resume", "--overwrite")]
    again = shlex.join(["spatialjax", *words, "--resume"])
    return f" Finished steps are kept; to go on from them: {escape(again)}"


def _version_option(wanted: bool) -> None:
    if wanted:
        echo(f"spatialjax {version()}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version_option, is_eager=True, help="Print the version.")
    ] = False,  # noqa: ARG001 - the callback above acts on it
) -> None:
    pass
