"""Spatial domains of 75,000 cells, of a whole brain section, and of a million cells: time, memory, and tiles.

``python benchmarks/domains_large.py [--rows NAME …] [--tiles]``

*layers* and *million* are simulated sections of scattered cells in seven layers, 200 genes, mean depth 200; they are
written to a file first and read from it. *iss* is the in-situ sequencing section of a whole coronal mouse brain, cells
with at least five counts, without a truth for regions. Each row runs ``tl.domains`` with seven domains in a process of
its own, without a compilation cache: seconds and processor seconds of the call, of a second call with other random
choices in the same process (not for the million), and the peak memory of the process, reading the file included.
``--tiles`` smooths in tiles with a halo as well, in a process of its own, and compares the labels with those of the
whole. Rows that are run replace those of the same name in the results. The load of the machine stands in every row.
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

#: Cells that are asked for, and cells of a tile; cells come out a little more, because the outline is drawn.
ROWS = {"layers": (70_500, 10_000), "iss": (74_671, 10_000), "million": (938_000, 250_000)}
DOMAINS, LEAST_COUNTS = 7, 5
TARGETS = {
    "iss": "<= 60 s",
    "million": "<= 600 s and <= 8 GB",
    "ARI of tiles with the whole": ">= 0.98",
}


def write_section(row: str, path: Path) -> None:
    """The section of a row as a file."""
    import anndata
    import jax

    from spatialjax.simulate import simulate_tissue

    if row == "iss":
        brain = anndata.read_h5ad(record.data_folder() / "iss_mouse_coronal" / "iss_full_coronal.h5ad")
        rich = brain[np.asarray(brain.X.sum(1)).ravel() >= LEAST_COUNTS].copy()
        found = anndata.AnnData(rich.X, obsm={"spatial": np.asarray(rich.obsm["spatial"], float)})
        found.var_names = rich.var_names
    else:
        stack = simulate_tissue(
            jax.random.key(0), n_sections=1, spots=ROWS[row][0], genes=200, layers=DOMAINS, pitch=20.0,
            lattice="cells", depth=200.0,
        )  # fmt: skip
        section = stack.sections[0]
        found = anndata.AnnData(section.counts, obsm={"spatial": section.xy})
        found.obs["layer"] = section.domain.astype(str)
        found.var_names = list(stack.genes)
    found.obs_names = [str(i) for i in range(found.n_obs)]
    found.write_h5ad(path)


def measure(row: str, path: Path, labels: Path, *, tile: int | None) -> dict[str, Any]:
    """Domains of one section in this process; the labels go to a file."""
    import anndata

    import spatialjax as sj

    load = os.getloadavg()[0]
    adata = anndata.read_h5ad(path)
    options = {"tile": tile}
    call = lambda seed: sj.tl.domains(
        adata, DOMAINS, duplicates="allow", method_options=options, seed=seed, progress=False
    )
    seconds, busy, found = _timed(lambda: call(0))
    np.save(labels, found.labels)
    row_found = {
        "row": row,
        "tile": tile,
        "cells": adata.n_obs,
        "genes": adata.n_vars,
        "seconds": seconds,
        "processor seconds": busy,
        "converged": found.converged,
        "competing partitions": list(found.competing),
        "mean confidence": float(found.confidence.mean()),
        "load before and after": [load, os.getloadavg()[0]],
    }
    if "layer" in adata.obs:
        row_found["ARI with the truth"] = sj.metrics.ari(adata.obs["layer"].to_numpy(), found.labels)
    if row != "million" and tile is None:
        warm, busy, other = _timed(lambda: call(1))
        row_found |= {"seconds warm": warm, "processor seconds warm": busy}
        row_found["ARI with another seed"] = sj.metrics.ari(found.labels, other.labels)
    row_found["peak GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    return row_found


def _timed(call: Any) -> tuple[float, float, Any]:
    """Seconds on the clock, seconds of the processor, and the result."""
    start, busy = time.perf_counter(), time.process_time()
    result = call()
    return time.perf_counter() - start, time.process_time() - busy, result


def alone(row: str, folder: Path, *, tile: int | None) -> dict[str, Any]:
    """``measure`` in a fresh process without a compilation cache."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    out, section = folder / "row.json", folder / f"{row}.h5ad"
    command = [sys.executable, __file__, "--rows", row, "--here", str(folder)]
    if not section.exists():
        subprocess.run([*command, "--write"], check=True, env=environment)
    subprocess.run([*command, *(["--tiles"] if tile else [])], check=True, env=environment)
    return json.loads(out.read_text(encoding="utf-8"))


def run_row(row: str, *, tiles: bool) -> dict[str, Any]:
    """One row: the whole and, where asked, in tiles."""
    from spatialjax.metrics import ari

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = alone(row, folder, tile=None)
        if tiles:
            whole = np.load(folder / "labels.npy")
            parts = alone(row, folder, tile=ROWS[row][1])
            keys = ("tile", "seconds", "processor seconds", "peak GB", "load before and after")
            found["in tiles"] = {key: parts[key] for key in keys}
            found["ARI of tiles with the whole"] = ari(whole, np.load(folder / "labels.npy"))
        return found


def merged(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the results file with this one in the place of that of the same name."""
    path = record.RESULTS / "domains_large.json"
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    table = {row["row"]: row for row in [*before, found]}
    return [table[name] for name in ROWS if name in table]


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--tiles", action="store_true", help="in tiles as well")
    parser.add_argument("--here", type=Path, help="run one row in this process, with its files in this folder")
    parser.add_argument("--write", action="store_true", help="with --here: write the section only")
    arguments = parser.parse_args()
    if arguments.here is not None:
        row, folder = arguments.rows[0], arguments.here
        if arguments.write:
            write_section(row, folder / f"{row}.h5ad")
            return
        tile = ROWS[row][1] if arguments.tiles else None
        found = measure(row, folder / f"{row}.h5ad", folder / "labels.npy", tile=tile)
        (folder / "row.json").write_text(json.dumps(record._plain(found)), encoding="utf-8")
        return
    for row in arguments.rows:
        found = run_row(row, tiles=arguments.tiles)
        print(found, flush=True)
        record.write(
            "domains_large", merged(found), command="python benchmarks/domains_large.py --tiles", targets=TARGETS
        )


if __name__ == "__main__":
    main()
