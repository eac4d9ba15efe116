"""Sections whose true places are known: slabs of a thick STARmap tissue, and a simulated tissue.

``python benchmarks/alignment_truth.py``

STARmap: the volume is cut into z-slabs of equal numbers of cells; the second slab of a pair is rotated, mirrored and
cropped by 40 % at a random side. The truth is the volume's own frame, so real drift of the tissue between the slabs
counts as error. Lengths are in spacings of neighbouring cells, √(π/6) × the median distance of the sixth neighbour; a
slab shows cells on top of each other, so that the distance of the nearest one, given too, is a third to a half of that.
Beside each row stands ``whole``: the error of the same pair uncropped and unmoved.
Simulated: pairs and a stack of 12 sections, rotated, mirrored, cropped and deformed, in units of the pitch.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import anndata
import jax
import numpy as np
import record
from scipy.spatial import cKDTree

import spatialjax as sj
from spatialjax.metrics import pose_error
from spatialjax.registration.pairs import pitch_of
from spatialjax.simulate import simulate_tissue
from spatialjax.transforms import Affine, identity, rigid

TARGETS = {
    "starmap": "parity right, angle <= 1 degree, median position error <= half the spacing of neighbouring cells",
    "simulated pair": "parity right, angle <= 1 degree, position error <= half a pitch",
    "simulated stack": "error of the last of 12 sections < 2 x that of one pair",
}


def slabs(number: int) -> list[anndata.AnnData]:
    """The STARmap volume as slabs of equal numbers of cells; voxels."""
    volume = anndata.read_h5ad(record.data_folder() / "starmap_3d_cortex" / "BS10_light.h5ad")
    z = volume.obsm["spatial"][:, 2]
    edges = np.quantile(z, np.linspace(0, 1, number + 1))
    which = np.clip(np.searchsorted(edges, z, side="right") - 1, 0, number - 1)
    parts = []
    for i in range(number):
        part = volume[which == i].copy()
        part.obsm["spatial"] = np.asarray(part.obsm["spatial"], float)[:, :2]
        parts.append(part)
    return parts


def disturb(adata: anndata.AnnData, seed: int) -> tuple[anndata.AnnData, Affine]:
    """The slab cropped to 60 %, mirrored and rotated, and the map that did it."""
    rng = np.random.default_rng(seed)
    side = rng.uniform(0, 2 * np.pi)
    along = adata.obsm["spatial"] @ np.array([np.cos(side), np.sin(side)])
    adata = adata[along <= np.quantile(along, 0.6)].copy()
    moved = rigid(rng.uniform(0, 2 * np.pi), rng.normal(size=2) * 300, True, center=adata.obsm["spatial"].mean(0))
    adata.obsm["spatial"] = moved(adata.obsm["spatial"])
    return adata, moved


def align(given: anndata.AnnData, fixed: anndata.AnnData, truth: Affine, spacing: float) -> dict[str, Any]:
    """Pose and position error of one pair, lengths in ``spacing``."""
    start = time.perf_counter()
    found = sj.tl.align(given, fixed, units="um", duplicates="allow", allow_spacing_mismatch=True)
    seconds = time.perf_counter() - start
    error = pose_error(found.transform, truth, given.obsm["spatial"])
    return {
        "parity right": error.parity_right,
        "angle": abs(error.angle),
        "position error": error.displacement / spacing,
        "evidence": found.evidence,
        "threshold": found.threshold,
        "seconds": seconds,
    }


def starmap(numbers: tuple[int, ...]) -> list[dict[str, Any]]:
    """Pairs of neighbouring slabs."""
    rows = []
    for number in numbers:
        parts = slabs(number)
        for i in range(0, number - 1, max(number // 4, 1)):
            fixed, other = parts[i], parts[i + 1]
            xy = fixed.obsm["spatial"]
            spacing = pitch_of(xy)
            nearest = float(np.median(cKDTree(xy).query(xy, k=2)[0][:, 1]))
            given, moved = disturb(other, seed=i)
            whole = align(other, fixed, identity(), spacing)["position error"]
            found = align(given, fixed, moved.inverse(), spacing)
            head = {"case": "starmap", "slabs": number, "pair": i, "cells": [given.n_obs, fixed.n_obs]}
            per_nearest = found["position error"] * spacing / nearest
            rows.append({**head, "spacing": spacing, "nearest": nearest, **found, "whole": whole})
            rows[-1]["position error, nearest distances"] = per_nearest
            print(rows[-1])
    return rows


def as_anndata(section: Any, genes: Any) -> anndata.AnnData:
    """A simulated section as a user would hold it."""
    adata = anndata.AnnData(section.counts)
    adata.var_names = [str(g) for g in genes]
    adata.obs_names = [f"spot{i}" for i in range(adata.n_obs)]
    adata.obsm["spatial"] = np.asarray(section.xy, float)
    return adata


def simulated_pairs(seeds: int) -> list[dict[str, Any]]:
    """Neighbouring sections of a simulated tissue, one of them cropped to 60 % at the least."""
    rows = []
    for seed in range(seeds):
        stack = simulate_tissue(jax.random.key(seed), n_sections=2, crop=0.6, deformation=25.0)
        fixed, given = (as_anndata(s, stack.genes) for s in stack.sections)
        found = align(given, fixed, stack.true_pose(1, 0), stack.pitch)
        rows.append({"case": "simulated pair", "seed": seed, "cells": [given.n_obs, fixed.n_obs], **found})
        print(rows[-1])
    return rows


def simulated_stacks(seeds: int, sections: int = 12) -> list[dict[str, Any]]:
    """A long stack: error of every section against the first, beside that of its neighbouring pairs alone."""
    rows = []
    for seed in range(seeds):
        stack = simulate_tissue(jax.random.key(100 + seed), n_sections=sections, crop=0.8, deformation=25.0)
        adatas = [as_anndata(s, stack.genes) for s in stack.sections]
        start = time.perf_counter()
        found = sj.tl.reconstruct(adatas, units="um", gap=10.0, seed=seed, progress=False)
        seconds = time.perf_counter() - start
        errors = [
            pose_error(found.transforms[name].transform, stack.true_pose(i, 0), stack.sections[i].xy)
            for i, name in enumerate(found.transforms)
        ]
        pairs = []
        for i in range(sections - 1):
            alone = sj.tl.align(adatas[i + 1], adatas[i], units="um")
            error = pose_error(alone.transform, stack.true_pose(i + 1, i), stack.sections[i + 1].xy)
            pairs.append(error.displacement / stack.pitch)
        rows.append(
            {
                "case": "simulated stack",
                "seed": seed,
                "sections": sections,
                "parity right": all(e.parity_right for e in errors),
                "angle": max(abs(e.angle) for e in errors),
                "errors": [e.displacement / stack.pitch for e in errors],
                "last": errors[-1].displacement / stack.pitch,
                "one pair": float(np.sqrt(np.mean(np.square(pairs)))),
                "seconds": seconds,
            }
        )
        rows[-1]["last / one pair"] = rows[-1]["last"] / rows[-1]["one pair"]
        print(rows[-1])
    return rows


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--slabs", type=int, nargs="+", default=[4, 8])
    arguments = parser.parse_args()
    rows = starmap(tuple(arguments.slabs)) + simulated_pairs(arguments.seeds) + simulated_stacks(arguments.seeds)
    path = record.write("alignment_truth", rows, command="python benchmarks/alignment_truth.py", targets=TARGETS)
    print(path.name)


if __name__ == "__main__":
    main()
