"""Stacks without a known truth: do the pairs agree round every loop, do held-out genes agree at matched places?

``python benchmarks/alignment_stacks.py``

Stahl (4 sections, unknown rotations) and HER2 patients A, B, C, E. Every pair of neighbours and next neighbours is
aligned alone. Loops: the pairs (i, i+1), (i+1, i+2) against (i, i+2), with all genes. Held-out genes: neighbours are
aligned again with every second gene (in the order of names) held out; then the mean correlation, over those genes, of
log values averaged over near spots between each spot and the nearest spot of the next section; beside the sections as
given, principal axes with closest points, and a permuted match.
"""

from __future__ import annotations

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


def stack(name: str) -> dict[str, Any]:
    """One stack."""
    parts = sections(*STACKS[name])
    seen = np.min([np.asarray((p.X > 0).sum(0)).ravel() for p in parts], axis=0) >= 20
    held = np.zeros(parts[0].n_vars, bool)
    held[np.argsort(parts[0].var_names)[1::2]] = True
    training = []
    for part in parts:
        part.obsm["held out"] = smooth_log(part)[:, held & seen]
        training.append(part[:, ~held].copy())
    edges = [(i, i + lag) for lag in (1, 2) for i in range(len(parts) - lag)]
    found = {(i, j): pose(parts[i], parts[j], "fields") for i, j in edges}
    loops = []
    for i in range(len(parts) - 2):
        chain = [found[i, i + 1].transform_um, found[i + 1, i + 2].transform_um, found[i, i + 2].transform_um.inverse()]
        error = loop_error(chain, parts[i].obsm["spatial"])
        loops.append({"angle": abs(error.angle), "pitches": error.displacement / PITCH, "parity": error.parity_right})
    scores: dict[str, list[float]] = {"fields": [], "icp": [], "identity": [], "permuted": []}
    for i in range(len(parts) - 1):
        a, b = training[i], training[i + 1]
        ours = pose(a, b, "fields").transform_um
        scores["fields"].append(correlation(a, b, ours))
        scores["icp"].append(correlation(a, b, pose(a, b, "icp").transform_um))
        scores["identity"].append(correlation(a, b, identity()))
        scores["permuted"].append(correlation(a, b, ours, permute=i))
    return {
        "stack": name,
        "sections": len(parts),
        "held-out genes": int((held & seen).sum()),
        "supported": sum(f.supported for f in found.values()),
        "pairs": len(found),
        "loops": loops,
        "worst loop": max(loop["angle"] for loop in loops),
        **{f"correlation, {k}": float(np.mean(v)) for k, v in scores.items()},
    }


def main() -> None:
    """Run the table."""
    rows = []
    for name in STACKS:
        rows.append(stack(name))
        print(rows[-1])
    path = record.write("alignment_stacks", rows, command="python benchmarks/alignment_stacks.py", targets=TARGETS)
    print(path.name)


if __name__ == "__main__":
    main()
