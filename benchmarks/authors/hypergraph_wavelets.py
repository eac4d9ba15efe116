"""Golden case of hypergraph wavelets: ``python benchmarks/authors/hypergraph_wavelets.py --source FOLDER``.

The folder is that of KrishnaswamyLab/hypergraph-wavelets (non-commercial licence). Needs torch, torch_geometric, scipy
and einops.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import case
import numpy as np
import torch
from scipy.spatial import cKDTree

SCALES = [0, 1, 2, 4, 8, 16]


def make(source: Path) -> dict[str, Any]:
    """Wavelet coefficients on spots of the walk over neighbourhoods, without activation."""
    case.stand_in("pytorch_lightning", LightningModule=torch.nn.Module)
    case.stand_in("torchmetrics")
    case.stand_in("dhg", Hypergraph=None)
    case.package(source / "src" / "models", "hypergraphs")
    from hypergraphs import hsn_pyg

    data = case.section(18)
    near = cKDTree(data["xy"]).query_ball_point(data["xy"], 1.3 * case.PITCH)
    # Spot, then the hyperedge that it is part of: the neighbourhood of each spot, itself included.
    members = torch.tensor(np.array([(spot, edge) for edge, spots in enumerate(near) for spot in spots]).T)
    x = torch.tensor(data["x"][:, :6])
    # normalize="right", their default, divides by each size twice in this file.
    module = hsn_pyg.HyperScatteringModule(
        x.shape[1], activation=None, normalize="left", reshape=False, scale_list=SCALES
    )
    found = module(x, members, hyperedge_attr=torch.zeros_like(x))[0][0]
    return {"x": x, "members": members, "coefficients": found}


if __name__ == "__main__":
    sys.exit(case.run("hypergraph_wavelets", make, packages=("torch", "torch_geometric", "numpy")))
