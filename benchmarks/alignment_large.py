"""A section of 74,671 cells against a rotated half of itself that shows other cells.

``python benchmarks/alignment_large.py [--rows NAME …] [--seeds 0 1 …]``

In-situ sequencing of a whole coronal mouse brain, cells with at least five counts. The two sections of a row share no
cell: *halves* deals the cells out at random; *side* gives the second section only those of its cells that lie on one
side of the tissue, half of them; *whole* lays a thinned half of the cells with fewer than five counts on all 74,671.
The second section is rotated and shifted, with odd seeds also turned over. The truth is the map that was applied;
the position error is the median over the cells of the second section, in median distances of nearest neighbours of
the first. Each row runs in a process of its own: seconds of the call with compilation, and the peak memory of the
process. Rows that are run replace those of the same name and seed in the results.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import record

LEAST_COUNTS = 5
ROWS = ("halves", "side", "whole")
TARGETS = {"position error": "<= 3 median spacings", "seconds": "<= 300", "peak GB": "<= 6"}


def sections(row: str, seed: int) -> tuple[Any, Any, Any]:
    """The fixed section, the section that is laid on it, and the map that moved the latter."""
    import anndata

    from spatialjax.transforms import rigid

    rng = np.random.default_rng(seed)
    brain = anndata.read_h5ad(record.data_folder() / "iss_mouse_coronal" / "iss_full_coronal.h5ad")
    rich = np.asarray(brain.X.sum(1)).ravel() >= LEAST_COUNTS
    chosen = rng.permutation(np.flatnonzero(rich))
    first, second = np.array_split(chosen, 2)
    if row == "whole":
        poor = rng.permutation(np.flatnonzero(~rich & (np.asarray(brain.X.sum(1)).ravel() > 0)))
        first, second = chosen, poor[: len(poor) // 2]
    fixed, given = brain[np.sort(first)].copy(), brain[np.sort(second)].copy()
    if row == "side":
        angle = rng.uniform(0, 2 * np.pi)
        along = given.obsm["spatial"] @ np.array([np.cos(angle), np.sin(angle)])
        given = given[along <= np.median(along)].copy()
    for adata in (fixed, given):
        adata.obsm["spatial"] = np.asarray(adata.obsm["spatial"], float)
    center = given.obsm["spatial"].mean(0)
    moved = rigid(rng.uniform(0, 2 * np.pi), rng.normal(size=2) * 3000, bool(seed % 2), center=center)
    given.obsm["spatial"] = moved(given.obsm["spatial"])
    return fixed, given, moved


def measure(row: str, seed: int) -> dict[str, Any]:
    """Align one row in this process."""
    from scipy.spatial import cKDTree

    import spatialjax as sj
    from spatialjax.metrics import pose_error

    fixed, given, moved = sections(row, seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    found = sj.tl.align(given, fixed, units="um", duplicates="allow", allow_spacing_mismatch=True, seed=seed)
    seconds = time.perf_counter() - start
    xy = fixed.obsm["spatial"]
    spacing = float(np.median(cKDTree(xy).query(xy, k=2)[0][:, 1]))
    error = pose_error(found.transform, moved.inverse(), given.obsm["spatial"])
    return {
        "row": row,
        "seed": seed,
        "cells": [given.n_obs, fixed.n_obs],
        "fixed cells": fixed.n_obs,
        "moved cells": given.n_obs,
        "spacing": spacing,
        "parity right": error.parity_right,
        "angle": error.angle,
        "position error": error.displacement / spacing,
        "evidence": found.evidence,
        "threshold": found.threshold,
        "seconds": seconds,
        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2,
        "of these before the call": before / 1024**2,
        "load": os.getloadavg()[0],
    }


def alone(row: str, seed: int) -> dict[str, Any]:
    """``measure`` in a fresh process without a compilation cache."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.json"
        command = [sys.executable, __file__, "--rows", row, "--seeds", str(seed), "--here", str(out)]
        subprocess.run(command, check=True, env=environment)
        return json.loads(out.read_text(encoding="utf-8"))


def merged(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the results file with this one in the place of that of the same name and seed."""
    path = record.RESULTS / "alignment_large.json"
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    table = {(row["row"], row["seed"]): row for row in [*before, found]}
    return [table[key] for key in sorted(table, key=lambda key: (ROWS.index(key[0]), key[1]))]


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--here", type=Path, help="run one row in this process and write it to this file")
    arguments = parser.parse_args()
    if arguments.here is not None:
        arguments.here.write_text(json.dumps(measure(arguments.rows[0], arguments.seeds[0])), encoding="utf-8")
        return
    for row in arguments.rows:
        for seed in arguments.seeds:
            found = alone(row, seed)
            print(found, flush=True)
            rows = merged(found)
            record.write("alignment_large", rows, command="python benchmarks/alignment_large.py", targets=TARGETS)
    met = sum(r["position error"] <= 3 and r["seconds"] <= 300 and r["peak GB"] <= 6 for r in rows)
    print(f"{met} of {len(rows)} rows meet the targets")


if __name__ == "__main__":
    main()
