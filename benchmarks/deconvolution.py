"""Composition of spots by our methods and their peers, on the same files, one process at a time.

``python benchmarks/deconvolution.py --environments FOLDER [--sets NAME …] [--methods NAME …] [--seeds N]``

``FOLDER/<peer>`` is a virtual environment of its own with what ``PACKAGES`` of ``peers/run_<peer>_deconvolution.py``
names (rctd-py, flashdeconv, tangram-sc, scvi-tools with scanpy, scikit-misc and cell2location,
and SPACEL without its dependencies), torch for CPUs and
anndata 0.12; ``$SPATIALJAX_PEERS`` is another way to say it. Rows that are run replace those of the same set and
method in the results. Sets ``speed_…`` are the speed rows; ``--million`` is the row of a million spots in a file.

Rows of our other methods, re-implementations of published ones with their own defaults, stand beside the peers.

Every method gets the same two h5ad files: raw counts of the spots with their places, and annotated cells. Truth is in
cells. What a peer returns as shares of the counts is divided by the mean depth of a cell of the type before it is
scored, and scored as it came too (``as returned``); a spot that a peer leaves out counts as equal shares. Three nulls
stand beside: equal shares, the shares of the reference's cells for every spot, and (an oracle) the mean of the truth.

Ours with uncertainty also says 90 % intervals for types that are present. Their interval score stands beside those of
two constant half widths: ``fair null``, learnt without the truth on pseudo-spots of one half of the reference, and
``oracle null``, the best one for this truth. Probabilities of presence have a Brier score beside the frequency's.

Rows are means over the seeds: of the set where it is synthetic, of the method where it takes one. Seconds are those of
the call, compilation included, reading and imports not; the second call of one process shows what compiling takes.
Memory is the peak of the process up to the end of the first call. A process is stopped after ten minutes, or
after ``--limit``, which its row names.
``--warm`` uses the compilation cache of ``$JAX_COMPILATION_CACHE_DIR`` from the first seed on and leaves times out;
``--once`` leaves the second call out, which takes as long as the first where compiling is not what takes time.
"""

# The interpreters of the peers run this file too: this package and the sets are imported inside functions.
from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from deconvolution_scores import (
    NULLS,
    averaged,
    constant_score,
    in_cells,
    null,
    plain_scores,
    read_table,
    uncertainty_scores,
)

HERE = Path(__file__).parent
NAME = "deconvolution"
TARGETS = {
    "accuracy": "Pearson, RMSE, JSD and AUPR not below any peer nor re-implementation in the same run",
    "intervals": "cover 80–96 % of present types on binned real cells, score better than a constant width",
    "speed_quantiles": "<= 300 s and <= 3 GB with quantiles",
    "speed_points": "<= 3 s second call, point estimate",
    "million": "<= 300 s and <= 8 GB, point estimate from disk",
}


class Entry(NamedTuple):
    """How a method is run: environment, module of its own, what it is told, whether a second call tells more."""

    environment: str | None
    module: str
    options: dict[str, Any]
    again: bool = False
    seeded: bool = True


PEERS: dict[str, Entry] = {
    "peer RCTD": Entry("rctd", "run_rctd_deconvolution", {}, seeded=False),
    "peer FlashDeconv": Entry("flashdeconv", "run_flashdeconv_deconvolution", {}, again=True, seeded=False),
    "peer Tangram": Entry("tangram", "run_tangram_deconvolution", {}),
    "peer DestVI": Entry("scvi", "run_scvi_deconvolution", {"model": "destvi"}),
    "peer Stereoscope": Entry("scvi", "run_scvi_deconvolution", {"model": "stereoscope"}),
    "peer cell2location": Entry("scvi", "run_cell2location_deconvolution", {}),
    "peer LDA": Entry("scvi", "run_lda_deconvolution", {}),
    "peer Spoint": Entry("scvi", "run_spoint_deconvolution", {}),
}
OURS = "spike_slab"
#: Other methods of ours with options of their own.
VARIANTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("nnls, weighted", "nnls", {"weighted": True}),
    ("tangram, each cell once", "tangram", {"mode": "cells", "frequencies": "reference"}),
)
#: What wrote the results.
COMMAND = "python benchmarks/deconvolution.py --environments FOLDER (each row says its number of seeds)"
#: What is told of the first seed alone.
TIMES = ("seconds", "second call", "wall seconds", "load", "peak GB")
#: Seconds after which a process is stopped; rows of another limit name it.
LIMIT = 600.0
#: Packages whose versions stand in the rows of ours.
OWN_PACKAGES = ("spatialjax", "jax", "numpy")


