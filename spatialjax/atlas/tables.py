"""What a run reports about its pairs, loops and sections: plain rows for ``run.json``, the report and the warnings."""

from __future__ import annotations

from typing import Any

import numpy as np

from spatialjax import checks
from spatialjax.atlas import quality
from spatialjax.atlas.domains import Domains
from spatialjax.atlas.pairs import PairPosterior, PairResult
from spatialjax.atlas.reconstruction import Placement
from spatialjax.registration.scale import LARGEST, SMALLEST

#: Poses of a pair that are listed in its row: at least this probable.
PROBABLE = 0.01


def pair_rows(names: list[str], results: tuple[PairResult, ...], graph: Any) -> list[dict[str, Any]]:
    """One row a pair: its evidence, the pose that was used, and how sure it is.

    Parameters
    ----------
    names
        Of the sections.
    results
        The pairs.
    graph
        The ``PoseGraph`` that joined them.
    """
    chosen = _chosen(results, graph)
    rows = []
    for r in results:
        pick = chosen.get((r.source, r.target), -1)
        pose = r.poses[max(pick, 0)]
        other = r.evidence[np.asarray(r.poses.mirrored) != bool(pose.mirrored)]
        rows.append(
            {
                "source": names[r.source],
                "target": names[r.target],
                "lag": r.target - r.source,
                "evidence": float(r.evidence[max(pick, 0)]),
                "evidence_other_parity": float(other[0]) if len(other) else None,
                "threshold": r.threshold,
                "supported": r.supported,
                "used": pick >= 0,
                "hypothesis": pick,
                "mirrored": bool(pose.mirrored),
                "angle_deg": float(np.degrees(pose.angle)),
                "similarity": r.similarity,
                "status": r.status,
                **_sureness(r, max(pick, 0)),
            }
        )
    return rows


def _chosen(results: tuple[PairResult, ...], graph: Any) -> dict[tuple[int, int], int]:
    """(source, target) -> pose that agrees with the common frame, -1 where none does."""
    solved = [r for r in results if np.isfinite(r.evidence[0])]
    return {(r.source, r.target): int(c) for r, c in zip(solved, np.asarray(graph.chosen), strict=True)}


def _sureness(pair: PairResult, pick: int) -> dict[str, Any]:
    """What the posterior of a pair says, for its row."""
    posterior = pair.posterior
    if posterior is None:
        return {"determined": False, "ambiguous": False}
    mean, low, high = posterior.overlap
    return {
        "determined": posterior.determined,
        "ambiguous": posterior.ambiguous,
        "probability": float(posterior.probability[pick]),
        "probability_mirrored": posterior.mirrored,
        "angle_sd_deg": posterior.angle_sd(pick),
        "shift_sd_um": posterior.shift_sd(pick),
        "warp_sd_um": float(np.sqrt(posterior.warp)),
        "overlap": mean,
        "overlap_q05": low,
        "overlap_q95": high,
        "edges_shared": None if posterior.edges is None else min(posterior.edges),
        "poses": [
            {
                "probability": float(posterior.probability[k]),
                "evidence": float(pair.evidence[k]),
                "mirrored": bool(pair.poses[k].mirrored),
                "angle_deg": float(np.degrees(pair.poses[k].angle)),
                "matrix": pair.poses[k].matrix.tolist(),
                "shift_um": pair.poses[k].shift.tolist(),
            }
            for k in np.flatnonzero(posterior.probability >= PROBABLE)
        ],
    }


def metrics(
    names: list[str],
    rows: list[dict[str, Any]],
    *,
    graph: Any,
    found: Domains,
    results: tuple[PairResult, ...],
) -> dict[str, Any]:
    """What ``Reconstruction.metrics`` holds.

    Parameters
    ----------
    names
        Of the sections.
    rows
        Similarity of matched places, see ``quality.similarity``.
    graph
        The ``PoseGraph``.
    found
        The domains.
    results
        The pairs.
    """
    columns = ("atlas", *quality.NULLS)
    named = [{**row, "source": names[row["source"]], "target": names[row["target"]]} for row in rows]
    return {
        "similarity": {name: quality.mean_of(rows, name) for name in columns},
        "similarity_pairs": named,
        "loops": _loops(names, graph, results),
        "domains": {"number": found.number, "criterion": {str(k): v for k, v in found.criterion.items()}},
        "pose_graph_converged": bool(graph.converged),
    }


