"""NanoString (Bruker) CosMx: the flat files of a slide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spatialjax.checks import InputError
from spatialjax.io.build import build
from spatialjax.io.tables import drop_controls, find, need, read_wide_counts
from spatialjax.io.units import Scale

if TYPE_CHECKING:
    from anndata import AnnData

#: µm in one pixel of the instrument's camera.
UM_PER_PIXEL = 0.120280945
_COUNTS = ("*_exprMat_file.csv", "*_exprMat_file.csv.gz")
_CELLS = ("*_metadata_file.csv", "*_metadata_file.csv.gz")


def is_cosmx(folder: Path) -> bool:
    """Whether the folder holds CosMx's two flat files."""
    return find(folder, *_COUNTS) is not None and find(folder, *_CELLS) is not None


def read_cosmx(folder: Path, *, spatial_key: str) -> AnnData:
    """One CosMx slide: its cells with their centres in pixels of the whole slide.

    Counts outside of cells (``cell_ID`` 0), negative probes and system controls are left out, and said so.

    Parameters
    ----------
    folder
        With ``*_exprMat_file.csv`` and ``*_metadata_file.csv``, plain or gzipped.
    spatial_key
        Key of ``obsm`` that the coordinates go to.
    """
    import pandas as pd

    keys, genes, counts = read_wide_counts(need(folder, "the counts", *_COUNTS), index=_key_columns)
    counts, genes, notes = drop_controls(counts, genes, "Neg|SystemControl|FalseCode")
    inside = (keys["cell_ID"] != "0").to_numpy()
    if not inside.all():
        notes.append(f"{int((~inside).sum())} rows of counts outside of cells (cell_ID 0) were left out.")
    path = need(folder, "the table of cells", *_CELLS)
    table = pd.read_csv(path, dtype={"fov": str, "cell_ID": str})
    table.index = table["fov"] + "_" + table["cell_ID"]
    names = (keys["fov"] + "_" + keys["cell_ID"]).to_numpy(str)[inside]
    return build(
        counts[np.flatnonzero(inside)],
        cells=names,
        var=pd.DataFrame(index=pd.Index(genes, dtype=object)),
        table=table,
        columns=("CenterX_global_px", "CenterY_global_px"),
        spatial_key=spatial_key,
        scale=Scale(UM_PER_PIXEL, f"CosMx pixels are {UM_PER_PIXEL} µm wide"),
        platform="CosMx",
        notes=notes,
    )


def _key_columns(header: list[str]) -> list[str]:
    if not {"fov", "cell_ID"} <= set(header):
        raise InputError(f"Expected the columns 'fov' and 'cell_ID' in the counts of CosMx, found {header[:4]}.")
    return [column for column in ("fov", "cell_ID", "cell") if column in header]