def entries() -> dict[str, Entry]:
    """Every method by its name: ours by the table of the package, one more row for the point estimate, the peers."""
    from spatialjax.methods import METHODS

    ours = {name: Entry(None, "", {"method": name}, again=True) for name in METHODS[NAME]}
    ours[f"{OURS}, point estimate"] = Entry(None, "", {"method": OURS, "uncertainty": False}, again=True, seeded=False)
    for name, method, told in VARIANTS:
        ours[name] = Entry(None, "", {"method": method, "method_options": told}, again=True)
    return {**ours, **PEERS}


def child(module: str, folder: Path, options: dict[str, Any]) -> None:
    """Call a method on the files of a folder and write what it returns there."""
    import anndata

    sys.path.insert(0, str(HERE / "peers"))
    spots = anndata.read_h5ad(folder / "spots.h5ad") if not options.get("from_disk") else None
    reference = anndata.read_h5ad(folder / "reference.h5ad")
    runner = importlib.import_module(module) if module else None
    call, packages = (runner.call, runner.PACKAGES) if runner else (ours, OWN_PACKAGES)
    if not runner:
        importlib.import_module("spatialjax.tl")
        importlib.import_module("jax").config.update("jax_compilation_cache_dir", options.get("cache"))
    start = time.perf_counter()
    if options.get("from_disk"):
        spots = anndata.read_h5ad(folder / "spots.h5ad", backed="r")
    found = call(spots, reference, options)
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    told = {"seconds": seconds, "peak GB": peak, "shares of": runner.SHARES_OF if runner else "cells"}
    told |= {"versions": {name: version(name) for name in packages}, **getattr(runner, "TOLD", {})}
    tables = found if isinstance(found, dict) else {"proportions": found}
    write_tables(folder, tables)
    (folder / "out.json").write_text(json.dumps(told), encoding="utf-8")
    if options.get("again"):
        start = time.perf_counter()
        call(spots, reference, options)
        again = {"second call": time.perf_counter() - start}
        (folder / "again.json").write_text(json.dumps(again), encoding="utf-8")
    if options.get("rehearse") and {"q05", "presence"} <= set(tables):
        write_tables(folder, {"width": fair_width(spots, reference, tables, options)})


def write_tables(folder: Path, tables: dict[str, pd.DataFrame]) -> None:
    """Each table in a file of its own, types as text."""
    for name, table in tables.items():
        values, columns = np.asarray(table, np.float32), np.asarray(table.columns, str)
        np.savez(folder / f"{name}.npz", values=values, columns=columns)


