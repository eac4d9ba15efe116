"""STG3Net's golden case: ``python benchmarks/authors/stg3net.py --source STG3Net`` (wenwenmin/STG3Net, no licence).

Needs torch, torch_geometric, scanpy, scikit-learn and networkx.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import case
import numpy as np
import pandas as pd
import scipy.sparse
import torch
from sklearn.decomposition import PCA

STEPS, COMPONENTS, NEIGHBOURS = 20, 12, 6
MODEL = {"feat_hidden1": 64, "feat_hidden2": 32, "gcn_hidden": 64, "latent_dim": 16, "dic_hidden": 64, "p_drop": 0.0}
MODEL |= {"mask_rate": 0.5, "t": 2, "mask_method": "spot"}
TRAIN = {"lr": 1e-3, "decay": 1e-3, "gradient_clipping": 5.0, "w_recon": 0.7, "w_tri": 1.0, "w_disc": 0.1}


def two_sections() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Spots of two sections, their components, and the number of the section of each."""
    parts = [case.section(seed, rows=5, columns=6) for seed in (9, 10)]
    data = {name: np.concatenate([part[name] for part in parts]) for name in ("xy", "x")}
    x = PCA(COMPONENTS, random_state=0).fit_transform(data["x"]).astype(np.float32)
    return data, x, np.repeat([0, 1], 30)


def anchors(number: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Some spots, one of the other section for each, and one of their own."""
    chosen = generator.permutation(len(number))[:25]
    other = [generator.choice(np.flatnonzero(number != number[i])) for i in chosen]
    own = [generator.choice(np.flatnonzero((number == number[i]) & (np.arange(len(number)) != i))) for i in chosen]
    return chosen, np.array(other), np.array(own)


def make(source: Path) -> dict[str, Any]:
    """Their turns of discriminator and auto-encoder, dropout off, hidden spots and anchors drawn once.

    Their graph is normalised before it comes to a layer that normalises again: the layer is given the plain graph, and
    the twice normalised one is kept beside it.
    """
    for name in ("faiss", "hnswlib"):
        case.stand_in(name)
    case.stand_in("annoy", AnnoyIndex=None)
    case.package(source / "STG3Net", "STG3Net")
    from STG3Net import Func, STNet

    data, x, number = two_sections()
    graphs = [Func.generate_adj_mat(case.Located(data["xy"][number == each]), n=NEIGHBOURS) for each in (0, 1)]
    adjacency = np.kron([[1, 0], [0, 0]], graphs[0]) + np.kron([[0, 0], [0, 1]], graphs[1])
    names = pd.Series([f"section{each}" for each in number])
    section = SimpleNamespace(obsm={"X_pca": x}, obs={"batch_name": names, "slice_id": number})
    graph = {
        "adj_norm": Func.preprocess_graph(scipy.sparse.coo_matrix(adjacency)),
        "adj_label": torch.tensor(adjacency),
        "norm_value": 0.5,
    }
    config = {"seed": 0, "mode": "clustering", "train": TRAIN, "model": MODEL}
    trained = STNet.G3net(section, graph, 3, "cpu", config)
    trained._start_()
    network = trained.autoencoder
    layer = copy.deepcopy(network.encoder.gc1.conv)
    layer.lin, layer.bias = torch.nn.Identity(), None
    passed = {"twice": layer(torch.eye(len(x)), trained.adj_norm)}
    trained.adj_norm = torch.tensor(np.argwhere(adjacency).T)
    passed["passed"] = layer(torch.eye(len(x)), trained.adj_norm)
    generator = np.random.default_rng(11)
    orders = {n: torch.tensor(generator.permutation(n)) for n in (60, 30)}
    torch.randperm = lambda n, device=None: orders[n].to(device)
    triples = anchors(number, generator)
    network.set_anchor_pair(triples)
    start = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    triplet, hidden, z = network(trained.X, trained.adj_norm)
    loss = TRAIN["w_recon"] * hidden + TRAIN["w_tri"] * triplet
    loss.backward()
    kept = {f"slope {name}": value.grad.clone() for name, value in network.named_parameters()}
    kept |= {"x": x, "xy": data["xy"], "number": number, "adjacency": adjacency > 0, **passed}
    kept |= {"order": orders[60], "order_hidden": orders[30], "triples": np.stack(triples)}
    kept |= {"z": z, "triplet": triplet, "hidden": hidden, "loss": loss}
    kept |= {f"start {name}": value for name, value in start.items()}
    network.load_state_dict(start)
    for _ in range(STEPS):
        trained._train_d_model_()
        trained._train_g_model_()
    network.train()
    triplet, hidden, z = network(trained.X, trained.adj_norm)
    return kept | {"trained_z": z, "trained_triplet": triplet, "trained_hidden": hidden}


if __name__ == "__main__":
    sys.exit(case.run("stg3net", make, packages=("torch", "torch_geometric", "scikit-learn", "numpy")))
