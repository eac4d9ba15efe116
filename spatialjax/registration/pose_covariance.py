r"""How far each section of a pose graph may be off its anchor, and each of its cells.

A small motion of a section is written in the common frame, about one point. The pose of the pair ``i -> j`` then says
what :math:`\xi_i - \xi_j` is, up to an error. Noise in a section enters every pair that shows it, so that the errors of
two pairs are not independent: their correlation is :math:`+\rho` where a shared section has the same role in both, and
:math:`-\rho` where one pair enters it and the other leaves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import block_diag
from scipy.optimize import nnls

from spatialjax.registration.pose_search import Rigid
from spatialjax.registration.posterior import cell_covariance

#: Eigenvalues of a precision (µm^-2, an angle counts by its arm) are at least this share of the largest, and this much:
#: a direction that nothing is known about gets a wide covariance, not an infinite one.
_LEAST_SHARE, _LEAST = 1e-6, 1e-12


class Measured(NamedTuple):
    """A pair whose pose entered the common frame.

    Attributes
    ----------
    source, target
        Numbers of the sections.
    center
        What the angle of the error turns about, in the target's frame.
    precision
        Inverse covariance of the error (angle in rad, x and y in µm), in the target's frame.
    weight
        The matrix that the least squares weighed the pair by, same coordinates.
    """

    source: int
    target: int
    center: complex
    precision: Float[np.ndarray, "3 3"]
    weight: Float[np.ndarray, "3 3"]


def propagate(
    pairs: Sequence[Measured], poses: Sequence[Rigid | None], *, root: int, correlation: float
) -> tuple[dict[int, Float[np.ndarray, "3 3"]], Float[np.ndarray, "2"]]:
    r"""Covariance of the pose of every section that ``pairs`` join to the root.

    With the signed incidence matrix :math:`B`, the weights :math:`W` of the pairs and the covariance :math:`\Sigma` of
    their errors, the poses err by :math:`G \Sigma G^T`, :math:`G = (B^T W B)^{-1} B^T W`.

    Parameters
    ----------
    pairs
        Pairs of one component.
    poses
        Map of each section to the common frame.
    root
        Section that keeps its own coordinates; its covariance is 0.
    correlation
        ``ρ`` of two pairs that share a section, below one half.

    Returns
    -------
    tuple
        Section -> covariance of (angle in rad, x and y in µm) about one point, and that point, in the common frame.
    """
    about = complex(np.mean([poses[pair.target](pair.center) for pair in pairs]))
    scale = np.array([float(np.median([_arm(pair.precision) for pair in pairs])), 1.0, 1.0])
    moves = [scale[:, None] * _to_common(poses[pair.target], pair.center, about) for pair in pairs]
    backs = [np.linalg.inv(move) for move in moves]
    weights = [back.T @ np.linalg.inv(_inverse(pair.weight)) @ back for back, pair in zip(backs, pairs, strict=True)]
    roots = [_root(move @ _inverse(pair.precision) @ move.T) for move, pair in zip(moves, pairs, strict=True)]
    sections = sorted({end for pair in pairs for end in (pair.source, pair.target)})
    signed = np.zeros((len(pairs), len(sections)))
    for row, pair in enumerate(pairs):
        signed[row, sections.index(pair.source)], signed[row, sections.index(pair.target)] = 1.0, -1.0
    together = (1 - 2 * correlation) * np.eye(len(pairs)) + correlation * signed @ signed.T
    free = [section for section in sections if section != root]
    incidence = np.kron(signed[:, [sections.index(section) for section in free]], np.eye(3))
    weighed = incidence.T @ block_diag(*weights)
    gain = np.linalg.solve(weighed @ incidence, weighed @ block_diag(*roots))
    back = np.tile(1 / scale, len(free))
    covariance = back[:, None] * (gain @ np.kron(together, np.eye(3)) @ gain.T) * back
    found = {section: covariance[3 * n : 3 * n + 3, 3 * n : 3 * n + 3] for n, section in enumerate(free)}
    found = {section: 0.5 * (block + block.T) for section, block in found.items()}
    return {root: np.zeros((3, 3)), **found}, np.array([about.real, about.imag])


def section_warps(
    pairs: Sequence[tuple[int, int]], variances: Float[np.ndarray, " e"], *, n_sections: int
) -> Float[np.ndarray, " s"]:
    """Variance of each section's own warp from those of the pairs, which see the warps of both, µm².

    Parameters
    ----------
    pairs
        The two sections of each pair.
    variances
        Variance of the warp between them, µm².
    n_sections
        Number of sections.

    Returns
    -------
    array
        Non-negative least squares; 0 for sections without a pair.
    """
    table = np.zeros((len(pairs), n_sections))
    for row, ends in enumerate(pairs):
        table[row, list(ends)] = 1.0
    # A faint pull to zero decides where the pairs leave it open: two sections alone share their warp.
    ridge = 1e-3 * np.eye(n_sections)
    return nnls(np.concatenate([table, ridge]), np.concatenate([variances, np.zeros(n_sections)]))[0]


def spot_sd(
    covariance: Float[np.ndarray, "3 3"],
    center: Float[np.ndarray, "2"],
    places: Float[np.ndarray, "n d"],
    *,
    warp: float,
) -> Float[np.ndarray, "n 3"]:
    """Standard deviation of each cell's place along x, y and z, µm, relative to the anchor.

    Parameters
    ----------
    covariance, center
        Of the section's pose, see ``PoseGraph``.
    places
        Cells in the common frame, µm; a third coordinate is taken as known.
    warp
        Variance of the warp between section and anchor, µm².

    Returns
    -------
    array
        (n, 3) with 0 along z; NaN where the section is not placed.
    """
    places = np.asarray(places, np.float64)
    if not np.isfinite(covariance).all():
        return np.full((len(places), 3), np.nan)
    spread = np.asarray(cell_covariance(covariance, center, places[:, :2], warp=warp), np.float64)
    sd = np.sqrt(np.maximum(np.diagonal(spread, axis1=1, axis2=2), 0.0))
    return np.concatenate([sd, np.zeros((len(places), 1))], 1)


def _to_common(pose: Rigid, center: complex, about: complex) -> Float[np.ndarray, "3 3"]:
    """What a motion (angle, x, y) about ``center`` in a section's frame is about ``about`` in the common frame."""
    sign = -1.0 if pose.mirrored else 1.0
    turned = np.exp(1j * pose.angle)
    along = (turned, sign * 1j * turned)
    lever = sign * 1j * (about - pose(center))
    return np.array([[sign, 0, 0], [lever.real, *(a.real for a in along)], [lever.imag, *(a.imag for a in along)]])


def _arm(precision: np.ndarray) -> float:
    """Length at which a precision knows a turn as well as a shift."""
    shift = 0.5 * (precision[1, 1] + precision[2, 2])
    return float(np.sqrt(max(precision[0, 0], 1e-12) / max(shift, 1e-12)))


def _inverse(precision: np.ndarray) -> np.ndarray:
    scale = np.array([_arm(precision), 1.0, 1.0])
    values, vectors = np.linalg.eigh(precision / np.outer(scale, scale))
    least = max(_LEAST_SHARE * values[-1], _LEAST)
    return (vectors / np.maximum(values, least)) @ vectors.T / np.outer(scale, scale)


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
