"""The command ``domains``: spatial domains of one section or of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spatialjax.cli.application import app, guarded
from spatialjax.cli.files import new_file, refuse_taken, save
from spatialjax.cli.options import Duplicates, Layer, OutFile, Replace, Seed, SliceKey, SpatialKey
from spatialjax.cli.speech import escape, greet, note, say


@app.command(epilog="Example: spatialjax domains B1.h5ad --n-domains 7 --out B1_domains.h5ad")
@guarded
def domains(
    section: Annotated[
        Path,
        typer.Argument(help="An .h5ad file, a .zarr, or the folder of a platform.", metavar="IN", show_default=False),
    ],
    out: OutFile,
    n_domains: Annotated[int | None, typer.Option(help="Number of domains; the most stable one if not given.")] = None,
    method: Annotated[str, typer.Option(help="Method of the task 'domains'; see 'spatialjax methods'.")] = "auto",
    features_key: Annotated[
        str | None,
        typer.Option(
            "--features-key",
            "--feature-key",
            help="obsm[KEY] (components, proportions) or obs[KEY] (categories) instead of genes.",
            metavar="KEY",
        ),
    ] = None,
    slice_key: SliceKey = None,
    layer: Layer = None,
    spatial_key: SpatialKey = "spatial",
    key_added: Annotated[str, typer.Option(help="Name of the columns that are added.", metavar="KEY")] = "domain",
    duplicates: Duplicates = "error",
    refine: Annotated[
        int, typer.Option(help="So many nearest spots vote on each label afterwards; 0 leaves the labels.")
    ] = 0,
    seed: Seed = 0,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder where a method that trains keeps its state.", metavar="DIR")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from --checkpoint after an interruption.")] = False,
    overwrite: Replace = False,
) -> None:
    """Divide a tissue into spatial domains: obs['domain'], obs['domain_confidence'] and uns['domain']."""
    import numpy as np

    from spatialjax import io, tl
    from spatialjax.atlas import console
    from spatialjax.atlas.watch import Watch
    from spatialjax.checks import InputError

    new_file(out, overwrite=overwrite, inputs=[section])
    greet()
    found = io.read(section, spatial_key=spatial_key)
    if len(found) > 1 and slice_key is not None:
        raise InputError("Expected one table of cells for --slice-key, found several sections. Leave it out.")
    for adata in found:
        for column in (key_added, f"{key_added}_confidence"):
            refuse_taken(adata, column, where="obs", option="--key-added")
    with console.progress() as listener:
        result = tl.domains(
            found, n_domains, method, slice_key=slice_key, key_added=key_added, feature_key=features_key, layer=layer,
            spatial_key=spatial_key, duplicates=duplicates, refine=refine, seed=seed, checkpoint=checkpoint,
            resume=resume, progress=listener,
        )  # fmt: skip
        save(result.adata, out, Watch(listener))
    note(result.messages)
    where = escape(f"obs[{key_added!r}] in {out}")
    say(f"{result.number} domains, median confidence {np.median(result.confidence):.2f}: {where}")
