"""The second step of the main job: how each pair of sections may lie on each other, on one scale of evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import norm

from spatialjax.atlas.features import Prepared
from spatialjax.methods import METHODS, card
from spatialjax.registration import PoseScore, field_pair, null_evidence, score_poses
from spatialjax.registration.outline import posterior_with_outlines
from spatialjax.registration.posterior import PosePosterior, overlap_interval, pose_posterior
from spatialjax.transforms import Affine

#: Poses that are scored at once: methods return different numbers, and each number would compile anew.
SCORED_TOGETHER = 8


@dataclass(frozen=True)
class PairPosterior:
    """How sure the pose of a pair is; one row a pose of the pair. See ``registration.posterior``.

    Attributes
    ----------
    probability
        Of each pose; they sum to 1.
    covariance
        Of (angle in rad, shift x, shift y in µm) of each pose about its center, in the target's frame.
    warp
        Variance of a cell's place along each axis that no rigid pose explains, µm².
    mirrored
        Probability that the source is turned over.
    determined
        Whether there are enough spots and a pose above chance; where not, no number here should be believed.
    ambiguous
        Whether a second pose has a probability of at least ``posterior.AMBIGUOUS``, as in tissue that resembles itself.
    overlap
        Share of the source's spots that lie on the target's tissue: posterior mean, 5 % and 95 % quantile.
    scaled
        The poses with the isotropic scale of the most evidence, source µm to target µm; None where it was not asked
        for. All else here speaks of the rigid poses.
    edges
        Share of the source's and of the target's edge that lies on the edge of the other section under the best pose,
        where the edges entered poses and covariances (``registration.outline``); None where they are not those of one
        tissue.
    scale_sd
        Standard deviation of the logarithm of the scale of each pose (0.01 is 1 %), angle and shift unknown too; None
        where it was not asked for.
    """

    probability: Float[np.ndarray, " k"]
    covariance: Float[np.ndarray, "k 3 3"]
    warp: float
    mirrored: float
    determined: bool
    ambiguous: bool
    overlap: tuple[float, float, float]
    scaled: Affine | None = None
    scale_sd: Float[np.ndarray, " k"] | None = None
    edges: tuple[float, float] | None = None

    @property
    def scale(self) -> Float[np.ndarray, " k"] | None:
        """What lengths of the source are multiplied by in each pose, above 1 where it has shrunk more than the target.

        None where it was not asked for.
        """
        return None if self.scaled is None else np.sqrt(np.abs(np.linalg.det(self.scaled.matrix)))

    def scale_interval(self, pose: int = 0, *, level: float = 0.9) -> tuple[float, float] | None:
        """Lower and upper end of the interval that holds the scale with the probability ``level``; None as above."""
        if self.scale is None or self.scale_sd is None:
            return None
        half = float(norm.ppf(0.5 + level / 2) * self.scale_sd[pose])
        return float(self.scale[pose] * np.exp(-half)), float(self.scale[pose] * np.exp(half))

    def angle_sd(self, pose: int = 0) -> float:
        """Standard deviation of the angle, degrees."""
        return float(np.degrees(np.sqrt(self.covariance[pose, 0, 0])))

    def shift_sd(self, pose: int = 0) -> float:
        """Standard deviation of the shift along one axis, µm: root mean square of both."""
        return float(np.sqrt(0.5 * (self.covariance[pose, 1, 1] + self.covariance[pose, 2, 2])))


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
    posterior
        How sure the poses are; None where there is no pose.
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
    posterior: PairPosterior | None = None

    @property
    def supported(self) -> bool:
        """Whether the best pose has more evidence than chance gives."""
        return bool(self.evidence[0] > self.threshold)


def pairs_of(number: int, *, reach: int = 2) -> list[tuple[int, int]]:
    """All pairs of sections at most ``reach`` apart in the stack, neighbours first."""
    return [(i, i + lag) for lag in range(1, reach + 1) for i in range(number - lag)]


def align_pairs(
    prepared: Prepared,
    pairs: Sequence[tuple[int, int]],
    *,
    method: str,
    key: Any,
    scale: bool = False,
    progress: Callable[..., None] | None = None,
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
    scale
        Whether the posterior says how much larger the target shows the tissue, too.
    progress
        Passed to ``fit``.
    """
    fit_key, null_key = jax.random.split(key)
    fits = fit_pairs(prepared, pairs, method=method, key=fit_key, progress=progress)
    return tuple(
        _weigh(prepared, pair, fit, key=jax.random.fold_in(null_key, number), scale=scale)
        for number, (pair, fit) in enumerate(zip(pairs, fits, strict=True))
    )


def fit_pairs(
    prepared: Prepared,
    pairs: Sequence[tuple[int, int]],
    *,
    method: str,
    key: Any,
    progress: Callable[..., None] | None = None,
) -> list[Any]:
    """What ``method`` itself says about every pair, one ``Fit`` each; parameters as for :func:`align_pairs`."""
    members = [(prepared.inputs[a], prepared.inputs[b]) for a, b in pairs]
    return card.run(METHODS["alignment"][method](), key, members, progress=progress)


