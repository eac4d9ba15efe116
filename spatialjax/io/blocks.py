"""Counts that are left in their file and read in blocks of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from spatialjax.io.matrices import library_sizes, take, to_csr

#: Rows that are read at once where all are looked at.
ROWS = 8192


@dataclass(frozen=True, eq=False)
class RowBlocks:
    """Chosen rows and genes of a matrix in a file (h5ad, zarr), read whenever they are asked for.

    Attributes
    ----------
    stored
        The matrix: anything with a ``shape`` that gives blocks of rows when sliced.
    kept
        Rows of it, in their order here.
    columns
        Genes.
    """

    stored: Any
    kept: Int[np.ndarray, " n"]
    columns: Int[np.ndarray, " g"]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of genes."""
        return len(self.kept), len(self.columns)

    def rows(self, start: int, stop: int) -> sp.csr_matrix:
        """Counts of a stretch of rows, in canonical form."""
        wanted = self.kept[start:stop]
        if (np.diff(wanted) == 1).all():
            block = self.stored[int(wanted[0]) : int(wanted[-1]) + 1] if len(wanted) else self.stored[:0]
            return take(to_csr(block, where="the file"), columns=self.columns)
        # Files are read forward.
        order = np.argsort(wanted, kind="stable")
        block = to_csr(self.stored[wanted[order]], where="the file")
        return take(block, rows=np.argsort(order, kind="stable"), columns=self.columns)

    def library_sizes(self) -> Float[np.ndarray, " n"]:
        """Sum of the counts of each row."""
        starts = range(0, self.shape[0], ROWS)
        return np.concatenate([library_sizes(self.rows(start, start + ROWS)) for start in starts])


def left_in_file(matrix: Any) -> bool:
    """Whether rows of ``matrix`` can be read from a file as they are needed; columns first would be read whole."""
    if isinstance(matrix, np.ndarray) or sp.issparse(matrix):
        return False
    return getattr(matrix, "format", "csr") == "csr"


def check_blocks(matrix: Any, check: Callable[[sp.csr_matrix], None], *, where: str) -> None:
    """Look at all rows of a matrix in a file once, block by block.

    Parameters
    ----------
    matrix
        What ``left_in_file`` says yes to.
    check
        Raises where a block cannot be used.
    where
        What the matrix is, for messages.

    Raises
    ------
    InputError
        If a block holds no numbers, or NaN or infinite ones.
    """
    for start in range(0, matrix.shape[0], ROWS):
        place = where if start == 0 else f"{where} (rows counted from {start})"
        check(to_csr(matrix[start : start + ROWS], where=place))
