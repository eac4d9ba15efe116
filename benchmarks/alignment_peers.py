"""Our methods and their peers on the same files, one process at a time.

``python benchmarks/alignment_peers.py --environments FOLDER [--rows NAME …] [--methods NAME …]``

``FOLDER/<peer>`` is a virtual environment of its own with what ``benchmarks/peers/<peer>.txt`` lists, for each peer of
paste, pot, paste2 and moscot; ``$SPATIALJAX_PEERS`` is another way to say it. Rows that are run replace those of the
same pair and method in the results, so that a part can be run again on a quiet machine.

Every method gets the same two h5ad files (counts of the genes that both sections have, µm) and must return a plan, a
map, or both. *Plan accuracy* is the share of the plan's mass between spots of one label, ``chance`` that of the product
plan; *matched* the share of the spots of the moved section with at least half of their uniform mass in the plan. The
map of a peer is the weighted Procrustes fit of its plan, mirrored where that fits better, as the peers do. It is scored
by the displacement from the true map (the label-optimal rigid map of the cortex pair), in pitches, and by the share of
spots that land by a spot of their own label relative to what the true map reaches. Without labels every second gene is
kept from the methods, and what counts is the correlation of the 500 strongest of these between matched spots, by plan
and by map.

Seconds are those of the call, compilation included, imports and reading not; methods that compile are called a second
time, where the limit leaves room. Memory is the peak of the process. A process is stopped after ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import record
import scipy.sparse as sp
from alignment_dlpfc import labels, load, vary

from spatialjax.metrics import (
    held_out_correlation,
    label_accuracy,
    label_optimal_rigid,
    nearest_matches,
    overlap,
    plan_accuracy,
    pose_error,
)
from spatialjax.registration.procrustes import both_parities
from spatialjax.transforms import Affine

HELD_OUT = 500
RUNNERS = Path(__file__).parent / "peers"
VARIANTS = {
    "as given": "as given",
    "rotated": "rotated",
    "mirrored": "mirrored and rotated",
    "cropped": "cropped and rotated",
}
TARGETS = {
    "ours": "in every row not below the best of the peers",
    "fields": ">= 10 times faster than moscot, second calls",
}


class Peer(NamedTuple):
    """How a method is run: environment, script, what it is told beside the files, whether it compiles."""

    environment: str | None
    script: str
    options: dict[str, Any]
    compiles: bool = False


#: A method with the option ``overlap`` set to "true" is given the true overlap of the row.
METHODS: dict[str, Peer] = {
    "fields": Peer(None, "run_ours.py", {}, compiles=True),
    "paste": Peer(None, "run_ours.py", {}, compiles=True),
    "paste2": Peer(None, "run_ours.py", {}, compiles=True),
    "icp": Peer(None, "run_ours.py", {}, compiles=True),
    "moments": Peer(None, "run_ours.py", {}, compiles=True),
    "peer PASTE": Peer("paste", "run_paste.py", {"norm": False}),
    "peer PASTE, norm=True": Peer("paste", "run_paste.py", {"norm": True}),
    "peer POT fused GW": Peer("pot", "run_pot.py", {}),
    "peer PASTE2": Peer("paste2", "run_paste2.py", {"overlap": None}),
    "peer PASTE2, overlap given": Peer("paste2", "run_paste2.py", {"overlap": "true"}),
    "peer moscot": Peer("moscot", "run_moscot.py", {}, compiles=True),
}


@dataclass(frozen=True)
class Pair:
    """Two sections, µm, and what is known about them.

    Attributes
    ----------
    source, target
        AnnData with counts; the source is moved onto the target.
    pitch
        Distance between neighbouring spots, µm.
    truth
        The true map, None where nobody knows.
    labels
        Labels of both, None where there are none.
    """

    source: Any
    target: Any
    pitch: float
    truth: Affine | None = None
    labels: tuple[Any, Any] | None = None


def cortex(folder: str, variant: str) -> Pair:
    """DLPFC sections 151673 and 151674, the second one varied with seed 0."""
    fixed, other = load(folder, "151673"), load(folder, "151674")
    own, theirs = labels(other), labels(fixed)
    best = label_optimal_rigid(
        other.obsm["spatial"], fixed.obsm["spatial"], labels=own, target_labels=theirs, pitch=100.0
    )
    given, moved = vary(other, VARIANTS[variant], 0)
    return Pair(given, fixed, 100.0, best.compose(moved.inverse()), (labels(given), theirs))


def stahl(first: int) -> Pair:
    """Two neighbouring sections of the ST breast tumour; grid units of 200 µm."""
    import anndata

    stack = anndata.read_h5ad(record.data_folder() / "stahl_breast_4slices" / "paste_slices.h5ad")
    stack.obsm["spatial"] = np.asarray(stack.obsm["spatial"], float) * 200.0
    names = sorted(stack.obs["slice"].unique())
    fixed, given = (stack[stack.obs["slice"] == names[i]].copy() for i in (first, first + 1))
    return Pair(given, fixed, 200.0)


def simulated(seed: int) -> Pair:
    """Neighbouring sections of a simulated tissue, the second one cropped to 70 % at the least and deformed."""
    import anndata
    import jax

    from spatialjax.simulate import simulate_tissue

    stack = simulate_tissue(jax.random.key(seed), n_sections=2, spots=900, genes=300, crop=0.7, deformation=25.0)
    both = []
    for number, section in enumerate(stack.sections):
        adata = anndata.AnnData(section.counts)
        adata.var_names = list(stack.genes)
        adata.obs_names = [f"{number}-{i}" for i in range(adata.n_obs)]
        adata.obsm["spatial"] = np.asarray(section.xy, float)
        both.append(adata)
    domains = tuple(np.array([f"layer {d}" for d in s.domain], object) for s in stack.sections)
    return Pair(both[1], both[0], stack.pitch, stack.true_pose(1, 0), domains[::-1])


ROWS = {
    **{f"whole, {variant}": (cortex, "dlpfc_visium_allspots", variant) for variant in VARIANTS},
    **{f"partial, {variant}": (cortex, "dlpfc_visium_allgenes", variant) for variant in VARIANTS},
    **{f"stahl {i + 1}-{i + 2}": (stahl, i) for i in range(3)},
    "simulated": (simulated, 0),
}


def write_files(pair: Pair, folder: Path) -> None:
    """The files that every method reads: shared genes, without the held-out ones where there are no labels."""
    import anndata

    genes = pair.target.var_names.intersection(pair.source.var_names)
    genes = genes if pair.labels is not None else genes[::2]
    for name, adata in (("source", pair.source), ("target", pair.target)):
        values = sp.csr_matrix(adata[:, genes].X, dtype=np.float32)
        part = anndata.AnnData(values)
        part.var_names, part.obs_names = list(genes), list(adata.obs_names)
        part.obsm["spatial"] = np.asarray(adata.obsm["spatial"], float)
        part.write_h5ad(folder / f"{name}.h5ad")


def true_overlap(pair: Pair) -> float | None:
    """Share of both sections that the other one shows; None where the true map is not known."""
    if pair.truth is None:
        return None
    source, target = pair.truth(pair.source.obsm["spatial"]), pair.target.obsm["spatial"]
    seen = [overlap(a, b, radius=pair.pitch).mean() for a, b in ((source, target), (target, source))]
    return float(np.clip(min(seen), 0.05, 0.99))


class Ended(NamedTuple):
    """How a process ended."""

    status: str
    wall: float
    peak_gb: float


def run(command: list[str], *, limit: float, log: Path) -> Ended:
    """Run a process for at most ``limit`` seconds."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, start_new_session=True)
    pid, stopped = 0, False
    try:
        while not pid:
            time.sleep(0.05)
            pid, code, usage = os.wait4(process.pid, os.WNOHANG)
            if not pid and not stopped and time.perf_counter() - start > limit:
                stopped = True
                os.killpg(process.pid, signal.SIGKILL)
    finally:
        if not pid:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    process.returncode = os.waitstatus_to_exitcode(code)
    status = "finished" if process.returncode == 0 else f"failed: {last_line(log)}"
    status = f"stopped after {limit:.0f} s" if stopped else status
    return Ended(status, time.perf_counter() - start, usage.ru_maxrss / 1024**2)


