"""10x Visium and Visium HD: the ``outs`` folder of Space Ranger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spatialjax.io.build import build
from spatialjax.io.tables import find, need, read_table
from spatialjax.io.tenx import read_matrix
from spatialjax.io.units import visium_scale

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
_POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")


def is_visium(folder: Path) -> bool:
    """Whether the folder is one that Space Ranger writes for Visium, or one bin size of Visium HD."""
    return (folder / "spatial").is_dir() and find(folder / "spatial", "tissue_positions*") is not None


def is_visium_hd(folder: Path) -> bool:
    """Whether the folder holds the bin sizes of Visium HD."""
    return find(folder, "binned_outputs/square_*um") is not None


def read_visium(folder: Path, *, spatial_key: str) -> AnnData:
    """One Visium section, or one bin size of Visium HD.

    Coordinates are pixels of the full-resolution image, x to the right and y down. The unit comes from the lattice of
    the spots, or from ``microns_per_pixel`` of Visium HD.

    Parameters
    ----------
    folder
        With ``filtered_feature_bc_matrix`` (``.h5`` or folder) and ``spatial/``.
    spatial_key
        Key of ``obsm`` that the coordinates go to.
    """
    matrix = read_matrix(folder, "filtered_feature_bc_matrix")
    factors = _scalefactors(folder / "spatial")
    table = _positions(folder / "spatial")
    xy = table[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(float)
    scale = visium_scale(xy, table[["array_row", "array_col"]].to_numpy(float), factors)
    return build(
        matrix.counts,
        cells=matrix.cells,
        var=matrix.var,
        table=table,
        columns=("pxl_col_in_fullres", "pxl_row_in_fullres"),
        spatial_key=spatial_key,
        scale=scale,
        platform="Visium HD" if "bin_size_um" in factors else "Visium",
        notes=matrix.notes,
    )


def read_visium_hd(folder: Path, *, spatial_key: str) -> AnnData:
    """One Visium HD section at bins of 8 µm, or of the smallest size above where they are missing.

    To read another bin size, give its own folder, e.g. ``outs/binned_outputs/square_016um``.
    """
    bins = sorted(folder.glob("binned_outputs/square_*um"))
    chosen = next((path for path in bins if int(path.name[7:-2]) >= 8), bins[-1])
    adata = read_visium(chosen, spatial_key=spatial_key)
    others = [path.name for path in bins if path != chosen]
    note = f"Bins {chosen.name} were read" + (f"; also there: {', '.join(others)}." if others else ".")
    adata.uns["spatialjax"]["notes"] = [*adata.uns["spatialjax"]["notes"], note]
    return adata


def _scalefactors(folder: Path) -> dict[str, Any]:
    path = find(folder, "scalefactors_json.json")
    return json.loads(path.read_text()) if path is not None else {}


def _positions(folder: Path) -> pd.DataFrame:
    path = need(folder, "the positions of the spots", *_POSITIONS)
    headless = path.name == "tissue_positions_list.csv" and not path.read_text().startswith("barcode")
    table = read_table(folder, "the positions of the spots", *_POSITIONS, **({"header": None} if headless else {}))
    if headless:
        table.columns = _COLUMNS
    table = table.set_index("barcode")
    table.index = table.index.astype(str)
    return table.astype({"in_tissue": np.int64, "array_row": np.int64, "array_col": np.int64})
