"""What each spot says about a pose: its pull, its information, and how far tissue patches disagree.

Coordinates of a pose here: (angle times the root mean square arm, shift x, shift y), all in pitches, about the mean
place of the overlapping spots, so that one unit means the same in all three. Where a scale is asked for, the fourth is
the logarithm of the scale times that arm.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int
from scipy.linalg import hadamard

from spatialjax.registration.evidence import look, matched_odds, score, similarity
from spatialjax.registration.pairs import FieldPair, place
from spatialjax.transforms import rigid

#: Patches of tissue that are compared, and the axes along which the tissue is cut into them.
PATCHES = 16
ORIENTATIONS = (0.0, np.pi / 6, np.pi / 3)
#: Eigenvalues of an information matrix are at least this share of the largest one.
LEAST_EIGENVALUE = 0.02
#: Spots this far apart (pitches) share the warp, but hardly any noise.
WARP_RING = (2.0, 4.0)


@struct.dataclass
class Pull:
    """What the spots say about one pose; weights of overlap and outliers are held at their values there.

    Attributes
    ----------
    placed
        The spots in the target's frame, pitches.
    weights
        Weight of each spot.
    center
        Weighted mean place.
    arm
        Weighted root mean square distance from ``center``.
    scores
        Slope of the evidence along the pose that each spot contributes.
    information
        Minus the second derivative that each spot contributes, symmetric.
    evidence
        Nats, every covered spot counted in full, as ``pairs.score_pair`` has it.
    similarity
        Mean correlation of the components in the overlap, weighed by their variance.
    patch
        For each orientation of the cuts the patch of tissue that a spot lies in.
    """

    placed: Float[Array, "n 2"]
    weights: Float[Array, "n"]
    center: Float[Array, "2"]
    arm: Float[Array, ""]
    scores: Float[Array, "n d"]
    information: Float[Array, "n d d"]
    evidence: Float[Array, ""]
    similarity: Float[Array, ""]
    patch: Int[Array, "o n"]


def pull(pair: FieldPair, pose: tuple[Any, Any, Any], *, step: float = 0.5) -> Pull:
    """Scores of all spots at a rigid pose ``(angle, shift in pitches, mirrored)``, see :func:`pull_placed`."""
    return pull_placed(pair, place(pair.points, pose), step=step)


def pull_placed(pair: FieldPair, placed: Float[Array, "n 2"], *, step: float = 0.5, scale: bool = False) -> Pull:
    """Scores of all spots where a pose has put them, and their central differences.

    Differences over ``± step`` pitches see the evidence as wide as the field is smooth; the Gauss-Newton curvature
    would count the noise of the field's slope as information.

    Parameters
    ----------
    pair
        The two sections.
    placed
        The points of the source in the target's frame, pitches.
    step
        Half the width of the differences, pitches.
    scale
        Whether the scores have a fourth entry, along the logarithm of an isotropic scale.
    """
    size = 4 if scale else 3
    motions = step * jnp.concatenate([jnp.zeros((1, size)), jnp.eye(size), -jnp.eye(size)])

    def see(held: tuple[Any, Any, Any], motion: Any) -> Any:
        weights, center, arm = held
        swollen = center + jnp.exp(motion[3] / arm) * (placed - center) if scale else placed
        there = rigid(motion[0] / arm, motion[1:3], center=center)(swollen)
        seen = look(pair.field, there)
        cover = pair.weights * seen.cover
        # One body for all motions, the first one standing still, compiles the costly look once.
        still = (motion == 0.0).all()
        weights = jnp.where(still, cover * matched_odds(seen, pair.features, pair.weights), weights)
        share = (weights / jnp.maximum(weights.sum(), 1e-6))[:, None]
        center = jnp.where(still, (share * placed).sum(0), center)
        arm = jnp.where(still, jnp.sqrt((share * (placed - center) ** 2).sum() + 1e-6), arm)
        # By the held weights for the pull, by the cover alone for the evidence.
        found = jax.vmap(lambda held: score(seen, pair.features, held, samples=pair.mixed))(jnp.stack([weights, cover]))
        force = (found.slopes[0][..., None] * seen.slopes).sum(1)
        lever = there - center - motion[1:3]
        turn = (lever[:, 0] * force[:, 1] - lever[:, 1] * force[:, 0]) / arm
        parts = [turn[:, None], force]
        if scale:
            parts.append((lever * force).sum(1)[:, None] / arm)
        whole = jax.tree.map(lambda leaf: leaf[1], found)
        return (weights, center, arm), (jnp.concatenate(parts, 1), whole.evidence, similarity(whole, pair.features))

    start = (pair.weights, jnp.zeros(2), jnp.ones(()))
    (held, center, arm), (scores, evidence, alike) = jax.lax.scan(see, start, motions)
    information = jnp.moveaxis(scores[1 + size :] - scores[1 : 1 + size], 0, -1) / (2 * step)
    information = 0.5 * (information + information.swapaxes(1, 2))
    patch = jax.lax.map(lambda turn: patches(placed, held, orientation=turn), jnp.array(ORIENTATIONS))
    return Pull(placed, held, center, arm, scores[0], information, evidence[0], alike[0], patch)


def inverse(information: Float[Array, "*b d d"]) -> Float[Array, "*b d d"]:
    """Inverse of a symmetric matrix, its eigenvalues raised to ``LEAST_EIGENVALUE`` of the largest one."""
    return _raised(information, power=-1)


def _raised(information: Any, *, power: int) -> Any:
    """The matrix to the power of 1 or -1, its least eigenvalues raised first."""
    values, vectors = jnp.linalg.eigh(information)
    values = jnp.maximum(values, jnp.maximum(LEAST_EIGENVALUE * values[..., -1:], 1e-6))
    return jnp.einsum("...ab,...b,...cb->...ac", vectors, values**power, vectors)


def patches(
    places: Float[Array, "n 2"], weights: Float[Array, "n"], *, orientation: Any, rounds: int = 4
) -> Int[Array, "n"]:
    """Cut the tissue in halves of equal weight, again and again along two axes in turn.

    Parameters
    ----------
    places
        Places of the spots.
    weights
        Weight of each spot.
    orientation
        Angle of the first axis, radians.
    rounds
        Number of cuts: 2**rounds patches.
    """
    c, s = jnp.cos(orientation), jnp.sin(orientation)
    axes = places @ jnp.stack([jnp.stack([c, -s]), jnp.stack([s, c])])

    def cut(turn: Any, label: Any) -> Any:
        order = jnp.lexsort((axes[:, turn % 2], label))
        total = jax.ops.segment_sum(weights, label, 2**rounds)
        before = jnp.cumsum(total) - total
        group, weight = label[order], weights[order]
        below = jnp.cumsum(weight) - 0.5 * weight - before[group]
        upper = below > 0.5 * total[group]
        return label.at[order].set(2 * group + upper.astype(jnp.int32))

    return jax.lax.fori_loop(0, rounds, cut, jnp.zeros(len(places), jnp.int32))


def temperature(found: Pull) -> Float[Array, ""]:
    """How much wider the spread of the pose is than the curvature says: from the disagreement of tissue halves.

    Each half ``a`` of the patches would move the pose by ``inverse(H_a) g_a``; half the difference ``d`` of two
    complementary halves scatters like the error of the whole. Returned is the mean of ``d' H d``, over the number of
    coordinates, of balanced halves (the rows of a Hadamard matrix) of patches cut along three orientations. Nothing is
    aligned again.

    References
    ----------
    McCarthy (1969), Rev. Int. Stat. Inst. 37, for balanced half-samples.
    """
    signs = jnp.asarray(hadamard(PATCHES)[1:] > 0, jnp.float32)
    curvature = _raised(found.information.sum(0), power=1)

    def ratio(label: Any) -> Any:
        slopes = jax.ops.segment_sum(found.scores, label, PATCHES)
        parts = jax.ops.segment_sum(found.information, label, PATCHES)
        sides = jnp.stack([signs, 1.0 - signs])
        halves = inverse(jnp.einsum("hsk,kab->hsab", sides, parts))
        moves = jnp.einsum("hsab,hsk,kb->hsa", halves, sides, slopes)
        apart = 0.5 * (moves[0] - moves[1])
        return jnp.einsum("sa,ab,sb->s", apart, curvature, apart) / len(curvature)

    return jnp.mean(jax.lax.map(ratio, found.patch))


def warp_variance(pair: FieldPair, found: Pull) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Variance (pitches squared, one axis) of a smooth displacement that no rigid pose explains, and its error.

    A spot that is displaced by ``u`` pulls with ``H u``. The pulls of spots ``WARP_RING`` apart have little noise in
    common but share the displacement, so that the sum of their products over the sum of ``trace(H H)`` estimates the
    variance of ``u``. The standard error is that of a jackknife over patches of tissue.

    Where nothing was warped (halves of one section) the estimate is 0 within its error; of a simulated warp of .2 to
    .9 pitches squared it shows a half to a third (the rigid pose takes a part of it, and a displacement of a pitch is
    not small beside the structure): ``Calibration.warp_gain`` makes up for that.

    Parameters
    ----------
    pair
        The two sections.
    found
        Their pulls at a pose.
    """
    field, side = pair.field, pair.field.cover.shape[0]
    node = jnp.clip(jnp.round((found.placed - field.origin) / field.pixel).astype(jnp.int32), 0, side - 1)
    block = found.information[:, 1:, 1:]
    columns = jnp.concatenate(
        [found.scores[:, 1:], block[:, 0, :1], jnp.sqrt(2.0) * block[:, 0, 1:], block[:, 1, 1:]], 1
    )
    sums = jnp.zeros((side, side, 5)).at[node[:, 0], node[:, 1]].add(columns)
    line = jnp.minimum(jnp.arange(side), side - jnp.arange(side)) * field.pixel
    distance = jnp.hypot(line[:, None], line[None, :])
    ring = ((distance >= WARP_RING[0]) & (distance <= WARP_RING[1])).astype(jnp.float32)
    spectrum = jnp.fft.rfft2(sums, axes=(0, 1)) * jnp.fft.rfft2(ring)[..., None]
    around = jnp.fft.irfft2(spectrum, (side, side), axes=(0, 1))[node[:, 0], node[:, 1]]
    products = columns * around
    both = jnp.stack([products[:, :2].sum(1), products[:, 2:].sum(1)], 1)
    parts = jax.ops.segment_sum(both, found.patch[0], PATCHES)
    total = parts.sum(0)
    ratio = total[0] / jnp.maximum(total[1], 1e-6)
    without = total - parts
    left = without[:, 0] / jnp.maximum(without[:, 1], 1e-6)
    spread = (PATCHES - 1) / PATCHES * ((left - left.mean()) ** 2).sum()
    return ratio, jnp.sqrt(spread)
