"""Splane's golden case: ``python benchmarks/authors/splane.py --source SPACEL`` (QuKunLab/SPACEL, no licence).

Needs torch, scipy, scikit-learn, pandas, anndata and matplotlib.
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import case
import numpy as np
import scipy.sparse
import torch
from sklearn.metrics import davies_bouldin_score
from sklearn.neighbors import NearestNeighbors

STEPS, TYPES, LATENT, HIDDEN, ORDER = 20, 8, 6, 10, 2


def sections() -> list[SimpleNamespace]:
    """Two sections of proportions with the grid of six nearest spots; what their code asks of an AnnData."""
    generator = np.random.default_rng(14)
    found = []
    for seed in (15, 16):
        data = case.section(seed, rows=5, columns=6)
        level = np.linspace(0.2, 6.0, TYPES)[(np.arange(TYPES) + 3 * data["band"][:, None]) % TYPES]
        shares = np.array([generator.dirichlet(each) for each in level]).astype(np.float32)
        length, near = NearestNeighbors(n_neighbors=7).fit(data["xy"]).kneighbors(data["xy"])
        rows, places = np.nonzero(length[:, 1:] < 1.3 * np.median(length[:, 1:]))
        graph = scipy.sparse.coo_matrix((np.ones(len(rows)), (rows, near[:, 1:][rows, places])), shape=(30, 30)).tocsr()
        graph.sort_indices()
        links = {"spatial_connectivities": graph, "spatial_distances": graph}
        found.append(SimpleNamespace(X=shares, obsp=links, uns={}, xy=data["xy"]))
    return found


def make(source: Path) -> dict[str, Any]:
    """Weights of the types, Chebyshev terms, one pass, parts of the loss, steps without divergence and adversary."""
    vars(np)["float_"] = np.float64
    for name in ("squidpy", "seaborn"):
        case.stand_in(name)
    case.package(source / "SPACEL" / "Splane", "Splane")
    from Splane import base_model, graph, utils

    parts = sections()
    shares = np.concatenate([part.X.copy() for part in parts])
    with contextlib.redirect_stdout(io.StringIO()):
        parts = [utils.fill_low_prop(part, 0.01) for part in parts]
        weights, morans = utils.cal_celltype_weight(parts)
        x, adjacency, pairs, onehot = graph.get_graph_inputs(parts)
        x, terms, support = graph.get_graph_kernel(x, adjacency, k=ORDER)
    train, held = graph.split_train_test_idx(x, train_prop=0.5)
    base_model.KMeans = lambda **_: None
    trained = base_model.SplaneModel(
        parts, 3, x, terms, support, onehot, pairs, train, held, weights.astype(np.float32), morans,
        3e-3, 0.01, 0.01, LATENT, HIDDEN, 0.0, False,
    )  # fmt: skip
    network, pull = trained.model_g, float(1 / np.mean(morans))
    start = {name: value.clone() for name, value in network.state_dict().items()}
    z, decoded = network(terms[0], terms[1:])
    divergence = trained.kl_divergence(terms[0][train], decoded[train], dim=0)
    # Without the divergence, which divides by sums that are 0, and without the adversary.
    trained.kl_divergence = lambda *_, **__: torch.zeros(TYPES)
    loss = trained.train_model_g(0.0, pull)
    kept = {f"slope {name}": value.grad.clone() for name, value in network.named_parameters()}
    losses = [loss.detach()] + [trained.train_model_g(0.0, pull).detach() for _ in range(STEPS - 1)]
    labels = np.arange(len(x)) % 3
    kept |= {f"start {name}": value for name, value in start.items()}
    kept |= {"shares": shares, "xy": np.concatenate([part.xy for part in parts]), "number": onehot.argmax(1)}
    kept |= {"x": x, "adjacency": adjacency.toarray() > 0, "weights": weights, "morans": morans, "pull": pull}
    kept |= {f"term{i}": term.to_dense() for i, term in enumerate(terms[1:])}
    kept |= {"train": np.isin(np.arange(len(x)), train), "z": z, "decoded": decoded, "divergence": divergence}
    kept |= {"losses": torch.stack(losses), "trained_z": network(terms[0], terms[1:])[0]}
    return kept | {"labels": labels, "scatter": davies_bouldin_score(z.detach().numpy(), labels)}


if __name__ == "__main__":
    sys.exit(case.run("splane", make, packages=("torch", "scikit-learn", "scipy", "numpy")))
