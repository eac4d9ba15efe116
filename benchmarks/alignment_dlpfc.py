"""Two adjacent DLPFC sections, whole and cropped, against the map that their layers themselves ask for.

``python benchmarks/alignment_dlpfc.py``

The second section is given as it is, randomly rotated, mirrored and rotated, or cropped to 60 % (at a random side) and
rotated. Labels only score: the label-optimal rigid map of the pair is searched once on the whole sections. Rows:
parity right or not; median displacement of the spots from that map, in spot pitches; share of the labelled spots inside
that map's overlap which land within one pitch of a spot of their own layer, relative to what that map reaches.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import anndata
import numpy as np
import record

import spatialjax as sj
from spatialjax.metrics import label_accuracy, label_optimal_rigid, overlap
from spatialjax.transforms import Affine, identity, rigid

PITCH = 100.0
VARIANTS = ("as given", "rotated", "mirrored and rotated", "cropped and rotated")
TARGETS = {"parity": "right in every row", "displacement": "<= 1 pitch", "relative accuracy": ">= 0.97"}


def load(folder: str, name: str) -> anndata.AnnData:
    """One section, its coordinates in µm (137 px = 100 µm)."""
    adata = anndata.read_h5ad(record.data_folder() / folder / f"{name}.h5ad")
    adata.obsm["spatial"] = np.asarray(adata.obsm["spatial"], float)[:, :2] / 1.37
    return adata


def vary(adata: anndata.AnnData, variant: str, seed: int) -> tuple[anndata.AnnData, Affine]:
    """The section as the aligner gets it, and the map from its true coordinates to the given ones."""
    rng = np.random.default_rng(seed)
    xy = adata.obsm["spatial"]
    moved = identity()
    if "cropped" in variant:
        side = rng.uniform(0, 2 * np.pi)
        along = xy @ np.array([np.cos(side), np.sin(side)])
        adata = adata[along <= np.quantile(along, 0.6)]
    if variant != "as given":
        center = adata.obsm["spatial"].mean(0)
        moved = rigid(rng.uniform(0, 2 * np.pi), rng.normal(size=2) * 1000, "mirrored" in variant, center=center)
    adata = adata.copy()
    adata.obsm["spatial"] = moved(adata.obsm["spatial"])
    return adata, moved


def labels(adata: anndata.AnnData) -> np.ndarray:
    """Layers; None where a spot has none."""
    values = adata.obs["layer"].astype(object).to_numpy()
    return np.array([v if isinstance(v, str) and v not in ("", "nan", "NA") else None for v in values], object)


def row(fixed: anndata.AnnData, given: anndata.AnnData, *, best: Affine, moved: Affine, method: str) -> dict[str, Any]:
    """Align ``given`` to ``fixed`` and score against ``best``, the label-optimal map of the true coordinates."""
    start = time.perf_counter()
    found = sj.tl.align(given, fixed, method=method, units="um")
    seconds = time.perf_counter() - start
    truth = best.compose(moved.inverse())
    here, there = found.coordinates, truth(given.obsm["spatial"])
    target, own, theirs = fixed.obsm["spatial"], labels(given), labels(fixed)
    inside = overlap(there, target, radius=PITCH)
    score = [
        label_accuracy(xy, target, labels=own, target_labels=theirs, radius=PITCH, inside=inside)
        for xy in (here, there)
    ]
    return {
        "method": method,
        "spots": [given.n_obs, fixed.n_obs],
        "parity right": bool(found.mirrored == bool(truth.mirrored)),
        "displacement": float(np.median(np.linalg.norm(here - there, axis=1))) / PITCH,
        "layer accuracy": score[0],
        "label-optimal accuracy": score[1],
        "relative accuracy": score[0] / score[1],
        "evidence": found.evidence,
        "threshold": found.threshold,
        "seconds": seconds,
    }


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=["fields", "icp", "moments"])
    arguments = parser.parse_args()
    rows = []
    for folder in ("dlpfc_visium_allspots", "dlpfc_visium_allgenes"):
        fixed, other = load(folder, "151673"), load(folder, "151674")
        own, theirs = labels(other), labels(fixed)
        best = label_optimal_rigid(
            other.obsm["spatial"], fixed.obsm["spatial"], labels=own, target_labels=theirs, pitch=PITCH
        )
        for variant in VARIANTS:
            for seed in range(1 if variant == "as given" else arguments.seeds):
                given, moved = vary(other, variant, seed)
                for method in arguments.methods:
                    found = row(fixed, given, best=best, moved=moved, method=method)
                    rows.append({"sections": folder, "variant": variant, "seed": seed, **found})
                    print(rows[-1])
    path = record.write("alignment_dlpfc", rows, command="python benchmarks/alignment_dlpfc.py", targets=TARGETS)
    ours = [r for r in rows if r["method"] == "fields"]
    met = sum(r["parity right"] and r["displacement"] <= 1 and r["relative accuracy"] >= 0.97 for r in ours)
    print(f"{met} of {len(ours)} rows meet the targets; {path.name}")


if __name__ == "__main__":
    main()
