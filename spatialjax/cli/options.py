"""Arguments and options that several commands share, and what the text of an option means."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

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
Histology = Annotated[
    str | None,
    typer.Option(
        help="Key of obsm with columns of the H&E pictures (pp.histology_features) that add to the evidence.",
        metavar="KEY",
    ),
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
Cells = Annotated[
    Path | None,
    typer.Option("--reference", help="Annotated single cells, .h5ad: also find the types of each spot.", metavar="REF"),
]
CellTypes = Annotated[str | None, typer.Option(help="Column of the reference's obs with the types.", metavar="KEY")]
CellLayer = Annotated[str | None, typer.Option(help="Layer of the reference with the raw counts.")]
CountsLayer = Annotated[
    str | None, typer.Option(help="Layer of the sections with the raw counts, where --layer holds others.")
]
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
Section = Annotated[
    Path,
    typer.Argument(
        help="One section: an .h5ad file, a .zarr, or the folder that a platform wrote.",
        metavar="SECTION",
        show_default=False,
    ),
]
AtlasFile = Annotated[
    Path, typer.Option("--atlas", help="atlas.h5ad, or the folder it is in.", metavar="ATLAS", show_default=False)
]
OutFile = Annotated[Path, typer.Option("--out", help="File to write.", metavar="OUT.h5ad", show_default=False)]
Name = Annotated[str | None, typer.Option(help="Name of the section in the atlas; that of the file if not given.")]
Pick = Annotated[
    str | None, typer.Option("--section", help="Which section of a file that holds several.", metavar="NAME")
]
Replace = Annotated[bool, typer.Option("--overwrite", help="Replace what is there under that name.")]
Side = Annotated[str, typer.Option("--reflection", help="never, auto (on clear evidence) or allow (on any).")]


def door_options(units: str | None, pitch: float | None, *, z: str | None, **options: Any) -> dict[str, Any]:
    """Options of ``io.open_sections`` from those of a command."""
    return {"units": units, "pitch": pitch, "z": None if z is None else numbers(z, "--z"), **options}


def leave_options(names: str | None, duplicates: str, *, uneven: bool) -> dict[str, Any]:
    """Options of ``io.open_sections`` that say what may differ."""
    listed = None if names is None else [name.strip() for name in names.split(",")]
    return {"names": listed, "duplicates": duplicates, "allow_spacing_mismatch": uneven}


def numbers(text: str, option: str) -> list[float]:
    """Numbers with commas between them.

    Raises
    ------
    InputError
        If the text is anything else.
    """
    from spatialjax.checks import InputError

    try:
        return [float(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise InputError(
            f"Expected {option} to be numbers with commas between them, e.g. 0,10,30; found {text!r}."
        ) from error


def column_or_number(text: str | None, columns: Any) -> str | float | None:
    """A number where the text is one and no column is called so; else the text."""
    if text is None or text in columns:
        return text
    try:
        return float(text)
    except ValueError:
        return text
