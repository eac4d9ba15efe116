"""Does the posterior of the pose cover? Pairs with known truth, judged on new seeds.

``python benchmarks/pose_posterior.py --pairs 120 --parity 60 --stacks 10 --scales 12``

Pairs, alternately of every kind: neighbouring sections of a simulated tissue (noise, density and smooth deformation
that the model does not assume, cropped and thinned); neighbouring slabs of the thick STARmap tissue; disjoint halves of
the cells of one section (DLPFC, mPFC, MERFISH, osmFISH, seqFISH), each cropped to a disc, one of them thinned. Every
source is turned, shifted and, half the time, mirrored. The row ``fitted`` says which constants of
``registration.posterior.CALIBRATION`` the tissues and seeds marked ``fit`` ask for; all other figures are of those
marked ``judge``. The constants in use were settled on the fitting halves of earlier seeds of the same tissues, with an
eye on the other halves, so new seeds (``--offset``) judge them, but not new tissues.

Parity also on the twelve MERFISH sections, a tissue that is nearly its own mirror image, with cell types as features:
their common frame is a truth for parity only. Stacks: sections of simulated tissues through the pose graph. Scales:
simulated pairs whose source has shrunk or swollen. A run is long: with ``--keep FOLDER`` every pair's row is written
there, and a run that begins again takes it from there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import record
from pose_tables import LEVEL, scales, stacks, tables
from pose_truth import Pair, in_target, on_target, one_pair, rigid_truth, scaled, true_places, types

from spatialjax.methods import METHODS, card
from spatialjax.metrics.calibration import region_coverage
from spatialjax.preprocess import shared_embedding
from spatialjax.registration.calibration import CALIBRATION, widening
from spatialjax.registration.outline import posterior_with_outlines
from spatialjax.registration.pairs import field_pair, null_evidence, pitch_of
from spatialjax.registration.pose_graph import PoseEdge, solve_pose_graph
from spatialjax.registration.posterior import (
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

CAPACITY = 1024
TARGETS = {
    "pose": "the 90 % region of the pose holds the truth 85-95 % of the time",
    "cell": "the 90 % region of a cell's place holds the truth 85-95 % of the time",
    "parity": "predicted probabilities agree with observed frequencies; Brier at most a coin's .25 on symmetric tissue",
    "overlap": "the 90 % interval of the overlap holds the true share",
    "scale": "the 90 % interval of the scale holds the true one",
}


def aligned(pair: Pair, seed: int) -> tuple[Any, Any]:
    """The pair made ready, and the poses found."""
    (a, xy), (b, other) = pair.source, pair.target
    embedding = shared_embedding([a, b], [xy, other], kind=pair.features)
    source, target = make_slice(embedding[0], xy, capacity=CAPACITY), make_slice(embedding[1], other)
    fit = card.run(METHODS["alignment"]["fields"](), jax.random.key(seed), [(source, target)])[0]
    return field_pair(source, target), fit.result.poses


def judged(pair: Pair, seed: int) -> dict[str, Any]:
    """Everything the tables and the fit need of one pair."""
    start = time.perf_counter()
    made, poses = aligned(pair, seed)
    begun = time.perf_counter()
    key = jax.random.key(seed)
    threshold = null_evidence(key, made)
    middle = time.perf_counter()
    posterior = jax.block_until_ready(pose_posterior(made, poses, threshold))
    posterior, edges = posterior_with_outlines(posterior, pair.source[1], pair.target[1])
    ended = time.perf_counter()
    right = bool(posterior.poses.mirrored[0]) == pair.mirrored
    row: dict[str, Any] = {
        "kind": pair.kind,
        "use": pair.use,
        "cells": len(pair.source[1]),
        "spots": float(posterior.spots[0]),
        "evidence": [float(e) for e in posterior.evidence if np.isfinite(e)],
        "mode parity right": [
            bool(m) == pair.mirrored
            for m, e in zip(posterior.poses.mirrored, posterior.evidence, strict=True)
            if np.isfinite(e)
        ],
        "probability of the parity": float(posterior.mirrored if pair.mirrored else 1 - posterior.mirrored),
        "mirrored": float(posterior.mirrored),
        "pair's temperature": float(posterior.temperature[0]),
        "truly mirrored": pair.mirrored,
        "determined": bool(posterior.determined),
        "ambiguous": bool(posterior.ambiguous),
        "threshold": threshold,
        "parity right": right,
        "edges": edges is not None,
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
    interval = overlap_interval(key, made, posterior, draws=200)
    return {
        "mixture held": bool((heights > height).mean() <= LEVEL),
        "overlap said": [float(interval.low), float(interval.mean), float(interval.high)],
        "true overlap": float(on_target(pair).mean()),
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
    factor = widening(posterior.temperature[0], posterior.spots[0], CALIBRATION)
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


def scale_row(seed: int) -> dict[str, Any]:
    """The scale of a simulated pair and what the posterior says of it."""
    pair, truth = scaled(seed)
    made, poses = aligned(pair, seed)
    found = pose_posterior(made, poses, null_evidence(jax.random.key(seed), made), scale=True)
    right = bool(found.poses.mirrored[0]) == pair.mirrored
    low, high = (float(end[0]) for end in found.scale.interval(level=LEVEL))
    return {
        "use": "scale",
        "determined": bool(found.determined) and right,
        "truth": truth,
        "scale": float(found.scale.scale[0]),
        "held": low <= truth <= high,
        "half width": 0.5 * (high - low),
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
    places = [np.asarray(slices[n].xy, float)[np.asarray(slices[n].mask)] for n in (i, j)]
    found, _ = posterior_with_outlines(found, *places)
    precision = np.linalg.inv(found.covariance)
    return PoseEdge(i, j, found.poses, found.evidence, precision, found.center, threshold, warp=float(found.warp))


def kept(folder: Path | None, name: str, make: Callable[[], Any]) -> Any:
    """What ``make`` gives, or gave when it was kept; None where the sections are too small to be aligned at all."""
    path = None if folder is None else folder / f"{name}.json"
    if path is not None and path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    try:
        found = make()
    except ValueError as error:
        print(f"{name}: {error}")
        found = None
    if path is not None:
        path.write_text(json.dumps(found), encoding="utf-8")
    return found


def main() -> None:
    """Run the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=120)
    parser.add_argument("--parity", type=int, default=60, help="pairs of the symmetric tissue")
    parser.add_argument("--stacks", type=int, default=10)
    parser.add_argument("--scales", type=int, default=12, help="pairs with a scale")
    parser.add_argument("--offset", type=int, default=0, help="first seed")
    parser.add_argument("--keep", type=Path, default=None, help="folder for the rows of single pairs")
    given = parser.parse_args()
    if given.keep is not None:
        given.keep.mkdir(parents=True, exist_ok=True)

    def collected(name: str, jobs: list[Callable[[], Any]]) -> list[Any]:
        found = [kept(given.keep, f"{name}_{given.offset}_{n}", job) for n, job in enumerate(jobs)]
        return [row for row in found if row is not None]

    first = given.offset
    pairs = collected("pair", [lambda n=n: judged(one_pair(n, first), n) for n in range(given.pairs)])
    symmetric = collected("types", [lambda n=n: judged(types(first + n), n) for n in range(given.parity)])
    rows = tables(pairs, symmetric)
    rows += scales(collected("scale", [lambda n=n: scale_row(first + n) for n in range(given.scales)]))
    in_stacks = collected("stack", [lambda n=n: stack(n) for n in range(given.stacks)])
    rows += stacks([row for found in in_stacks for row in found], given.stacks)
    for row in rows:
        print(row)
    command = (
        f"python benchmarks/pose_posterior.py --pairs {given.pairs} --parity {given.parity} "
        f"--stacks {given.stacks} --scales {given.scales} --offset {given.offset}"
    )
    print(record.write("pose_posterior", rows, command=command, targets=TARGETS).name)


if __name__ == "__main__":
    main()
