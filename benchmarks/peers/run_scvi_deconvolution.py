"""DestVI and Stereoscope of scvi-tools on the variable genes of their tutorials.

DestVI has its default numbers of epochs. Stereoscope has those of its tutorial: in the default 400 epochs of a few
minibatches the spots hardly leave where they begin (r of .07 on STARmap).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
import scvi
from scvi.external import RNAStereoscope, SpatialStereoscope
from scvi.model import CondSCVI, DestVI

PACKAGES = ("scvi-tools", "torch", "scanpy", "numpy")
#: Both decode profiles that are scaled by the library, so that their shares are shares of the counts.
SHARES_OF = "rna"
#: Variable genes of the reference, as the tutorials choose them.
GENES = {"destvi": 2000, "stereoscope": 7000}
#: Epochs of Stereoscope, of cells and of spots.
EPOCHS = (100, 2000)


def call(spots: Any, reference: Any, options: dict[str, Any]) -> pd.DataFrame:
    """Proportions of ``options["model"]``."""
    scvi.settings.seed = options["seed"]
    genes = _variable(reference, GENES[options["model"]])
    cells, spots = reference[:, genes].copy(), spots[:, genes].copy()
    kept = _filled(cells)
    return {"destvi": _destvi, "stereoscope": _stereoscope}[options["model"]](cells[kept].copy(), spots)


def _destvi(cells: Any, spots: Any) -> pd.DataFrame:
    CondSCVI.setup_anndata(cells, labels_key="cell_type")
    # DestVI of scvi-tools 1.4 fails on profiles with the default prior: its Vamp prior comes as numpy arrays.
    profiles = CondSCVI(cells, weight_obs=False, prior="mog")
    profiles.train(**_quiet())
    DestVI.setup_anndata(spots)
    model = DestVI.from_rna_model(spots, profiles)
    model.train(**_quiet())
    return model.get_proportions()


def _stereoscope(cells: Any, spots: Any) -> pd.DataFrame:
    RNAStereoscope.setup_anndata(cells, labels_key="cell_type")
    profiles = RNAStereoscope(cells)
    profiles.train(max_epochs=EPOCHS[0], **_quiet())
    SpatialStereoscope.setup_anndata(spots)
    model = SpatialStereoscope.from_rna_model(spots, profiles)
    model.train(max_epochs=EPOCHS[1], **_quiet())
    return model.get_proportions()


def _quiet() -> dict[str, Any]:
    return {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}


def _variable(reference: Any, number: int) -> Any:
    """The most variable genes; all where there are no more."""
    if reference.n_vars <= number:
        return reference.var_names
    cells = reference.copy()
    cells.layers["counts"] = cells.X.copy()
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.pp.highly_variable_genes(cells, n_top_genes=number, flavor="seurat_v3", layer="counts", span=1.0)
    return cells.var_names[cells.var["highly_variable"]]


def _filled(cells: Any) -> Any:
    """Cells with a count in these genes: a library of 0 is NaN in both models."""
    return np.asarray(cells.X.sum(1)).ravel() > 0
