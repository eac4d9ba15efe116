"""The command ``transfer-labels``: between two files, or inside an atlas."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spatialjax.cli.application import app, guarded
from spatialjax.cli.files import new_file, read_atlas, read_section, refuse_taken, save
from spatialjax.cli.options import FeatureKey, Layer, Method, OutFile, Pitch, Replace, Seed, Side, SpatialKey, Units
from spatialjax.cli.speech import command_line, escape, greet, note, say

if TYPE_CHECKING:
    from anndata import AnnData

    from spatialjax.tl import LabelTransfer


@app.command(
    epilog="Example: spatialjax transfer-labels B1.h5ad B2.h5ad --label-key layer --units um --out B2_layers.h5ad"
)
@guarded
def transfer_labels(
    label_key: Annotated[str, typer.Option(help="Column of obs with the labels.", metavar="KEY", show_default=False)],
    out: OutFile,
    source: Annotated[
        Path | None, typer.Argument(help="Section with the labels; left out with --atlas.", show_default=False)
    ] = None,
    target: Annotated[
        Path | None, typer.Argument(help="Section that receives them; left out with --atlas.", show_default=False)
    ] = None,
    atlas: Annotated[
        Path | None, typer.Option(help="Between the sections of this atlas.h5ad (or of the folder it is in).")
    ] = None,
    take_from: Annotated[
        list[str] | None,
        typer.Option("--from", help="Section of the atlas with labels; may be repeated. All with labels if not given."),
    ] = None,
    give_to: Annotated[
        list[str] | None,
        typer.Option(
            "--to", help="Section that receives them; may be repeated. All with unlabelled cells if not given."
        ),
    ] = None,
    key_added: Annotated[
        str | None, typer.Option(help="Column for the labels; KEY_transferred if not given.", metavar="KEY")
    ] = None,
    method: Method = "auto",
    units: Units = None,
    pitch: Pitch = None,
    reflection: Side = "auto",
    feature_key: FeatureKey = None,
    layer: Layer = None,
    spatial_key: SpatialKey = "spatial",
    seed: Seed = 0,
    overwrite: Replace = False,
) -> None:
    """Carry labels from one section to another, or inside an atlas, each with a confidence."""
    from spatialjax.atlas import console
    from spatialjax.atlas.watch import Watch

    column = f"{label_key}_transferred" if key_added is None else key_added
    _check_ways(source, target, atlas, named=bool(take_from or give_to))
    read = [source, target] if atlas is None else [atlas, atlas / "atlas.h5ad"]
    new_file(out, overwrite=overwrite, inputs=read)
    door = {"units": units, "pitch": pitch, "feature_key": feature_key, "layer": layer, "spatial_key": spatial_key}
    greet()
    with console.progress() as listener:
        watch = Watch(listener)
        with watch.step("labels", f"carrying {label_key!r} over"):
            if atlas is None:
                pose = {"method": method, "reflection": reflection, "seed": seed}
                adata, found = _between_files(source, target, label_key, column=column, **pose, **door)
            else:
                adata, found = _inside(atlas, label_key, column=column, source=take_from, target=give_to)
        _describe(adata, found, label_key, column=column)
        save(adata, out, watch)
    note(found.messages)
    known = found.table["label"].notna()
    sure = f", median confidence {found.table['confidence'].median():.2f}" if known.any() else ""
    where = escape(f"obs[{column!r}] in {out}")
    say(f"{int(known.sum()):,} of {len(known):,} cells got a label{sure}: {where}")


def _check_ways(source: Path | None, target: Path | None, atlas: Path | None, *, named: bool) -> None:
    from spatialjax.checks import InputError

    files = (source is not None) + (target is not None)
    if atlas is None and files != 2:
        raise InputError(f"Expected SOURCE and TARGET, or --atlas, found {('neither', 'SOURCE alone')[files]}.")
    if atlas is not None and files:
        raise InputError("Expected SOURCE and TARGET, or --atlas, found both. Leave one out.")
    if atlas is None and named:
        raise InputError("--from and --to name sections of an atlas: give --atlas, or leave them out.")


def _between_files(
    source: Path, target: Path, key: str, *, column: str, **options: Any
) -> tuple[AnnData, LabelTransfer]:
    """The target with the labels of the source, over the aligned pair; labels of the target itself do not count."""
    from spatialjax import tl
    from spatialjax.atlas.labelled import coded

    first, second = (read_section(path, options["spatial_key"]) for path in (source, target))
    coded(first, key)
    for name in _columns(column):
        refuse_taken(second, name, where="obs", option="--key-added")
    bare = second.copy()
    bare.obs = bare.obs.drop(columns=[key], errors="ignore")
    pair = tl.align(first, bare, **options)
    found = tl.transfer_labels(pair, key, source=first, target=bare, spatial_key=options["spatial_key"])
    own = (found.table["section"] == "target").to_numpy()
    return second, replace(found, table=found.table[own], probability=found.probability[own])


def _inside(
    path: Path, key: str, *, column: str, source: list[str] | None, target: list[str] | None
) -> tuple[AnnData, LabelTransfer]:
    """The atlas with labels carried between its sections, over the soft matches that lie beside it."""
    from spatialjax.atlas import coupled
    from spatialjax.tl import transfer_labels as carry

    atlas, file = read_atlas(path)
    for name in _columns(column):
        refuse_taken(atlas, name, where="obs", option="--key-added")
    couplings = coupled.read(file.parent, atlas) if file.name == "atlas.h5ad" else {}
    return atlas, carry(atlas, key, source=source or None, target=target or None, couplings=couplings)


def _columns(column: str) -> tuple[str, str, str]:
    return column, f"{column}_confidence", f"{column}_null"


def _describe(adata: AnnData, found: LabelTransfer, key: str, *, column: str) -> None:
    """Columns for the cells of the table, missing for all others, and what they rest on in ``uns``."""
    label, confidence, null = _columns(column)
    table = found.table.reindex(adata.obs_names)
    adata.obs[label] = table["label"].astype(found.table["label"].dtype).array
    adata.obs[confidence] = table["confidence"].to_numpy(float)
    adata.obs[null] = table["null"].to_numpy(float)
    adata.uns[column] = {
        "label_key": key,
        "agreement": found.agreement,
        "agreement_null": found.agreement_null,
        "judged_on": found.judged_on,
        "judged_cells": found.judged_cells,
        "source": command_line(),
    }