def last_line(log: Path) -> str:
    """The last line that a process wrote, in 120 characters."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip()[:120] for line in reversed(lines) if line.strip()), "no message")


def measure(pair: Pair, method: str, *, environments: Path | None, limit: float) -> dict[str, Any]:
    """Run one method on one pair in a process of its own and score what it returns."""
    peer = METHODS[method]
    options = {**peer.options, "again": peer.compiles}
    if options.get("overlap") == "true":
        options["overlap"] = true_overlap(pair)
        if options["overlap"] is None:
            return {"status": "not run: the true overlap is not known"}
    interpreter = sys.executable if peer.environment is None else environments / peer.environment / "bin" / "python"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(pair, folder)
        command = [str(interpreter), str(RUNNERS / peer.script), str(folder), method, json.dumps(options)]
        load_before = os.getloadavg()[0]
        ended = run(command, limit=limit, log=folder / "log.txt")
        found = {"status": ended.status, "peak GB": ended.peak_gb, "wall seconds": ended.wall, "load": load_before}
        if not (folder / "out.json").exists():
            return found
        out = json.loads((folder / "out.json").read_text(encoding="utf-8"))
        plan = sp.load_npz(folder / "plan.npz")
        again = folder / "again.json"
        found |= json.loads(again.read_text(encoding="utf-8")) if again.exists() else {}
    found |= {"status": "finished", "seconds": out["seconds"], "note": out["note"], "versions": out["versions"]}
    return found | score(pair, plan, out.get("transform"))


def score(pair: Pair, plan: sp.csr_matrix, transform: list[Any] | None) -> dict[str, Any]:
    """How good a plan and its map are."""
    source, target = (np.asarray(a.obsm["spatial"], float) for a in (pair.source, pair.target))
    if transform is None:
        poses, _ = both_parities(source, target, np.asarray(plan.todense(), np.float64))
        pose = Affine(poses.matrix[0], poses.shift[0])
    else:
        pose = Affine(*(np.asarray(part) for part in transform))
    rows = np.asarray(plan.sum(1)).ravel()
    found: dict[str, Any] = {"matched": float((rows >= 0.5 * rows.max()).mean()) if rows.max() > 0 else 0.0}
    if pair.labels is not None:
        found["plan accuracy"] = plan_accuracy(plan, *pair.labels)
        found["chance"] = plan_accuracy(np.ones(plan.shape), *pair.labels)
    if pair.truth is not None:
        error = pose_error(pose, pair.truth, source)
        found |= {"parity right": error.parity_right, "displacement": error.displacement / pair.pitch}
        there = pair.truth(source)
        kwargs = {"labels": pair.labels[0], "target_labels": pair.labels[1], "radius": pair.pitch}
        inside = overlap(there, target, radius=pair.pitch)
        here, best = (label_accuracy(xy, target, inside=inside, **kwargs) for xy in (pose(source), there))
        found |= {"map accuracy": here / best}
    if pair.labels is None:
        genes = held_out(pair)
        values, others = (logged(adata[:, genes]) for adata in (pair.source, pair.target))
        matches = nearest_matches(pose(source), target, radius=pair.pitch)
        found["held-out correlation, plan"] = held_out_correlation(values, others, plan)
        found["held-out correlation, map"] = held_out_correlation(values, others, matches)
    return found


def held_out(pair: Pair) -> Any:
    """Of the genes that no method was given, those with the most counts: the others are noise in single spots."""
    genes = pair.target.var_names.intersection(pair.source.var_names)[1::2]
    total = sum(np.asarray(adata[:, genes].X.sum(0)).ravel() for adata in (pair.source, pair.target))
    return genes[np.sort(np.argsort(-total, kind="stable")[:HELD_OUT])]


def logged(adata: Any) -> sp.csr_matrix:
    """log1p of counts at a common depth."""
    from spatialjax.preprocess import log_normalize

    return sp.csr_matrix(log_normalize(sp.csr_matrix(adata.X, dtype=np.float32)))


def merged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the results file with these ones put in, in the order of the tables above."""
    path = record.RESULTS / "alignment_peers.json"
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    table = {(row["row"], row["method"]): row for row in [*before, *rows]}
    order = [(row, method) for row in ROWS for method in METHODS]
    return [table[key] for key in order if key in table]


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environments", type=Path, default=os.environ.get("SPATIALJAX_PEERS"))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds after which a process is stopped")
    arguments = parser.parse_args()
    if arguments.environments is None and any(METHODS[name].environment for name in arguments.methods):
        parser.error("expected --environments FOLDER or $SPATIALJAX_PEERS for the peers, found neither")
    environments = None if arguments.environments is None else Path(arguments.environments).resolve()
    for name in arguments.rows:
        make, *inputs = ROWS[name]
        pair = make(*inputs)
        for method in arguments.methods:
            head = {"row": name, "method": method, "spots": [pair.source.n_obs, pair.target.n_obs]}
            row = head | measure(pair, method, environments=environments, limit=arguments.limit)
            print(row, flush=True)
            record.write(
                "alignment_peers", merged([row]), command="python benchmarks/alignment_peers.py", targets=TARGETS
            )


if __name__ == "__main__":
    main()