def _loops(names: list[str], graph: Any, results: tuple[PairResult, ...]) -> list[dict[str, Any]]:
    chosen = _chosen(results, graph)
    pairs = {(r.source, r.target): r for r in results}

    def expected(sections: tuple[int, int, int], entries: tuple[int, ...]) -> float:
        """Standard deviation of what is left over, if the errors of the three pairs are as wide as they say."""
        i, j, k = (int(section) for section in sections)
        total = 0.0
        for edge in ((i, j), (j, k), (i, k)):
            posterior = pairs[edge].posterior
            if posterior is None:
                return float("nan")
            diagonal = np.diagonal(posterior.covariance[max(chosen.get(edge, 0), 0)])
            total += float(diagonal[list(entries)].sum())
        return float(np.sqrt(total))

    return [
        {
            "sections": [names[int(i)] for i in loop.sections],
            "angle_deg": float(loop.angle),
            "angle_sd_deg": float(np.degrees(expected(loop.sections, (0,)))),
            "displacement_um": float(loop.displacement),
            "displacement_sd_um": expected(loop.sections, (1, 2)),
            "parity_agrees": bool(loop.parity_agrees),
            "kept": bool(loop.kept),
        }
        for loop in graph.loops
    ]


def warnings(placements: list[Placement], results: tuple[PairResult, ...], names: list[str]) -> list[str]:
    """Sentences about what a user should know before trusting the result.

    Parameters
    ----------
    placements
        Where the sections lie.
    results
        The pairs.
    names
        Of the sections.
    """
    found = []
    lost = [p.name for p in placements if not p.placed]
    if lost:
        found.append(
            f"No evidence places {checks.listed(lost)}: the coordinates of the cells are NaN and obs['placed'] is "
            "False. "
            "Look at the tissue and the order; more shared genes or a cleaner section may help."
        )
    parts = sorted({p.component for p in placements if p.placed})
    if len(parts) > 1:
        frames = "; ".join(f"{i}: {checks.listed([p.name for p in placements if p.component == i])}" for i in parts)
        found.append(
            f"The sections fall into {len(parts)} groups that nothing joins, each in the frame of its own anchor "
            f"({frames}): "
            "positions cannot be compared between groups (obs['component'])."
        )
    found += _ambiguous(results, names)
    for r in results:
        if r.status == "not finite":
            found.append(f"The alignment of {names[r.source]!r} with {names[r.target]!r} broke down (not finite).")
    return found


def scale_messages(posterior: PairPosterior, pose: int) -> list[str]:
    """What a user should know of the scale of a pose.

    Parameters
    ----------
    posterior
        Of the pair, with a scale.
    pose
        Which of its poses.
    """
    size, (low, high) = float(posterior.scale[pose]), posterior.scale_interval(pose)
    said = f"Lengths of the source are multiplied by {size:.3f} (90 %: {low:.3f} to {high:.3f})"
    if not SMALLEST * 1.001 < size < LARGEST / 1.001:
        return [f"{said}: as far as a scale may go ({SMALLEST:g} to {LARGEST:g}). Do not believe it; check the units."]
    return [f"{said}: 1 is within that, so that there may be no change of scale." if low <= 1 <= high else f"{said}."]


def _ambiguous(results: tuple[PairResult, ...], names: list[str]) -> list[str]:
    """One sentence for each pair of neighbours whose tissue fits in two ways, with both poses."""
    found = []
    for r in results:
        if r.target - r.source != 1 or r.posterior is None or not (r.supported and r.posterior.ambiguous):
            continue
        poses = " or ".join(
            f"turned by {np.degrees(r.poses[k].angle):+.0f}°{' and mirrored' if bool(r.poses[k].mirrored) else ''} "
            f"(probability {r.posterior.probability[k]:.2f})"
            for k in range(2)
        )
        found.append(
            f"{names[r.source]!r} fits on {names[r.target]!r} in two ways: {poses}. The stack was joined with the way "
            "that agrees best with the other pairs; look at both."
        )
    return found
