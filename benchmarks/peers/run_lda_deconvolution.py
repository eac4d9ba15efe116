"""Latent Dirichlet allocation by scikit-learn on the spots alone, which is the model of STdeconvolve (an R package).

As many topics as the reference has types. The truth names none: each topic goes to the type whose mean profile its own
correlates with, one to one, as our ``stdeconvolve`` does it. Shares below 5 % are 0, as STdeconvolve has it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import LatentDirichletAllocation

PACKAGES = ("scikit-learn", "scanpy", "numpy")
#: Topics are of counts.
SHARES_OF = "rna"
#: Variable genes of the spots, sweeps at the most, and the least share.
GENES, SWEEPS, LEAST = 1000, 500, 0.05


def call(spots: Any, reference: Any, options: dict[str, Any]) -> pd.DataFrame:
    """Topics of the spots under the names of the types."""
    genes = _variable(spots)
    counts, cells = spots[:, genes].X, reference[:, genes]
    names, code = np.unique(np.asarray(cells.obs["cell_type"], str), return_inverse=True)
    profile = np.stack([np.asarray(cells.X[code == kind].mean(0)).ravel() for kind in range(len(names))])
    topics = LatentDirichletAllocation(len(names), max_iter=SWEEPS, random_state=options["seed"])
    share = topics.fit_transform(counts)
    with np.errstate(invalid="ignore"):
        alike = np.corrcoef(topics.components_, profile)[: len(names), len(names) :]
    # A type whose cells show none of the genes correlates with nothing.
    alike = np.nan_to_num(alike, nan=-1.0)
    which, kind = linear_sum_assignment(-alike)
    share = np.where(share >= np.minimum(LEAST, share.max(1, keepdims=True)), share, 0.0)
    return pd.DataFrame(share[:, which], index=spots.obs_names, columns=names[kind])


def _variable(spots: Any) -> Any:
    """The most variable genes among those that are in 5 % of the spots or more; all where there are no more."""
    often = np.asarray((spots.X > 0).mean(0)).ravel() >= LEAST
    kept = spots[:, often].copy()
    if kept.n_vars <= GENES:
        return kept.var_names
    sc.pp.highly_variable_genes(kept, n_top_genes=GENES, flavor="seurat_v3", span=1.0)
    return kept.var_names[kept.var["highly_variable"]]
