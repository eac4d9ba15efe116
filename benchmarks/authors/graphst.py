"""GraphST's golden case: ``python benchmarks/authors/graphst.py --source GraphST`` (JinmiaoChenLab/GraphST, AGPL-3).

Needs torch, scanpy, scikit-learn, POT and tqdm.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import anndata
import case
import numpy as np
import scanpy
import scipy.sparse
import torch
from sklearn.decomposition import PCA

STEPS, LATENT, COMPONENTS = 20, 8, 5


def make(source: Path) -> dict[str, Any]:
    """The authors' class from preparation to read-out, with one permutation for all epochs."""
    for kind in ("csc", "csr"):
        case.stand_in(f"scipy.sparse.{kind}", **{f"{kind}_matrix": getattr(scipy.sparse, f"{kind}_matrix")})
    case.package(source / "GraphST", "GraphST")
    from GraphST import GraphST as training
    from GraphST import model, preprocess

    data = case.section(1)
    section = anndata.AnnData(data["x"].copy(), obsm={"spatial": data["xy"]})
    section.var["highly_variable"] = True
    scanpy.pp.scale(section, zero_center=False, max_value=10)
    preprocess.construct_interaction(section)
    preprocess.get_feature(section)
    order = np.random.default_rng(2).permutation(section.n_obs)
    training.permutation = lambda features: features[order]
    started: dict[str, Any] = {}

    def remembered(*arguments: Any) -> Any:
        network = model.Encoder(*arguments)
        started["network"] = copy.deepcopy(network)
        return network

    training.Encoder = remembered
    trained = training.GraphST(section, epochs=STEPS, dim_output=LATENT)
    out = trained.train()
    network = started["network"]
    z, rebuilt, told, told_mixed = network(trained.features, trained.features[order], trained.adj)
    parts = [torch.nn.functional.mse_loss(trained.features, rebuilt)]
    parts += [trained.loss_CSL(each, trained.label_CSL) for each in (told, told_mixed)]
    loss = trained.alpha * parts[0] + trained.beta * (parts[1] + parts[2])
    loss.backward()
    names = {
        "encoder": network.weight1,
        "decoder": network.weight2,
        "kernel": network.disc.f_k.weight,
        "bias": network.disc.f_k.bias,
    }
    components = [PCA(COMPONENTS, random_state=42).fit_transform(each) for each in (rebuilt.detach(), out.obsm["emb"])]
    return {
        "x": data["x"],
        "xy": data["xy"],
        "scaled": trained.features,
        "chosen": section.obsm["graph_neigh"] > 0,
        "adjacency": section.obsm["adj"] > 0,
        "passed": trained.adj,
        "order": order,
        "z": z,
        "loss": loss,
        "reconstruction": parts[0],
        "contrast": parts[1] + parts[2],
        "components": components[0],
        "trained_components": components[1],
        "trained_reconstruction": trained.loss_feat,
        "trained_contrast": trained.loss_sl_1 + trained.loss_sl_2,
        **{f"start_{name}": value for name, value in names.items()},
        **{f"slope_{name}": value.grad for name, value in names.items()},
    }


if __name__ == "__main__":
    sys.exit(case.run("graphst", make, packages=("torch", "scanpy", "scikit-learn", "numpy")))
