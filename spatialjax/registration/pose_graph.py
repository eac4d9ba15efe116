"""All pair poses together: one frame for a stack of sections, so that it does not drift and no outlier bends it.

Every pair of sections brings a few hypotheses with their evidence. One hypothesis is chosen for each pair, or none, so
that the sum of ``evidence - threshold - 1/2 r' P r`` is largest, where ``r`` is the residual of the pair against the
common frame and ``P`` its precision. A beam search places the sections one by one over all hypotheses and parities;
then robust least squares over all chosen pairs and a new choice alternate until nothing changes.

Planar rigid maps are handled as ``x -> exp(i angle) K(x) + shift`` on complex numbers, ``K`` the conjugate where the
map is mirrored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from spatialjax.registration.pose_covariance import Measured, propagate, section_warps
from spatialjax.registration.pose_search import Link, Rigid, alternate, beam_search, distinct, invert, residual, then
from spatialjax.transforms import Affine

Reflection = Literal["auto", "never", "allow"]

#: Chains of five simulated sections: 90 % regions hold .94 of 32 section poses with it, .88 with 0
#: (``benchmarks/pose_posterior.py``).
PAIR_CORRELATION = 0.35


@dataclasses.dataclass(frozen=True)
class PoseEdge:
    """What a pair of sections says about its pose.

    Attributes
    ----------
    source, target
        Numbers of the two sections.
    poses
        Hypotheses along a leading axis, the best first: rigid maps from source µm to target µm.
    evidence
        Evidence of each hypothesis in nats; -inf on unused places.
    precision
        Inverse covariance of (angle in rad, x, y in µm) for the perturbation
        ``x -> R(angle)(T x - center) + center + (x, y)`` in the frame of the target.
    center
        Centre of the perturbation of each hypothesis, µm, in the frame of the target.
    threshold
        Evidence that a pair of unrelated sections reaches; only hypotheses above it count.
    warp
        Variance of a cell's place along each axis that no rigid pose of the pair explains, µm².
    """

    source: int
    target: int
    poses: Affine
    evidence: Float[np.ndarray, k]
    precision: Float[np.ndarray, "k 3 3"]
    center: Float[np.ndarray, "k 2"]
    threshold: float
    warp: float = 0.0


class Loop(NamedTuple):
    """How well three pair poses close.

    Attributes
    ----------
    sections
        The three sections i < j < k.
    angle
        Angle between i -> j -> k and i -> k, degrees; NaN where the parities disagree.
    displacement
        Distance between the two images of the centre of the pair (i, k), µm; NaN where the parities disagree.
    parity_agrees
        Whether both ways turn the section over, or neither.
    kept
        Whether all three pairs agree with the common frame; a pair that does not enters with its best hypothesis.
    """

    sections: tuple[int, int, int]
    angle: float
    displacement: float
    parity_agrees: bool
    kept: bool


@dataclasses.dataclass(frozen=True)
class PoseGraph:
    """Where the sections lie.

    Attributes
    ----------
    poses
        Map of each section to the frame of the anchor of its component, µm; NaN where it is not placed.
    placed
        Whether a pair supports the section.
    component
        Number of its component, 0 the main one, -1 where it is not placed. Components share no frame.
    anchors
        Section of each component that keeps its own coordinates.
    chosen
        Hypothesis of each edge that agrees with the common frame, -1 where none does.
    residuals
        (angle in rad, x, y in µm) of each edge against the common frame; NaN where no hypothesis was chosen.
    loops
        Every triangle of supported edges.
    converged
        Whether the choice and the least squares came to rest in all components.
    covariance
        Covariance of (angle in rad, x and y in µm) of each section relative to the anchor of its component, for the
        perturbation ``x -> R(angle)(T x - center) + center + (x, y)`` in the common frame; 0 for the anchor, NaN where
        the section is not placed. It rests on the precisions of the pairs alone, so that it is as calibrated as they
        are (see ``posterior.pose_posterior``).
    center
        What these angles turn about, µm, in the common frame; NaN where the section is not placed.
    warp
        Variance along each axis, µm², that the warps of the section and of its anchor add to the place of a cell; 0
        for the anchor, NaN where the section is not placed.
    """

    poses: Affine
    placed: Bool[np.ndarray, s]
    component: Int[np.ndarray, s]
    anchors: tuple[int, ...]
    chosen: Int[np.ndarray, e]
    residuals: Float[np.ndarray, "e 3"]
    loops: tuple[Loop, ...]
    converged: bool
    covariance: Float[np.ndarray, "s 3 3"]
    center: Float[np.ndarray, "s 2"]
    warp: Float[np.ndarray, s]


def solve_pose_graph(
    edges: Sequence[PoseEdge],
    *,
    n_sections: int,
    anchor: int | None = None,
    reflection: Reflection = "auto",
    reflection_margin: float = 10.0,
    angle_sd: float = 0.01,
    shift_sd: float = 50.0,
    gate: float = 5.0,
    evidence_cap: float = 50.0,
    beam: int = 16,
    correlation: float = PAIR_CORRELATION,
) -> PoseGraph:
    """Place all sections in common frames.

    Parameters
    ----------
    edges
        Pairs of sections, in any order; neighbours and next neighbours keep a stack from drifting.
    n_sections
        Number of sections.
    anchor
        Section that keeps its own coordinates; its component is the main one. Where left out, the main component is
        the one with most sections, and the first section of each component is its anchor.
    reflection
        ``"never"`` leaves mirrored hypotheses out. ``"auto"`` takes ``reflection_margin`` nats from them, so that a
        section is turned over only on clear evidence (or where nothing else is supported). ``"allow"`` compares
        evidence alone.
    reflection_margin
        See ``reflection``, nats.
    angle_sd, shift_sd
        Uncertainty of a pair pose that its precision does not know of (deformation, dependent spots), rad and µm; added
        to its covariance. Half the distance between spots is a fair ``shift_sd``.
    gate
        Largest residual of a chosen hypothesis, in standard deviations.
    evidence_cap
        Largest weight of one pair against others, nats above its threshold. Pairs err because a tissue resembles itself
        elsewhere, not by chance, so that two pairs that agree outweigh one however sure. Differences between the
        hypotheses of one pair keep their full size.
    beam
        Number of partial solutions kept.
    correlation
        Correlation of the errors of two pairs that share a section, see ``pose_covariance``.

    Returns
    -------
    PoseGraph
        Poses, the hypotheses they rest on, and how well the loops close.

    Raises
    ------
    ValueError
        If an edge names a section that is not there, a shape is wrong, a pose is not rigid or a number not finite.
    """
    if reflection not in ("auto", "never", "allow"):
        raise ValueError(f"Expected reflection 'auto', 'never' or 'allow', found {reflection!r}.")
    if anchor is not None and not 0 <= anchor < n_sections:
        raise ValueError(f"Expected an anchor between 0 and {n_sections - 1}, found {anchor}.")
    margin = {"auto": reflection_margin, "allow": 0.0, "never": np.inf}[reflection]
    floor = np.array([angle_sd, shift_sd, shift_sd]) ** 2
    links = [_link(edge, n_sections, margin=margin, floor=floor, cap=evidence_cap) for edge in edges]
    groups = _components(links, n_sections, anchor)
    poses: list[Rigid | None] = [None] * n_sections
    component, chosen, converged = np.full(n_sections, -1), np.full(len(edges), -1), True
    anchors = tuple(anchor if anchor in group else group[0] for group in groups)
    for number, (group, root) in enumerate(zip(groups, anchors, strict=True)):
        starts = beam_search(links, root=root, width=beam, gate=gate)
        best = max((alternate(start, links, root=root, gate=gate) for start in starts[:4]), key=lambda s: s.score)
        component[group] = number
        converged &= best.converged
        for section, pose in best.poses.items():
            poses[section] = pose
        for link, pick in best.chosen.items():
            chosen[link] = links[link].rows[pick]
    covariance, center, warp = _uncertainty(
        edges, links, poses, chosen=chosen, anchors=anchors, correlation=correlation
    )
    return PoseGraph(
        poses=_affine(poses),
        placed=component >= 0,
        component=component,
        anchors=anchors,
        chosen=chosen,
        residuals=np.array([_residual(link, poses, row) for link, row in zip(links, chosen, strict=True)]).reshape(
            -1, 3
        ),
        loops=_loops(links, chosen),
        converged=bool(converged),
        covariance=covariance,
        center=center,
        warp=warp,
    )


def _uncertainty(
    edges: Sequence[PoseEdge],
    links: Sequence[Link],
    poses: Sequence[Rigid | None],
    *,
    chosen: np.ndarray,
    anchors: Sequence[int],
    correlation: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Covariance of each section's pose, the point its angle turns about, and the variance of its warp."""
    used = [number for number, row in enumerate(chosen) if row >= 0]
    pairs = [_measured(edges[number], links[number], chosen[number]) for number in used]
    own = section_warps(
        [(p.source, p.target) for p in pairs],
        np.array([edges[number].warp for number in used], np.float64),
        n_sections=len(poses),
    )
    covariance, center = np.full((len(poses), 3, 3), np.nan), np.full((len(poses), 2), np.nan)
    warp = np.full(len(poses), np.nan)
    for root in anchors:
        joined = {root}
        for _ in pairs:
            joined = joined.union(*({p.source, p.target} for p in pairs if {p.source, p.target} & joined))
        inside = [p for p in pairs if p.source in joined]
        if not inside:
            continue
        found, about = propagate(inside, poses, root=root, correlation=correlation)
        for section, block in found.items():
            covariance[section], center[section] = block, about
            warp[section] = own[section] + own[root] if section != root else 0.0
    return covariance, center, warp


