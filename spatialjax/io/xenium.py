"""10x Xenium: the output folder of the instrument."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from spatialjax.io.build import build
from spatialjax.io.tables import as_text, read_table
from spatialjax.io.tenx import read_matrix
from spatialjax.io.units import Scale

if TYPE_CHECKING:
    from anndata import AnnData


def is_xenium(folder: Path) -> bool:
    """Whether the folder is one that Xenium writes."""
    return (folder / "experiment.xenium").is_file()


def read_xenium(folder: Path, *, spatial_key: str) -> AnnData:
    """One Xenium section: its cells with their centroids in µm; control probes are left out.

    Parameters
    ----------
    folder
        With ``experiment.xenium``, ``cell_feature_matrix`` (``.h5`` or folder) and ``cells`` (parquet or csv).
    spatial_key
        Key of ``obsm`` that the coordinates go to.
    """
    experiment = json.loads((folder / "experiment.xenium").read_text())
    matrix = read_matrix(folder, "cell_feature_matrix")
    table = read_table(folder, "the table of cells", "cells.parquet", "cells.csv.gz", "cells.csv")
    table = table.assign(cell_id=as_text(table["cell_id"])).set_index("cell_id")
    version = experiment.get("analysis_sw_version", "unknown version")
    return build(
        matrix.counts,
        cells=matrix.cells,
        var=matrix.var,
        table=table,
        columns=("x_centroid", "y_centroid"),
        spatial_key=spatial_key,
        scale=Scale(1.0, f"Xenium writes the centroids of cells in µm ({version})"),
        platform="Xenium",
        notes=matrix.notes,
    )
