"""How much the values of neighbours are alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float


def morans_i(values: Float[np.ndarray, "n p"], adjacency: Any) -> Float[np.ndarray, " p"]:
    """Moran's I of each column: 1 where neighbours agree, −1/(n − 1) on average where places do not matter.

    (n / Σ w_ij) Σ w_ij (x_i − x̄)(x_j − x̄) / Σ (x_i − x̄)².

    Parameters
    ----------
    values
        Values of the spots.
    adjacency
        (n, n) sparse matrix of edge weights.

    Returns
    -------
    array
        0 for constant columns and for graphs without edges.

    Raises
    ------
    ValueError
        If values and graph disagree about n.

    References
    ----------
    Moran (1950), Biometrika 37.
    """
    weights = sp.csr_matrix(adjacency, dtype=np.float64)
    values = np.asarray(values, np.float64)
    if weights.shape != (len(values),) * 2:
        raise ValueError(f"Expected a graph of the {len(values)} spots of the values, found {weights.shape[0]} spots.")
    centred = values - values.mean(0)
    total, square = weights.sum(), (centred**2).sum(0)
    varies = square > 1e-12 * max(float((values**2).sum()), 1e-300)
    if not total:
        return np.zeros(values.shape[1])
    covariance = len(values) / total * (centred * (weights @ centred)).sum(0)
    return np.where(varies, covariance / np.where(varies, square, 1.0), 0.0)