def _measured(edge: PoseEdge, link: Link, row: int) -> Measured:
    pick = int(np.flatnonzero(link.rows == row)[0])
    precision = np.asarray(edge.precision, np.float64)[row]
    return Measured(link.source, link.target, complex(link.center[pick]), precision, link.precision[pick])


def _link(edge: PoseEdge, n_sections: int, *, margin: float, floor: np.ndarray, cap: float) -> Link:
    """The supported hypotheses of an edge, with the floor of the uncertainty inside their precision."""
    if edge.source == edge.target or not all(0 <= end < n_sections for end in (edge.source, edge.target)):
        raise ValueError(
            f"Expected two different sections below {n_sections}, found the edge {edge.source} -> {edge.target}."
        )
    matrix, shift, evidence, center, precision = _arrays(edge)
    mirrored = np.linalg.det(matrix) < 0
    rows = np.flatnonzero((evidence > edge.threshold) & ~(mirrored & np.isinf(margin)))
    gain = evidence[rows] - edge.threshold
    penalty = np.where(mirrored[rows], margin if np.isfinite(margin) else 0.0, 0.0)
    gain = np.maximum(gain - penalty, 1e-3 * gain)
    best = gain.max(initial=0.0)
    gain += min(best, cap) - best
    order = np.argsort(-gain, kind="stable")
    order = order[gain[order] > 0]
    gain, rows = gain[order], rows[order]
    _check_supported(edge, matrix[rows], precision[rows], [evidence[rows], shift[rows], center[rows]])
    link = Link(
        source=edge.source,
        target=edge.target,
        rows=rows,
        angle=np.arctan2(matrix[rows, 1, 0], matrix[rows, 0, 0]),
        mirrored=mirrored[rows],
        shift=shift[rows] @ [1, 1j],
        center=center[rows] @ [1, 1j],
        gain=gain,
        precision=_with_floor(precision[rows], floor),
    )
    return distinct(link)


