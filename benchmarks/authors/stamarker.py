"""STAMarker's golden case: ``python benchmarks/authors/stamarker.py --source STAMarker`` (zhanglabtools/STAMarker).

Needs torch, torch_geometric, pandas, scipy and scikit-learn. That repository has no licence.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import case
import numpy as np
import pandas as pd
import scipy.cluster.hierarchy
import scipy.optimize
import scipy.spatial
import sklearn.neighbors
import torch
from torch_geometric.typing import SparseTensor

HIDDEN, LATENT, DOMAINS, MEMBERS, RADIUS = 16, 5, 3, 2, 1.6 * case.PITCH


class Perceptron(torch.nn.Module):
    """A classifier with an activation, as published: what their saliency is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(LATENT, LATENT)
        self.second = torch.nn.Linear(LATENT, DOMAINS)

    def forward(self, z: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits under the name that their code looks for."""
        return {"last_layer": self.second(torch.relu(self.first(z)))}


def make(source: Path) -> dict[str, Any]:
    """An ensemble of two: embeddings, losses, saliency, the consensus of five partitions and the genes of a domain."""
    case.stand_in("torch_sparse", SparseTensor=SparseTensor, set_diag=None)
    case.package(source / "stamarker", "stamarker")
    from stamarker import modules

    known = {"distance": scipy.spatial.distance, "linear_sum_assignment": scipy.optimize.linear_sum_assignment}
    found = case.part_of(source / "stamarker", "utils.py", "compute_consensus_matrix", "select_svgs", **known)
    data = case.section(12)
    _, near = sklearn.neighbors.NearestNeighbors(radius=RADIUS).fit(data["xy"]).radius_neighbors(data["xy"])
    graph = torch.tensor(np.array([(i, j) for i, row in enumerate(near) for j in sorted(row)]).T)
    x = torch.tensor(data["x"])
    kept: dict[str, Any] = {"x": x, "xy": data["xy"], "labels": data["band"], "edges": graph}
    members = []
    for _ in range(MEMBERS):
        encoder, classifier = modules.STAGATEModule(x.shape[1], [HIDDEN, LATENT]), Perceptron()
        # Embeddings of some size, so that the classifier's units are partly on and partly off.
        with torch.no_grad():
            classifier.first.weight.mul_(3.0)
        z, out = encoder(x, graph)
        loss = torch.nn.functional.mse_loss(x, out)
        # Their next line copies the encoder, which a tensor kept from the last pass forbids.
        encoder.conv1.attentions = None
        slopes, scores = modules.STAGATEClsModule(encoder, classifier).get_saliency_map(x, graph)
        members.append(
            {
                "kernel": encoder.conv1.lin_src,
                "narrow": encoder.conv2.lin_src,
                "receiver": encoder.conv1.att_dst[0],
                "sender": encoder.conv1.att_src[0],
                "first_kernel": classifier.first.weight.T,
                "first_bias": classifier.first.bias,
                "second_kernel": classifier.second.weight.T,
                "second_bias": classifier.second.bias,
                "z": z,
                "loss": loss,
                "scores": scores,
                "saliency": torch.relu(slopes),
            }
        )
    kept |= {name: torch.stack([each[name] for each in members]) for name in members[0]}
    mean = pd.DataFrame(kept["saliency"].mean(0).detach().numpy())
    chosen = [found.select_svgs(mean, domain, data["band"]) for domain in range(DOMAINS)]
    kept["chosen"] = np.array([[gene in genes for gene in mean.columns] for genes in chosen])
    generator = np.random.default_rng(13)
    noise = generator.random((5, len(x))) < 0.15
    partitions = np.where(noise, generator.integers(0, DOMAINS, noise.shape), data["band"])
    matrix = found.compute_consensus_matrix(partitions)
    tree = scipy.cluster.hierarchy.linkage(matrix, method="average", metric="euclidean")
    joint = scipy.cluster.hierarchy.fcluster(tree, DOMAINS, criterion="maxclust")
    return kept | {"partitions": partitions, "consensus": matrix, "consensus_labels": joint}


if __name__ == "__main__":
    sys.exit(case.run("stamarker", make, packages=("torch", "torch_geometric", "scipy", "numpy")))
