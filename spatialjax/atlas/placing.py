"""The third step of the main job: all sections in common frames, where they overlap, and which spots match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from spatialjax.atlas.features import Prepared
from spatialjax.atlas.hand import FIXED
from spatialjax.atlas.pairs import PairResult, pose_overlap
from spatialjax.registration.coupling import soft_matches
from spatialjax.registration.held import hold
from spatialjax.registration.pose_covariance import spot_sd
from spatialjax.registration.pose_graph import PoseEdge, PoseGraph, solve_pose_graph
from spatialjax.transforms import Affine


@dataclass(frozen=True)
class Placed:
    """Where the sections lie, rows in canonical order.

    Attributes
    ----------
    poses
        Map of each section into the frame of its component's anchor, µm.
    placed
        Whether the evidence supports the section's place.
    component
        Connected component of each section, -1 where it is not placed.
    xyz
        (n_i, 3) µm; NaN where the section is not placed.
    """

    poses: Affine
    placed: Bool[np.ndarray, " s"]
    component: Int[np.ndarray, " s"]
    xyz: tuple[Float[np.ndarray, "n 3"], ...]


def join(
    results: Sequence[PairResult],
    number: int,
    *,
    pitch: float,
    anchor: int | None = None,
    reflection: str = "auto",
) -> PoseGraph:
    """Choose one pose for each pair and solve for all sections together.

    Parameters
    ----------
    results
        The pairs.
    number
        Number of sections.
    pitch
        Distance between spots, µm: half of it is what the precision of a pair cannot know.
    anchor
        Section that keeps its own coordinates; the first placed one where left out.
    reflection
        ``"never"``, ``"auto"`` or ``"allow"``.
    """
    edges = [
        PoseEdge(
            source=r.source,
            target=r.target,
            poses=r.poses,
            evidence=r.evidence,
            precision=r.precision,
            center=r.center,
            threshold=r.threshold,
            warp=0.0 if r.posterior is None else r.posterior.warp,
        )
        for r in results
        if np.isfinite(r.evidence[0])
    ]
    floor = {"angle_sd": 0.01, "shift_sd": 0.5 * pitch}
    held = [r.status == FIXED for r in results if np.isfinite(r.evidence[0])]
    if any(held):
        edges, floor = hold(edges, held, **floor), {"angle_sd": 0.0, "shift_sd": 0.0}
    return solve_pose_graph(edges, n_sections=number, anchor=anchor, reflection=reflection, **floor)


def place(stack: Any, graph: PoseGraph) -> Placed:
    """Coordinates of all spots in the frame of the anchor; the anchor's own are passed through untouched."""
    placed = np.asarray(graph.placed, bool)
    component = np.asarray(graph.component, int)
    poses = Affine(np.asarray(graph.poses.matrix, np.float64), np.asarray(graph.poses.shift, np.float64))
    xyz = []
    for i, section in enumerate(stack.sections):
        moved = np.full((len(section.xy), 3), np.nan)
        if placed[i]:
            still = np.array_equal(poses.matrix[i], np.eye(2)) and not poses.shift[i].any()
            moved[:, :2] = section.xy if still else poses[i](section.xy)
            moved[:, 2] = section.z
        xyz.append(moved)
    return Placed(poses, placed, component, tuple(xyz))


def deviations(placed: Placed, graph: PoseGraph) -> tuple[Float[np.ndarray, "n 3"], ...]:
    """Standard deviation of the place of every spot along x, y and z, µm, relative to the anchor of its component.

    That of the anchor itself, and along z, which is given, is 0; NaN where a section is not placed.
    """
    return tuple(
        spot_sd(graph.covariance[i], graph.center[i], xyz, warp=float(graph.warp[i]))
        for i, xyz in enumerate(placed.xyz)
    )


def overlaps(prepared: Prepared, placed: Placed) -> tuple[Float[np.ndarray, " n"], ...]:
    """For each spot the probability that the next section on either side shows its place: the larger of the two.

    NaN where no other section lies in the same frame.
    """
    found = [np.full(len(e), np.nan) for e in prepared.embeddings]
    pairs = neighbours_in_frame(placed)
    for a, b in pairs + [(b, a) for a, b in pairs]:
        pose = placed.poses[b].inverse().compose(placed.poses[a])
        found[a] = np.fmax(found[a], pose_overlap(prepared, (a, b), pose))
    return tuple(found)


def neighbours_in_frame(placed: Placed) -> list[tuple[int, int]]:
    """Pairs of successive sections that lie in one frame, over unplaced sections between them."""
    pairs = []
    for label in sorted(set(placed.component[placed.placed].tolist())):
        members = np.flatnonzero(placed.placed & (placed.component == label))
        pairs += list(zip(members[:-1].tolist(), members[1:].tolist(), strict=True))
    return sorted(pairs)


def couple(
    stack: Any, prepared: Prepared, placed: Placed, *, neighbors: int = 6
) -> dict[tuple[int, int], sp.csr_matrix]:
    """Sparse soft matches between successive sections of one frame, rows and columns in canonical order.

    Parameters
    ----------
    stack, prepared, placed
        The sections, their features and their places.
    neighbors
        Largest number of matches of a spot.

    Returns
    -------
    dict
        ``(a, b) -> (n_a, n_b)`` weights; each row sums to 1, or is empty where section b shows no such place.
    """
    return {
        (a, b): soft_matches(
            placed.xyz[a][:, :2],
            placed.xyz[b][:, :2],
            features=prepared.embeddings[a],
            target_features=prepared.embeddings[b],
            bandwidth=max(stack.sections[a].pitch, stack.sections[b].pitch),
            k=neighbors,
        )
        for a, b in neighbours_in_frame(placed)
    }
