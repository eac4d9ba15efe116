"""Profiles of cell types as shares of a cell's counts, and the genes that tell types apart. On the host."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from spatialjax.composition.signatures import PSEUDO_CELLS, type_sums
from spatialjax.tables import Reference, SpotTable

#: Share that stands for none in a logarithm.
_NO_SHARE = 1e-9
#: Cells of the other types that stand beside those of a type when its genes are chosen.
_BORROWED = 5.0


class Profiles(NamedTuple):
    """What shares of its counts a cell of each type gives to each gene.

    Attributes
    ----------
    shares
        (K, g) mean share, each row sums to 1; above 0 where any cell of the reference shows the gene.
    bare
        (K, g) the same without what is borrowed from the other types.
    depth
        (K,) mean number of counts of a cell.
    cells
        (K,) number of cells.
    """

    shares: Float[np.ndarray, "k g"]
    bare: Float[np.ndarray, "k g"]
    depth: Float[np.ndarray, " k"]
    cells: Float[np.ndarray, " k"]


def mean_profiles(reference: Reference) -> Profiles:
    """Mean over the cells of each type of the shares of their counts, drawn by half a cell towards all types.

    Parameters
    ----------
    reference
        Annotated cells; a cell without counts does not count.

    Raises
    ------
    ValueError
        If a type has no cell with counts.
    """
    depth = np.asarray(reference.counts.sum(1), np.float64).ravel()
    number, types = len(reference.names), np.where(depth > 0, np.asarray(reference.types), -1)
    cells = np.bincount(types[types >= 0], minlength=number).astype(np.float64)
    if (cells == 0).any():
        raise ValueError("Expected cells with counts in every type, found a type without: leave the type out.")
    shares = sp.diags(np.where(depth > 0, 1.0 / np.where(depth > 0, depth, 1.0), 0.0)) @ reference.counts
    total = type_sums(shares, types, number=number)
    pooled = total.sum(0) / total.sum()
    drawn = (total + PSEUDO_CELLS * pooled) / (cells + PSEUDO_CELLS)[:, None]
    return Profiles(
        shares=drawn / drawn.sum(1, keepdims=True),
        bare=total / cells[:, None],
        depth=type_sums(depth[:, None], types, number=number)[:, 0] / cells,
        cells=cells,
    )


def fold_genes(profiles: Profiles, *, fold: float, least: float) -> Int[np.ndarray, " h"]:
    """Row numbers of the genes that a type shows more of than the other types do on average, ascending.

    The share of a gene in a type is drawn by five cells towards the other types first, so that chance does not choose
    the genes of a type with few cells.

    Parameters
    ----------
    profiles
        Of the types.
    fold
        Natural logarithm of the ratio that the share in a type has to exceed.
    least
        Share that it has to exceed.
    """
    bare, cells = profiles.bare, profiles.cells[:, None]
    others = (bare.sum(0) - bare) / max(len(bare) - 1, 1)
    own = (cells * bare + _BORROWED * others) / (cells + _BORROWED)
    ratio = np.log(own + _NO_SHARE) - np.log(others + _NO_SHARE)
    return np.flatnonzero(((ratio > fold) & (own > least)).any(0))


def top_genes(profiles: Profiles, number: int) -> Int[np.ndarray, " h"]:
    """Row numbers of the ``number`` genes of each type that tell most of it, ascending, each once.

    A gene tells ``q_k log(q_k / q̄)`` of type k, with its share q_k there and q̄ on average over all types.

    Parameters
    ----------
    profiles
        Of the types.
    number
        Genes of each type at the most.
    """
    bare = profiles.bare
    told = bare * (np.log(bare + _NO_SHARE) - np.log(bare.mean(0) + _NO_SHARE))
    order = np.argsort(-told, axis=1, kind="stable")[:, :number]
    useful = np.take_along_axis(told, order, axis=1) > 0
    return np.unique(order[useful])


def pooled_counts(spots: SpotTable, *, rows: int = 4096) -> Float[np.ndarray, " g"]:
    """(g,) counts of all spots together, read in stretches of rows.

    Parameters
    ----------
    spots
        The spots.
    rows
        Rows that are read at once.
    """
    total = np.zeros(spots.shape[1])
    for start in range(0, spots.shape[0], rows):
        total += np.asarray(spots.rows(start, min(start + rows, spots.shape[0])).sum(0), np.float64).ravel()
    return total
