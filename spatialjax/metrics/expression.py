"""How well expression agrees between two sets of values."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float


def gene_correlation(values: Any, others: Any) -> Float[np.ndarray, g]:
    """Pearson correlation of each gene over spots; NaN where a gene is constant in either.

    Parameters
    ----------
    values, others
        (n, g) arrays or sparse matrices with the same spots and genes.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if values.shape != others.shape:
        raise ValueError(f"Expected the same spots and genes, found {values.shape} and {others.shape}.")
    n = values.shape[0]
    sums = [np.asarray(v.sum(0), np.float64).ravel() for v in (values, others)]
    squares = [_column_dot(v, v) for v in (values, others)]
    covariance = _column_dot(values, others) - sums[0] * sums[1] / max(n, 1)
    spread = [np.maximum(q - s**2 / max(n, 1), 0.0) for q, s in zip(squares, sums, strict=True)]
    floor = [1e-12 * np.maximum(q, 1e-300) for q in squares]
    varies = (spread[0] > floor[0]) & (spread[1] > floor[1])
    scale = np.sqrt(np.where(varies, spread[0] * spread[1], 1.0))
    return np.where(varies, np.clip(covariance / scale, -1.0, 1.0), np.nan)


def _column_dot(a: Any, b: Any) -> np.ndarray:
    if sp.issparse(a):
        return np.asarray(a.astype(np.float64).multiply(b).sum(0)).ravel()
    if sp.issparse(b):
        return _column_dot(b, a)
    return np.einsum("ng,ng->g", np.asarray(a, np.float64), np.asarray(b, np.float64))
