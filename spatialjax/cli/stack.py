"""Commands that take a whole stack of sections: ``reconstruct``, ``validate`` and ``demo``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from spatialjax.cli.application import EXIT_UNPLACED, app, guarded
from spatialjax.cli.files import read_sections
from spatialjax.cli.options import (
    Anchor,
    CellLayer,
    Cells,
    CellTypes,
    CountsLayer,
    DecisionsFile,
    Domains,
    Duplicates,
    Exclude,
    FeatureKey,
    Gap,
    Histology,
    Json,
    KeepSteps,
    Landmarks,
    Layer,
    Method,
    Names,
    OrderBy,
    Overwrite,
    Pitch,
    Reflection,
    Resume,
    Reuse,
    Sections,
    Seed,
    SliceKey,
    SpatialKey,
    Uneven,
    Units,
    Z,
    door_options,
    leave_options,
)
from spatialjax.cli.speech import command_line, conclude, echo, escape, greet, output, say


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
    histology: Histology = None,
    spatial_key: SpatialKey = "spatial",
    names: Names = None,
    duplicates: Duplicates = "error",
    allow_spacing_mismatch: Uneven = False,
    anchor: Anchor = None,
    reflection: Reflection = "auto",
    n_domains: Domains = None,
    reference: Cells = None,
    cell_type_key: CellTypes = None,
    reference_layer: CellLayer = None,
    counts_layer: CountsLayer = None,
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
    from spatialjax.atlas import Options, composed, decisions_file, job

    chosen = decisions_file.gathered(decisions, exclude=exclude or (), landmarks=landmarks)
    options = Options(method, reflection, anchor=anchor, n_domains=n_domains, seed=seed, decisions=chosen or None)
    options.check()
    cells = composed.ReferenceOptions(reference, cell_type_key, layer=reference_layer, counts_layer=counts_layer)
    cells.check()
    destination = job.Destination(out, resume=resume, overwrite=overwrite, keep_checkpoint=keep_checkpoint)
    destination.check()
    door = door_options(units, pitch, gap=gap, z=z, feature_key=feature_key, layer=layer, spatial_key=spatial_key)
    door |= leave_options(names, duplicates, uneven=allow_spacing_mismatch) | {"histology": histology}
    door |= {"order_by": order_by, "slice_key": slice_key}
    return _reconstructed(sections, options, destination, cells=cells, door=door, reuse=reuse)


def _reconstructed(
    sections: list[Path], options: Any, destination: Any, *, cells: Any, door: dict[str, Any], reuse: Path | None
) -> int:
    """Read, work and write, all options being checked; the exit code."""
    from spatialjax.atlas import Watch, composed, console, decided, intake, job
    from spatialjax.atlas.reuse import begun_from

    out = destination.out
    greet()
    with console.progress() as listener:
        watch = Watch(listener)
        with watch.step("input", f"reading {len(sections)} file{'s' * (len(sections) != 1)}"):
            entry = intake.open_in_order(read_sections(sections, door["spatial_key"]), **door)
            entry = composed.with_reference(decided.followed(entry, options), cells, layer=door["layer"])
        card = job.finished_before(entry, options, destination) if destination.resume else None
        if card is None:
            destination = begun_from(reuse, entry, options, destination=destination)
            result = job.run_job(entry, options, destination, watch=watch, source=command_line())
    if card is not None:
        say(f"{escape(str(out))} holds the finished run of these sections and options: nothing is left to do")
        return 0 if all(section["placed"] for section in card["sections"]) else EXIT_UNPLACED
    conclude(result, out)
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
    histology: Histology = None,
    spatial_key: SpatialKey = "spatial",
    names: Names = None,
    duplicates: Duplicates = "error",
    allow_spacing_mismatch: Uneven = False,
    anchor: Anchor = None,
    reflection: Reflection = "auto",
    n_domains: Domains = None,
    reference: Cells = None,
    cell_type_key: CellTypes = None,
    reference_layer: CellLayer = None,
    counts_layer: CountsLayer = None,
    decisions: DecisionsFile = None,
    exclude: Exclude = None,
    landmarks: Landmarks = None,
    as_json: Json = False,
) -> None:
    """Say what is in the sections and what 'reconstruct' would do, with its time and memory; nothing is written."""
    from spatialjax.atlas import composed, decided, decisions_file, intake, preview
    from spatialjax.atlas.reconstruction import Options

    chosen = decisions_file.gathered(decisions, exclude=exclude or (), landmarks=landmarks)
    options = Options(method, reflection, anchor=anchor, n_domains=n_domains, decisions=chosen or None)
    options.check()
    cells = composed.ReferenceOptions(reference, cell_type_key, layer=reference_layer, counts_layer=counts_layer)
    cells.check()
    door = door_options(units, pitch, gap=gap, z=z, feature_key=feature_key, layer=layer, spatial_key=spatial_key)
    door |= leave_options(names, duplicates, uneven=allow_spacing_mismatch) | {"histology": histology}
    entry = intake.open_in_order(read_sections(sections, spatial_key), order_by=order_by, slice_key=slice_key, **door)
    entry = composed.with_reference(decided.followed(entry, options), cells, layer=layer)
    found = preview.preview(entry.stack, options, beside=entry.beside)
    if as_json:
        echo(json.dumps(found, indent=2))
    else:
        preview.show(found, output())


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
    greet()
    with console.progress() as listener:
        watch = Watch(listener)
        result, scores = demonstration.demonstrate(n_sections=sections, spots=spots, seed=seed, watch=watch)
        if folder is not None:
            outputs.write(result, folder, watch=watch, source=command_line())
    demonstration.show(scores, output())
    if folder is not None:
        conclude(result, folder)
    return EXIT_UNPLACED if result.unplaced else 0
