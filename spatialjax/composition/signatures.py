"""Signatures of cell types: what one cell of each type is expected to show, and how well that is known. On the host."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from flax import struct
from jaxtyping import Array, Float, Int

#: Weight of the pooled profile beside the cells of a type, in cells.
PSEUDO_CELLS = 0.5


@struct.dataclass
class Signatures:
    """Expected counts of one cell of each type.

    Attributes
    ----------
    means
        (K, g) expected counts of one cell, above 0 where any cell of the reference shows the gene.
    cells
        (K,) number of cells that each row rests on.
    """

    means: Float[Array, "k g"]
    cells: Float[Array, " k"]

    @property
    def depth(self) -> Float[Array, " k"]:
        """(K,) expected counts of one cell over all genes."""
        return self.means.sum(-1)


def mean_signatures(counts: Any, types: Int[np.ndarray, " m"], *, number: int) -> Signatures:
    """Mean counts of the cells of each type, drawn a little towards the profile of all types.

    ``b_kg = (Σ x_cg + ½ s_k m_g) / (M_k + ½)`` over the M_k cells c of type k with mean depth s_k, and the pooled
    profile m. Rows stay on the scale of raw counts, so that abundances count cells.

    Parameters
    ----------
    counts
        (m, g) raw counts of the reference, sparse or dense.
    types
        (m,) type of each cell, from 0.
    number
        Number of types K.

    Raises
    ------
    ValueError
        If a type has no cell or its cells have no count.
    """
    total, cells = type_sums(counts, types, number=number), np.bincount(types, minlength=number).astype(np.float64)
    if (cells == 0).any() or (total.sum(1) == 0).any():
        raise ValueError("Expected cells with counts in every type, found a type without: leave the type out.")
    pooled = total.sum(0) / total.sum()
    depth = total.sum(1) / cells
    means = (total + PSEUDO_CELLS * depth[:, None] * pooled) / (cells + PSEUDO_CELLS)[:, None]
    return Signatures(jnp.asarray(means, jnp.float32), jnp.asarray(cells, jnp.float32))


def type_sums(counts: Any, types: Int[np.ndarray, " m"], *, number: int) -> Float[np.ndarray, "k g"]:
    """(K, g) sum of the rows of each type; a type below 0 belongs to none."""
    kept = np.flatnonzero(types >= 0)
    member = sp.csr_matrix((np.ones(len(kept)), (types[kept], kept)), shape=(number, len(types)))
    total = member @ counts
    return np.asarray(total.toarray() if sp.issparse(total) else total, np.float64)


def gene_information(signatures: Signatures) -> Float[np.ndarray, " g"]:
    """Nats that a count of each gene tells of the type it came from, types alike in number and in depth.

    ``Σ_k q_kg log(q_kg / q̄_g) / K`` with profiles q that sum to 1 over the genes and their mean q̄: the parts of the
    mutual information of gene and type.
    """
    profile = np.asarray(signatures.means, np.float64)
    profile = profile / profile.sum(1, keepdims=True)
    mean = profile.mean(0)
    ratio = np.where(profile > 0, profile / np.where(mean > 0, mean, 1.0), 1.0)
    return (profile * np.log(ratio)).mean(0)


def informative_genes(signatures: Signatures, number: int) -> Int[np.ndarray, " h"]:
    """Row numbers of the ``number`` genes with the most information on the type, ascending; all where fewer vary."""
    told = gene_information(signatures)
    order = np.lexsort((np.arange(len(told)), -told))[:number]
    return np.sort(order[told[order] > 0])


def differing_genes(totals: Float[np.ndarray, "k g"], *, deviations: float = 5.0) -> Int[np.ndarray, " h"]:
    """Genes whose counts differ between the types by more than chance, ascending.

    The statistic ``2 Σ_k x log(x / e)``, with counts e in proportion to the depth of the types, is about χ² with K − 1
    degrees of freedom where a gene is alike in all types. Of a shallow reference the other genes tell nothing but its
    noise.

    Parameters
    ----------
    totals
        (K, g) counts of all cells of each type.
    deviations
        How many standard deviations above its mean by chance the statistic has to be.

    References
    ----------
    Woolf (1957), Annals of Human Genetics 21 (the log likelihood ratio test of counts).
    """
    gene, depth = totals.sum(0), totals.sum(1)
    expected = depth[:, None] * gene / max(float(depth.sum()), 1.0)
    ratio = np.where(totals > 0, totals / np.where(expected > 0, expected, 1.0), 1.0)
    freedom = len(totals) - 1
    return np.flatnonzero(2.0 * (totals * np.log(ratio)).sum(0) > freedom + deviations * np.sqrt(2.0 * freedom))
