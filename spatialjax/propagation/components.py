"""Components by spatial autocorrelation (minimum noise fraction): what neighbours share comes first; on the host."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

#: Principal components that the autocorrelation is worked out in at the most; of small sections a tenth of the spots.
MAX_PRINCIPAL = 100
#: Columns of a table up to which its principal components are exact.
_EXACT = 1000
#: Spots beyond which sections are worked on by parts in single precision, by levels, or on an even choice of spots.
LARGE = 30_000
_BLOCK = 8192


class SpatialComponents(NamedTuple):
    """Components in falling order of spatial autocorrelation.

    Attributes
    ----------
    values
        (n, q) float32, mean 0, variance 1, uncorrelated.
    autocorrelation
        (q,) r of each component, its covariance with the mean of its neighbours: 1 where neighbours agree, 0 for noise.
    axes
        (p, q) linear map from the centred features to ``values``.
    """

    values: Float[np.ndarray, "n q"]
    autocorrelation: Float[np.ndarray, " q"]
    axes: Float[np.ndarray, "p q"]


def spatial_components(
    values: Any, adjacency: Any, *, number: int | None = None, principal: int | None = None
) -> SpatialComponents:
    """Directions v of the features with the largest spatial autocorrelation, C₁v = r C₀v.

    C₀ = XᵀX/n and C₁ = XᵀWX/n of the leading principal components X, with W the row-stochastic matrix of the graph
    (C₁ symmetrised). The noise of single spots has r = 0, whatever its variance. Signs: the largest entry of an axis is
    positive.

    Parameters
    ----------
    values
        (n, p) features, sparse or dense; columns are centred, not scaled.
    adjacency
        (n, n) sparse matrix of edge weights of at least 0.
    number
        Number of components returned; all where left out.
    principal
        Number of principal components that are kept first; min(100, n/10) where left out, to keep small sections from
        over-fitting.

    Raises
    ------
    ValueError
        If features and graph disagree about n.

    References
    ----------
    Green, Berman, Switzer & Craig (1988), IEEE Transactions on Geoscience and Remote Sensing 26; Switzer & Green
    (1984), Stanford Technical Report 6 (min/max autocorrelation factors).
    """
    n, width = values.shape
    weights = sp.csr_matrix(adjacency, dtype=np.float64)
    if weights.shape != (n, n):
        raise ValueError(f"Expected a graph of the {n} spots of the features, found {weights.shape[0]} spots.")
    kept = max(1, min(MAX_PRINCIPAL if principal is None else principal, n // 10 if principal is None else n, width))
    axes, mean = principal_axes(values, kept)
    if n > LARGE:
        return _by_parts(_scores(values, axes, mean), weights, axes, number=number)
    scores = np.asarray(values @ axes, np.float64) - mean @ axes
    spread = np.sqrt((scores**2).mean(0))
    used = spread > 1e-6 * max(spread.max(initial=0.0), 1e-30)
    axes, scores = axes[:, used] / spread[used], scores[:, used] / spread[used]
    total = np.asarray(weights.sum(1)).ravel()
    near = (weights @ scores) / np.where(total > 0, total, 1.0)[:, None]
    joint = scores.T @ near / n
    strength, turn, signed = _turned(joint, axes, number)
    return SpatialComponents((scores @ turn).astype(np.float32), strength, signed)


def _by_parts(
    scores: Float[np.ndarray, "n k"], weights: sp.csr_matrix, axes: Float[np.ndarray, "p k"], *, number: int | None
) -> SpatialComponents:
    """:func:`spatial_components` of many spots from their principal scores, float32: sums over parts of the rows."""
    n, kept = scores.shape
    rows = [slice(start, start + _BLOCK) for start in range(0, n, _BLOCK)]
    spread = np.sqrt(sum((scores[part].astype(np.float64) ** 2).sum(0) for part in rows) / n)
    used = spread > 1e-6 * max(spread.max(initial=0.0), 1e-30)
    inverse = np.where(used, 1.0 / np.where(used, spread, 1.0), 0.0)
    total = np.asarray(weights.sum(1)).ravel()
    weights = sp.csr_matrix(sp.diags(1.0 / np.where(total > 0, total, 1.0)) @ weights, dtype=np.float32)
    joint = np.zeros((kept, kept))
    for part in rows:
        joint += scores[part].T.astype(np.float64) @ (weights[part] @ scores)
    joint = joint / n * inverse[:, None] * inverse
    strength, turn, signed = _turned(joint[np.ix_(used, used)], axes[:, used] * inverse[used], number)
    turn = (inverse[used][:, None] * turn).astype(np.float32)
    return SpatialComponents(scores[:, used] @ turn, strength, signed)


def _turned(
    joint: Float[np.ndarray, "k k"], axes: Float[np.ndarray, "p k"], number: int | None
) -> tuple[Float[np.ndarray, " q"], Float[np.ndarray, "k q"], Float[np.ndarray, "p q"]]:
    """Autocorrelation of the leading components, the turn of the standardised scores, and the axes of the features."""
    strength, turn = np.linalg.eigh((joint + joint.T) / 2)
    order = np.argsort(-strength, kind="stable")[:number]
    turned = axes @ turn[:, order]
    signed = _signed(turned)
    sign = np.where((signed == turned).all(0), 1.0, -1.0)
    return strength[order], turn[:, order] * sign, signed


def _scores(values: Any, axes: Float[np.ndarray, "p k"], mean: Float[np.ndarray, " p"]) -> Float[np.ndarray, "n k"]:
    """Scores of many rows, float32, made by parts."""
    found = np.empty((values.shape[0], axes.shape[1]), np.float32)
    for start in range(0, len(found), _BLOCK):
        found[start : start + _BLOCK] = values[start : start + _BLOCK] @ axes - mean @ axes
    return found


def principal_axes(values: Any, number: int) -> tuple[Float[np.ndarray, "p q"], Float[np.ndarray, " p"]]:
    """Leading principal axes of the centred features, in falling order of variance, and the mean of the features.

    Exact where the table has at most 1,000 columns; else by block power iteration with 20 more directions
    than asked for, from a fixed start. A sparse table is never made dense. The largest entry of an axis is positive.

    Parameters
    ----------
    values
        (n, p), sparse or dense.
    number
        Number of axes.
    """
    n, width = values.shape
    values = values if sp.issparse(values) else np.asarray(values)
    mean = np.asarray(values.mean(0, dtype=np.float64 if n > LARGE else None), np.float64).ravel()
    if width <= _EXACT:
        moment = np.zeros((width, width))
        for start in range(0, n, _BLOCK):
            block = values[start : start + _BLOCK]
            block = (block.toarray() if sp.issparse(block) else block) - mean
            moment += block.T @ block
        spread, axes = np.linalg.eigh(moment)
        return _signed(axes[:, np.argsort(-spread, kind="stable")[:number]]), mean
    size = min(number + 20, n, width)
    basis = np.sin(np.arange(1, width * size + 1, dtype=np.float64) ** 2).reshape(width, size)
    for _ in range(6):
        basis = np.linalg.qr(basis)[0].astype(np.float32)
        scores = np.asarray(values @ basis) - (mean @ basis).astype(np.float32)
        basis = np.asarray(values.T @ scores, np.float64) - np.outer(mean, scores.sum(0, dtype=np.float64))
    basis = np.linalg.qr(basis)[0]
    scores = np.asarray(values @ basis, np.float64) - mean @ basis
    spread, turn = np.linalg.eigh(scores.T @ scores)
    return _signed(basis @ turn[:, np.argsort(-spread, kind="stable")[:number]]), mean


def principal_components(
    values: Float[np.ndarray, "n p"], number: int, *, section: Int[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, "n q"]:
    """Scores on the leading principal axes, float32, in falling order of variance.

    Parameters
    ----------
    values
        (n, p) features.
    number
        Number of components; fewer where there are fewer features.
    section
        Number of the section of each spot, where several were put together: the columns of each section are centred on
        their own, so that a shift between sections makes no component.
    """
    values = centred_by_section(values, section)
    axes, mean = principal_axes(values, min(number, *values.shape))
    if len(values) > LARGE:
        return _scores(values, axes, mean)
    return (values @ axes - mean @ axes).astype(np.float32)


def centred_by_section(
    values: Float[np.ndarray, "n p"], section: Int[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, "n p"]:
    """The values minus the mean of each column; float64, or of more than 30,000 spots the type that they have.

    Parameters
    ----------
    values
        (n, p) features.
    section
        Number of the section of each spot: each section has means of its own.
    """
    values = np.array(values, np.float64 if len(values) <= LARGE else np.result_type(values, np.float32))
    group = np.zeros(len(values), int) if section is None else np.unique(section, return_inverse=True)[1].reshape(-1)
    for each in range(group.max(initial=0) + 1):
        values[group == each] -= values[group == each].mean(0, dtype=np.float64)
    return values


def _signed(axes: Float[np.ndarray, "p q"]) -> Float[np.ndarray, "p q"]:
    """Axes whose largest entry is positive, so that rounding does not turn them."""
    if not axes.size:
        return axes
    return axes * np.where(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])] < 0, -1.0, 1.0)