def ours(spots: Any, reference: Any, options: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """The tables of the front door."""
    from spatialjax import tl

    uncertainty = options.get("uncertainty", True)
    found = tl.deconvolve(
        spots, reference, cell_type_key="cell_type", method=options["method"], uncertainty=uncertainty,
        method_options=options.get("method_options"), seed=options["seed"], progress=False,
    )  # fmt: skip
    plain = {name.replace("/", "|"): name for name in reference.obs["cell_type"].unique()}
    tables = {name: getattr(found, name) for name in ("proportions", "abundance", "q05", "q95", "presence")}
    return {name: table.rename(columns=plain) for name, table in tables.items() if table is not None}


def fair_width(spots: Any, reference: Any, tables: dict[str, pd.DataFrame], options: dict[str, Any]) -> pd.DataFrame:
    """Constant half width with the best interval score on pseudo-spots of one half of the reference."""
    import jax
    from deconvolution_sets import rehearsed

    made = rehearsed(jax.random.key(options["seed"]), spots, reference, abundance=tables["abundance"])
    estimate = ours(made.spots, made.reference, {**options, "uncertainty": options.get("uncertainty", True)})
    values = estimate["proportions"].reindex(columns=made.truth.columns, fill_value=0.0).to_numpy(np.float64)
    truth = made.truth.to_numpy()
    there = (truth > 0) & np.isfinite(values)
    widths = np.quantile(np.abs(truth - values)[there], np.linspace(0.5, 1.0, 51))
    scores = [constant_score(values[there], truth[there], width) for width in widths]
    return pd.DataFrame({"width": [widths[int(np.argmin(scores))]]})


class Run(NamedTuple):
    """What all processes share."""

    environments: Path | None
    limit: float
    keep: Path | None
    warm: bool
    once: bool


def measure(made: Any, name: str, *, run: Run, seed: int, rehearse: bool) -> dict[str, Any]:
    """One method on one set in a process of its own, and the scores of what it returns."""
    entry = entries()[name]
    interpreter = sys.executable if entry.environment is None else run.environments / entry.environment / "bin/python"
    if not Path(interpreter).exists():
        return {"status": f"not installed: no environment {entry.environment!r}"}
    again = entry.again and seed == 0 and not (run.warm or run.once)
    options = {**entry.options, "seed": seed, "again": again, "rehearse": rehearse}
    if seed or run.warm:
        # Times are those of the first seed; the others may use what was compiled before.
        options["cache"] = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made.spots.write_h5ad(folder / "spots.h5ad")
        made.reference.write_h5ad(folder / "reference.h5ad")
        found = called(folder, entry, str(interpreter), options=options, run=run)
        if "seconds" not in found:
            return found
        estimate = read_table(folder / "proportions.npz", columns=made.truth.columns)
        if found.pop("shares of") == "rna":
            found |= {**plain_scores(in_cells(estimate, made), made), "as returned": plain_scores(estimate, made)}
        else:
            found |= plain_scores(estimate, made)
        if (folder / "width.npz").exists():
            found |= uncertainty_scores(folder, made)
        if run.keep is not None:
            run.keep.mkdir(parents=True, exist_ok=True)
            kept = {"estimate": estimate, "truth": made.truth.to_numpy(), "types": np.asarray(made.truth.columns, str)}
            np.savez(run.keep / f"{made.name}, {name}, {seed}.npz", **kept)
    return found


def called(folder: Path, entry: Entry, interpreter: str, *, options: dict[str, Any], run: Run) -> dict[str, Any]:
    """Run the process of a method on the files of a folder: how it ended, and what it wrote."""
    from alignment_peers import run as run_process

    tables = prepared_tables(entry, interpreter)
    command = [*tables, interpreter, str(Path(__file__).resolve())]
    command += ["--child", entry.module, str(folder), json.dumps(options)]
    load = os.getloadavg()[0]
    ended = run_process(command, limit=run.limit, log=folder / "log.txt")
    found = {} if run.limit == LIMIT else {"limit": run.limit}
    found |= {"status": ended.status, "peak GB": ended.peak_gb, "wall seconds": ended.wall, "load": load}
    for file in ("out.json", "again.json"):
        if (folder / file).exists():
            found |= json.loads((folder / file).read_text(encoding="utf-8"))
    return found


def prepared_tables(entry: Entry, interpreter: str) -> list[str]:
    """The start of the command that names RCTD's tables of its likelihood, written once where they are not there."""
    if entry.environment != "rctd":
        return []
    script, path = HERE / "peers" / f"{entry.module}.py", Path(interpreter).parents[1] / "q_matrices.npz"
    if not path.exists():
        subprocess.run([interpreter, str(script), str(path)], check=True)
    return ["env", f"RCTD_Q_MATRICES={path}"]


def rows_of(name: str, methods: list[str], *, run: Run, seeds: int) -> Iterator[dict[str, Any]]:
    """The rows of one set."""
    import deconvolution_sets as sets

    if name in sets.SPEED:
        made = {0: sets.simulated(*sets.SPEED[name])}
    else:
        made = {seed: sets.SETS[name](seed) for seed in range(seeds if name in sets.SYNTHETIC else 1)}
    size = [made[0].spots.n_obs, made[0].spots.n_vars, made[0].truth.shape[1]]
    for method in methods:
        head = {"set": name, "method": method, "name": made[0].name, "spots, genes, types": size}
        if method in NULLS:
            found = averaged([plain_scores(null(method, one), one) for one in made.values()])
            yield {**head, "seeds": len(made), **found}
            continue
        varied = name in sets.SYNTHETIC or (entries()[method].seeded and name in sets.SETS)
        rows = []
        for seed in range(seeds if varied else 1):
            row = measure(made.get(seed, made[0]), method, run=run, seed=seed, rehearse=name in sets.SETS)
            timed = not (seed or run.warm)
            rows.append({key: value for key, value in row.items() if timed or key not in TIMES})
            if rows[-1]["status"] != "finished":
                break
        yield {**head, "seeds": len(rows), **averaged(rows)}


def million(*, run: Run) -> dict[str, Any]:
    """A million spots in a file, point estimate."""
    import deconvolution_sets as sets

    size = sets.MILLION
    entry = Entry(None, "", {"method": OURS, "uncertainty": False, "from_disk": True, "seed": 0})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        reference, truth = sets.write_simulated(folder / "spots.h5ad", *size)
        reference.write_h5ad(folder / "reference.h5ad")
        found = called(folder, entry, sys.executable, options=entry.options, run=run)
        if "seconds" in found:
            estimate = read_table(folder / "proportions.npz", columns=truth.columns)
            found["rmse"] = float(np.sqrt(np.nanmean((estimate - truth.to_numpy()) ** 2)))
            found.pop("shares of")
    head = {"set": "million", "method": f"{OURS}, point estimate", "name": "simulated, from disk"}
    return {**head, "spots, genes, types": list(size), "seeds": 1, **found}


def save(row: dict[str, Any]) -> None:
    """Put a row into the results, in the order of the tables above."""
    import deconvolution_sets as sets
    import record

    path = record.RESULTS / f"{NAME}.json"
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    table = {(one["set"], one["method"]): one for one in [*before, row]}
    order = [(name, method) for name in [*sets.SETS, *sets.SPEED, "million"] for method in [*entries(), *NULLS]]
    rows = [table[key] for key in order if key in table]
    record.write(
        NAME,
        rows,
        command=COMMAND,
        targets=TARGETS,
    )


def main() -> None:
    """Run the table."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4]))
        return
    import deconvolution_sets as sets

    known, choices = [*entries(), *NULLS], [*sets.SETS, *sets.SPEED]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environments", type=Path, default=os.environ.get("SPATIALJAX_PEERS"))
    parser.add_argument("--sets", nargs="+", choices=choices, default=list(sets.SETS), metavar="SET")
    parser.add_argument("--methods", nargs="+", choices=known, default=known, metavar="METHOD")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds after which a process is stopped")
    parser.add_argument("--keep", type=Path, help="folder for the estimates")
    parser.add_argument("--million", action="store_true", help="the row of a million spots, nothing else")
    parser.add_argument("--warm", action="store_true", help="use the compilation cache; times are left out")
    parser.add_argument("--once", action="store_true", help="no second call")
    arguments = parser.parse_args()
    if arguments.environments is None and any(name in PEERS for name in arguments.methods) and not arguments.million:
        parser.error("expected --environments FOLDER or $SPATIALJAX_PEERS for the peers, found neither")
    environments = None if arguments.environments is None else Path(arguments.environments).resolve()
    run = Run(environments, arguments.limit, arguments.keep, arguments.warm, arguments.once)
    if arguments.million:
        rows: Any = [million(run=run)]
    else:
        rows = (r for name in arguments.sets for r in rows_of(name, arguments.methods, run=run, seeds=arguments.seeds))
    for row in rows:
        print(json.dumps(row, default=float), flush=True)
        save(row)


if __name__ == "__main__":
    main()
