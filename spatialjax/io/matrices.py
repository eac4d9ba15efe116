"""Any matrix that AnnData may hold as one canonical sparse matrix, and the canonical order of the cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from spatialjax.checks import InputError, listed


def to_csr(matrix: Any, *, where: str) -> sp.csr_matrix:
    """A canonical float32 copy: sorted indices, no explicit zeros, 32-bit indices where they suffice.

    The same values give the same bits, whether they come as csr, csc, dense, integers or from a file left on disk.

    Parameters
    ----------
    matrix
        (n, p): sparse matrix or array, dense array, or a matrix backed by a file.
    where
        What it is, for the message.

    Raises
    ------
    InputError
        If it holds no numbers, or a value is NaN or infinite in single precision.
    """
    matrix = in_memory(matrix)
    if matrix.dtype.kind not in "biuf":
        raise InputError(f"Expected numbers in {where}, found values of type {matrix.dtype}. Convert them to numbers.")
    with np.errstate(over="ignore"):
        out = sp.csr_matrix(matrix, dtype=np.float32, copy=True)
    bad = int((~np.isfinite(out.data)).sum())
    if bad:
        rows = np.unique(np.repeat(np.arange(out.shape[0]), np.diff(out.indptr))[~np.isfinite(out.data)])
        raise InputError(
            f"Expected finite values in {where}, found {bad} NaN or infinite ones in {len(rows)} cells (rows "
            f"{listed(rows)}). Replace them, or remove these cells or genes."
        )
    out.sum_duplicates()
    out.eliminate_zeros()
    return _narrow(out)


def layers_of(adata: Any) -> dict[str, Any]:
    """The layers by name; newer AnnData also lists ``X`` there, without a name."""
    return {name: adata.layers[name] for name in adata.layers if name is not None}


def in_memory(matrix: Any) -> Any:
    """``matrix`` as a numpy array or a scipy sparse matrix, read or computed where it is not in memory yet."""
    for method in ("to_memory", "compute"):
        if hasattr(matrix, method):
            matrix = getattr(matrix, method)()
    return matrix if sp.issparse(matrix) else np.asarray(matrix)


def take(
    matrix: sp.csr_matrix, *, rows: Int[np.ndarray, " n"] | None = None, columns: Int[np.ndarray, " p"] | None = None
) -> sp.csr_matrix:
    """Chosen rows and columns, in canonical form."""
    if columns is not None:
        matrix = matrix[:, columns]
    if rows is not None:
        matrix = matrix[rows]
    matrix = sp.csr_matrix(matrix)
    matrix.sort_indices()
    return _narrow(matrix)


def library_sizes(values: Any) -> Float[np.ndarray, " n"]:
    """Sum of the absolute values of each cell: 0 says that nothing was seen there."""
    return np.asarray(abs(values).sum(1), np.float64).ravel()


def canonical_order(
    xy: Float[np.ndarray, "n 2"], values: Any, cells: Sequence[str] | np.ndarray
) -> Int[np.ndarray, " n"]:
    """The order that does not depend on how the input was ordered: by x, then y, then features, then name.

    Features and names are looked at only where coordinates are equal.

    Parameters
    ----------
    xy
        (n, 2) coordinates.
    values
        (n, p) canonical csr matrix or dense array.
    cells
        Names of the cells, all different.
    """
    order = np.lexsort((xy[:, 1], xy[:, 0]))
    same = (np.diff(xy[order], axis=0) == 0).all(1)
    if not same.any():
        return order
    starts = np.flatnonzero(np.concatenate([[True], ~same]))
    stops = np.append(starts[1:], len(order))
    for start, stop in zip(starts, stops, strict=True):
        if stop - start > 1:
            order[start:stop] = sorted(order[start:stop], key=lambda row: (_row_key(values, row), str(cells[row])))
    return order


def _row_key(values: Any, row: int) -> tuple[float, ...]:
    if sp.issparse(values):
        part = slice(values.indptr[row], values.indptr[row + 1])
        pairs = zip(values.indices[part].tolist(), values.data[part].tolist(), strict=True)
        return tuple(number for pair in pairs for number in pair)
    return tuple(np.asarray(values[row], np.float64).tolist())


def _narrow(matrix: sp.csr_matrix) -> sp.csr_matrix:
    if matrix.nnz < np.iinfo(np.int32).max:
        matrix.indices = matrix.indices.astype(np.int32, copy=False)
        matrix.indptr = matrix.indptr.astype(np.int32, copy=False)
    return matrix