def _arrays(edge: PoseEdge) -> list[np.ndarray]:
    """Matrices, shifts, evidence, centres and precisions as float64."""
    values = (edge.poses.matrix, edge.poses.shift, edge.evidence, edge.center, edge.precision)
    arrays = [np.asarray(value, np.float64) for value in values]
    k = arrays[2].size
    expected = [(k, 2, 2), (k, 2), (k,), (k, 2), (k, 3, 3)]
    found = [array.shape for array in arrays]
    if found != expected:
        raise ValueError(
            f"Expected matrices, shifts, evidence, centres and precisions of shapes {expected} for the edge "
            f"{edge.source} -> {edge.target}, found {found}."
        )
    return arrays


def _check_supported(edge: PoseEdge, matrix: np.ndarray, precision: np.ndarray, others: list[np.ndarray]) -> None:
    name = f"the supported poses of the edge {edge.source} -> {edge.target}"
    if not all(np.isfinite(values).all() for values in (matrix, precision, *others)):
        raise ValueError(f"Expected finite evidence, maps, centres and precisions, found NaN or infinity in {name}.")
    if not np.allclose(matrix @ matrix.swapaxes(1, 2), np.eye(2), atol=1e-3):
        raise ValueError(f"Expected rigid maps (orthogonal matrices), found others in {name}.")


