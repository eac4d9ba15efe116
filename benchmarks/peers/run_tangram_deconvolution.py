"""Tangram by its authors' package: single cells mapped, their types summed in each spot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
import tangram as tg

PACKAGES = ("tangram-sc", "torch", "scanpy", "numpy")
#: It spreads cells over the spots.
SHARES_OF = "cells"
#: Genes of a type, as in its tutorial.
MARKERS = 100


def call(spots: Any, reference: Any, options: dict[str, Any]) -> pd.DataFrame:
    """Mode ``cells`` with the documented defaults, on the marker genes of its tutorial."""
    spots, cells = spots.copy(), reference.copy()
    cells.obs["cell_type"] = cells.obs["cell_type"].astype("category")
    sc.pp.normalize_total(cells)
    logged = sc.pp.log1p(cells, copy=True)
    sc.tl.rank_genes_groups(logged, groupby="cell_type", use_raw=False)
    found = pd.DataFrame(logged.uns["rank_genes_groups"]["names"]).iloc[:MARKERS]
    tg.pp_adatas(cells, spots, genes=list(np.unique(found.to_numpy().astype(str))))
    placed = tg.map_cells_to_space(cells, spots, mode="cells", random_state=options["seed"], verbose=False)
    tg.project_cell_annotations(placed, spots, annotation="cell_type")
    return spots.obsm["tangram_ct_pred"]
