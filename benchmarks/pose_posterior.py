"""Does the posterior of the pose cover? Pairs with known truth, judged on new seeds.

``python benchmarks/pose_posterior.py --pairs 120 --parity 60 --stacks 10``

Pairs, alternately of every kind: neighbouring sections of a simulated tissue (noise, density and smooth deformation
that the model does not assume, cropped and thinned); neighbouring slabs of the thick STARmap tissue; disjoint halves of
the cells of one section (DLPFC, mPFC, MERFISH, osmFISH, seqFISH), each cropped to a disc, one of them thinned. Every
source is turned, shifted and, half the time, mirrored. The row ``fitted`` says which constants of
``registration.posterior.CALIBRATION`` the tissues and seeds marked ``fit`` ask for; all other figures are of those
marked ``judge``. The constants in use were settled on earlier seeds of the same tissues, both halves of which were
looked at, so new seeds (``--offset``) judge them, but not new tissues.

Parity also on the twelve MERFISH sections, a tissue that is nearly its own mirror image, with cell types as features:
their common frame is a truth for parity only. Stacks: sections of simulated tissues through the pose graph.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import jax
import numpy as np
import record
from pose_truth import Pair, all_pairs, in_target, rigid_truth, true_places, types
from scipy.stats import chi2

from spatialjax.methods import METHODS, card
from spatialjax.metrics.calibration import coverage, region_coverage, reliability, width_against_null
from spatialjax.preprocess import shared_embedding
from spatialjax.registration.pairs import field_pair, null_evidence, pitch_of
from spatialjax.registration.pose_graph import PoseEdge, solve_pose_graph
from spatialjax.registration.posterior import (
    CALIBRATION,
    cell_covariance,
    log_density,
    overlap_interval,
    pose_posterior,
    sample_poses,
)
from spatialjax.registration.procrustes import procrustes
from spatialjax.simulate import simulate_tissue
from spatialjax.slices import make_slice
from spatialjax.transforms import Affine

LEVEL = 0.9
CAPACITY = 1024
TARGETS = {
    "pose": "the 90 % region of the pose holds the truth 85-95 % of the time",
    "cell": "the 90 % region of a cell's place holds the truth 85-95 % of the time",
    "parity": "predicted probabilities agree with observed frequencies",
}


def judged(pair: Pair, seed: int) -> dict[str, Any]:
    """Everything the tables and the fit need of one pair."""
    (a, xy), (b, other) = pair.source, pair.target
    start = time.perf_counter()
    embedding = shared_embedding([a, b], [xy, other], kind=pair.features)
    source, target = make_slice(embedding[0], xy, capacity=CAPACITY), make_slice(embedding[1], other)
    fit = card.run(METHODS["alignment"]["fields"](), jax.random.key(seed), [(source, target)])[0]
    made = field_pair(source, target)
    begun = time.perf_counter()
    key = jax.random.key(seed)
    threshold = null_evidence(key, made)
    middle = time.perf_counter()
    posterior = jax.block_until_ready(pose_posterior(made, fit.result.poses, threshold))
    ended = time.perf_counter()
    posterior = jax.tree.map(np.asarray, posterior)
    right = bool(posterior.poses.mirrored[0]) == pair.mirrored
    row: dict[str, Any] = {
        "kind": pair.kind,
        "use": pair.use,
        "cells": len(xy),
        "spots": float(posterior.spots[0]),
        "evidence": [float(e) for e in posterior.evidence if np.isfinite(e)],
        "mode parity right": [
            bool(m) == pair.mirrored
            for m, e in zip(posterior.poses.mirrored, posterior.evidence, strict=True)
            if np.isfinite(e)
        ],
        "probability of the parity": float(posterior.mirrored if pair.mirrored else 1 - posterior.mirrored),
        "mirrored": float(posterior.mirrored),
        "truly mirrored": pair.mirrored,
        "determined": bool(posterior.determined),
        "ambiguous": bool(posterior.ambiguous),
        "threshold": threshold,
        "parity right": right,
        "seconds to align": begun - start,
        "seconds for the posterior": ended - middle,
    }
    if pair.places is not None:
        row.update(errors(pair, posterior, right))
        row.update(whatever_the_basin(pair, made, posterior, key))
    return row


def whatever_the_basin(pair: Pair, made: Any, posterior: Any, key: Any) -> dict[str, Any]:
    """Whether the 90 % region of the whole mixture holds the true pose, and what it says of the overlap."""
    truth = rigid_truth(pair)
    draws, _ = sample_poses(key, posterior, draws=400)
    heights = np.asarray(log_density(posterior, draws))
    height = float(log_density(posterior, Affine(truth.matrix[None], truth.shift[None]))[0])
    interval = overlap_interval(key, made, posterior)
    return {
        "mixture held": bool((heights > height).mean() <= LEVEL),
        "overlap said": [float(interval.low), float(interval.high)],
    }


def errors(pair: Pair, posterior: Any, right: bool) -> dict[str, Any]:
    """Errors of the best mode and what the posterior says of them; lengths in pitches, angles in degrees."""
    xy, truth = np.asarray(pair.source[1], float), pair.places
    best, center, covariance = posterior.poses[0], posterior.center[0].astype(float), posterior.covariance[0]
    best = Affine(best.matrix.astype(float), best.shift.astype(float))
    pitch = pitch_of(pair.target[1])
    there = best(xy)
    basin = right and float(np.median(np.linalg.norm(there - truth, axis=1))) < 3 * pitch
    inside, expected = in_target(pair), rigid_truth(pair)
    turn = best.compose(expected.inverse())
    error = np.array([float(turn.angle), *(turn(center[None])[0] - center)])
    factor = CALIBRATION.base + CALIBRATION.small / posterior.spots[0]
    pick = np.flatnonzero(inside)
    pick = pick[np.linspace(0, len(pick) - 1, min(len(pick), 30)).astype(int)]
    cells = np.asarray(cell_covariance(covariance, center, there[pick], warp=posterior.warp), float)
    away = there[pick] - truth[pick]
    warp = np.linalg.norm(expected(xy[pick]) - truth[pick], axis=1) / pitch
    sd = np.sqrt(np.diagonal(covariance))
    return {
        "right basin": basin,
        "pitch": pitch,
        "overlap": float(inside.mean()),
        "temperature": float(posterior.temperature[0]),
        "factor": float(factor),
        "pose distance": float(error @ np.linalg.solve(covariance, error)),
        "angle error": float(np.degrees(error[0])),
        "angle sd": float(np.degrees(sd[0])),
        "shift error": [float(e) / pitch for e in error[1:]],
        "shift sd": [float(s) / pitch for s in sd[1:]],
        "warp sd": float(np.sqrt(posterior.warp)) / pitch,
        "true warp": float(np.sqrt((warp**2).mean() / 2)),
        "cell away": (away / pitch).tolist(),
        "cell covariance": (cells / pitch**2).tolist(),
    }


def fitted(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The constants that the fitting half asks for: narrowest covariance that covers, best log-loss of the parity."""
    own = [r for r in rows if r["use"] == "fit"]
    sure = [r for r in own if r.get("right basin") and r["determined"]]
    spots, old = (np.array([r[name] for r in sure]) for name in ("spots", "factor"))
    distance = np.array([r["pose distance"] for r in sure]) * old
    tried = []
    for small in (0.0, 15.0, 30.0, 60.0, 100.0):
        shape = 1 + small / spots
        base = float(np.quantile(distance / shape, LEVEL) / chi2.ppf(LEVEL, 3))
        tried.append((np.log(base * shape).mean(), base, base * small))
    _, base, small = min(tried)
    losses = {c: float(np.mean([log_loss(r, c) for r in own if r["evidence"]])) for c in (1.5, 2.0, 3.0, 4.0, 6.0, 9.0)}
    best = min(losses, key=losses.get)
    return {
        "table": "fitted",
        "pairs": len(sure),
        "base": base,
        "small": small,
        "chance": best,
        **{f"log-loss at {c}": loss for c, loss in losses.items()},
    }


