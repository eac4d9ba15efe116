"""Cell2location by its authors' package: signatures by its regression, then abundances, as in its tutorial.

Fewer epochs of spots than the tutorial's 30,000; the row says how many. Version 0.1.5 imports a name that pyro-ppl has
up to 1.9.1 alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scvi
from cell2location.models import Cell2location, RegressionModel
from cell2location.utils.filtering import filter_genes

PACKAGES = ("cell2location", "scvi-tools", "torch", "pyro-ppl", "numpy")
#: It returns numbers of cells.
SHARES_OF = "cells"
#: Epochs of cells, the tutorial's, and of spots; cells of a spot, which it wants to be told.
EPOCHS, CELLS = (250, 6000), 8
#: What the row says of its settings.
TOLD = {"epochs": list(EPOCHS), "cells a spot": CELLS}
#: Cells and share of the cells that show a gene, and its mean there, by the tutorial.
GENES = {"cell_count_cutoff": 5, "cell_percentage_cutoff2": 0.03, "nonz_mean_cutoff": 1.12}


def call(spots: Any, reference: Any, options: dict[str, Any]) -> pd.DataFrame:
    """The lower 5 % of the abundances, which the tutorial goes on with."""
    scvi.settings.seed = options["seed"]
    genes = filter_genes(reference.copy(), **GENES)
    seen = np.asarray(spots[:, genes].X.sum(0)).ravel() > 0
    cells, spots = reference[:, genes[seen]].copy(), spots[:, genes[seen]].copy()
    cells = cells[np.asarray(cells.X.sum(1)).ravel() > 0].copy()
    signatures = _signatures(cells)
    Cell2location.setup_anndata(spots)
    model = Cell2location(spots, cell_state_df=signatures, N_cells_per_location=CELLS, detection_alpha=20)
    model.train(max_epochs=EPOCHS[1], batch_size=None, train_size=1, **_quiet())
    found = model.export_posterior(spots, sample_kwargs={"num_samples": 1000, "batch_size": spots.n_obs})
    names = found.uns["mod"]["factor_names"]
    return pd.DataFrame(np.asarray(found.obsm["q05_cell_abundance_w_sf"]), index=spots.obs_names, columns=names)


def _signatures(cells: Any) -> pd.DataFrame:
    """Expected counts of a gene in a cell of each type."""
    RegressionModel.setup_anndata(cells, labels_key="cell_type")
    model = RegressionModel(cells)
    model.train(max_epochs=EPOCHS[0], **_quiet())
    found = model.export_posterior(cells, sample_kwargs={"num_samples": 1000, "batch_size": 2500})
    names = list(found.uns["mod"]["factor_names"])
    columns = [f"means_per_cluster_mu_fg_{name}" for name in names]
    return found.varm["means_per_cluster_mu_fg"][columns].set_axis(names, axis=1)


def _quiet() -> dict[str, Any]:
    return {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}
