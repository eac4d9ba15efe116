"""Counts that stay sparse on the host: the spots of one or many sections, and a reference of single cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int


@dataclass(frozen=True, eq=False)
class SpotTable:
    """Raw counts of spots.

    Attributes
    ----------
    counts
        (n, g) csr, or anything with a ``shape`` and ``rows(start, stop)`` that gives csr (a file).
    xy
        (n, 2) places, µm; None where they are not known.
    section
        (n,) number of the section of each spot; one section where left out.
    n_cells
        (n,) number of cells of each spot where it was counted, else None.
    """

    counts: Any
    xy: Float[np.ndarray, "n 2"] | None = None
    section: Int[np.ndarray, " n"] | None = None
    n_cells: Float[np.ndarray, " n"] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of spots and of genes."""
        return int(self.counts.shape[0]), int(self.counts.shape[1])

    def rows(self, start: int, stop: int) -> sp.csr_matrix:
        """Counts of a stretch of spots."""
        found = self.counts.rows(start, stop) if hasattr(self.counts, "rows") else self.counts[start:stop]
        return sp.csr_matrix(found)


@dataclass(frozen=True, eq=False)
class Reference:
    """Annotated single cells.

    Attributes
    ----------
    counts
        (m, g) raw counts, csr, genes as in the spots.
    types
        (m,) type of each cell, from 0.
    names
        Names of the types.
    batch
        (m,) number of the batch (donor, chemistry) of each cell; one batch where left out.
    """

    counts: sp.csr_matrix
    types: Int[np.ndarray, " m"]
    names: Sequence[str]
    batch: Int[np.ndarray, " m"] | None = None

    def genes(self, kept: Int[np.ndarray, " h"]) -> Reference:
        """The reference with some of its genes."""
        return Reference(self.counts[:, kept], self.types, self.names, self.batch)

    def cells(self, kept: Any) -> Reference:
        """The reference with some of its cells; types keep their numbers."""
        batch = None if self.batch is None else self.batch[kept]
        return Reference(self.counts[kept], self.types[kept], self.names, batch)


def stored_names(names: Sequence[str]) -> list[str]:
    """Names of types as columns that a file can hold, all different: ``/`` becomes ``|``.

    Parameters
    ----------
    names
        As the reference has them.
    """
    found: list[str] = []
    for name in names:
        stored = name.replace("/", "|")
        while stored in found or (stored != name and stored in names):
            stored += "|"
        found.append(stored)
    return found
