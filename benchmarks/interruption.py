"""Kill the main job at random moments, look at what it left, let it go on, and compare with a run left in peace.

``python benchmarks/interruption.py --kills 50 --seed 0`` writes ``results/interruption.json``. Every process starts
from a server that has imported the package, so that a kill lands in the work and not in the imports.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

#: Modules that the server imports once for all processes.
PRELOADED = (
    "spatialjax.cli",
    "spatialjax.tl",
    "spatialjax.atlas.job",
    "spatialjax.io",
    "matplotlib.pyplot",
    "sklearn.mixture",
)
#: Longest wait for a run, seconds.
PATIENCE = 600.0
#: Lines of progress of a whole run.
LINES = 17


def write_sections(folder: Path, *, number: int = 3, spots: int = 150) -> list[Path]:
    """A tiny simulated stack as files."""
    from spatialjax import datasets

    paths = []
    for i, adata in enumerate(datasets.simulated(seed=1, n_sections=number, spots=spots)):
        paths.append(folder / f"slide{i}.h5ad")
        adata.write_h5ad(paths[-1])
    return paths


def server() -> Any:
    """A process server with the package imported and no device in use yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def command(words: list[str], log: str) -> None:
    """Run the command line in this process, its output in a file."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.argv = ["spatialjax", *words]
    from spatialjax import cli

    cli.main()


class Moment(NamedTuple):
    """When to kill a run: so many seconds after so many lines of progress."""

    lines: int
    seconds: float


def moment(rng: np.random.Generator, *, seconds: float) -> Moment:
    """A random moment: by the clock, over a whole run of ``seconds``, or soon after any line of progress."""
    if rng.random() < 0.5:
        return Moment(0, float(rng.uniform(0.0, seconds)))
    return Moment(int(rng.integers(LINES)), float(rng.exponential(0.5)))


def run(context: Any, words: list[str], log: Path, *, kill_at: Moment | None = None) -> tuple[int, float]:
    """Exit code (negative for a signal) and seconds of one run, killed by SIGKILL at a moment where asked."""
    log.unlink(missing_ok=True)
    process = context.Process(target=command, args=(words, str(log)))
    began = time.perf_counter()
    process.start()
    if kill_at is None:
        process.join(PATIENCE)
    else:
        while process.is_alive() and _lines(log) < kill_at.lines:
            time.sleep(0.02)
        process.join(kill_at.seconds)
    if process.is_alive():
        process.kill()
        process.join()
    return int(process.exitcode), time.perf_counter() - began


def _lines(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def looks_wrong(folder: Path) -> list[str]:
    """What a killed run must not leave: a sign of being finished, or a file that is not whole under its final name."""
    import anndata
    import scipy.sparse as sp

    from spatialjax.atlas import files, records, steps

    if not folder.is_dir():
        return []
    wrong = ["run.json is there"] if (folder / "run.json").exists() else []
    marks = steps.kept_fingerprint(folder / steps.FOLDER)
    mark = steps.mark_of(marks) if marks is not None else ""
    readers = {
        ".h5ad": anndata.read_h5ad,
        ".html": lambda path: path.read_text(encoding="utf-8").rstrip().endswith("</html>") or 1 / 0,
        ".npz": sp.load_npz,
        ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    }
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or path.name == "lock" or files.is_temporary(path.name):
            continue
        try:
            if path in steps.kept(folder / steps.FOLDER):
                records.read(path, mark=mark)
            else:
                readers[path.suffix](path)
        except Exception as error:  # noqa: BLE001 - anything that a reader says about a damaged file
            wrong.append(f"{path.name}: {error}")
    return wrong


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that two runs must agree on: arrays and columns of the atlas, couplings, and the run card."""
    import anndata
    import scipy.sparse as sp

    atlas = anndata.read_h5ad(folder / "atlas.h5ad")
    found: dict[str, Any] = {f"obsm {name}": np.asarray(values) for name, values in atlas.obsm.items()}
    found |= {f"obs {name}": atlas.obs[name].to_numpy() for name in atlas.obs}
    found |= {
        f"uns {name}": np.asarray(values) for name, values in atlas.uns["spatialjax"].items() if name != "versions"
    }
    found["X"] = atlas.X.toarray()
    for path in sorted((folder / "couplings").iterdir()):
        found[f"coupling {path.name}"] = sp.load_npz(path).toarray()
    card = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    for name in ("sections", "pairs", "metrics", "findings", "warnings", "couplings", "options"):
        found[f"run.json {name}"] = np.asarray(json.dumps(card[name]))
    return found


