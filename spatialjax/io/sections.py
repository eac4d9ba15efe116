"""What the door gives: sections in µm, in canonical order, with features that they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from spatialjax import checks
from spatialjax.io.features import Kind
from spatialjax.io.matrices import layers_of, to_csr

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True, eq=False)
class Section:
    """One section, its cells in canonical order (by x, then y, then features, then name).

    Attributes
    ----------
    name
        Name of the section, as the user wrote it.
    cells
        Names of the cells.
    xy
        Coordinates in µm, float64.
    z
        Depth in µm.
    values
        Features of the cells: csr float32, or dense float32 for an embedding and for dense floats.
    order
        ``order[k]`` is the row of ``adata`` that stands in row k here.
    um_per_unit
        µm in one unit of the input.
    units_source
        A phrase that says where that figure comes from.
    pitch
        Median distance from a place to the nearest other one, µm.
    adata
        The section as given, or the part of it that ``slice_key`` picked; never changed.
    source
        Which of the given objects it comes from.
    rows
        Row of that object for each row of ``adata``.
    added
        Columns that add to the evidence of the poses, see ``io.histology.with_histology``; None where there are none.
    """

    name: str
    cells: np.ndarray
    xy: Float[np.ndarray, "n 2"]
    z: float
    values: sp.csr_matrix | Float[np.ndarray, "n p"]
    order: Int[np.ndarray, " n"]
    um_per_unit: float
    units_source: str
    pitch: float
    adata: AnnData
    source: int
    rows: Int[np.ndarray, " n"]
    added: Float[np.ndarray, "n q"] | None = None

    def in_input_order(self, values: Any) -> np.ndarray:
        """Per-cell ``values`` (rows in canonical order) brought back to the rows of ``adata``."""
        values = np.asarray(values)
        out = np.empty_like(values)
        out[self.order] = values
        return out


@dataclass(frozen=True, eq=False)
class SectionStack:
    """The sections of one tissue, sorted by depth.

    Attributes
    ----------
    sections
        The sections.
    kind
        What the values are: ``"counts"``, ``"log1p"``, ``"float"``, ``"embedding"`` or ``"categories"``.
    genes
        Names of the features, the same in every section.
    messages
        What was found, assumed or kept; to be said aloud.
    histology
        Key of ``obsm`` with the columns in ``Section.added``; None where there are none.
    columns
        Names of these columns, where the sections bring them.
    """

    sections: tuple[Section, ...]
    kind: Kind
    genes: np.ndarray
    messages: list[str]
    histology: str | None = None
    columns: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Names of the sections."""
        return [section.name for section in self.sections]

    @property
    def n_cells(self) -> int:
        """Number of cells of all sections."""
        return sum(len(section.cells) for section in self.sections)

    def require_counts(self, what: str) -> None:
        """Refuse values that are not raw counts, and name the layer that holds them.

        Parameters
        ----------
        what
            Who needs counts, e.g. ``"method 'poisson'"``.

        Raises
        ------
        InputError
            If the values are not counts.
        """
        if self.kind in ("embedding", "categories"):
            raise checks.InputError(
                f"{what[:1].upper()}{what[1:]} needs raw counts, found features of kind {self.kind!r}. Leave "
                "feature_key= (--feature-key) out."
            )
        for section in self.sections:
            layers = {} if self.kind == "counts" else layers_of(section.adata)
            matrices = {key: to_csr(matrix, where=f"layer {key!r}") for key, matrix in layers.items()}
            checks.require_counts(section.values, what=what, layers=matrices)
