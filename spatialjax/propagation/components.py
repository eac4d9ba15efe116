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
    scores = np.asarray(values @ axes, np.float64) - mean @ axes
    spread = np.sqrt((scores**2).mean(0))
    used = spread > 1e-6 * max(spread.max(initial=0.0), 1e-30)
    axes, scores = axes[:, used] / spread[used], scores[:, used] / spread[used]
    total = np.asarray(weights.sum(1)).ravel()
    near = (weights @ scores) / np.where(total > 0, total, 1.0)[:, None]
    joint = scores.T @ near / n
    strength, turn = np.linalg.eigh((joint + joint.T) / 2)
    order = np.argsort(-strength, kind="stable")[:number]
    turned = axes @ turn[:, order]
    signed = _signed(turned)
    sign = np.where((signed == turned).all(0), 1.0, -1.0)
    return SpatialComponents((scores @ (turn[:, order] * sign)).astype(np.float32), strength[order], signed)


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
    mean = np.asarray(values.mean(0), np.float64).ravel()
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
    return (values @ axes - mean @ axes).astype(np.float32)


def centred_by_section(
    values: Float[np.ndarray, "n p"], section: Int[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, "n p"]:
    """The values minus the mean of each column, float64.

    Parameters
    ----------
    values
        (n, p) features.
    section
        Number of the section of each spot: each section has means of its own.
    """
    values = np.array(values, np.float64)
    group = np.zeros(len(values), int) if section is None else np.unique(section, return_inverse=True)[1].reshape(-1)
    for each in range(group.max(initial=0) + 1):
        values[group == each] -= values[group == each].mean(0)
    return values


def _signed(axes: Float[np.ndarray, "p q"]) -> Float[np.ndarray, "p q"]:
    """Axes whose largest entry is positive, so that rounding does not turn them."""
    if not axes.size:
        return axes
    return axes * np.where(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])] < 0, -1.0, 1.0)