def log_loss(row: dict[str, Any], chance: float) -> float:
    """Of the parity of one pair, see ``Calibration.chance``."""
    heat = max(row["threshold"] / chance, CALIBRATION.coolest_modes)
    evidence, right = np.array(row["evidence"]), np.array(row["mode parity right"])
    weight = np.exp((evidence - evidence.max()) / heat)
    return -float(np.log(max((weight * right).sum() / weight.sum(), 1e-6)))


def summary(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Coverage and width of some pairs."""
    decided = [r for r in rows if r["determined"]]
    sure = [r for r in decided if r["right basin"]]
    row: dict[str, Any] = {"table": "pairs", "pairs of": name, "pairs": len(rows), "determined": len(decided)}
    if not sure:
        return row
    held = coverage([r["pose distance"] <= chi2.ppf(LEVEL, 3) for r in sure])
    away = [np.array(r["cell away"]) for r in sure]
    cells = [np.array(r["cell covariance"]) for r in sure]
    inside = [region_coverage(e, c, level=LEVEL).mean() for e, c in zip(away, cells, strict=True)]
    radius = np.concatenate([np.sqrt(chi2.ppf(LEVEL, 2)) * np.linalg.det(c) ** 0.25 for c in cells])
    place = width_against_null(np.concatenate([np.linalg.norm(e, axis=1) for e in away]), radius)
    turn = width_against_null([abs(r["angle error"]) for r in sure], [1.645 * r["angle sd"] for r in sure])
    return row | {
        "right basin": len(sure),
        "pose": held.share,
        "pose interval": [held.low, held.high],
        "mixture, whatever the basin": float(np.mean([r["mixture held"] for r in decided])),
        "cell": float(np.mean(inside)),
        "angle": turn.coverage,
        "cell radius, pitches": place.median,
        "cell radius, one for all": place.null,
        "angle half width, degrees": turn.median,
        "angle half width, one for all": turn.null,
        "seconds for the posterior": float(np.median([r["seconds for the posterior"] for r in rows])),
    }


def parity(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Reliability of the probability of being mirrored, both parities."""
    if not rows:
        return {"table": "parity", "pairs of": name, "pairs": 0}
    said = np.array([r["mirrored"] for r in rows])
    true = np.array([r["truly mirrored"] for r in rows], bool)
    found = reliability(np.concatenate([said, 1 - said]), np.concatenate([true, ~true]), bins=10)
    return {
        "table": "parity",
        "pairs of": name,
        "pairs": len(rows),
        "ambiguous": float(np.mean([r["ambiguous"] for r in rows])),
        "right": float(np.mean([r["probability of the parity"] > 0.5 for r in rows])),
        "predicted": found.predicted.tolist(),
        "observed": found.observed.tolist(),
        "count": found.count.tolist(),
        "brier": found.brier,
        "brier of the base rate": found.brier_base,
        "calibration error": found.calibration_error,
    }


def stack(seed: int) -> list[dict[str, Any]]:
    """Sections of a simulated tissue through the pose graph: each against the truth, relative to the first."""
    rng = np.random.default_rng([5, seed])
    tissue_ = simulate_tissue(
        jax.random.key(9000 + seed),
        n_sections=5,
        spots=int(rng.integers(200, 450)),
        depth=float(np.exp(rng.uniform(np.log(200), np.log(2000)))),
        crop=0.75,
        deformation=[0.0, 20.0, 40.0][seed % 3],
        lattice=["hex", "cells"][seed % 2],
    )
    sections = tissue_.sections
    places = [s.xy for s in sections]
    embedding = shared_embedding([s.counts for s in sections], places, kind="counts")
    slices = [make_slice(e, xy, capacity=CAPACITY) for e, xy in zip(embedding, places, strict=True)]
    edges = [edge(slices, i, i + lag) for lag in (1, 2) for i in range(5 - lag)]
    graph = solve_pose_graph(edges, n_sections=5, anchor=0, reflection="allow", shift_sd=0.5 * tissue_.pitch)
    rows = []
    for n in range(1, 5):
        truth = true_places(sections[n].xyz, sections[0])
        pose = graph.poses[n]
        away = pose(places[n]) - truth
        if not graph.placed[n] or graph.component[n] or np.median(np.linalg.norm(away, axis=1)) > 3 * tissue_.pitch:
            continue
        mirrored = bool(tissue_.true_pose(n, 0).mirrored)
        turn = pose.compose(procrustes(places[n], truth, np.ones(len(truth)), mirrored=mirrored).inverse())
        error = np.array([turn.angle, *(turn(graph.center[n][None])[0] - graph.center[n])])
        cells = cell_covariance(graph.covariance[n], graph.center[n], pose(places[n]), warp=graph.warp[n])
        inside = region_coverage(away[::7], np.asarray(cells, float)[::7], level=LEVEL)
        held = region_coverage(error[None], graph.covariance[n][None], level=LEVEL)[0]
        rows.append({"section": n, "pose held": bool(held), "cells held": float(inside.mean())})
    return rows


def edge(slices: list[Any], i: int, j: int) -> PoseEdge:
    """The posterior of a pair as the pose graph takes it."""
    fit = card.run(METHODS["alignment"]["fields"](), jax.random.key(0), [(slices[i], slices[j])])[0]
    made = field_pair(slices[i], slices[j])
    threshold = null_evidence(jax.random.key(1), made)
    found = pose_posterior(made, fit.result.poses, threshold)
    poses = Affine(np.asarray(found.poses.matrix, float), np.asarray(found.poses.shift, float))
    precision = np.linalg.inv(np.asarray(found.covariance, float))
    evidence, center = (np.asarray(leaf, float) for leaf in (found.evidence, found.center))
    return PoseEdge(i, j, poses, evidence, precision, center, threshold, warp=float(found.warp))


def stacks(number: int) -> list[dict[str, Any]]:
    """Coverage of the poses and cells of sections of stacks."""
    rows = [row for seed in range(number) for row in stack(seed)]
    if not rows:
        return []
    held = coverage([r["pose held"] for r in rows])
    return [
        {
            "table": "stacks",
            "stacks": number,
            "sections": len(rows),
            "pose": held.share,
            "pose interval": [held.low, held.high],
            "cell": float(np.mean([r["cells held"] for r in rows])),
            "pose by distance": [
                float(np.mean([r["pose held"] for r in rows if r["section"] == n] or [np.nan])) for n in range(1, 5)
            ],
        }
    ]


def refused(pair: Pair, seed: int) -> dict[str, Any] | None:
    """``judged``, or None where the sections are too small to be aligned at all."""
    try:
        return judged(pair, seed)
    except ValueError as error:
        print(f"{pair.kind}: {error}")
        return None


def main() -> None:
    """Run the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=120)
    parser.add_argument("--parity", type=int, default=60, help="pairs of the symmetric tissue")
    parser.add_argument("--stacks", type=int, default=10)
    parser.add_argument("--offset", type=int, default=0, help="first seed")
    arguments = parser.parse_args()
    pairs = [refused(pair, n) for n, pair in enumerate(all_pairs(arguments.pairs, arguments.offset))]
    pairs = [row for row in pairs if row is not None]
    symmetric = [refused(types(arguments.offset + n), n) for n in range(arguments.parity)]
    symmetric = [row for row in symmetric if row is not None]
    judge = [r for r in pairs if r["use"] == "judge"]
    rows = [fitted(pairs + symmetric), summary("all", judge)]
    rows += [summary(kind, [r for r in judge if r["kind"] == kind]) for kind in sorted({r["kind"] for r in judge})]
    warped = [(0.0, 0.1), (0.1, 0.4), (0.4, 0.7), (0.7, 2.0)]
    for low, high in warped:
        own = [r for r in judge if r["kind"] == "simulated" and low <= r["true warp"] < high]
        rows.append(summary(f"simulated, warp sd {low} to {high} pitch", own))
    rows.append(parity("all", judge))
    rows.append(parity("merfish types", [r for r in symmetric if r["use"] == "judge"]))
    rows += stacks(arguments.stacks)
    for row in rows:
        print(row)
    command = (
        f"python benchmarks/pose_posterior.py --pairs {arguments.pairs} --parity {arguments.parity} "
        f"--stacks {arguments.stacks} --offset {arguments.offset}"
    )
    print(record.write("pose_posterior", rows, command=command, targets=TARGETS).name)


if __name__ == "__main__":
    main()
