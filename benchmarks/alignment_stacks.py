"""Stacks without a known truth: do the pairs agree round every loop, do held-out genes agree at matched places?

``python benchmarks/alignment_stacks.py``

Stahl (4 sections, unknown rotations) and HER2 patients A, B, C, E, each reconstructed by the main job. Loops: the pairs
(i, i+1), (i+1, i+2) against (i, i+2), as the main job aligned them before it joined them; beside them the same pairs
with features made for each pair alone. Held-out genes: the stack is reconstructed again with a random half of the genes
held out, several times; then the mean correlation, over those genes, of log values averaged over near spots between
each spot and the nearest spot of the next section; beside it neighbours aligned pair by pair, the sections as given,
principal axes with closest points, and a permuted match.
"""

from __future__ import annotations

import argparse
from typing import Any

import anndata
import jax
import numpy as np
import record

import spatialjax as sj
from spatialjax.metrics import held_out_correlation, loop_error, nearest_matches, permuted_matches
from spatialjax.preprocess import log_normalize, smoothing_operator
from spatialjax.transforms import Affine, identity

PITCH = 200.0
STACKS = {
    "stahl": ("stahl_breast_4slices/paste_slices.h5ad", "slice"),
    **{f"her2 {p}": (f"her2st/patient_{p}.h5ad", "section") for p in "ABCE"},
}
GIVEN: dict[str, Any] = {
    "units": "um",
    "gap": 10.0,
    "duplicates": "allow",
    "allow_spacing_mismatch": True,
    "progress": False,
}
TARGETS = {"stahl loops": "<= 3 degrees", "held-out genes": "above identity, ICP and a permuted match"}


def sections(path: str, column: str) -> list[anndata.AnnData]:
    """The sections of one file, coordinates in µm."""
    whole = anndata.read_h5ad(record.data_folder() / path)
    parts = [whole[whole.obs[column] == name].copy() for name in whole.obs[column].unique()]
    for part in parts:
        part.obsm["spatial"] = np.asarray(part.obsm["spatial"], float) * PITCH
    return parts


def smooth_log(adata: anndata.AnnData) -> np.ndarray:
    """Log values averaged over near spots."""
    return smoothing_operator(adata.obsm["spatial"]) @ log_normalize(adata.X).toarray()


def pose(source: anndata.AnnData, target: anndata.AnnData, method: str) -> Any:
    """The pair aligned alone."""
    return sj.tl.align(source, target, method=method, units="um", duplicates="allow", allow_spacing_mismatch=True)


def correlation(source: anndata.AnnData, target: anndata.AnnData, map_: Affine, *, permute: int | None = None) -> float:
    """Held-out genes at matched places."""
    matches = nearest_matches(map_(source.obsm["spatial"]), target.obsm["spatial"], radius=PITCH)
    if permute is not None:
        matches = permuted_matches(jax.random.key(permute), matches)
    return held_out_correlation(source.obsm["held out"], target.obsm["held out"], matches)


def split_scores(parts: list[anndata.AnnData], seen: np.ndarray, *, seed: int) -> dict[str, list[float]]:
    """Held-out correlation of every two neighbours, with a random half of the genes held out of the whole run."""
    held = np.random.default_rng(seed).random(parts[0].n_vars) < 0.5
    training = []
    for part in parts:
        training.append(part[:, ~held].copy())
        training[-1].obsm["held out"] = smooth_log(part)[:, held & seen]
    trained = list(sj.tl.reconstruct(training, **GIVEN).transforms.values())
    scores: dict[str, list[float]] = {k: [] for k in ("reconstructed", "pair alone", "icp", "identity", "permuted")}
    for i in range(len(parts) - 1):
        a, b = training[i], training[i + 1]
        joined = trained[i + 1].transform.inverse().compose(trained[i].transform)
        scores["reconstructed"].append(correlation(a, b, joined))
        scores["pair alone"].append(correlation(a, b, pose(a, b, "fields").transform_um))
        scores["icp"].append(correlation(a, b, pose(a, b, "icp").transform_um))
        scores["identity"].append(correlation(a, b, identity()))
        scores["permuted"].append(correlation(a, b, joined, permute=i))
    return scores


def stack(name: str, *, splits: int) -> dict[str, Any]:
    """One stack."""
    parts = sections(*STACKS[name])
    seen = np.min([np.asarray((p.X > 0).sum(0)).ravel() for p in parts], axis=0) >= 20
    whole = sj.tl.reconstruct(parts, **GIVEN)
    loops = [
        {
            "angle": abs(loop["angle_deg"]),
            "pitches": loop["displacement_um"] / PITCH,
            "parity": loop["parity_agrees"],
            "kept": loop["kept"],
        }
        for loop in whole.metrics["loops"]
    ]
    scores = [split_scores(parts, seen, seed=seed) for seed in range(splits)]
    means = {k: [float(np.mean(row[k])) for row in scores] for k in scores[0]}
    return {
        "stack": name,
        "sections": len(parts),
        "genes": int(seen.sum()),
        "gene splits": splits,
        "placed": sum(p.placed for p in whole.transforms.values()),
        "supported": sum(pair["supported"] for pair in whole.pairs),
        "best pose kept": sum(pair["hypothesis"] == 0 for pair in whole.pairs),
        "pairs": len(whole.pairs),
        "loops": loops,
        "worst loop": max(loop["angle"] for loop in loops),
        "worst loop, pairs alone": worst_loop_alone(parts),
        **{f"correlation, {k}": float(np.mean(v)) for k, v in means.items()},
        "reconstructed above icp, mean": float(np.mean(np.subtract(means["reconstructed"], means["icp"]))),
        "reconstructed above icp, sd over splits": float(np.std(np.subtract(means["reconstructed"], means["icp"]))),
    }


def worst_loop_alone(parts: list[anndata.AnnData]) -> float:
    """Largest loop angle (degrees) where each pair has features of its own; 180 where parities disagree."""
    found = {
        (i, i + lag): pose(parts[i], parts[i + lag], "fields").transform_um
        for lag in (1, 2)
        for i in range(len(parts) - lag)
    }
    worst = 0.0
    for i in range(len(parts) - 2):
        chain = [found[i, i + 1], found[i + 1, i + 2], found[i, i + 2].inverse()]
        error = loop_error(chain, parts[i].obsm["spatial"])
        worst = max(worst, abs(error.angle) if error.parity_right else 180.0)
    return worst


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, default=4)
    splits = parser.parse_args().splits
    rows = []
    for name in STACKS:
        rows.append(stack(name, splits=splits))
        print(rows[-1], flush=True)
        command = f"python benchmarks/alignment_stacks.py --splits {splits}"
        record.write("alignment_stacks", rows, command=command, targets=TARGETS)


if __name__ == "__main__":
    main()
