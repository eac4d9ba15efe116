"""Two sections made ready for pose search: points with features against fields, in units of the target's pitch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Key

from spatialjax.keys import generator
from spatialjax.preprocess import smoothed_places
from spatialjax.registration.evidence import Scored, look, matched_odds, newton_step, score, similarity
from spatialjax.registration.raster import Field, rasterize
from spatialjax.registration.search import Peaks, best_unrelated, coarse_fields, search
from spatialjax.slices import Slice, bucket
from spatialjax.transforms import Affine, rigid

#: Spots that neighbour averaging and the tissue's own structure mix into one independent sample.
MIXED_SPOTS = 25.0
#: Neighbour averages that a field amounts to: one of the features, and two that its kernel and spline are as wide as.
PLACE_ROUNDS = 3
#: Spots of the source that the refinement looks at, at the most.
MAX_POINTS = 8191


@struct.dataclass
class FieldPair:
    """A source section as points, a target section as fields; lengths in pitches of the target, about their centres.

    Attributes
    ----------
    points
        Where the smoothed features of each source spot stand: the mean place of the spots they average.
    spots
        The source spots themselves.
    features
        Their features.
    weights
        1 on real spots.
    field
        The target at one pitch a node.
    coarse
        Source and target at two pitches a node or more, on equal grids.
    area
        Area of one independent sample, pitches squared.
    mixed
        Spots of one independent sample.
    unit
        The pitch, µm.
    centers
        Centres of source and target, µm.
    """

    points: Float[Array, "n 2"]
    spots: Float[Array, "n 2"]
    features: Float[Array, "n p"]
    weights: Float[Array, "n"]
    field: Field
    coarse: tuple[Field, Field]
    area: Float[Array, ""]
    mixed: Float[Array, ""]
    unit: Float[Array, ""]
    centers: Float[Array, "2 2"]


@struct.dataclass
class PoseScore:
    """How well poses explain a pair.

    Attributes
    ----------
    evidence
        Nats, one a pose.
    precision
        Information on (angle about ``center`` in radians, shift x and y in µm), the target's frame.
    center
        Mean place of the overlapping spots, µm, in the target's frame.
    overlap
        (k, n) for each pose and source spot the probability that the target shows the same place.
    similarity
        Mean correlation of the components inside the overlap, weighted by their variance.
    """

    evidence: Float[Array, "k"]
    precision: Float[Array, "k 3 3"]
    center: Float[Array, "k 2"]
    overlap: Float[Array, "k n"]
    similarity: Float[Array, "k"]


def pitch_of(xy: Float[np.ndarray, "n 2"]) -> float:
    """Spacing of the spots: √(π/6) times the median distance of the sixth neighbour; robust to jitter and doublets.

    This is the side of the square that one spot has for itself, and what features average over. The distance to the
    nearest spot (``graphs.lattice_steps``, which units and the costs of transport are told by) says where a lattice
    is; where cells lie at random it is half of this, and two nuclei of one cell pull it down.
    """
    from scipy.spatial import cKDTree

    k = min(7, len(xy))
    distance = cKDTree(xy).query(xy, k=k)[0].reshape(len(xy), k)[:, -1]
    return float(np.sqrt(np.pi / max(k - 1, 1)) * np.median(distance))


def field_pair(source: Slice, target: Slice) -> FieldPair:
    """Points of ``source`` and fields of ``target`` (host).

    Parameters
    ----------
    source, target
        Sections with features of one embedding that neighbours share (``preprocess.shared_embedding``).

    Raises
    ------
    ValueError
        If the sections have different numbers of features or fewer than three spots.
    """
    (a, fa), (b, fb) = (_real(s) for s in (source, target))
    if fa.shape[1] != fb.shape[1]:
        raise ValueError(
            f"Expected both sections with the same features, found {fa.shape[1]} and {fb.shape[1]}; "
            "make them together with preprocess.shared_embedding."
        )
    if min(len(a), len(b)) < 3:
        raise ValueError(f"Expected at least three spots in each section, found {len(a)} and {len(b)}.")
    unit = pitch_of(b)
    centers = [(p.max(0) + p.min(0)) / 2 for p in (a, b)]
    a, b = (a - centers[0]) / unit, (b - centers[1]) / unit
    places_a, places_b = (smoothed_places(p, rounds=PLACE_ROUNDS) for p in (a, b))
    coarse = coarse_fields((places_a, places_b), (fa, fb), pixel=2.0, extent=(a, b))
    field = rasterize(places_b, fb, pixel=max(1.0, np.ptp(b, axis=0).max() / 1000), blur=0.7, extent=b)
    mixed = MIXED_SPOTS * (pitch_of(a) ** -2) if len(a) > len(b) else MIXED_SPOTS
    mixed = max(float(mixed), 1.0)
    keep = np.arange(len(a)) if len(a) <= MAX_POINTS else np.linspace(0, len(a) - 1, MAX_POINTS).round().astype(int)
    capacity = max(bucket(len(keep)), min(source.capacity, MAX_POINTS + 1))
    density = len(keep) / (float(coarse[0].cover.sum()) * float(coarse[0].pixel) ** 2)

    def pad(values: np.ndarray) -> Any:
        values = np.asarray(values[keep], np.float32)
        return jnp.asarray(np.concatenate([values, np.zeros((capacity - len(keep), *values.shape[1:]), np.float32)]))

    area = mixed / (len(a) / (float(coarse[0].cover.sum()) * float(coarse[0].pixel) ** 2))
    return FieldPair(
        points=pad(places_a),
        spots=pad(a),
        features=pad(fa),
        weights=pad(np.ones(len(a))),
        field=jax.tree.map(jnp.asarray, field),
        coarse=jax.tree.map(jnp.asarray, coarse),
        area=jnp.float32(area),
        mixed=jnp.float32(area * density),
        unit=jnp.float32(unit),
        centers=jnp.asarray(np.stack(centers), jnp.float32),
    )


def _real(section: Slice) -> tuple[np.ndarray, np.ndarray]:
    mask = np.asarray(section.mask)
    return np.asarray(section.xy, np.float64)[mask][:, :2], np.asarray(section.features, np.float64)[mask]


def find_peaks(pair: FieldPair, *, angles: int = 36, keep: int = 8, components: int | None = None) -> Peaks:
    """The best poses on the coarse fields, see ``search``; by the leading ``components`` alone where given."""
    source, target = (field.replace(values=field.values[..., :components]) for field in pair.coarse)
    return search(source, target, jnp.full(source.values.shape[-1], pair.area), angles=angles, keep=keep)


def place(points: Any, pose: tuple[Any, Any, Any]) -> Any:
    """Points of the source where a pose ``(angle, shift, mirrored)`` puts them (pitches, both about their centres)."""
    angle, shift, mirrored = pose
    return rigid(angle, shift, mirrored > 0)(points)


def refine_step(pair: FieldPair, pose: tuple[Any, Any, Any], damping: Any) -> tuple[Any, Any, Any, Any]:
    """One damped Newton step of one pose on the evidence; spots that look like outliers count less.

    Overlap and outlier weights are held during the step: the evidence may not grow by shedding spots.

    Returns
    -------
    tuple
        The pose after the step, the new damping, the length of the step (pitches at the rim) and the evidence before
        it.
    """
    angle, shift, mirrored = pose
    reach = jnp.array([jnp.deg2rad(3.0), 1.0, 1.0])
    start = place(pair.points, pose)

    # One body for the pose and for the one a step away compiles the costly look once.
    def see(held: tuple[Any, Any, Any], first: Any) -> tuple[Any, Any]:
        weights, step, center = held
        seen = look(pair.field, rigid(step[0], step[1:], center=center)(start))
        weights = jax.lax.cond(
            first, lambda: pair.weights * seen.cover * matched_odds(seen, pair.features, pair.weights), lambda: weights
        )
        found = score(seen, pair.features, weights, samples=pair.mixed)
        ahead = newton_step(found.gradient, found.curvature, damping, reach=reach)
        return (weights, jnp.where(first, ahead, step), jnp.where(first, found.center, center)), found.evidence

    (_, step, center), (here, there) = jax.lax.scan(
        see, (pair.weights, jnp.zeros(3), jnp.zeros(2)), jnp.array([True, False])
    )
    turn = rigid(step[0], step[1:], center=center)
    better = there > here
    shift = jnp.where(better, turn(shift[None])[0], shift)
    angle = jnp.where(better, angle + step[0], angle)
    damping = jnp.clip(jnp.where(better, damping * 0.3, damping * 4.0), 1e-3, 1e3)
    rim = jnp.sqrt(jnp.max(jnp.where(pair.weights > 0, (pair.points**2).sum(1), 0.0)))
    length = jnp.abs(step[0]) * rim + jnp.sqrt((step[1:] ** 2).sum())
    return (angle, shift, mirrored), damping, length, here


def score_pair(pair: FieldPair, pose: tuple[Any, Any, Any]) -> tuple[Scored, Any]:
    """Evidence and shape of a pose, and the probability of each spot to be matched."""
    seen = look(pair.field, place(pair.points, pose))
    cover = pair.weights * seen.cover
    return score(seen, pair.features, cover, samples=pair.mixed), cover * matched_odds(
        seen, pair.features, pair.weights
    )


def to_affine(pair: FieldPair, pose: tuple[Any, Any, Any]) -> Affine:
    """The map from source µm to target µm of a pose ``(angle, shift in pitches, mirrored)`` (any batch shape)."""
    angle, shift, mirrored = pose
    local = rigid(angle, shift, mirrored > 0)
    moved = (local.matrix @ pair.centers[0][:, None])[..., 0]
    return Affine(local.matrix, local.shift * pair.unit + pair.centers[1] - moved)


def from_affine(pair: FieldPair, pose: Affine) -> tuple[Any, Any, Any]:
    """Angle, shift (pitches) and parity of a rigid map from source µm to target µm; inverse of ``to_affine``."""
    matrix, shift = jnp.asarray(pose.matrix, jnp.float32), jnp.asarray(pose.shift, jnp.float32)
    mirrored = (jnp.linalg.det(matrix) < 0).astype(jnp.float32)
    angle = jnp.arctan2(matrix[..., 1, 0], matrix[..., 0, 0])
    moved = (matrix @ pair.centers[0][:, None])[..., 0]
    return angle, (shift + moved - pair.centers[1]) / pair.unit, mirrored


@jax.jit
def _scores(pair: FieldPair, poses: Affine) -> PoseScore:
    def one(pose: Affine) -> Any:
        scored, overlap = score_pair(pair, from_affine(pair, pose))
        scale = jnp.array([1.0, 1.0, 1.0]).at[1:].set(1.0 / pair.unit)
        precision = scored.curvature * scale[:, None] * scale[None, :]
        center = scored.center * pair.unit + pair.centers[1]
        return scored.evidence, precision, center, overlap, similarity(scored, pair.features)

    return PoseScore(*jax.lax.map(one, poses))


def score_poses(poses: Affine, source: Slice, target: Slice) -> PoseScore:
    """Evidence, information and overlap of rigid poses: one judge for the poses of every method.

    Parameters
    ----------
    poses
        Rigid maps from source µm to target µm along a leading axis.
    source, target
        Sections with features of one embedding.

    Returns
    -------
    PoseScore
        One entry a pose, ``overlap`` in the order of the source's spots (0 on padding).
    """
    pair = field_pair(source, target)
    scores = _scores(pair, Affine(jnp.asarray(poses.matrix, jnp.float32), jnp.asarray(poses.shift, jnp.float32)))
    count = int(np.asarray(source.mask).sum())
    seen = np.asarray(scores.overlap)
    if count > MAX_POINTS:
        from scipy.spatial import cKDTree

        points = np.asarray(pair.spots)[:MAX_POINTS]
        all_points = (_real(source)[0] - np.asarray(pair.centers[0], np.float64)) / float(pair.unit)
        seen = seen[:, cKDTree(points).query(all_points)[1]]
    overlap = np.zeros((seen.shape[0], source.capacity), np.float32)
    overlap[:, np.flatnonzero(np.asarray(source.mask))] = seen[:, :count]
    return scores.replace(overlap=jnp.asarray(overlap))


@jax.jit
def _best_unrelated(pair: FieldPair, partners: Any, signs: Any) -> Any:
    return best_unrelated(*pair.coarse, jnp.full(signs.shape[1], pair.area), partners=partners, signs=signs)


def null_evidence(key: Key[Array, ""], pair: FieldPair, *, draws: int = 5) -> float:
    """Evidence that two unrelated fields of this smoothness reach at their best pose: what a pair must beat.

    The target's components are permuted and their signs drawn, which keeps their smoothness and the tissue's shape but
    breaks the relation. The second largest of the best evidences of ``draws`` searches is returned: a single draw
    may by chance come close to the true relation again.

    Parameters
    ----------
    key
        Random key.
    pair
        The two sections, see ``field_pair``.
    draws
        Number of searches, two at the least, each over both parities.

    Raises
    ------
    ValueError
        If fewer than two searches are asked for.
    """
    if draws < 2:
        raise ValueError(f"Expected at least two draws for a second largest one, found {draws}.")
    p, rng = pair.features.shape[1], generator(key)
    # A cyclic shift has no fixed component: none keeps its own partner.
    partners = (np.arange(p) + 1 + rng.integers(max(p - 1, 1), size=(draws, 1))) % p
    signs = rng.choice(np.array([-1.0, 1.0], np.float32), (draws, p))
    return float(np.sort(_best_unrelated(pair, partners, signs))[-2])


def usable(evidence: Float[Array, "k"]) -> Bool[Array, "k"]:
    """Which peaks are real poses (unused places hold -inf)."""
    return jnp.isfinite(evidence)
