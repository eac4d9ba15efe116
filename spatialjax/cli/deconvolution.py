"""The command ``deconvolve``: which cell types each spot holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spatialjax.cli.application import app, guarded
from spatialjax.cli.files import new_file, refuse_taken, save
from spatialjax.cli.options import Layer, OutFile, Replace, Seed, SliceKey, SpatialKey, column_or_number
from spatialjax.cli.speech import escape, greet, note, say


@app.command(epilog="Example: spatialjax deconvolve ST.h5ad --reference SC.h5ad --cell-type-key type --out OUT.h5ad")
@guarded
def deconvolve(
    spots: Annotated[
        Path,
        typer.Argument(help="An .h5ad file, a .zarr, or the folder of a platform.", metavar="ST", show_default=False),
    ],
    reference: Annotated[
        Path, typer.Option(help="Annotated single cells, .h5ad.", metavar="REF.h5ad", show_default=False)
    ],
    cell_type_key: Annotated[
        str, typer.Option(help="Column of the reference's obs with the cell types.", metavar="KEY", show_default=False)
    ],
    out: OutFile,
    method: Annotated[str, typer.Option(help="Method of the task 'deconvolution'.")] = "auto",
    layer: Layer = None,
    reference_layer: Annotated[str | None, typer.Option(help="Layer of the reference with the raw counts.")] = None,
    slice_key: SliceKey = None,
    n_cells: Annotated[
        str | None, typer.Option(help="Column of obs with the number of cells of each spot, or one number.")
    ] = None,
    no_uncertainty: Annotated[
        bool, typer.Option("--no-uncertainty", help="The best fit alone, in a fraction of the time.")
    ] = False,
    ignore_case: Annotated[
        bool, typer.Option("--ignore-case", help="Genes that differ in upper and lower case alone are the same.")
    ] = False,
    spatial_key: SpatialKey = "spatial",
    key_added: Annotated[str, typer.Option(help="Name of the tables that are added.", metavar="KEY")] = "proportions",
    seed: Seed = 0,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder where the steps keep their state.", metavar="DIR")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from --checkpoint after an interruption.")] = False,
    overwrite: Replace = False,
) -> None:
    """Find the cell types of each spot: tables obsm['proportions'], their intervals, and obsm['abundance']."""
    from spatialjax import io, tl
    from spatialjax.atlas import console
    from spatialjax.atlas.watch import Watch

    new_file(out, overwrite=overwrite, inputs=[spots, reference])
    greet()
    tables = [io.read_table(path) for path in (spots, reference)]
    refuse_taken(tables[0], key_added, where="obsm", option="--key-added")
    with console.progress() as listener:
        found = tl.deconvolve(
            tables[0], tables[1], cell_type_key=cell_type_key, method=method, layer=layer,
            reference_layer=reference_layer, slice_key=slice_key,
            n_cells=column_or_number(n_cells, tables[0].obs.columns), uncertainty=not no_uncertainty,
            key_added=key_added, spatial_key=spatial_key, ignore_case=ignore_case, seed=seed, checkpoint=checkpoint,
            resume=resume, progress=listener,
        )  # fmt: skip
        save(found.adata, out, Watch(listener))
    note(found.messages)
    where = escape(f"obsm[{key_added!r}] in {out}")
    say(f"{found.proportions.shape[1]} types in {found.proportions.shape[0]} spots: {where}")
