"""What stands beside a network that finds compositions: rows to train it on, and all spots read out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, Float, Int

from spatialjax.algorithm import Algorithm, Chain, Fit, fit, solve
from spatialjax.composition.profiles import Profiles, pooled_counts, top_genes
from spatialjax.composition.rowwise import ROW_STEPS
from spatialjax.composition.tilewise import count_source
from spatialjax.slices import bucket
from spatialjax.tables import SpotTable

#: Spots that a network is shown in training, and rows that are read at once.
MOST_SPOTS, _ROWS = 8192, 2048


@dataclass(frozen=True, eq=False)
class ScaledRows:
    """Counts of spots scaled to one total, as a table of counts is read.

    Attributes
    ----------
    spots
        The spots.
    total
        Sum of each row, over all genes; a row without counts stays empty.
    """

    spots: SpotTable
    total: float = 1e4

    @property
    def shape(self) -> tuple[int, int]:
        """Number of spots and of genes."""
        return self.spots.shape

    def rows(self, start: int, stop: int) -> sp.csr_matrix:
        """Values of a stretch of spots."""
        return scaled_rows(self.spots.rows(start, stop), self.total)


def scaled_rows(counts: Any, total: float = 1e4) -> sp.csr_matrix:
    """Sparse rows scaled to one total; a row without counts stays empty."""
    found = sp.csr_matrix(counts, dtype=np.float64)
    own = np.asarray(found.sum(1)).ravel()
    return sp.csr_matrix(sp.diags(np.where(own > 0, total / np.where(own > 0, own, 1.0), 0.0)) @ found)


def shown_markers(profiles: Profiles, spots: SpotTable, number: int) -> Int[np.ndarray, " h"]:
    """The ``number`` most telling genes of each type among those that the spots show, ascending.

    Raises
    ------
    ValueError
        If the spots show none of them.
    """
    total = pooled_counts(spots)
    kept = top_genes(profiles._replace(bare=np.where(total > 0, profiles.bare, 0.0)), number)
    if not len(kept):
        raise ValueError("Expected spots that show a gene of some type, found none: check the names of the genes.")
    return kept


def training_rows(spots: SpotTable, genes: Int[np.ndarray, " h"]) -> dict[str, Any]:
    """Dense rows of spots evenly out of all of them, in an order that hangs on their values alone.

    Parameters
    ----------
    spots
        The spots; those that show none of the genes are left out.
    genes
        Columns that are given.

    Returns
    -------
    dict
        ``values``, with free places below, and the ``number`` of rows that are spots.

    Raises
    ------
    ValueError
        If no spot shows any of the genes.
    """
    n = spots.shape[0]
    wanted = np.unique(np.linspace(0, n - 1, min(n, MOST_SPOTS)).astype(int))
    parts = []
    for start in range(0, n, _ROWS):
        stop = min(start + _ROWS, n)
        own = wanted[(wanted >= start) & (wanted < stop)] - start
        part = spots.rows(start, stop)[own][:, genes].toarray().astype(np.float32)
        parts.append(part[part.any(1)])
    found = np.concatenate(parts)
    if not len(found):
        raise ValueError("Expected spots that show the chosen genes, found none: check the names of the genes.")
    # Another order of the spots must not train another network.
    found = found[sorted(range(len(found)), key=lambda row: found[row].tobytes())]
    values = np.zeros((bucket(len(found) - 1), len(genes)), np.float32)
    values[: len(found)] = found
    return {"values": values, "number": np.int32(len(found))}


def packed(matrix: Any) -> dict[str, np.ndarray]:
    """A sparse matrix as arrays, which may stand in the data of a run."""
    found = sp.csr_matrix(matrix, dtype=np.float32)
    found.sum_duplicates()
    return {"data": found.data, "indices": found.indices, "indptr": found.indptr, "width": np.int32(found.shape[1])}


def unpacked(arrays: dict[str, Any]) -> sp.csr_matrix:
    """The sparse matrix of :func:`packed`."""
    data, indices, indptr = (np.asarray(arrays[name]) for name in ("data", "indices", "indptr"))
    return sp.csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, int(arrays["width"])))


def drawn_first(draw: Callable[[Array, Any], Any], then: Algorithm | Chain) -> Chain:
    """What is drawn on the host before the first step, from the key of the run.

    Parameters
    ----------
    draw
        ``(key, data) -> data`` of ``then``.
    then
        What follows.

    Returns
    -------
    Chain
        With a phase of one step before those of ``then``.
    """

    def handover(fit: Fit, data: Any) -> tuple[Any, None]:
        return draw(jax.random.wrap_key_data(fit.result), data), None

    return Chain(_bits_of_the_key, handover, then)


def _bits(key: Any, data: Any) -> Any:
    del data
    return jax.random.key_data(key)


_bits_of_the_key = solve(_bits)


def read_by_tiles(
    tables: Chain, key: Array, spots: SpotTable, *, shared: Any, genes: Int[np.ndarray, " h"] | None = None
) -> Any:
    """What ``row_tables`` makes of all spots, for instance with a trained network, on the host.

    Parameters
    ----------
    tables
        From ``row_tables``, made once for each function.
    key
        Random key.
    spots
        The spots.
    shared
        What goes with every tile.
    genes
        Columns that are given; all where left out.

    Returns
    -------
    pytree
        Tables with one row a spot.
    """
    n = spots.shape[0]
    data = {"tile": count_source(spots, shared, genes=genes), "number": np.int32(n)}
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:n], fit(tables, key, data, max_steps=ROW_STEPS).result)


def row_totals(spots: SpotTable) -> Float[np.ndarray, " n"]:
    """(n,) counts of each spot, read in stretches of rows."""
    parts = [spots.rows(start, start + _ROWS).sum(1) for start in range(0, spots.shape[0], _ROWS)]
    return np.concatenate([np.asarray(part, np.float64).ravel() for part in parts])


def cells_of_counts(
    shares: Float[np.ndarray, "n k"], spots: SpotTable, depth: Float[np.ndarray, " k"]
) -> Float[np.ndarray, "n k"]:
    """Numbers of cells, where ``shares`` are those of the counts: share × counts of the spot / depth of the type."""
    return np.asarray(shares, np.float64) * row_totals(spots)[:, None] / depth


def cells_of_shares(
    shares: Float[np.ndarray, "n k"], spots: SpotTable, depth: Float[np.ndarray, " k"]
) -> Float[np.ndarray, "n k"]:
    """Numbers of cells in these shares that would give the counts of each spot, with ``depth`` counts a cell."""
    shares = np.asarray(shares, np.float64)
    return shares * (row_totals(spots) / np.maximum(shares @ depth, 1e-12))[:, None]
