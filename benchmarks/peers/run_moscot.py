"""moscot's ``AlignmentProblem`` with its defaults, on size-factor normalised, log1p transformed counts."""

from __future__ import annotations

from typing import Any

import anndata
import numpy as np
import pair
import scanpy
from moscot.problems.space import AlignmentProblem


def call(source: Any, target: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The plan."""
    del options
    both = anndata.concat({"source": source, "target": target}, label="section", index_unique="-")
    both.obs["section"] = both.obs["section"].astype("category")
    scanpy.pp.normalize_total(both)
    scanpy.pp.log1p(both)
    problem = AlignmentProblem(adata=both).prepare(batch_key="section", spatial_key="spatial", policy="sequential")
    problem = problem.solve()
    solution = problem["source", "target"].solution
    note = "" if solution.converged else "reports that it did not converge"
    return {"plan": np.asarray(solution.transport_matrix), "note": note}


if __name__ == "__main__":
    pair.run(call, packages=("moscot", "ott-jax", "jax", "numpy"))
