"""The steps of the main job as pure functions: features, pairs, pose graph, placed sections, overlaps, couplings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from spatialjax.methods import CARDS, METHODS, card
from spatialjax.preprocess import log_normalize, shared_embedding
from spatialjax.registration import null_evidence, score_poses
from spatialjax.registration.coupling import soft_matches
from spatialjax.registration.pose_graph import PoseEdge, PoseGraph, solve_pose_graph
from spatialjax.slices import Slice, bucket, make_slice
from spatialjax.transforms import Affine


@dataclass(frozen=True)
class Prepared:
    """Sections as the alignment sees them, rows in canonical order.

    Attributes
    ----------
    embeddings
        Shared smoothed features of each section.
    slices
        Each section with these features, coordinates about ``centers``.
    inputs
        Each section with what the method asks for; the same objects as ``slices`` where that is the embedding.
    centers
        Mean position of each section, µm, float64.
    """

    embeddings: tuple[Float[np.ndarray, "n p"], ...]
    slices: tuple[Slice, ...]
    inputs: tuple[Slice, ...]
    centers: Float[np.ndarray, "s 2"]


@dataclass(frozen=True)
class PairResult:
    """How section ``source`` may lie on section ``target``.

    Attributes
    ----------
    source, target
        Positions of the sections in the stack, ``source`` before ``target``.
    poses
        Maps from source µm to target µm, the best first (numpy, float64).
    evidence
        Evidence of each pose, nats.
    precision
        Information on (angle, shift x, shift y) of each pose about ``center``; see ``PoseEdge``.
    center
        Where the angle of each pose turns about, target µm.
    threshold
        Evidence that unrelated sections reach by chance.
    similarity
        Mean correlation of the features of places that the best pose brings together.
    status
        How the method ended.
    """

    source: int
    target: int
    poses: Affine
    evidence: Float[np.ndarray, " k"]
    precision: Float[np.ndarray, "k 3 3"]
    center: Float[np.ndarray, "k 2"]
    threshold: float
    similarity: float
    status: str

    @property
    def supported(self) -> bool:
        """Whether the best pose has more evidence than chance gives."""
        return bool(self.evidence[0] > self.threshold)


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

    def joined(self, a: int, b: int) -> bool:
        """Whether sections ``a`` and ``b`` lie in one frame."""
        return bool(self.placed[a] and self.placed[b] and self.component[a] == self.component[b])


def prepare(stack: Any, *, method: str) -> Prepared:
    """Shared features of all sections and what ``method`` is given of them.

    Parameters
    ----------
    stack
        A ``SectionStack``.
    method
        Name of an alignment method.
    """
    xy = [section.xy for section in stack.sections]
    values = [section.values for section in stack.sections]
    embeddings = shared_embedding(values, xy, kind=stack.kind)
    centers = np.stack([p.mean(0) for p in xy])
    centered = [p - c for p, c in zip(xy, centers, strict=True)]
    sizes = shared_capacities([len(p) for p in xy])
    slices = [make_slice(e, p, capacity=c) for e, p, c in zip(embeddings, centered, sizes, strict=True)]
    expects = CARDS["alignment"][method].expects
    inputs = slices
    if expects in ("counts", "log1p"):
        dense = [_dense(v if expects == "counts" or stack.kind != "counts" else log_normalize(v)) for v in values]
        inputs = [make_slice(d, p, capacity=c) for d, p, c in zip(dense, centered, sizes, strict=True)]
    return Prepared(tuple(embeddings), tuple(slices), tuple(inputs), centers)


def shared_capacities(sizes: Sequence[int]) -> list[int]:
    """Capacities for the sections of a stack, few of them: that of the largest section where it at most doubles another.

    Compiling for one more pair of sizes takes longer than the padding costs.
    """
    own = [bucket(size) for size in sizes]
    return [max(own) if max(own) <= 2 * capacity else capacity for capacity in own]


def pairs_of(number: int, *, reach: int = 2) -> list[tuple[int, int]]:
    """All pairs of sections at most ``reach`` apart in the stack, neighbours first."""
    return [(i, i + lag) for lag in range(1, reach + 1) for i in range(number - lag)]


def align_pairs(
    prepared: Prepared,
    pairs: Sequence[tuple[int, int]],
    *,
    method: str,
    key: Any,
    progress: Callable[..., None] | None = None,
    scored: Callable[[int, int], None] | None = None,
) -> tuple[PairResult, ...]:
    """Align every pair with ``method`` and weigh its poses by one common measure of evidence.

    Parameters
    ----------
    prepared
        The sections.
    pairs
        Positions of (source, target).
    method
        Name of an alignment method.
    key
        Random key.
    progress
        Passed to ``fit``.
    scored
        Called with (pairs weighed so far, number of pairs).
    """
    runner = METHODS["alignment"][method]()
    members = [(prepared.inputs[a], prepared.inputs[b]) for a, b in pairs]
    fit_key, null_key = jax.random.split(key)
    fits = card.run(runner, fit_key, members, progress=progress)
    results = []
    for number, ((a, b), fit) in enumerate(zip(pairs, fits, strict=True)):
        results.append(_weigh(prepared, (a, b), fit, key=jax.random.fold_in(null_key, number)))
        if scored is not None:
            scored(number + 1, len(pairs))
    return tuple(results)


def _weigh(prepared: Prepared, pair: tuple[int, int], fit: Any, *, key: Any) -> PairResult:
    """Score the poses of one pair and carry them from centred float32 coordinates to µm in float64."""
    a, b = pair
    source, target = prepared.slices[a], prepared.slices[b]
    matrix = np.asarray(fit.result.poses.matrix, np.float64)
    shift = np.asarray(fit.result.poses.shift, np.float64)
    usable = np.isfinite(np.asarray(fit.result.evidence)) & np.isfinite(matrix).all((1, 2)) & np.isfinite(shift).all(1)
    if not usable.any():
        return _nothing(pair, prepared, fit.status)
    # Unused places stay, as the identity: one number of poses for all pairs compiles once.
    matrix = np.where(usable[:, None, None], _orthogonal(np.where(usable[:, None, None], matrix, np.eye(2))), np.eye(2))
    shift = np.where(usable[:, None], shift, 0.0)
    score = score_poses(Affine(matrix.astype(np.float32), shift.astype(np.float32)), source, target)
    evidence = np.where(usable, np.asarray(score.evidence, np.float64), -np.inf)
    evidence = np.where(np.isfinite(evidence), evidence, -np.inf)
    order = np.argsort(-evidence, kind="stable")[: int(np.isfinite(evidence).sum())]
    if len(order) == 0:
        return _nothing(pair, prepared, fit.status)
    matrix, shift = matrix[order], shift[order]
    return PairResult(
        source=a,
        target=b,
        poses=Affine(matrix, shift + prepared.centers[b] - matrix @ prepared.centers[a]),
        evidence=evidence[order],
        precision=np.asarray(score.precision, np.float64)[order],
        center=np.asarray(score.center, np.float64)[order] + prepared.centers[b],
        threshold=float(null_evidence(key, source, target)),
        similarity=float(np.asarray(score.similarity, np.float64)[order[0]]),
        status=fit.status,
    )


def _nothing(pair: tuple[int, int], prepared: Prepared, status: str) -> PairResult:
    a, b = pair
    return PairResult(
        source=a,
        target=b,
        poses=Affine(np.eye(2)[None], (prepared.centers[b] - prepared.centers[a])[None]),
        evidence=np.array([-np.inf]),
        precision=np.zeros((1, 3, 3)),
        center=prepared.centers[b][None],
        threshold=0.0,
        similarity=float("nan"),
        status=status,
    )


def _orthogonal(matrix: Float[np.ndarray, "k 2 2"]) -> Float[np.ndarray, "k 2 2"]:
    """The nearest orthogonal matrices where the given ones are orthogonal up to rounding; others stay."""
    left, scale, right = np.linalg.svd(matrix)
    return np.where((np.abs(scale - 1).max(1) < 1e-3)[:, None, None], left @ right, matrix)


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
        )
        for r in results
        if np.isfinite(r.evidence[0])
    ]
    return solve_pose_graph(edges, n_sections=number, anchor=anchor, reflection=reflection, shift_sd=0.5 * pitch)


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


def pose_overlap(prepared: Prepared, pair: tuple[int, int], pose: Affine) -> Float[np.ndarray, " n"]:
    """For each spot of the source the probability that the target shows its place under ``pose`` (µm)."""
    a, b = pair
    shift = pose.shift + pose.matrix @ prepared.centers[a] - prepared.centers[b]
    centered = Affine(np.asarray(pose.matrix[None], np.float32), np.asarray(shift[None], np.float32))
    score = score_poses(centered, prepared.slices[a], prepared.slices[b])
    return np.asarray(score.overlap[0], np.float64)[: len(prepared.embeddings[a])]


def preferred(pair: PairResult, reflection: str, *, margin: float = 10.0) -> int:
    """Which pose of a pair to take where no other pair helps: the best one that ``reflection`` allows.

    Parameters
    ----------
    pair
        The pair.
    reflection
        ``"never"``, ``"auto"`` (a mirrored pose must be ``margin`` nats better) or ``"allow"``.
    margin
        See ``reflection``; the same as in the pose graph.
    """
    penalty = {"never": np.inf, "auto": margin, "allow": 0.0}[reflection]
    mirrored = np.asarray(pair.poses.mirrored)
    return int(np.argmax(pair.evidence - np.where(mirrored, penalty, 0.0)))


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


def _dense(values: Any) -> Float[np.ndarray, "n g"]:
    return np.asarray(values.toarray() if sp.issparse(values) else values, np.float32)