def _with_floor(precision: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """``(P^-1 + diag(floor))^-1``, also where ``P`` knows nothing about a direction."""
    values, vectors = np.linalg.eigh(0.5 * (precision + precision.swapaxes(1, 2)))
    precision = (vectors * np.maximum(values, 0.0)[:, None]) @ vectors.swapaxes(1, 2)
    result = precision @ np.linalg.inv(np.eye(3) + floor[:, None] * precision)
    return 0.5 * (result + result.swapaxes(1, 2))


def _components(links: Sequence[Link], n_sections: int, anchor: int | None) -> list[list[int]]:
    """Sections that supported links join, the main component first; sections without a link are in none."""
    parent = np.arange(n_sections)
    for link in links:
        if len(link.rows):
            parent[parent == parent[link.source]] = parent[link.target]
    groups = [np.flatnonzero(parent == label).tolist() for label in np.unique(parent)]
    groups = [group for group in groups if len(group) > 1]
    return sorted(groups, key=lambda group: (anchor not in group, -len(group), group[0]))


def _affine(poses: Sequence[Rigid | None]) -> Affine:
    matrix, shift = np.full((len(poses), 2, 2), np.nan), np.full((len(poses), 2), np.nan)
    for section, pose in enumerate(poses):
        if pose is not None:
            c, s = np.cos(pose.angle), np.sin(pose.angle)
            sign = -1.0 if pose.mirrored else 1.0
            matrix[section] = [[c, -s * sign], [s, c * sign]]
            shift[section] = pose.shift.real, pose.shift.imag
    return Affine(matrix, shift)


def _residual(link: Link, poses: Sequence[Rigid | None], row: int) -> Any:
    if row < 0:
        return np.full(3, np.nan)
    pick = int(np.flatnonzero(link.rows == row)[0])
    return residual(link, then(poses[link.source], invert(poses[link.target])))[pick]


def _loops(links: Sequence[Link], chosen: np.ndarray) -> tuple[Loop, ...]:
    """Every triangle of supported links; of two links between the same sections the first counts."""
    steps: dict[tuple[int, int], tuple[Rigid, complex, bool]] = {}
    for link, row in zip(links, chosen, strict=True):
        if not len(link.rows):
            continue
        pick = int(np.flatnonzero(link.rows == row)[0]) if row >= 0 else 0
        pose, center = link.hypothesis(pick), complex(link.center[pick])
        if link.source > link.target:
            pose = invert(pose)
            center = pose(center)
        pair = (min(link.source, link.target), max(link.source, link.target))
        steps.setdefault(pair, (pose, center, bool(row >= 0)))
    loops = []
    for (i, j), (first, _, first_kept) in sorted(steps.items()):
        for k in sorted({b for a, b in steps if a == j} & {b for a, b in steps if a == i}):
            (second, _, second_kept), (direct, center, direct_kept) = steps[j, k], steps[i, k]
            around = then(then(first, second), invert(direct))
            kept = first_kept and second_kept and direct_kept
            angle = abs(np.degrees(np.angle(np.exp(1j * around.angle))))
            here = invert(direct)(center)
            moved = abs(around(here) - here)
            parity = not around.mirrored
            values = (float(angle), float(moved)) if parity else (float("nan"), float("nan"))
            loops.append(Loop((i, j, k), *values, parity, kept))
    return tuple(loops)
