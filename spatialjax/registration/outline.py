"""What the edges of two sections say about their pose, beside what their spots show."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates
from scipy.spatial import ConvexHull, QhullError, cKDTree

from spatialjax.registration.pairs import pitch_of
from spatialjax.registration.posterior import PosePosterior
from spatialjax.transforms import Affine

#: Modes less probable than this keep the pose that the spots give them.
LEAST_PROBABILITY = 1e-4
#: Standard deviation of what the spots of one stretch say about the place of the edge, pitches; at least.
EDGE_SD = 0.5
#: Distance between the two edges at which a spot at the edge counts a quarter, pitches.
OUTLIER = 2.0
#: Length of the edge over which the two sections differ by the same amount, pitches.
STRETCH = 4.0
#: Share of either edge that has to lie on the other one (by weight) for the edges to be those of one tissue.
LEAST_SHARED = 0.8
#: Independent stretches without which an edge says nothing.
LEAST_STRETCHES = 4.0
#: A straight side this long, in parts of the section's width and in pitches, is a cut or the border of the field of
#: view. Shorter ones the rows of a lattice make everywhere.
STRAIGHT, LEAST_STRAIGHT = 0.5, 25.0
_PIXEL, _MARGIN, _ROUNDS = 0.5, 6.0, 20
_REACH = np.array([0.05, 0.5, 0.5])


class Outline(NamedTuple):
    """The edge of a section; all lengths in pitches.

    Attributes
    ----------
    origin
        Place of the first node.
    pixel
        Distance of the nodes.
    depth
        How far inside the tissue each node lies; negative outside.
    slope
        Gradient of ``depth`` along x and y.
    spots
        The spots at the edge.
    inside
        Their own depth.
    stretch
        Spots that make one independent piece of the edge.
    """

    origin: Float[np.ndarray, " 2"]
    pixel: float
    depth: Float[np.ndarray, "w h"]
    slope: Float[np.ndarray, "2 w h"]
    spots: Float[np.ndarray, "m 2"]
    inside: Float[np.ndarray, " m"]
    stretch: float

    def look(self, places: Float[np.ndarray, "m 2"]) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, "m 2"]]:
        """Depth and its gradient at some places."""
        node = ((places - self.origin) / self.pixel).T
        found = [map_coordinates(grid, node, order=1, mode="nearest") for grid in (self.depth, *self.slope)]
        return found[0], np.stack(found[1:], -1)


class OutlinePose(NamedTuple):
    """A pose after the edges were looked at.

    Attributes
    ----------
    matrix, shift
        The pose, source µm to target µm.
    covariance
        Of (angle in rad, shift x, shift y in µm) about the same center as before.
    shared
        Share of the source's and of the target's edge that lies on the edge of the other section.
    used
        Whether the edges are those of one tissue; the pose is as before where not.
    """

    matrix: Float[np.ndarray, "2 2"]
    shift: Float[np.ndarray, " 2"]
    covariance: Float[np.ndarray, "3 3"]
    shared: tuple[float, float]
    used: bool


def outline(xy: Float[np.ndarray, "n 2"], *, spacing: float = 1.0) -> Outline:
    """Edge of the tissue that a section's spots cover.

    Tissue is what lies within 1.2 spacings of a spot; its edge runs half a spacing outside the outermost ones. Straight
    sides longer than half of the section's width and 25 pitches are left out: they are cuts, or the border of the field
    of view.

    Parameters
    ----------
    xy
        (n, 2) places of the spots in pitches, three at the least.
    spacing
        Spacing of these spots, pitches; above 1 for a section that is sparser than the other one.
    """
    pixel = max(_PIXEL * spacing, float(np.ptp(xy, axis=0).max()) / 600)
    origin = xy.min(0) - _MARGIN * spacing
    shape = np.ceil((xy.max(0) + _MARGIN * spacing - origin) / pixel).astype(int) + 1
    nodes = np.stack(np.meshgrid(*(origin[k] + pixel * np.arange(shape[k]) for k in (0, 1)), indexing="ij"), -1)
    tissue = (cKDTree(xy).query(nodes.reshape(-1, 2))[0] < max(1.2 * spacing, pixel)).reshape(shape)
    depth = np.where(tissue, distance_transform_edt(tissue) - 0.5, 0.5 - distance_transform_edt(~tissue)) * pixel
    depth = gaussian_filter(depth - 0.7 * spacing, 0.7 * spacing / pixel)
    made = Outline(origin, pixel, depth, np.stack(np.gradient(depth, pixel)), xy[:0], np.zeros(0), 1.0)
    inside = made.look(xy)[0]
    at_edge = (inside < spacing) & ~_on_straight_side(xy, tolerance=EDGE_SD * spacing)
    spots = xy[at_edge]
    near = cKDTree(spots).query_ball_point(spots, STRETCH / 2, return_length=True) if len(spots) else np.ones(1)
    return made._replace(spots=spots, inside=inside[at_edge], stretch=float(np.median(near)))


def _on_straight_side(xy: Float[np.ndarray, "n 2"], *, tolerance: float) -> Bool[np.ndarray, " n"]:
    """Spots at a side of the convex hull along which they are spread over more than ``STRAIGHT`` allows."""
    found = np.zeros(len(xy), bool)
    try:
        hull = ConvexHull(xy)
    except QhullError:
        return np.ones(len(xy), bool)
    for normal in np.unique(hull.equations.round(9), axis=0):
        on = xy @ normal[:2] + normal[2] > -tolerance
        along = xy @ np.array([-normal[1], normal[0]])
        if np.ptp(along[on]) > max(STRAIGHT * np.ptp(along), LEAST_STRAIGHT):
            found |= xy @ normal[:2] + normal[2] > -3.0 * tolerance
    return found


def with_outlines(
    source: Outline,
    target: Outline,
    pose: tuple[Any, Any],
    *,
    covariance: Float[np.ndarray, "3 3"],
    center: Float[np.ndarray, " 2"],
    unit: float,
) -> OutlinePose:
    r"""Normal posterior of a pose, with the edges of both sections as further evidence.

    A spot at the edge of one section, at depth d inside it, should lie at depth d inside the other one. With e the
    difference, the edges add

    .. math:: -\frac{1}{2} \sum_i \frac{w_i\, e_i^2}{m\, \sigma^2}, \qquad w_i = (1 + e_i^2 / 4)^{-2},

    to the logarithm of the posterior, half for the edge of either section: m spots make one independent stretch,
    edges that only one section has (crops, tears) lose their weight, and σ² is the mean weighed square of the
    differences, 1/4 squared pitch at the least. Gauss–Newton steps with the weights renewed find the new mode; the
    information of the edges adds to the inverse covariance. A pose that the spots tell well hardly moves.

    Parameters
    ----------
    source, target
        Edges, see :func:`outline`; both in pitches about the origin of µm.
    pose
        Matrix and shift, source µm to target µm.
    covariance
        Of (angle in rad, shift x, shift y in µm) about ``center``.
    center
        What the angle turns about, target µm.
    unit
        The pitch, µm.

    References
    ----------
    Geman & McClure (1987), Bulletin of the International Statistical Institute 52, for the weights.
    """
    matrix, shift, center = (np.asarray(part, float) for part in (pose[0], np.asarray(pose[1]) / unit, center / unit))
    scale = np.array([1.0, 1.0 / unit, 1.0 / unit])
    prior = np.linalg.pinv(np.asarray(covariance, float) * scale[:, None] * scale[None, :], hermitian=True)
    unused = OutlinePose(matrix, shift * unit, np.asarray(covariance, float), (0.0, 0.0), False)
    stretches = min(len(edge.spots) / edge.stretch for edge in (source, target))
    if stretches < LEAST_STRETCHES or not np.isfinite(prior).all():
        return unused
    move = np.zeros(3)
    for _ in range(_ROUNDS):
        slope, information, _ = _edges(source, target, (matrix, shift), center=center, move=move)
        step = -np.linalg.solve(prior + information, prior @ move + slope)
        move = move + np.clip(step, -_REACH, _REACH)
        if np.abs(step).max() < 1e-4:
            break
    _, information, shared = _edges(source, target, (matrix, shift), center=center, move=move)
    if min(shared) < LEAST_SHARED:
        return unused._replace(shared=shared)
    turn = _turn(move[0])
    shift = turn @ (shift - center) + center + move[1:]
    spread = np.linalg.inv(prior + information) / (scale[:, None] * scale[None, :])
    return OutlinePose(turn @ matrix, shift * unit, spread, shared, True)


def posterior_with_outlines(
    posterior: PosePosterior, source: Float[np.ndarray, "n 2"], target: Float[np.ndarray, "m 2"]
) -> tuple[PosePosterior, tuple[float, float] | None]:
    """The posterior of a pair after the edges of both sections were looked at, mode by probable mode (host).

    Probabilities, evidence and everything else but poses and covariances stay: the edges say where a mode lies, not
    which one is right.

    Parameters
    ----------
    posterior
        From ``pose_posterior``.
    source, target
        Places of the real spots, µm, in the frames of its poses.

    Returns
    -------
    tuple
        The posterior (numpy, float64), and the share of the source's and of the target's edge that lies on the other
        one's in the best mode; None where the edges are not those of one tissue.
    """
    found = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), posterior)
    unit = pitch_of(target)
    edges = [outline(xy / unit, spacing=max(1.0, pitch_of(xy) / unit)) for xy in (source, target)]
    matrix, shift, covariance = (part.copy() for part in (found.poses.matrix, found.poses.shift, found.covariance))
    shared = None
    for mode in np.flatnonzero(np.isfinite(found.evidence) & (found.probability >= LEAST_PROBABILITY)):
        moved = with_outlines(
            *edges,
            (matrix[mode], shift[mode]),
            covariance=covariance[mode],
            center=found.center[mode],
            unit=unit,
        )
        matrix[mode], shift[mode], covariance[mode] = moved.matrix, moved.shift, moved.covariance
        shared = moved.shared if mode == 0 and moved.used else shared
    return found.replace(poses=Affine(matrix, shift), covariance=covariance), shared


def _turn(angle: float) -> Float[np.ndarray, "2 2"]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _edges(
    source: Outline, target: Outline, pose: tuple[np.ndarray, np.ndarray], *, center: np.ndarray, move: np.ndarray
) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, "3 3"], tuple[float, float]]:
    """Slope and information of the edges at a move about ``center``, and the share of either edge that counts."""
    matrix, shift = pose
    whole = _turn(move[0]) @ matrix
    placed = (source.spots @ matrix.T + shift - center) @ _turn(move[0]).T
    depth, slope = target.look(placed + center + move[1:])
    forth = (depth - source.inside, slope, placed, source.stretch)
    back = target.spots - center - move[1:]
    depth, slope = source.look((back @ _turn(move[0]) + center - shift) @ matrix)
    parts = (forth, (depth - target.inside, -slope @ whole.T, back, target.stretch))
    weights = [(1.0 + (e / OUTLIER) ** 2) ** -2 for e, *_ in parts]
    square = sum((w * e**2).sum() for w, (e, *_) in zip(weights, parts, strict=True))
    variance = max(EDGE_SD**2, square / max(sum(w.sum() for w in weights), 1e-12))
    pull, information = np.zeros(3), np.zeros((3, 3))
    for w, (e, slope, arm, stretch) in zip(weights, parts, strict=True):
        moves = np.stack([slope[:, 1] * arm[:, 0] - slope[:, 0] * arm[:, 1], slope[:, 0], slope[:, 1]], -1)
        by_spot = moves * (w / (2.0 * stretch * variance))[:, None]
        pull += by_spot.T @ e
        information += by_spot.T @ moves
    return pull, information, (float(weights[0].mean()), float(weights[1].mean()))