def unlike(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Names of the parts that differ in any bit."""
    return sorted(
        name
        for name in {**first, **second}
        if name not in first or name not in second or not _same(np.asarray(first[name]), np.asarray(second[name]))
    )


def left_behind(folder: Path) -> list[str]:
    """Files of a finished run that should not be there."""
    from spatialjax.atlas import files, steps

    return [p.name for p in folder.rglob("*") if p.name == steps.FOLDER or files.is_temporary(p.name)]


def kill_and_resume(
    context: Any, words: list[str], folder: Path, *, kills: int, rng: np.random.Generator, seconds: float
) -> tuple[list[dict[str, Any]], list[str]]:
    """Runs into one folder, each killed at a random moment, until one finishes before its moment or no kill is left.

    Parameters
    ----------
    context
        What :func:`server` gave.
    words
        Arguments of the command line without the folder.
    folder
        The output folder, not there yet.
    kills
        Kills at the most.
    rng
        Draws the moments.
    seconds
        Duration of a whole run.

    Returns
    -------
    tuple
        One row a kill: after how many seconds, how many results were kept, what looked wrong; and what is wrong with
        the finished run.
    """
    from spatialjax.atlas import files, steps

    rows: list[dict[str, Any]] = []
    log = folder.with_suffix(".log")
    while True:
        kill_at = moment(rng, seconds=seconds) if len(rows) < kills else None
        resume = ["--resume"] if rows else []
        code, after = run(context, [*words, "--out", str(folder), *resume], log, kill_at=kill_at)
        if code != -9:
            break
        kept = steps.kept(folder / steps.FOLDER)
        entries = list(folder.rglob("*")) if folder.is_dir() else []
        rows.append(
            {
                "after": after,
                "results": len(kept),
                "outputs": sum(p.name in ("atlas.h5ad", "report.html") for p in entries),
                "unfinished_writes": sum(files.is_temporary(p.name) for p in entries),
                "wrong": looks_wrong(folder),
            }
        )
    wrong = [] if code in (0, 3) else [f"exit code {code}: {log.read_text()[-2000:]}"]
    return rows, wrong or left_behind(folder)


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    floats = first.dtype.kind == "f" and second.dtype.kind == "f"
    return first.shape == second.shape and bool(np.array_equal(first, second, equal_nan=floats))


def main() -> None:
    """Kill, resume, compare, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", default="moments", help="alignment method; a quick one leaves more moments to hit")
    asked = parser.parse_args()
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    context, rng = server(), np.random.default_rng(asked.seed)
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(home / "cache"))
        words = ["reconstruct", *map(str, write_sections(home)), "--units", "um", "--n-domains", "3"]
        words += ["--method", asked.method]
        for name in ("first", "whole"):  # the first one fills the compilation cache
            code, seconds = run(context, [*words, "--out", str(home / name)], home / f"{name}.log")
            if code not in (0, 3):
                sys.exit((home / f"{name}.log").read_text())
        wanted = outcome(home / "whole")
        rows: list[dict[str, Any]] = []
        runs = wrong = different = 0
        while len(rows) < asked.kills:
            folder = home / f"killed{runs}"
            left = min(4, asked.kills - len(rows))
            more, bad = kill_and_resume(context, words, folder, kills=left, rng=rng, seconds=seconds)
            apart = bad or unlike(wanted, outcome(folder))
            rows += more
            runs, wrong, different = runs + 1, wrong + bool(bad), different + bool(apart)
            print(
                f"{len(rows)} kills; run {runs}: {[r['results'] for r in more]} kept; {apart or 'same bits'}",
                flush=True,
            )
    _write(rows, asked, runs=runs, wrong=wrong, different=different, seconds=seconds)


def _write(
    rows: list[dict[str, Any]], asked: argparse.Namespace, *, runs: int, wrong: int, different: int, seconds: float
) -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    import record

    summary = {
        "kills": len(rows),
        "runs_that_went_on_to_the_end": runs,
        "seconds_of_a_run": seconds,
        "kills_that_left_something_wrong": sum(bool(row["wrong"]) for row in rows),
        "runs_that_did_not_end_well": wrong,
        "runs_with_other_bits": different,
        "kills_by_results_kept": ", ".join(f"{k}: {n}" for k, n in sorted(Counter(r["results"] for r in rows).items())),
        "kills_among_outputs": sum(row["outputs"] > 0 for row in rows),
        "kills_inside_a_write": sum(row["unfinished_writes"] > 0 for row in rows),
    }
    targets = {
        "kills_that_left_something_wrong": "0",
        "runs_that_did_not_end_well": "0",
        "runs_with_other_bits": "0",
    }
    line = f"python benchmarks/interruption.py --kills {asked.kills} --seed {asked.seed} --method {asked.method}"
    path = record.write("interruption", [summary], command=line, targets=targets)
    print(f"{path}: {summary}")


if __name__ == "__main__":
    main()
