"""Vizgen MERSCOPE: the tables of a region."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spatialjax.io.build import build
from spatialjax.io.tables import drop_controls, find, need, read_wide_counts
from spatialjax.io.units import Scale

if TYPE_CHECKING:
    from anndata import AnnData

_COUNTS = ("cell_by_gene.csv", "*cell_by_gene*.csv", "*cell_by_gene*.csv.gz")
_CELLS = ("cell_metadata.csv", "*cell_metadata*.csv", "*cell_metadata*.csv.gz")


def is_merscope(folder: Path) -> bool:
    """Whether the folder holds MERSCOPE's two tables."""
    return find(folder, *_COUNTS) is not None and find(folder, *_CELLS) is not None


def read_merscope(folder: Path, *, spatial_key: str) -> AnnData:
    """One MERSCOPE region: its cells with their centres in µm; blank barcodes are left out.

    Parameters
    ----------
    folder
        With ``cell_by_gene.csv`` and ``cell_metadata.csv``.
    spatial_key
        Key of ``obsm`` that the coordinates go to.
    """
    import pandas as pd

    keys, genes, counts = read_wide_counts(need(folder, "the counts", *_COUNTS), index=lambda header: header[:1])
    counts, genes, notes = drop_controls(counts, genes, "[Bb]lank")
    path = need(folder, "the table of cells", *_CELLS)
    first = pd.read_csv(path, nrows=0).columns[0]
    table = pd.read_csv(path, dtype={first: str}).set_index(first)
    return build(
        counts,
        cells=keys.iloc[:, 0].to_numpy(str),
        var=pd.DataFrame(index=pd.Index(genes, dtype=object)),
        table=table,
        columns=("center_x", "center_y"),
        spatial_key=spatial_key,
        scale=Scale(1.0, "MERSCOPE writes the centres of cells in µm"),
        platform="MERSCOPE",
        notes=notes,
    )
