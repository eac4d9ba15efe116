"""Speed and plan quality of the fused Gromov–Wasserstein solver.

``python benchmarks/fused_gw_speed.py [--repeats 5] [--out FILE] [--no-real] [--exact-only]``

Simulated sections of a layered tissue, the second one turned and shifted: 2,000 spots, 3,600 spots, and five pairs of
500 spots as one list. With the DLPFC sections 151673 and 151674 at hand, their plan too. Labels only score. Times are
the least of several warm runs; the first run, with compilation, stands beside them.

Then the un-regularised solver on the host against POT's, each once from the independent coupling on one problem of
unequal sections: objective, wall time and processor time (which says more on a busy machine). ``--exact-only`` replaces
that part of the results file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.distance import cdist

from spatialjax.algorithm import fit
from spatialjax.metrics.alignment import plan_accuracy
from spatialjax.preprocess import shared_embedding
from spatialjax.simulate import simulate_tissue
from spatialjax.slices import bucket
from spatialjax.transport import (
    FusedProblem,
    conditional_gradient,
    expression_cost,
    fused_gromov_wasserstein,
    fused_problem,
    pitch,
    squared_distances,
    squared_euclidean,
)

TARGETS = {"simulated, 2,000 spots": 3.0, "five simulated pairs, 500 spots": 1.5}
MAX_STEPS = 100


def problem(features: list[np.ndarray], points: list[np.ndarray]) -> FusedProblem:
    """The padded problem of one pair: squared distances in space and between joint components."""
    capacity = [bucket(len(xy)) for xy in points]
    pad = [np.pad(f, ((0, c - len(f)), (0, 0))) for f, c in zip(features, capacity, strict=True)]
    places = [np.pad(xy - xy.mean(0), ((0, c - len(xy)), (0, 0))) for xy, c in zip(points, capacity, strict=True)]
    weights = [jnp.asarray(np.arange(c) < len(xy), jnp.float32) for xy, c in zip(points, capacity, strict=True)]
    linear = squared_distances(*(jnp.asarray(f, jnp.float32) for f in pad))
    inner = [squared_euclidean(jnp.asarray(xy, jnp.float32), w) for xy, w in zip(places, weights, strict=True)]
    return fused_problem(linear, *inner, a=weights[0], b=weights[1], alpha=0.5)


def simulated(seed: int, spots: int) -> tuple[FusedProblem, list[np.ndarray]]:
    """A pair of simulated sections of at most ``spots`` spots, and their layers."""
    stack = simulate_tissue(jax.random.key(seed), n_sections=2, spots=spots, genes=150, mirror_probability=0.0)
    counts = [section.counts.astype(np.float32) for section in stack.sections]
    points = [np.asarray(section.xy, float) for section in stack.sections]
    features = shared_embedding(counts, points, kind="counts")
    rng, labels = np.random.default_rng(seed), []
    for i, section in enumerate(stack.sections):
        keep = np.sort(rng.permutation(len(points[i]))[:spots])
        features[i], points[i] = features[i][keep], points[i][keep]
        labels.append(np.asarray(section.domain)[keep])
    return problem(features, points), labels


def dlpfc(spots: int | None) -> tuple[FusedProblem, list[np.ndarray]]:
    """Sections 151673 and 151674, whole or a random share of the spots, and their layers."""
    from spatialjax import datasets

    adatas = datasets.load("dlpfc")
    genes = adatas[0].var_names.intersection(adatas[1].var_names)
    features = shared_embedding(
        [adata[:, genes].X.astype(np.float32) for adata in adatas],
        [np.asarray(adata.obsm["spatial"], float) for adata in adatas],
        kind="counts",
    )
    rng, points, labels = np.random.default_rng(0), [], []
    for i, adata in enumerate(adatas):
        keep = np.arange(adata.n_obs) if spots is None else np.sort(rng.choice(adata.n_obs, spots, replace=False))
        features[i] = features[i][keep]
        points.append(np.asarray(adata.obsm["spatial"], float)[keep] * adata.uns["spatialjax"]["um_per_unit"])
        labels.append(adata.obs["layer"].to_numpy()[keep])
    return problem(features, points), labels


def measure(data: Any, labels: list[Any], *, rho: float | None, repeats: int) -> dict[str, Any]:
    """Run one case: cold and warm time, compilations of a warm run, and how good the plan is."""
    compiled: list[str] = []

    def listen(event: str, *_: Any, **__: Any) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)

    def once() -> tuple[float, Any]:
        clock = time.perf_counter()
        fits = fit(fused_gromov_wasserstein(rho=rho), jax.random.key(0), data, max_steps=MAX_STEPS)
        jax.block_until_ready([f.result for f in fits] if isinstance(fits, list) else fits.result)
        return time.perf_counter() - clock, fits

    cold, fits = once()
    before = len(compiled)
    warm = sorted(once()[0] for _ in range(repeats))
    fits = fits if isinstance(fits, list) else [fits]
    plans = [np.asarray(f.result.plan)[: len(s), : len(t)] for f, (s, t) in zip(fits, labels, strict=True)]
    nulls = [np.ones(plan.shape) for plan in plans]
    return {
        "spots": [[len(s), len(t)] for s, t in labels],
        "rho": rho,
        "mass": [round(float(plan.sum()), 4) for plan in plans],
        "cold_s": round(cold, 3),
        "warm_s": round(warm[0], 3),
        "warm_median_s": round(float(np.median(warm)), 3),
        "compiled_when_warm": len(compiled) - before,
        "steps": [f.steps for f in fits],
        "status": [f.status for f in fits],
        "objective": [round(float(f.result.objective), 5) for f in fits],
        "marginal_error": [round(float(f.result.error), 5) for f in fits],
        "plan_accuracy": accuracies(plans, labels),
        "null_accuracy": accuracies(nulls, labels),
    }


def accuracies(plans: list[np.ndarray], labels: list[Any]) -> list[float]:
    """Share of each plan's mass between spots of one label."""
    return [round(plan_accuracy(plan, *pair), 4) for plan, pair in zip(plans, labels, strict=True)]


