"""How well sections are aligned: against a known pose, against labels, against held-out genes, round a loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, Bool, Float
from scipy.spatial import cKDTree

from spatialjax.metrics.clustering import ari
from spatialjax.metrics.expression import gene_correlation
from spatialjax.transforms import Affine, identity


class PoseError(NamedTuple):
    """Difference of two rigid maps.

    Attributes
    ----------
    angle
        Angle between them, degrees from 0 to 180; NaN where the parities differ.
    displacement
        Median distance between the two images of the points, in the unit of the points.
    parity_right
        Whether both turn the plane over, or neither.
    """

    angle: float
    displacement: float
    parity_right: bool


def pose_error(estimate: Affine, truth: Affine, points: Float[np.ndarray, "n 2"]) -> PoseError:
    """Difference of an estimated pose from the true one, at the given points of the source (µm)."""
    estimate, truth = _as_numpy(estimate), _as_numpy(truth)
    points = np.asarray(points, np.float64)
    displacement = float(np.median(np.linalg.norm(estimate(points) - truth(points), axis=1)))
    parity = bool(estimate.mirrored == truth.mirrored)
    turn = estimate.matrix @ np.linalg.inv(truth.matrix)
    angle = abs(np.degrees(np.arctan2(turn[1, 0] - turn[0, 1], turn[0, 0] + turn[1, 1])))
    return PoseError(float(angle) if parity else float("nan"), displacement, parity)


def position_error(estimate: Float[np.ndarray, "n d"], truth: Float[np.ndarray, "n d"]) -> Float[np.ndarray, n]:
    """Distance of each spot from its true place, µm; NaN where the estimate is NaN."""
    return np.linalg.norm(np.asarray(estimate, np.float64) - np.asarray(truth, np.float64), axis=1)


def loop_error(poses: Sequence[Affine], points: Float[np.ndarray, "n 2"]) -> PoseError:
    """Difference from the identity of maps followed one after the other round a loop, at points of the first section.

    Parameters
    ----------
    poses
        Maps a -> b, b -> c, …, back to a.
    points
        Spots of section a, µm.
    """
    around = identity()
    for pose in poses:
        around = _as_numpy(pose).compose(around)
    return pose_error(around, identity(), points)


def overlap(
    mapped_xy: Float[np.ndarray, "n d"], target_xy: Float[np.ndarray, "m d"], *, radius: float
) -> Bool[np.ndarray, n]:
    """Which mapped spots have a target spot within ``radius`` µm."""
    reach = cKDTree(target_xy).query(mapped_xy, distance_upper_bound=_just_above(radius))[0]
    return np.isfinite(reach)


def label_accuracy(
    mapped_xy: Float[np.ndarray, "n d"],
    target_xy: Float[np.ndarray, "m d"],
    *,
    labels: Any,
    target_labels: Any,
    radius: float,
    inside: Bool[np.ndarray, n] | None = None,
) -> float:
    """Share of labelled spots in the overlap that land within ``radius`` of a target spot of their own label.

    Parameters
    ----------
    mapped_xy
        Source spots in the frame of the target, µm.
    target_xy
        Target spots, µm.
    labels, target_labels
        Label of each spot; None, NaN and the empty string mean no label.
    radius
        Distance that still counts, µm; usually one pitch.
    inside
        Spots that count as in the overlap, the same for all maps that are compared; those of ``overlap`` of this map
        with the labelled target spots where left out.

    Returns
    -------
    float
        NaN where no labelled spot lies in the overlap.
    """
    mapped, target = np.asarray(mapped_xy, np.float64), np.asarray(target_xy, np.float64)
    codes, target_codes, _ = encode(labels, target_labels)
    if inside is None:
        seen = target_codes >= 0
        inside = overlap(mapped, target[seen], radius=radius) if seen.any() else np.zeros(len(mapped), bool)
    counted = (codes >= 0) & np.asarray(inside)
    hit = np.zeros(len(mapped), bool)
    for code in np.unique(codes[counted]):
        own, members = counted & (codes == code), target[target_codes == code]
        if len(members):
            hit[own] = overlap(mapped[own], members, radius=radius)
    return float(hit[counted].mean()) if counted.any() else float("nan")


def nearest_matches(
    mapped_xy: Float[np.ndarray, "n d"], target_xy: Float[np.ndarray, "m d"], *, radius: float
) -> sp.csr_matrix:
    """The nearest target spot within ``radius`` µm of each spot, with weight 1; the sections as given are the null."""
    distance, match = cKDTree(target_xy).query(mapped_xy, distance_upper_bound=_just_above(radius))
    rows = np.flatnonzero(np.isfinite(distance))
    shape = (len(np.asarray(mapped_xy)), len(np.asarray(target_xy)))
    return sp.csr_matrix((np.ones(len(rows)), (rows, match[rows])), shape)


def permuted_matches(key: Array, matches: Any) -> sp.csr_matrix:
    """The same matches dealt out at random among the spots that have any: the null of every matched statistic.

    Parameters
    ----------
    key
        Random key.
    matches
        (n, m) weights, sparse or dense.
    """
    matches = sp.csr_matrix(matches, copy=True)
    matches.eliminate_zeros()
    rows = np.flatnonzero(np.diff(matches.indptr))
    source = np.arange(matches.shape[0])
    source[rows] = rows[np.asarray(jax.random.permutation(key, len(rows)))]
    return matches[source]


def held_out_correlation(values: Any, target_values: Any, matches: Any) -> float:
    """Mean over genes of the correlation between each spot and what it is matched with.

    Parameters
    ----------
    values
        (n, g) values of genes that the alignment did not use, dense or sparse.
    target_values
        (m, g) values of the same genes in the target.
    matches
        (n, m) weights; rows are normalised, spots without a match do not count.

    Returns
    -------
    float
        NaN where fewer than two spots are matched or no gene varies.
    """
    matches = sp.csr_matrix(matches)
    total = np.asarray(matches.sum(1)).ravel()
    rows = np.flatnonzero(total > 0)
    if len(rows) < 2:
        return float("nan")
    matched = sp.diags(1 / total[rows]) @ matches[rows] @ target_values
    each = gene_correlation(values[rows], matched)
    return float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")


def plan_accuracy(plan: Any, labels: Any, target_labels: Any) -> float:
    """Share of the mass of a plan that joins spots of equal label, among the mass between labelled spots.

    Parameters
    ----------
    plan
        (n, m) weights, sparse or dense.
    labels, target_labels
        As for ``label_accuracy``.

    References
    ----------
    Zeira et al. (2022), Nature Methods 19.
    """
    codes, target_codes, _ = encode(labels, target_labels)
    table = _mass_table(plan, codes, target_codes)
    total = table.sum()
    return float(np.trace(table) / total) if total > 0 else float("nan")


def ltari(plan: Any, labels: Any, target_labels: Any) -> float:
    """Adjusted Rand index of each spot's own label and the label that most of its matched mass carries.

    Only labelled spots with mass on labelled target spots count.

    Parameters
    ----------
    plan
        (n, m) weights, sparse or dense.
    labels, target_labels
        As for ``label_accuracy``.
    """
    codes, target_codes, size = encode(labels, target_labels)
    mass = np.asarray(sp.csr_matrix(plan) @ _one_hot(target_codes, size))
    counted = (codes >= 0) & (mass.sum(1) > 0)
    return ari(codes[counted], mass[counted].argmax(1)) if counted.any() else float("nan")


def encode(labels: Any, target_labels: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Labels of two sections as numbers from 0 in a shared order, -1 for no label, and the number of labels."""
    lists = [np.asarray(values, object).ravel().tolist() for values in (labels, target_labels)]
    names = sorted(
        {value for values in lists for value in values if not _missing(value)}, key=lambda v: (str(v), str(type(v)))
    )
    number = {name: code for code, name in enumerate(names)}
    a, b = (np.array([-1 if _missing(v) else number[v] for v in values], np.int64) for values in lists)
    return a, b, len(names)


def _missing(value: Any) -> bool:
    return value is None or value == "" or value != value


def _one_hot(codes: np.ndarray, size: int) -> np.ndarray:
    return (codes[:, None] == np.arange(size)).astype(np.float64)


def _mass_table(plan: Any, codes: np.ndarray, target_codes: np.ndarray) -> np.ndarray:
    size = int(max(codes.max(initial=-1), target_codes.max(initial=-1))) + 1
    return _one_hot(codes, size).T @ np.asarray(sp.csr_matrix(plan) @ _one_hot(target_codes, size))


def _as_numpy(pose: Affine) -> Affine:
    return Affine(np.asarray(pose.matrix, np.float64), np.asarray(pose.shift, np.float64))


def _just_above(radius: float) -> float:
    return float(radius) * (1 + 1e-9)
