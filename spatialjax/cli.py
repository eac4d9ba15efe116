"""The command line: ``spatialjax reconstruct``, ``validate``, ``demo``, ``info``, ``methods`` and ``cite``.

Exit codes: 0 all is well, 1 a file could not be written, 2 the input cannot be used, 3 finished but a section could
not be placed, 130 interrupted.
"""

from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

EXIT_OUTPUT, EXIT_INPUT, EXIT_UNPLACED, EXIT_INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    name="spatialjax",
    help="Serial tissue sections in, an aligned 3D tissue out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Sections = Annotated[
    list[Path],
    typer.Argument(
        help="Sections in their order along the tissue: .h5ad, .zarr, or folders written by Visium, Visium HD, Xenium, "
        "MERSCOPE or CosMx.",
        metavar="SECTIONS...",
        show_default=False,
    ),
]
Method = Annotated[str, typer.Option(help="Alignment method; see 'spatialjax methods'.")]
Units = Annotated[str | None, typer.Option(help="Unit of the coordinates: um, mm, nm, or µm per unit as a number.")]
Pitch = Annotated[float | None, typer.Option(help="Instead of --units: µm between neighbouring spots.")]
Gap = Annotated[float | None, typer.Option(help="µm between successive sections; 10 is assumed, and said.")]
Z = Annotated[str | None, typer.Option(help="Height of each section in µm, e.g. 0,10,30; gives the order too.")]
OrderBy = Annotated[str | None, typer.Option(help="Column of obs by which the sections are ordered.", metavar="COLUMN")]
SliceKey = Annotated[
    str | None, typer.Option(help="Column of obs that names the section of each cell, for one file of many sections.")
]
FeatureKey = Annotated[
    str | None, typer.Option(help="Align on obsm[KEY] (shared embedding) or obs[KEY] (categories).", metavar="KEY")
]
Layer = Annotated[str | None, typer.Option(help="Layer with the expression values; X where left out.")]
SpatialKey = Annotated[str, typer.Option(help="Key of obsm with the coordinates.")]
Duplicates = Annotated[str, typer.Option(help="Cells at one place: error or allow.")]
Uneven = Annotated[
    bool, typer.Option("--allow-spacing-mismatch", help="Accept sections whose spacings differ by more than 20 %.")
]
Names = Annotated[str | None, typer.Option(help="Names of the sections, separated by commas.", metavar="A,B,...")]
Reflection = Annotated[
    str, typer.Option(help="never: no section is turned over; auto: on clear evidence; allow: on any.")
]
Anchor = Annotated[
    str | None, typer.Option(help="Section that keeps its coordinates; the first placed one if not given.")
]
Domains = Annotated[int | None, typer.Option(help="Number of domains; chosen from the data if not given.")]
DecisionsFile = Annotated[Path | None, typer.Option("--decisions", help="Your own decisions: a .json or .toml file.")]
Exclude = Annotated[list[str] | None, typer.Option(help="Leave this section out; may be repeated.", metavar="NAME")]
Landmarks = Annotated[Path | None, typer.Option(help="Points that you matched, a CSV file.", metavar="CSV")]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the files of an earlier run in the folder.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the interrupted run in the folder; start where there is none.")
]
KeepSteps = Annotated[
    bool, typer.Option("--keep-checkpoint", help="Keep the results of the steps in DIR/.steps after the run.")
]
Reuse = Annotated[Path | None, typer.Option(help="A run with --keep-checkpoint and other decisions.", metavar="DIR")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def guarded(command: Callable[..., int | None]) -> Callable[..., None]:
    """Turn the ways in which a command may end into exit codes, with one message and no traceback for bad input."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        from spatialjax.atlas.files import OutputError
        from spatialjax.checks import InputError

        try:
            code = command(*args, **kwargs) or 0
        except InputError as error:
            _say(f"[bold red]error:[/bold red] {_escape(str(error))}")
            code = EXIT_INPUT
        except OutputError as error:
            _say(f"[bold red]error:[/bold red] {_escape(str(error))}{_how_to_go_on(command.__name__, kwargs)}")
            code = EXIT_OUTPUT
        except KeyboardInterrupt:
            going_on = _how_to_go_on(command.__name__, kwargs)
            _say("interrupted: nothing that looks finished was left behind." + going_on)
            code = EXIT_INTERRUPTED
        raise typer.Exit(code)

    return run


@app.command()
@guarded
def reconstruct(
    sections: Sections,
    out: Annotated[Path, typer.Option(help="Folder to write to.", metavar="DIR", show_default=False)],
    method: Method = "auto",
    units: Units = None,
    pitch: Pitch = None,
    gap: Gap = None,
    z: Z = None,
    order_by: OrderBy = None,
    slice_key: SliceKey = None,
    feature_key: FeatureKey = None,
    layer: Layer = None,
    spatial_key: SpatialKey = "spatial",
    names: Names = None,
    duplicates: Duplicates = "error",
    allow_spacing_mismatch: Uneven = False,
    anchor: Anchor = None,
    reflection: Reflection = "auto",
    n_domains: Domains = None,
    decisions: DecisionsFile = None,
    exclude: Exclude = None,
    landmarks: Landmarks = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    resume: Resume = False,
    keep_checkpoint: KeepSteps = False,
    reuse: Reuse = None,
) -> int:
    """Align sections into one 3D tissue and write atlas.h5ad, couplings/, report.html, viewer.html and run.json."""
    from spatialjax.atlas import Options, Watch, console, decided, decisions_file, intake, job
    from spatialjax.atlas.reuse import begun_from

    chosen = decisions_file.gathered(decisions, exclude=exclude or (), landmarks=landmarks)
    options = Options(method, reflection, anchor=anchor, n_domains=n_domains, seed=seed, decisions=chosen or None)
    options.check()
    destination = job.Destination(out, resume=resume, overwrite=overwrite, keep_checkpoint=keep_checkpoint)
    destination.check()
    _say(f"spatialjax {_version()}, {console.device_line()}")
    with console.progress() as listener:
        watch = Watch(listener)
        with watch.step("input", f"reading {len(sections)} file{'s' * (len(sections) != 1)}"):
            door = _door(units, pitch, gap=gap, z=z, feature_key=feature_key, layer=layer, spatial_key=spatial_key)
            door |= _leave(names, duplicates, uneven=allow_spacing_mismatch)
            entry = intake.open_in_order(_read(sections, spatial_key), order_by=order_by, slice_key=slice_key, **door)
            entry = decided.followed(entry, options)
        card = job.finished_before(entry, options, destination) if resume else None
        if card is None:
            destination = begun_from(reuse, entry, options, destination=destination)
            result = job.run_job(entry, options, destination, watch=watch, source=_command_line())
    if card is not None:
        _say(f"{_escape(str(out))} holds the finished run of these sections and options: nothing is left to do")
        return 0 if all(section["placed"] for section in card["sections"]) else EXIT_UNPLACED
    _conclude(result, out)
    return EXIT_UNPLACED if result.unplaced else 0


@app.command()
@guarded
def validate(
    sections: Sections,
    method: Method = "auto",
    units: Units = None,
    pitch: Pitch = None,
    gap: Gap = None,
    z: Z = None,
    order_by: OrderBy = None,
    slice_key: SliceKey = None,
    feature_key: FeatureKey = None,
    layer: Layer = None,
    spatial_key: SpatialKey = "spatial",
    names: Names = None,
    duplicates: Duplicates = "error",
    allow_spacing_mismatch: Uneven = False,
    anchor: Anchor = None,
    reflection: Reflection = "auto",
    n_domains: Domains = None,
    decisions: DecisionsFile = None,
    exclude: Exclude = None,
    landmarks: Landmarks = None,
    as_json: Json = False,
) -> None:
    """Say what is in the sections and what 'reconstruct' would do, with its time and memory; nothing is written."""
    from spatialjax.atlas import decided, decisions_file, intake, preview
    from spatialjax.atlas.reconstruction import Options

    chosen = decisions_file.gathered(decisions, exclude=exclude or (), landmarks=landmarks)
    options = Options(method, reflection, anchor=anchor, n_domains=n_domains, decisions=chosen or None)
    options.check()
    door = _door(units, pitch, gap=gap, z=z, feature_key=feature_key, layer=layer, spatial_key=spatial_key)
    door |= _leave(names, duplicates, uneven=allow_spacing_mismatch)
    entry = intake.open_in_order(_read(sections, spatial_key), order_by=order_by, slice_key=slice_key, **door)
    entry = decided.followed(entry, options)
    found = preview.preview(entry.stack, options)
    if as_json:
        _echo(json.dumps(found, indent=2))
    else:
        preview.show(found, _output())


@app.command()
@guarded
def demo(
    out: Annotated[Path | None, typer.Option(help="Also write the results there.", metavar="DIR")] = None,
    sections: Annotated[int, typer.Option(help="Number of sections.", min=2)] = 5,
    spots: Annotated[int, typer.Option(help="Spots of a whole section.", min=100)] = 900,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> int:
    """Reconstruct a simulated tissue, cut, turned, mirrored, cropped and deformed, and compare with the truth."""
    from spatialjax.atlas import console, demonstration, outputs
    from spatialjax.atlas.watch import Watch

    folder = None if out is None else outputs.check_directory(out, overwrite=overwrite)
    _say(f"spatialjax {_version()}, {console.device_line()}")
    with console.progress() as listener:
        watch = Watch(listener)
        result, scores = demonstration.demonstrate(n_sections=sections, spots=spots, seed=seed, watch=watch)
        if folder is not None:
            outputs.write(result, folder, watch=watch, source=_command_line())
    demonstration.show(scores, _output())
    if folder is not None:
        _conclude(result, folder)
    return EXIT_UNPLACED if result.unplaced else 0


@app.command()
@guarded
def info(as_json: Json = False) -> None:
    """Versions, devices, and where data are looked for."""
    import jax

    from spatialjax import datasets
    from spatialjax.atlas.assemble import versions

    devices = [{"platform": d.platform, "kind": d.device_kind} for d in jax.devices()]
    folder = datasets.data_folder()
    facts = {"versions": versions(), "devices": devices, "data": None if folder is None else str(folder)}
    facts["compilation_cache"] = jax.config.jax_compilation_cache_dir
    if as_json:
        _echo(json.dumps(facts, indent=2))
        return
    rows = [*facts["versions"].items()]
    rows += [(f"device {i}", f"{d['kind']} ({d['platform']})") for i, d in enumerate(devices)]
    rows += [("data folder", facts["data"] or "none: set $SPATIALJAX_DATA")]
    rows += [
        ("compilation cache", facts["compilation_cache"] or "none: set $JAX_COMPILATION_CACHE_DIR to compile once")
    ]
    _print_table(("", ""), rows)


@app.command()
@guarded
def methods(as_json: Json = False) -> None:
    """The methods, what they need and how faithful they are."""
    from dataclasses import asdict

    from spatialjax.methods import CARDS

    cards = [card for by_name in CARDS.values() for card in by_name.values()]
    if as_json:
        _echo(json.dumps([asdict(card) for card in cards], indent=2))
        return
    rows = [(c.task, c.name, c.expects, c.fidelity, c.summary) for c in cards]
    _print_table(("task", "method", "needs", "fidelity", "summary"), rows)


@app.command()
@guarded
def cite(method: Annotated[str, typer.Argument(help="Name of a method.", metavar="METHOD")]) -> None:
    """BibTeX entry of a method."""
    from spatialjax.checks import one_of
    from spatialjax.methods import CARDS, citation

    names = [name for by_name in CARDS.values() for name in by_name]
    _echo(citation(one_of(method, names, "method")).strip())


def main() -> None:
    """Entry point of the command line."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _how_to_go_on(command: str, given: dict[str, Any]) -> str:
    """A sentence on how an interrupted run goes on; empty where nothing was kept."""
    from spatialjax.atlas.job import Destination

    if command != "reconstruct" or not Destination(given["out"]).waiting():
        return ""
    words = [word for word in sys.argv[1:] if word not in ("--resume", "--overwrite")]
    again = shlex.join(["spatialjax", *words, "--resume"])
    return f" Finished steps are kept; to go on from them: {_escape(again)}"


def _version_option(wanted: bool) -> None:
    if wanted:
        _echo(f"spatialjax {_version()}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version_option, is_eager=True, help="Print the version.")
    ] = False,  # noqa: ARG001 - the callback above acts on it
) -> None:
    pass


