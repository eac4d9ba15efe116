"""SEDR's golden case: ``python benchmarks/authors/sedr.py --source SEDR`` (JinmiaoChenLab/SEDR, MIT).

Needs torch, scanpy, scikit-learn and tqdm.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import case
import numpy as np
import torch
from sklearn.decomposition import PCA

STEPS, COMPONENTS, NEIGHBOURS = 20, 12, 6


def make(source: Path) -> dict[str, Any]:
    """Graph and pairs, one pass in training with gradients and all parts of the loss, and steps of their loop.

    Dropout is off; hidden spots, noise of the latent variables and pairs are drawn once; the factor of the edges is
    what it tends to in large sections, 1/2. The token, which they add to the spots that count as hidden, is left out:
    the network sees all features, as theirs does at the start, where the token is 0.
    """
    case.package(source / "SEDR", "SEDR")
    from SEDR import SEDR_model, graph_func

    data = case.section(6)
    x = PCA(COMPONENTS, random_state=0).fit_transform(data["x"]).astype(np.float32)
    graph = graph_func.graph_construction(case.Located(data["xy"]), n=NEIGHBOURS)
    factor, graph["norm_value"] = graph["norm_value"], 0.5
    trained = SEDR_model.Sedr(x, graph, device="cpu")
    network = type(trained.model)(COMPONENTS, p_drop=0.0)
    trained.model = network
    noise = torch.tensor(np.random.default_rng(7).normal(size=(len(x), 16)).astype(np.float32))
    torch.randn_like = lambda _: noise
    pairs = trained.mask_generator()
    trained.adj_mask, trained.mask = pairs, True
    start = copy.deepcopy(network.state_dict())
    rows = np.random.default_rng(8).permutation(len(x))
    hidden = rows < int(0.8 * len(x))
    nodes = torch.tensor(np.flatnonzero(hidden)), torch.tensor(np.flatnonzero(~hidden))
    network.encoding_mask_noise = lambda passed, features, _: (passed, features, nodes)
    network.train()
    z, mean, log_sd, decoded, _, _, _, masked = network(trained.X, trained.adj_norm)
    labels, logits = pairs.coalesce().values(), network.dc(z, pairs)
    edges = SEDR_model.gcn_loss(logits, labels, mean, log_sd, n_nodes=len(x), norm=0.5)
    reconstruction = SEDR_model.reconstruction_loss(decoded, trained.X)
    loss = trained.rec_w * reconstruction + trained.gcn_w * edges + trained.self_w * masked
    loss.backward()
    kept = {"x": x, "xy": data["xy"], "adjacency": graph["adj_label"].to_dense() > 0, "factor": factor}
    kept |= {"passed": graph["adj_norm"].to_dense(), "pairs": pairs.coalesce().indices(), "pair_labels": labels}
    kept |= {"noise": noise, "hidden": hidden, "z": z, "mean": mean, "log_sd": log_sd, "decoded": decoded}
    kept |= {"masked": masked, "edges": edges, "reconstruction": reconstruction, "loss": loss}
    kept |= {f"slope {name}": p.grad for name, p in network.named_parameters() if p.grad is not None}
    kept |= {f"start {name}": value for name, value in start.items() if "cluster_layer" not in name}
    network.load_state_dict(start)
    trained.train_without_dec(epochs=STEPS)
    kept["running_variance"] = network.encoder.encoder_L1[1].running_var.clone()
    network.train()
    kept["trained_z"] = network(trained.X, trained.adj_norm)[0]
    return kept


if __name__ == "__main__":
    sys.exit(case.run("sedr", make, packages=("torch", "scikit-learn", "numpy")))