def fitted_poses(prepared: Prepared, pair: tuple[int, int], result: Any) -> tuple[Affine, Bool[np.ndarray, " k"]]:
    """Poses of a method's result in µm and float64, in the method's order, and which of them can be used."""
    matrix, shift = np.asarray(result.poses.matrix, np.float64), np.asarray(result.poses.shift, np.float64)
    usable = np.isfinite(np.asarray(result.evidence)) & np.isfinite(matrix).all((1, 2)) & np.isfinite(shift).all(1)
    matrix = _orthogonal(np.where(usable[:, None, None], matrix, np.eye(2)))
    shift = np.where(usable[:, None], shift, 0.0)
    return _uncentred(prepared, pair, Affine(matrix, shift)), usable


def scored(prepared: Prepared, pair: tuple[int, int], poses: Affine) -> PoseScore:
    """``registration.score_poses`` of poses in µm, as numpy arrays; the number of poses compiles nothing new."""
    a, b = pair
    number = len(poses.shift)
    score = score_poses(_centred(prepared, pair, poses), prepared.slices[a], prepared.slices[b])
    score = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64)[:number], score)
    return score.replace(center=score.center + prepared.centers[b])


def _uncentred(prepared: Prepared, pair: tuple[int, int], poses: Affine) -> Affine:
    """Maps between the sections themselves, from those about their own centres."""
    a, b = pair
    return Affine(poses.matrix, poses.shift + prepared.centers[b] - poses.matrix @ prepared.centers[a])


def _centred(prepared: Prepared, pair: tuple[int, int], poses: Affine) -> Affine:
    """Poses between the sections about their own centres, filled up to a multiple of ``SCORED_TOGETHER``."""
    a, b = pair
    shift = poses.shift + poses.matrix @ prepared.centers[a] - prepared.centers[b]
    spare = -len(shift) % SCORED_TOGETHER
    matrix = np.concatenate([poses.matrix, np.tile(np.eye(2), (spare, 1, 1))])
    shift = np.concatenate([shift, np.zeros((spare, 2))])
    return Affine(matrix.astype(np.float32), shift.astype(np.float32))


def _weigh(prepared: Prepared, pair: tuple[int, int], fit: Any, *, key: Any, scale: bool) -> PairResult:
    a, b = pair
    poses, usable = fitted_poses(prepared, pair, fit.result)
    if not usable.any():
        return _nothing(pair, prepared, fit.status)
    null_key, draw_key = jax.random.split(key)
    made = field_pair(prepared.slices[a], prepared.slices[b])
    threshold = null_evidence(null_key, made)
    centred = _centred(prepared, pair, poses[np.flatnonzero(usable)])
    unused = np.arange(len(centred.shift)) >= usable.sum()
    tried = centred.replace(shift=np.where(unused[:, None], np.nan, centred.shift))
    places = (np.asarray(prepared.slices[n].xy, float)[np.asarray(prepared.slices[n].mask)] for n in pair)
    found, edges = posterior_with_outlines(pose_posterior(made, tried, threshold, scale=scale), *places)
    if not np.isfinite(found.evidence[0]):
        return _nothing(pair, prepared, fit.status)
    interval = overlap_interval(draw_key, made, found)
    about = {"interval": interval, "edges": edges, "threshold": threshold, "status": fit.status}
    return _from_posterior(prepared, pair, found, **about)


def _from_posterior(
    prepared: Prepared,
    pair: tuple[int, int],
    found: PosePosterior,
    *,
    interval: Any,
    edges: tuple[float, float] | None,
    threshold: float,
    status: str,
) -> PairResult:
    a, b = pair
    real = np.flatnonzero(np.isfinite(found.evidence))
    matrix = _orthogonal(found.poses.matrix[real])
    poses = _uncentred(prepared, pair, Affine(matrix, found.poses.shift[real]))
    covariance = found.covariance[real]
    return PairResult(
        source=a,
        target=b,
        poses=poses,
        evidence=found.evidence[real],
        precision=np.linalg.inv(covariance),
        center=found.center[real] + prepared.centers[b],
        threshold=threshold,
        similarity=float(found.similarity[0]),
        status=status,
        posterior=PairPosterior(
            probability=found.probability[real],
            covariance=covariance,
            warp=float(found.warp),
            mirrored=float(found.mirrored),
            determined=bool(found.determined),
            ambiguous=bool(found.ambiguous),
            overlap=(float(interval.mean), float(interval.low), float(interval.high)),
            scaled=None if found.scale is None else _uncentred(prepared, pair, found.scale.poses[real]),
            scale_sd=None if found.scale is None else found.scale.sd[real],
            edges=edges,
        ),
    )


def pose_overlap(prepared: Prepared, pair: tuple[int, int], pose: Affine) -> Float[np.ndarray, " n"]:
    """For each spot of the source the probability that the target shows its place under ``pose`` (µm).

    Of a pose with a scale the source is scaled first, about its centre, and then laid on the target.
    """
    a, _ = pair
    size = float(np.sqrt(np.abs(np.linalg.det(pose.matrix))))
    if abs(size - 1.0) > 1e-6:
        slices = list(prepared.slices)
        slices[a] = slices[a].replace(xy=slices[a].xy * np.float32(size))
        prepared = replace(prepared, slices=tuple(slices))
        rigid = pose.matrix / size
        pose = Affine(rigid, pose(prepared.centers[a][None])[0] - rigid @ prepared.centers[a])
    score = scored(prepared, pair, Affine(pose.matrix[None], pose.shift[None]))
    return score.overlap[0, : len(prepared.embeddings[a])]


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