def _read(paths: list[Path], spatial_key: str) -> list[Any]:
    from spatialjax import io

    return [adata for path in paths for adata in io.read(path, spatial_key=spatial_key)]


def _door(units: str | None, pitch: float | None, *, z: str | None, **options: Any) -> dict[str, Any]:
    return {"units": units, "pitch": pitch, "z": None if z is None else _numbers(z), **options}


def _leave(names: str | None, duplicates: str, *, uneven: bool) -> dict[str, Any]:
    listed = None if names is None else [name.strip() for name in names.split(",")]
    return {"names": listed, "duplicates": duplicates, "allow_spacing_mismatch": uneven}


def _numbers(text: str) -> list[float]:
    from spatialjax.checks import InputError

    try:
        return [float(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise InputError(
            f"Expected --z to be numbers with commas between them, e.g. 0,10,30; found {text!r}."
        ) from error


def _conclude(result: Any, folder: Path) -> None:
    placed = len(result.transforms) - len(result.unplaced)
    for sentence in result.findings:
        _say(f"[bold yellow]look:[/bold yellow] {_escape(sentence)}")
    for sentence in result.warnings:
        _say(f"[dim]note:[/dim] {_escape(sentence)}")
    _say(
        f"{placed} of {len(result.transforms)} sections placed; open {_escape(str(folder / 'report.html'))} and "
        "viewer.html"
    )


def _command_line() -> str:
    return shlex.join(["spatialjax", *sys.argv[1:]])


def _version() -> str:
    import spatialjax

    return spatialjax.__version__


def _say(markup: str) -> None:
    from spatialjax.atlas.console import terminal

    terminal(stderr=True).print(markup, soft_wrap=True)


def _echo(text: str) -> None:
    try:
        typer.echo(text)
    except BrokenPipeError:
        from spatialjax.atlas.console import silence

        silence(sys.stdout)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _output() -> Any:
    from spatialjax.atlas.console import terminal

    return terminal()


def _print_table(names: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(*names, box=box.SIMPLE_HEAD, show_header=any(names))
    for row in rows:
        table.add_row(*(_escape(str(cell)) for cell in row))
    _output().print(table)
