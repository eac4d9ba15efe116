"""STAGATE's golden case: ``python benchmarks/authors/stagate.py --source STAGATE_pyG`` (QIFEIDKN/STAGATE_pyG, MIT).

Needs torch, torch_geometric and scikit-learn.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import case
import numpy as np
import sklearn.neighbors
import torch
import torch.nn.functional as F
from torch_geometric.typing import SparseTensor

STEPS, RATE, RADIUS = 20, 0.05, 1.6 * case.PITCH


def make(source: Path) -> dict[str, Any]:
    """The authors' network on the authors' graph: one pass with gradients, then steps of SGD, and of their own loop."""
    case.stand_in("torch_sparse", SparseTensor=SparseTensor, set_diag=None)
    case.package(source / "STAGATE_pyG", "STAGATE_pyG")
    from STAGATE_pyG.STAGATE import STAGATE

    data = case.section(0)
    _, near = sklearn.neighbors.NearestNeighbors(radius=RADIUS).fit(data["xy"]).radius_neighbors(data["xy"])
    edges = np.array([(i, j) for i, row in enumerate(near) for j in sorted(row)]).T
    x, graph = torch.tensor(data["x"]), torch.tensor(edges)
    model = STAGATE([x.shape[1], 16, 5])
    first, second = model.conv1, model.conv2
    start = {"kernel": first.lin_src, "narrow": second.lin_src, "receiver": first.att_dst, "sender": first.att_src}
    kept = {"x": x, "xy": data["xy"], "edges": edges, "radius": RADIUS}
    kept |= {f"start_{name}": value.detach().clone() for name, value in start.items()}
    saved = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def losses(optimizer: Any, *, clip: float | None) -> list[float]:
        told = []
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = F.mse_loss(x, model(x, graph)[1])
            loss.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            told.append(loss.item())
        return told

    z, out = model(x, graph)
    loss = F.mse_loss(x, out)
    loss.backward()
    kept |= {"z": z, "out": out, "loss": loss}
    kept |= {f"slope_{name}": value.grad.clone() for name, value in start.items()}
    kept |= {"slope_kernel_decoder": model.conv4.lin_src.grad.T, "slope_narrow_decoder": model.conv3.lin_src.grad.T}
    kept["sgd_losses"] = losses(torch.optim.SGD(model.parameters(), lr=RATE, foreach=False), clip=None)
    kept |= {"sgd_z": model(x, graph)[0], "sgd_rate": RATE}
    again = STAGATE([x.shape[1], 16, 5])
    again.load_state_dict(saved)
    model = again
    own = torch.optim.Adam(model.parameters(), lr=0.001, weight_decay=0.0001)
    kept["own_losses"] = losses(own, clip=5.0)
    kept["own_z"] = model(x, graph)[0]
    return kept


if __name__ == "__main__":
    sys.exit(case.run("stagate", make, packages=("torch", "torch_geometric", "numpy")))
