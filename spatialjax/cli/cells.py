"""The command ``map-cells``: where each single cell of a reference belongs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spatialjax.cli.application import app, guarded
from spatialjax.cli.files import new_file, refuse_taken, save
from spatialjax.cli.options import Layer, OutFile, Replace, Seed, SliceKey, SpatialKey
from spatialjax.cli.speech import escape, greet, note, say


@app.command(epilog="Example: spatialjax map-cells ST.h5ad --reference SC.h5ad --cell-type-key type --out OUT.h5ad")
@guarded
def map_cells(
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
    method: Annotated[str, typer.Option(help="Method of the task 'mapping'.")] = "auto",
    layer: Layer = None,
    reference_layer: Annotated[str | None, typer.Option(help="Layer of the reference with the raw counts.")] = None,
    slice_key: SliceKey = None,
    n_spots: Annotated[int, typer.Option(help="Number of spots that are kept of each cell.")] = 10,
    ignore_case: Annotated[
        bool, typer.Option("--ignore-case", help="Genes that differ in upper and lower case alone are the same.")
    ] = False,
    spatial_key: SpatialKey = "spatial",
    key_added: Annotated[str, typer.Option(help="What the names of the results begin with.", metavar="KEY")] = "mapped",
    seed: Seed = 0,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder where the steps keep their state.", metavar="DIR")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from --checkpoint after an interruption.")] = False,
    overwrite: Replace = False,
) -> None:
    """Find the place of each cell of the reference: obsm['mapped_position'], its spread, and obsm['mapped_spots']."""
    from spatialjax import io, tl
    from spatialjax.atlas import console
    from spatialjax.atlas.watch import Watch

    new_file(out, overwrite=overwrite, inputs=[spots, reference])
    greet()
    tables = [io.read_table(path) for path in (spots, reference)]
    refuse_taken(tables[1], f"{key_added}_position", where="obsm", option="--key-added")
    with console.progress() as listener:
        found = tl.map_cells(
            tables[0], tables[1], cell_type_key=cell_type_key, method=method, layer=layer,
            reference_layer=reference_layer, slice_key=slice_key, n_spots=n_spots, key_added=key_added,
            spatial_key=spatial_key, ignore_case=ignore_case, seed=seed, checkpoint=checkpoint, resume=resume,
            progress=listener,
        )  # fmt: skip
        save(found.adata, out, Watch(listener))
    note(found.messages)
    where = escape(f"obsm['{key_added}_position'] in {out}")
    say(f"{found.spots.shape[0]} cells on {found.spots.shape[1]} spots: {where}")
