"""Pairs whose pose a person has fixed: the pose graph keeps them, and lets no other pair outvote them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from spatialjax.registration.pose_graph import PoseEdge

#: Nats that a pair beside a held one counts for at the most. A section has at most four other pairs within reach, so
#: that together they stay below the evidence that one held pair has.
BESIDE = 10.0


def hold(
    edges: Sequence[PoseEdge], held: Sequence[bool], *, angle_sd: float = 0.01, shift_sd: float = 50.0
) -> list[PoseEdge]:
    """Edges for a pose graph without a floor of its own (``angle_sd=0, shift_sd=0``) that keeps the held ones.

    A held edge keeps its precision, every other one takes the floor into its own. Edges that share a section with a
    held one count for less, all their hypotheses in proportion.

    Parameters
    ----------
    edges
        All pairs.
    held
        Which of them are held.
    angle_sd, shift_sd
        The floor of the other edges, rad and µm; see ``solve_pose_graph``.
    """
    ends = {end for edge, keep in zip(edges, held, strict=True) if keep for end in (edge.source, edge.target)}
    floor = np.diag([angle_sd, shift_sd, shift_sd]) ** 2
    result = []
    for edge, keep in zip(edges, held, strict=True):
        if keep:
            result.append(edge)
            continue
        precision = np.asarray(edge.precision, np.float64)
        changed = dataclasses.replace(edge, precision=precision @ np.linalg.inv(np.eye(3) + floor @ precision))
        if ends & {edge.source, edge.target}:
            gain = np.asarray(edge.evidence, np.float64) - edge.threshold
            scale = BESIDE / max(float(gain.max()), BESIDE)
            changed = dataclasses.replace(changed, evidence=edge.threshold + gain * scale)
        result.append(changed)
    return result
