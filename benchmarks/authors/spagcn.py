"""SpaGCN's golden case: ``python benchmarks/authors/spagcn.py --source SpaGCN`` (jianhuupenn/SpaGCN, MIT).

Needs torch, scanpy, pandas, scikit-learn and numba.
"""

from __future__ import annotations

import contextlib
import io
import sys
import types
from pathlib import Path
from typing import Any

import case
import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA

STEPS, COMPONENTS, SHARE, PIXELS = 20, 8, 0.5, 5


def picture(data: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture with one colour around each spot, the pixels of the spots, and the colours."""
    colours = np.random.default_rng(4).uniform(0, 255, (len(data["xy"]), 3))
    image, pixels = np.zeros((PIXELS * len(colours), PIXELS, 3)), np.arange(len(colours)) * PIXELS + PIXELS // 2
    for pixel, colour in zip(pixels, colours, strict=True):
        image[pixel - PIXELS // 2 : pixel + PIXELS // 2 + 1] = colour
    return image, pixels, colours


def make(source: Path) -> dict[str, Any]:
    """Distances, kernel length, one pass with gradients, training with their loop, and the vote."""
    folder = source / "SpaGCN_package" / "SpaGCN"
    case.package(folder, "SpaGCN")
    from SpaGCN import calculate_adj, models

    found = case.part_of(folder, "util.py", "calculate_p", "search_l", "refine", pd=pd)
    data = case.section(3)
    x, y = data["xy"].T
    image, pixels, colours = picture(data)
    with contextlib.redirect_stdout(io.StringIO()):
        distance = calculate_adj.calculate_adj_matrix(x=x, y=y, histology=False)
        coloured = calculate_adj.calculate_adj_matrix(
            x=x, y=y, x_pixel=pixels, y_pixel=np.full(len(x), PIXELS // 2), image=image, beta=PIXELS - 1, alpha=1
        )
        length = found.search_l(SHARE, distance)
    embed = PCA(COMPONENTS, random_state=0).fit_transform(data["x"]).astype(np.float32)
    kernel = np.exp(-1 * (distance**2) / (2 * (length**2)))
    model = models.simple_GC_DEC(COMPONENTS, COMPONENTS)
    tensors = torch.tensor(embed), torch.tensor(kernel)
    first = model.gc(*tensors).detach().numpy()
    centres = np.stack([first[data["band"] == band].mean(0) for band in range(3)])
    model.mu = torch.nn.Parameter(torch.tensor(centres))
    names = {"kernel": model.gc.weight, "bias": model.gc.bias, "centres": model.mu}
    kept = {f"start_{name}": value.detach().clone() for name, value in names.items()}
    z, q = model(*tensors)
    target = model.target_distribution(q).data
    loss = model.loss_function(target, q)
    loss.backward()
    kept |= {f"slope_{name}": value.grad.clone() for name, value in names.items()}
    kept |= {"z": z, "q": q, "target": target, "loss": loss}
    labels = np.random.default_rng(5).integers(0, 3, len(x))
    refined = found.refine(list(range(len(x))), labels, distance, shape="hexagon")
    options = {"lr": 0.05, "max_epochs": STEPS, "update_interval": 3, "weight_decay": 0.0, "opt": "admin"}
    with contextlib.redirect_stdout(io.StringIO()):
        model.fit_with_init(embed, kernel, data["band"], **options)
    trained_z, trained_q = model(*tensors)
    kept |= {"trained_z": trained_z, "trained_q": trained_q, "trained_centres": model.mu}
    # The other loop of theirs, which the tutorial runs: its optimizer is made before the centres are.
    models.KMeans = lambda *_, **__: types.SimpleNamespace(fit_predict=lambda _: data["band"])
    model = models.simple_GC_DEC(COMPONENTS, COMPONENTS)
    first = model.gc(*tensors).detach().numpy()
    centres = np.stack([first[data["band"] == band].mean(0) for band in range(3)])
    with contextlib.redirect_stdout(io.StringIO()):
        model.fit(embed, kernel, init="kmeans", n_clusters=3, tol=0.0, **options)
    kept |= {"fit_centres_before": centres, "fit_centres_after": model.mu}
    kept |= {"x": data["x"], "xy": data["xy"], "colours": colours, "distance": distance, "coloured": coloured}
    kept |= {"length": length, "embed": embed, "weights": kernel, "labels": labels, "refined": refined}
    return kept


if __name__ == "__main__":
    sys.exit(case.run("spagcn", make, packages=("torch", "scikit-learn", "pandas", "numpy")))
