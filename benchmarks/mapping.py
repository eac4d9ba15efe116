"""Where single cells belong, against their known places, beside what the type alone says, on measured cells.

``python benchmarks/mapping.py [--sets NAME …] [--methods NAME …] [--speed]``

Cells of a section with places are dealt to two halves within each type: one half is summed over square bins, the other
one is the reference, whose places only score. No cell is in both. ``platform`` multiplies the counts of the spots gene
by gene. Rows that are run replace those of the same set and method in the results.

Distances are in sides of a bin: ``expected`` of the expected place to the truth (median over the cells), ``top`` of the
most probable spot, ``drawn`` of a spot drawn from the probabilities (mean). ``log p`` is the mean logarithm of the
probability of the true spot, with one millionth for none, and ``true first`` how often that spot is the most probable
one. ``90 % set``: how often the smallest set of spots with 90 % of the probability holds the true one, and
``share of spots`` in that set. ``sure half``: the expected distance of the half of the cells with more confidence.

``--speed`` maps 20,000 simulated cells of 15 types and 2,000 genes onto 5,000 spots, in a process that does no more.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
import record
from deconvolution_sets import CELLS_A_BIN, PLATFORM, binned, halves, simulated
from deconvolution_sets import _read as read
from deconvolution_sets import _usable as usable

NAME = "mapping"
COMMAND = "python benchmarks/mapping.py (and --speed)"
TARGETS = {
    "places": "expected place nearer to the truth than by the abundance of the type alone, and than the middle",
    "speed": "20,000 cells × 5,000 spots on a laptop",
}
#: Probability that stands for none, and share of the probability that a set of spots holds.
LEAST, LEVEL = 1e-6, 0.9
#: Cells of a type at the least.
ENOUGH = 6


class Placed(NamedTuple):
    """Spots, a reference and the places of its cells, all in the unit of the coordinates."""

    spots: Any
    reference: Any
    truth: np.ndarray
    side: float


def halved(name: str, adata: Any, *, types: Any, side: float | None, platform: float = 0.0) -> Placed:
    """One half of the cells of each type binned, the other one with its places.

    Parameters
    ----------
    name
        Of the set.
    adata
        Cells with counts in X and ``obsm['spatial']``.
    types
        (m,) type of each cell.
    side
        Side of a bin; where left out, such that bins hold eight cells on average.
    platform
        Standard deviation of the logarithm of a gene's platform effect.
    """
    types = pd.Series(np.asarray(types, str))
    kept = np.flatnonzero(usable(types, ENOUGH) & (np.asarray(adata.X.sum(1)).ravel() > 0))
    adata, types = adata[kept].copy(), types.to_numpy()[kept]
    xy = np.asarray(adata.obsm["spatial"], float)[:, :2]
    reference = halves(jax.random.key(0), types)
    if side is None:
        side = float(np.sqrt(np.prod(np.ptp(xy[~reference], axis=0)) / (~reference).sum() * CELLS_A_BIN))
    made = binned(name, adata, types=types, spots=~reference, side=side)
    if made.reference.n_obs != reference.sum():
        raise ValueError(f"Expected every cell of the half in the reference of {name!r}, found {made.reference.n_obs}.")
    # A bin is named by its corner, from the least coordinates of the binned cells.
    made.spots.obsm["spatial"] = made.spots.obsm["spatial"] + xy[~reference].min(0) + 0.5 * side
    if platform:
        rng = np.random.default_rng(0)
        effect = np.exp(platform * rng.normal(size=adata.n_vars))
        made.spots.X = made.spots.X.multiply(effect[None, :]).tocsr().astype(np.float32)
        made.spots.X.data = rng.poisson(made.spots.X.data).astype(np.float32)
    return Placed(made.spots, made.reference, xy[reference], side)


def merfish(platform: float = 0.0) -> Placed:
    """One section of the hypothalamus, bins of 100 µm."""
    a = read("merfish_hypothalamus/animal1_4slices.h5ad")
    a = a[np.isclose(a.obs["bregma"].astype(float), -0.09)]
    return halved("MERFISH", a, types=a.obs["cell_type"], side=100.0, platform=platform)


def embryo() -> Placed:
    """One plane of the seqFISH embryo."""
    a = read("seqfish_mouse_embryo/embryo2_full.h5ad")
    a = a[a.obs["z"].astype(str) == "2"]
    return halved("seqFISH embryo", a, types=a.obs["celltype_mapped_refined"], side=None)


def starmap() -> Placed:
    """One section of the cortex; the smallest set."""
    a = read("starmap_mpfc/mpfc_BZ5_BZ9.h5ad")
    a = a[a.obs["slice"].astype(str) == "BZ9"]
    return halved("STARmap", a, types=a.obs["cell_type"], side=None)


SETS: dict[str, Callable[[], Placed]] = {
    "embryo": embryo,
    "merfish": merfish,
    "merfish_platform": lambda: merfish(PLATFORM),
    "starmap": starmap,
}
#: Method and options; a power of nearly nothing leaves the prior, which is where the type is.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ours": ("local_profiles", {}),
    "null: type alone": ("local_profiles", {"power": 1e-9}),
    "tangram, cells": ("tangram", {}),
    "tangram, clusters": ("tangram", {"mode": "clusters"}),
}
NULL = "null: any spot"


def probabilities(made: Placed, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
    """(m, n) probability of every spot, the expected place and the confidence of a method, and what it cost."""
    import spatialjax as sj

    if name == NULL:
        shares = np.full((len(made.truth), made.spots.n_obs), 1.0 / made.spots.n_obs)
        return shares, shares @ made.spots.obsm["spatial"], np.zeros(len(shares)), {}
    method, options = METHODS[name]
    start = time.perf_counter()
    found = sj.tl.map_cells(
        made.spots, made.reference, cell_type_key="cell_type", method=method, method_options=options,
        n_spots=made.spots.n_obs, progress=False,
    )  # fmt: skip
    cost = {"seconds": time.perf_counter() - start, "converged": found.converged}
    if "mapped_evidence" in found.adata.obs:
        cost["evidence"] = float(found.adata.obs["mapped_evidence"].mean())
    return found.spots.toarray(), found.position, found.confidence, cost


def scores(made: Placed, shares: np.ndarray, position: np.ndarray, confidence: np.ndarray) -> dict[str, float]:
    """Agreement with the true places; see the top of the file."""
    places = np.asarray(made.spots.obsm["spatial"], float)
    far = np.linalg.norm(places[None] - made.truth[:, None], axis=2) / made.side
    true, rows = far.argmin(1), np.arange(len(far))
    miss = np.linalg.norm(position - made.truth, axis=1) / made.side
    order = np.argsort(-shares, axis=1, kind="stable")
    before = np.cumsum(np.take_along_axis(shares, order, 1), axis=1) - np.take_along_axis(shares, order, 1)
    inside = np.zeros(shares.shape, bool)
    np.put_along_axis(inside, order, before < LEVEL * shares.sum(1, keepdims=True), 1)
    sure = np.argsort(-confidence, kind="stable")[: len(miss) // 2]
    return {
        "expected": float(np.median(miss)),
        "top": float(np.median(far[rows, shares.argmax(1)])),
        "drawn": float((shares * far).sum(1).mean()),
        "log p": float(np.log(np.maximum(shares[rows, true], LEAST)).mean()),
        "true first": float((shares.argmax(1) == true).mean()),
        "90 % set": float(inside[rows, true].mean()),
        "share of spots": float(inside.mean()),
        "sure half": float(np.median(miss[sure])),
    }


def speed() -> dict[str, Any]:
    """Time and memory of a large run by the default."""
    import spatialjax as sj

    made = simulated(5_000, 2_000, 15)
    many = np.random.default_rng(0).integers(made.reference.n_obs, size=20_000)
    reference = made.reference[many].copy()
    reference.obs_names = [f"cell{i}" for i in range(len(many))]
    start, load = time.perf_counter(), os.getloadavg()[0]
    sj.tl.map_cells(made.spots, reference, cell_type_key="cell_type", progress=False)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": seconds, "peak GB": peak, "load": load, "name": "20,000 cells × 5,000 spots × 2,000 genes"}


def main() -> None:
    """Run the rows that are asked for, and put them among the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--methods", nargs="*", default=[*METHODS, NULL], choices=[*METHODS, NULL])
    parser.add_argument("--speed", action="store_true", help="the row of time and memory alone")
    given = parser.parse_args()
    rows = [{"set": "speed", "method": "ours", **speed()}] if given.speed else []
    for name in () if given.speed else given.sets:
        made = SETS[name]()
        size = f"{len(made.truth):,} cells × {made.spots.n_obs} spots × {made.spots.n_vars} genes"
        for method in given.methods:
            shares, position, confidence, cost = probabilities(made, method)
            row = {"set": name, "method": method, "name": size, **scores(made, shares, position, confidence), **cost}
            rows.append(row)
    path = record.RESULTS / f"{NAME}.json"
    old = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    new = {(row["set"], row["method"]) for row in rows}
    kept = [row for row in old if (row["set"], row["method"]) not in new]
    order = {name: place for place, name in enumerate([*SETS, "speed"])}
    everything = sorted([*kept, *rows], key=lambda row: (order[row["set"]], [*METHODS, NULL].index(row["method"])))
    record.write(NAME, everything, command=COMMAND, targets=TARGETS)


if __name__ == "__main__":
    main()