def cases(*, real: bool) -> dict[str, tuple[Any, list[Any], float | None]]:
    """Every case: data of ``fit``, labels of its members, strength of relaxed marginals."""
    found: dict[str, tuple[Any, list[Any], float | None]] = {}
    for spots in (2000, 3600):
        data, labels = simulated(0, spots)
        found[f"simulated, {spots:,} spots"] = (data, [labels], None)
    members = [simulated(seed, 500) for seed in range(5)]
    found["five simulated pairs, 500 spots"] = ([data for data, _ in members], [labels for _, labels in members], None)
    if real:
        for name, spots in (("DLPFC 151673-151674, 2,000 spots", 2000), ("DLPFC 151673-151674, whole", None)):
            data, labels = dlpfc(spots)
            found[name] = (data, [labels], None)
        found["DLPFC 151673-151674, whole, relaxed marginals"] = (data, [labels], 0.2)
    return found


def exact(seed: int, spots: int) -> dict[str, Any]:
    """Conditional gradient and POT's on PASTE's costs (divergence of counts, distances in pitches), weight 0.1."""
    import ot

    stack = simulate_tissue(jax.random.key(seed), n_sections=2, spots=spots, genes=300, crop=0.7, deformation=25.0)
    counts = [section.counts.toarray().astype(np.float64) for section in stack.sections]
    points = [np.asarray(section.xy, np.float64) for section in stack.sections]
    order = [expression_cost(*counts, kind="kl"), *(cdist(xy, xy) / pitch(*points) for xy in points)]
    a, b = (np.full(len(xy), 1 / len(xy)) for xy in points)

    def ours() -> tuple[float, int]:
        found = conditional_gradient(*order, a=a, b=b, alpha=0.1)
        return found.objective, found.iterations

    def theirs() -> tuple[float, int]:
        log = ot.gromov.fused_gromov_wasserstein(*order, a, b, alpha=0.1, numItermaxEmd=5_000_000, log=True)[1]
        return float(log["fgw_dist"]), len(log["loss"]) - 1

    rows: dict[str, Any] = {"spots": [len(a), len(b)]}
    for name, call in (("spatialjax", ours), (f"POT {version('POT')}", theirs)):
        wall, process = time.perf_counter(), time.process_time()
        value, rounds = call()
        rows[name] = {
            "wall_s": round(time.perf_counter() - wall, 2),
            "process_s": round(time.process_time() - process, 2),
            "objective": round(value, 9),
            "linear_programmes": rounds,
            "load_average": round(os.getloadavg()[0], 1),
        }
        print(f"exact, {name}: {rows[name]}", flush=True)
    return rows


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-real", action="store_true", help="leave the DLPFC sections out")
    parser.add_argument("--exact-only", action="store_true", help="measure the un-regularised solver alone")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fused_gw_speed.json")
    options = parser.parse_args()
    if options.exact_only:
        report = json.loads(options.out.read_text(encoding="utf-8")) | {"exact": exact(0, 900)}
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        return
    from spatialjax import datasets

    real = not options.no_real and datasets.data_folder() is not None
    results = {}
    for name, (data, labels, rho) in cases(real=real).items():
        row = results[name] = measure(data, labels, rho=rho, repeats=options.repeats)
        goal = f" (target {TARGETS[name]} s)" if name in TARGETS else ""
        print(f"{name}: {row['warm_s']} s warm{goal}, {row['cold_s']} s cold, accuracy {row['plan_accuracy']}")
    report = {
        "load_average": round(os.getloadavg()[0], 1),
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("jax", "jaxlib", "numpy", "scipy", "spatialjax")},
        "solver": {"alpha": 0.5, "epsilon": 0.05, "steps": "proximal", "max_steps": MAX_STEPS},
        "repeats": options.repeats,
        "results": results,
        "exact": exact(0, 900),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
