"""Sparse soft matches between two sections that lie in one frame."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from spatialjax.graphs import cross_slice


def soft_matches(
    mapped_xy: Float[np.ndarray, "n d"],
    target_xy: Float[np.ndarray, "m d"],
    *,
    bandwidth: float,
    k: int = 8,
    reach: float | None = None,
    features: Float[np.ndarray, "n p"] | None = None,
    target_features: Float[np.ndarray, "m p"] | None = None,
    feature_bandwidth: float | None = None,
) -> sp.csr_matrix:
    r"""Weights of the nearest target spots of each source spot.

    The weight of target ``j`` for source ``i`` is proportional to
    :math:`\exp(-\lVert x_i - y_j\rVert^2 / 2h^2)\,\exp(-\lVert f_i - g_j\rVert^2 / 2s^2)` over the ``k`` nearest
    targets within reach.

    Parameters
    ----------
    mapped_xy
        Source spots in the frame of the target, µm.
    target_xy
        Target spots, µm.
    bandwidth
        ``h``, µm; about the distance between neighbouring spots.
    k
        Largest number of matches of a spot.
    reach
        Largest distance of a match, µm; 2.5 bandwidths where left out.
    features, target_features
        Features that both sections share; distance alone counts where both are left out.
    feature_bandwidth
        ``s``; the median feature distance of nearest spots where left out.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n, m); each row sums to 1, the row of a spot without counterpart is empty.

    Raises
    ------
    ValueError
        If a bandwidth is not positive or only one section has features.
    """
    if not bandwidth > 0:
        raise ValueError(f"Expected a bandwidth above 0 µm, found {bandwidth}.")
    if (features is None) != (target_features is None):
        raise ValueError("Expected features of both sections or of none, found those of one.")
    mapped, target = np.asarray(mapped_xy, np.float64), np.asarray(target_xy, np.float64)
    table = cross_slice(mapped, target, k, max_distance=2.5 * bandwidth if reach is None else reach)
    index, used = table.index, table.weight > 0
    squared = _squared_distances(mapped, target, index) / bandwidth**2
    if features is not None:
        apart = _squared_distances(np.asarray(features, np.float64), np.asarray(target_features, np.float64), index)
        squared = squared + apart / _feature_scale(apart[:, 0], used[:, 0], feature_bandwidth)
    smallest = np.where(used, squared, np.inf).min(1, keepdims=True)
    smallest = np.where(np.isfinite(smallest), smallest, 0.0)
    weight = np.where(used, np.exp(-0.5 * np.where(used, squared - smallest, 0.0)), 0.0)
    weight /= np.maximum(weight.sum(1, keepdims=True), 1.0)
    rows = np.broadcast_to(np.arange(len(mapped))[:, None], index.shape)
    matrix = sp.csr_matrix((weight[used], (rows[used], index[used])), (len(mapped), len(target)))
    matrix.sort_indices()
    return matrix


def _squared_distances(source: np.ndarray, target: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Squared distance of each row to the rows of the target that ``index`` lists, one column at a time."""
    return np.stack([((source - target[column]) ** 2).sum(1) for column in index.T], 1)


def _feature_scale(nearest: np.ndarray, used: np.ndarray, bandwidth: float | None) -> float:
    if bandwidth is not None:
        if not bandwidth > 0:
            raise ValueError(f"Expected a feature bandwidth above 0, found {bandwidth}.")
        return float(bandwidth) ** 2
    scale = float(np.median(nearest[used])) if used.any() else 1.0
    return scale if scale > 0 else 1.0
