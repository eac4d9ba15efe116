"""The main job from an opened stack of sections to a finished reconstruction, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import jax
import numpy as np
import scipy.sparse as sp

from spatialjax.atlas import assemble, decided, domains, placing, quality, tables
from spatialjax.atlas.composed import SpotsBesideCells, find_composition, put_into
from spatialjax.atlas.features import Prepared, histology_lost, histology_record, prepare
from spatialjax.atlas.pairs import PairResult, align_pairs, pairs_of
from spatialjax.atlas.reconstruction import Options, Placement, Reconstruction
from spatialjax.atlas.steps import Steps, Store
from spatialjax.atlas.watch import Watch
from spatialjax.registration.order import check_order
from spatialjax.registration.pose_graph import PoseGraph
from spatialjax.transforms import Affine


def reconstruct_stack(
    stack: Any,
    options: Options,
    *,
    watch: Watch | None = None,
    layout: Any = None,
    store: Store | None = None,
    beside: SpotsBesideCells | None = None,
) -> Reconstruction:
    """Run every step on an opened stack.

    Parameters
    ----------
    stack
        What ``io.open_sections`` returned.
    options
        Checked options.
    watch
        Measures and reports the placing.
    layout
        Where the cells of each section stand in the output, see ``assemble.Layout``; one section after the other where
        left out.
    store
        An opened store where the result of each step is kept, and read where it is kept already; see ``job.run_job``.
    beside
        Counts of the spots beside a reference of single cells: the composition of every spot is found, too.
    """
    watch = Watch() if watch is None else watch
    steps = Steps(watch, store)
    method = options.resolved_method
    key = jax.random.key(options.seed)
    prepared, results, (graph, placed, overlap, deviation) = _aligned(stack, options, steps=steps, watch=watch)
    found = steps.run(
        "domains",
        "3D neighbours and domains",
        lambda: domains.find_domains(
            prepared.embeddings, domains.graph3d(stack, placed), number=options.n_domains, rng=_generator(options, 2)
        ),
    )
    matches, rows = steps.run(
        "couplings",
        "soft matches and their similarity",
        lambda: _match(stack, prepared, placed, key=jax.random.fold_in(key, 3)),
    )
    composition = _composition(steps, beside, key=jax.random.fold_in(key, 4), watch=watch)
    with watch.step("atlas", "cells back in input order"):
        order = check_order(
            quality.similarity_of_pairs(results), np.array([s.z for s in stack.sections]), names=stack.names
        )
        metrics = tables.metrics(stack.names, rows, graph=graph, found=found, results=results) | {
            "order": [asdict(finding) for finding in order]
        }
        values = assemble.PerCell(
            placed.xyz, deviation, overlap, found.labels, found.confidence, placed.placed, placed.component
        )
        placements = _placements(stack, placed, graph)
        atlas, said = assemble.assemble(stack, values, layout=layout)
        if beside is not None:
            place = assemble.rows_of(stack.sections, layout)
            said = [*said, *put_into(atlas, beside, composition, rows=place, seed=options.seed)]
        before = [*histology_lost(stack, prepared.added), *stack.messages]
        warnings = [*before, *tables.warnings(placements, results, stack.names), *said]
        how = {"options": asdict(options), "method": method, "histology": histology_record(stack, prepared.added)}
        atlas.uns["spatialjax"] = assemble.describe(placements, warnings=warnings, **how)
    return Reconstruction(
        atlas=atlas,
        transforms={p.name: p for p in placements},
        couplings=_named(stack, matches),
        pairs=tables.pair_rows(stack.names, results, graph),
        metrics=metrics,
        findings=[finding.sentence for finding in order],
        warnings=warnings,
        timings=watch.timings,
    )


def _aligned(
    stack: Any, options: Options, *, steps: Steps, watch: Watch
) -> tuple[Prepared, tuple[PairResult, ...], Any]:
    """Features, pairs and pose graph."""
    method, key = options.resolved_method, jax.random.key(options.seed)
    prepared = steps.run("features", "joint components of all sections", lambda: prepare(stack, method=method))
    pairs = pairs_of(len(stack.sections))
    results = tuple(
        steps.run_each(
            "pairs",
            f"{len(pairs)} pairs by {method!r}",
            _pair_steps(stack, prepared, pairs, options=options, key=jax.random.fold_in(key, 1), watch=watch),
        )
    )
    results = decided.with_decisions(results, options, stack)
    where = steps.run("pose graph", "all sections together", lambda: _place(stack, prepared, results, options=options))
    return prepared, results, where


def _composition(steps: Steps, beside: SpotsBesideCells | None, *, key: Any, watch: Watch) -> Any:
    """The composition of all spots; None without a reference."""
    if beside is None:
        return None
    kinds = len(beside.opened.reference.names)
    return steps.run("composition", f"{kinds} types", lambda: find_composition(beside, key=key, say=watch.say))


def _pair_steps(
    stack: Any, prepared: Prepared, pairs: list[tuple[int, int]], *, options: Options, key: Any, watch: Watch
) -> dict[str, Callable[[], PairResult]]:
    """What aligns each pair. The key of a pair depends on its two sections and on no other pair."""
    anew = {} if options.decisions is None else options.decisions.redone(stack.names)

    def step(number: int, pair: tuple[int, int]) -> Callable[[], PairResult]:
        label = " on ".join(stack.names[i] for i in pair)

        def report(now: Any) -> None:
            done = now.steps / now.max_steps if now.max_steps else 0.0
            watch.say(f"{label}, pair {number + 1} of {len(pairs)}", share=(number + done) / len(pairs))

        def align() -> PairResult:
            own = jax.random.fold_in(jax.random.fold_in(key, pair[0]), pair[1])
            method, given = options.resolved_method, prepared
            if pair in anew:
                method = anew[pair].method or method
                given = prepared if method == options.resolved_method else prepare(stack, method=method)
                own = own if anew[pair].seed is None else jax.random.fold_in(own, anew[pair].seed)
            (result,) = align_pairs(given, [pair], method=method, key=own, progress=report)
            return result

        return align

    return {f"{a}-{b}": step(number, (a, b)) for number, (a, b) in enumerate(pairs)}


def _place(
    stack: Any, prepared: Prepared, results: tuple[PairResult, ...], *, options: Options
) -> tuple[PoseGraph, placing.Placed, tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """The pose graph, where the sections lie, and the overlap and the standard deviation of every spot."""
    anchor = None if options.anchor is None else stack.names.index(options.anchor)
    pitch = float(np.median([section.pitch for section in stack.sections]))
    graph = placing.join(results, len(stack.sections), pitch=pitch, anchor=anchor, reflection=options.reflection)
    placed = placing.place(stack, graph)
    return graph, placed, placing.overlaps(prepared, placed), placing.deviations(placed, graph)


def _match(
    stack: Any, prepared: Prepared, placed: placing.Placed, *, key: Any
) -> tuple[dict[tuple[int, int], sp.csr_matrix], list[dict[str, Any]]]:
    """Soft matches of successive sections, and their similarity beside its nulls."""
    matches = placing.couple(stack, prepared, placed)
    return matches, quality.similarity(stack, prepared, placed, couplings=matches, key=key)


def _named(stack: Any, matches: dict[tuple[int, int], sp.csr_matrix]) -> dict[tuple[str, str], sp.csr_matrix]:
    names = stack.names
    return {(names[a], names[b]): assemble.in_input_order(stack, (a, b), m) for (a, b), m in matches.items()}


def _generator(options: Options, stream: int) -> np.random.Generator:
    return np.random.default_rng([options.seed, stream])


def _placements(stack: Any, placed: placing.Placed, graph: Any) -> list[Placement]:
    names = [section.name for section in stack.sections]
    anchors = {int(placed.component[a]): names[a] for a in np.atleast_1d(graph.anchors)}
    result = []
    for i, section in enumerate(stack.sections):
        pose, unit = placed.poses[i], float(section.um_per_unit)
        result.append(
            Placement(
                name=section.name,
                transform=pose,
                from_units=Affine(pose.matrix * unit, pose.shift),
                z=float(section.z),
                placed=bool(placed.placed[i]),
                component=int(placed.component[i]),
                anchor=anchors.get(int(placed.component[i])) if placed.placed[i] else None,
                um_per_unit=unit,
                units_source=str(section.units_source),
                covariance=graph.covariance[i],
                center=graph.center[i],
                warp=float(graph.warp[i]),
            )
        )
    return result
