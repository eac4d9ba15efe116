"""Pairs of points that a person matched: the rigid map they ask for, how sure it is, and which of them disagree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from spatialjax.checks import InputError
from spatialjax.registration.procrustes import procrustes
from spatialjax.transforms import Affine, rigid

#: A point agrees with a map that brings it within so many standard deviations of its partner (one in a thousand is
#: farther by chance: the 99.9 % point of the Rayleigh distribution).
AGREES = 3.72
#: Nats by which the points must prefer one parity to the other.
PARITY_NATS = 5.0


class LandmarkFit(NamedTuple):
    """The rigid map that landmarks ask for.

    Attributes
    ----------
    pose
        Map from source µm to target µm.
    precision
        Inverse covariance of (angle in rad, x, y in µm) for ``x -> R(angle)(T x - center) + center + (x, y)``.
    center
        What the angle turns about: the mean place of the landmarks in the target, µm.
    residual
        Distance of each source point, moved, from its partner, µm.
    """

    pose: Affine
    precision: Float[np.ndarray, "3 3"]
    center: Float[np.ndarray, "2"]
    residual: Float[np.ndarray, " n"]


def fit_landmarks(
    source: Float[np.ndarray, "n 2"],
    target: Float[np.ndarray, "n 2"],
    sd: Float[np.ndarray, " n"],
    *,
    mirrored: bool | None = None,
    what: str = "the sections",
    names: Sequence[str] | None = None,
) -> LandmarkFit:
    """Fit a rigid map to matched points, all of which must agree with it.

    Parameters
    ----------
    source, target
        Matched points, µm.
    sd
        How precisely each pair of points was matched, µm along each axis.
    mirrored
        Parity of the map where it is known; two points are enough then.
    what
        The two sections, for messages.
    names
        Name of each pair of points, for messages; numbers from 1 where left out.

    Raises
    ------
    InputError
        If there are too few points, they stand at one place or do not tell the parity, or no rigid map explains them
        all; the message names the points that disagree and gives every residual in µm.

    References
    ----------
    Fischler & Bolles (1981), Commun. ACM 24, for the map that most points agree with.
    """
    source, target, sd = (np.asarray(values, np.float64) for values in (source, target, sd))
    names = [str(i + 1) for i in range(len(source))] if names is None else list(names)
    _enough(source, target, sd, mirrored=mirrored, what=what)
    parities = (False, True) if mirrored is None else (mirrored,)
    fits = [fit_of_parity(source, target, sd, mirrored=parity) for parity in parities]
    apart = [distances(pose, source, target) for pose in fits]
    cost = [0.5 * float(((d / sd) ** 2).sum()) for d in apart]
    best = int(np.argmin(cost))
    if (apart[best] > AGREES * sd).any():
        raise InputError(_contradiction(source, target, sd, parities=parities, what=what, names=names))
    if len(cost) == 2 and abs(cost[0] - cost[1]) < PARITY_NATS:
        raise InputError(
            f"The landmarks of {what} do not tell whether the section is turned over: both sides explain them within "
            f"their precision ({np.median(sd):.4g} µm). Choose points that do not lie on one line and stand farther "
            "apart, or forbid one of the two sides (forbid with mirrored)."
        )
    freedom = 2 * len(source) - 3
    heat = max(1.0, 2 * cost[best] / freedom)
    center = target.mean(0)
    precision = landmark_precision(fits[best](source), center, sd) / heat
    return LandmarkFit(fits[best], precision, center, apart[best])


def fit_of_parity(
    source: Float[np.ndarray, "n 2"], target: Float[np.ndarray, "n 2"], sd: Float[np.ndarray, " n"], *, mirrored: bool
) -> Affine:
    """The rigid map of one parity that fits matched points (µm) best, whether or not they agree with it."""
    return procrustes(source, target, sd**-2.0, mirrored=mirrored)


def distances(
    pose: Affine, source: Float[np.ndarray, "n 2"], target: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, " n"]:
    """Distance of each moved source point from its partner, µm."""
    return np.linalg.norm(pose(source) - target, axis=1)


def landmark_precision(
    placed: Float[np.ndarray, "n 2"], center: Float[np.ndarray, "2"], sd: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "3 3"]:
    """What points at ``placed`` (µm, in the target) say about (angle about ``center`` in rad, x, y in µm)."""
    arm = placed - center
    turn = np.stack([-arm[:, 1], arm[:, 0]], -1)
    moves = np.concatenate([turn[:, :, None], np.broadcast_to(np.eye(2), (len(arm), 2, 2))], -1)
    return np.einsum("nij,nik,n->jk", moves, moves, sd**-2.0)


def landmark_evidence(
    apart: Float[np.ndarray, " n"], sd: Float[np.ndarray, " n"], *, area: float, fitted: bool
) -> float:
    """Nats by which matched points speak for a pose, against partners anywhere in the target's tissue.

    Parameters
    ----------
    apart
        Distance of each moved point from its partner, µm.
    sd
        Precision of each pair of points, µm.
    area
        Area of the target's tissue, µm².
    fitted
        Whether the pose was fitted to the points, which takes three of their coordinates (one and a half points).
    """
    each = np.log(np.maximum(area / (2 * np.pi * sd**2), 1.0))
    gain = float(each.sum() - (1.5 * each.mean() if fitted else 0.0))
    return gain - 0.5 * float(((apart / sd) ** 2).sum())


def combined(
    pose: Affine,
    precision: Float[np.ndarray, "3 3"],
    center: Float[np.ndarray, "2"],
    *,
    other: Affine,
    other_precision: Float[np.ndarray, "3 3"],
) -> Affine:
    """The pose between two of one parity, each as near as its precision asks for.

    Parameters
    ----------
    pose
        The first pose.
    precision
        Its precision about ``center``.
    center
        What both angles turn about, µm, in the target.
    other
        The second pose.
    other_precision
        Its precision, about the same centre.
    """
    turn = float(np.angle(np.exp(1j * (other.angle - pose.angle))))
    shift = other(pose.inverse()(center[None]))[0] - center
    step = np.linalg.lstsq(precision + other_precision, other_precision @ [turn, *shift], rcond=None)[0]
    return rigid(step[0], step[1:], center=center).compose(pose)


def _enough(source: np.ndarray, target: np.ndarray, sd: np.ndarray, *, mirrored: bool | None, what: str) -> None:
    needed = 3 if mirrored is None else 2
    if len(source) < needed:
        more = " (two where the side is known: forbid one with mirrored)" if mirrored is None else ""
        raise InputError(
            f"Expected at least {needed} landmarks of {what}{more}, found {len(source)}: fewer do not fix angle, side "
            f"and shift. Add {needed - len(source)} more."
        )
    for points, which in ((source, "first"), (target, "second")):
        width = float(np.linalg.norm(points - points.mean(0), axis=1).max())
        if width <= float(np.median(sd)):
            raise InputError(
                f"Expected landmarks of {what} that stand apart, found all within {width:.4g} µm of each other in the "
                f"{which} section, which is no more than their precision ({np.median(sd):.4g} µm). Choose points "
                "farther apart, or give a smaller sd."
            )


def _contradiction(
    source: np.ndarray,
    target: np.ndarray,
    sd: np.ndarray,
    *,
    parities: Sequence[bool],
    what: str,
    names: Sequence[str],
) -> str:
    pose, inside = _consensus(source, target, sd, parities=parities)
    apart = distances(pose, source, target)
    each = ", ".join(f"{name} {d:.0f}" for name, d in zip(names, apart, strict=True))
    wrong = [name for name, ok in zip(names, inside, strict=True) if not ok]
    limit = AGREES * float(np.median(sd))
    agree = int(inside.sum())
    fix = (
        f"Correct or remove {', '.join(wrong)}"
        if agree >= 3
        else "No three of them agree, so none can be called wrong: look at all of them"
    )
    return (
        f"The landmarks of {what} contradict each other: expected one rigid map that brings every point within "
        f"{limit:.0f} µm of its partner, found one for {agree} of {len(names)}. Residuals under it in µm: {each}. "
        f"{fix}, or give a larger sd if the tissue is deformed that much."
    )


def _consensus(
    source: np.ndarray, target: np.ndarray, sd: np.ndarray, *, parities: Sequence[bool]
) -> tuple[Affine, np.ndarray]:
    """The map that most points agree with, among those that two points define, and which points do."""
    x, y = source @ [1, 1j], target @ [1, 1j]
    i, j = np.triu_indices(len(x), 1)
    best: tuple[int, float] = (-1, np.inf)
    inside, parity = np.ones(len(x), bool), parities[0]
    for mirrored in parities:
        z = x.conj() if mirrored else x
        turn = np.exp(1j * np.angle((y[j] - y[i]) * (z[j] - z[i]).conj()))
        shift = 0.5 * (y[i] + y[j] - turn * (z[i] + z[j]))
        apart = np.abs(turn[:, None] * z + shift[:, None] - y)
        ok = apart <= AGREES * sd
        cost = np.where(ok, apart**2, 0.0).sum(1)
        pick = min(range(len(ok)), key=lambda k: (-int(ok[k].sum()), cost[k]))  # noqa: B023 - used at once
        rank = (-int(ok[pick].sum()), float(cost[pick]))
        if best[0] < 0 or rank < (-best[0], best[1]):
            best, inside, parity = (-rank[0], rank[1]), ok[pick], mirrored
    weights = np.where(inside, sd**-2.0, 0.0)
    return procrustes(source, target, weights, mirrored=parity), inside
