"""Pseudo-spots: sums of single cells whose composition is known. On the host, sparse throughout."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, Float, Int

from spatialjax.keys import generator

#: Patterns of the abundance of types over the regions of a synthetic tissue.
Pattern = Literal[
    "uniform_distinct",
    "diverse_distinct",
    "uniform_overlap",
    "diverse_overlap",
    "dominant",
    "partially_dominant",
    "dominant_rare",
    "regional_rare",
    "missing_types",
]
PATTERNS: tuple[str, ...] = get_args(Pattern)
#: Types of the pool that regions share under an overlap, and types that are left out under ``missing_types``.
_POOL, _MISSING = 4, 4


class PseudoSpots(NamedTuple):
    """Sums of cells.

    Attributes
    ----------
    counts
        (n, g) csr.
    cells
        (n, K) number of cells of each type in each spot.
    members
        (n, m) csr: how often each cell of the reference is in each spot.
    """

    counts: sp.csr_matrix
    cells: Int[np.ndarray, "n k"]
    members: sp.csr_matrix


def summed_cells(
    key: Array, counts: Any, types: Int[np.ndarray, " m"], *, cells: Int[np.ndarray, "n k"]
) -> PseudoSpots:
    """Spots with given numbers of cells of each type, cells drawn with replacement among those of the type.

    Parameters
    ----------
    key
        Random key.
    counts
        (m, g) raw counts of single cells, sparse or dense.
    types
        (m,) type of each cell; below 0 for none.
    cells
        (n, K) number of cells of each type in each spot.

    Raises
    ------
    ValueError
        If a spot asks for a type that has no cell.
    """
    rng, cells = generator(key), np.asarray(cells)
    n, number = cells.shape
    rows, chosen = [], []
    for kind in range(number):
        own = np.flatnonzero(types == kind)
        need = int(cells[:, kind].sum())
        if need and not len(own):
            raise ValueError(f"Expected cells of type {kind} to draw from, found none.")
        rows.append(np.repeat(np.arange(n), cells[:, kind]))
        chosen.append(own[rng.integers(0, max(len(own), 1), need)] if need else np.zeros(0, int))
    where = (np.concatenate(rows), np.concatenate(chosen))
    members = sp.csr_matrix((np.ones(len(where[0]), np.float32), where), shape=(n, len(types)))
    members.sum_duplicates()
    return PseudoSpots(sp.csr_matrix(members @ sp.csr_matrix(counts, dtype=np.float32)), cells, members)


def scaled_counts(key: Array, counts: sp.csr_matrix, scale: Any) -> sp.csr_matrix:
    """Counts at another depth: thinned by binomial draws where the scale is below 1, drawn up where it is above.

    Each count x becomes ``⌊s⌋ x + Binomial(x, s − ⌊s⌋)``, so that zeros stay zero and means are scaled.

    Parameters
    ----------
    key
        Random key.
    counts
        (n, g) csr of whole numbers.
    scale
        One number, (n, 1) for spots, (1, g) for genes, or their product (n, g) shape by broadcasting.
    """
    rng, found = generator(key), counts.tocsr().copy()
    shape = np.shape(scale)
    row = np.repeat(np.arange(found.shape[0]), np.diff(found.indptr))
    factor = np.full(found.nnz, scale, float) if not shape else np.ones(found.nnz)
    if shape:
        scale = np.asarray(scale, float)
        factor = scale[row if shape[0] > 1 else 0, found.indices if shape[1] > 1 else 0] * np.ones(found.nnz)
    whole = np.floor(factor)
    value = found.data.astype(np.int64)
    found.data = (whole * value + rng.binomial(value, factor - whole)).astype(np.float32)
    found.eliminate_zeros()
    return found


def region_frequencies(key: Array, pattern: Pattern, *, regions: int, number: int) -> Float[np.ndarray, "r k"]:
    """Frequencies of the types in each region of a synthetic tissue.

    Parameters
    ----------
    key
        Random key.
    pattern
        How the types are spread: each region has types of its own, alike (``uniform``) or unlike (``diverse``) in
        number, beside types of a pool that regions share (``overlap``); one type prevails everywhere (``dominant``) or
        not in the last two regions (``partially_dominant``); one type is rare everywhere (``dominant_rare``) or there
        in one region only (``regional_rare``); or types of the reference are nowhere (``missing_types``).
    regions, number
        Number of regions and of types.

    Returns
    -------
    array
        (regions, K), each row sums to 1.

    References
    ----------
    Sang-aram et al. (2024), eLife 12:RP88431, Spotless (the patterns of synthspot).
    """
    rng = generator(key)
    types = rng.permutation(number)
    if pattern == "missing_types":
        types = types[: max(number - _MISSING, 1)]
    special, rest = types[0], types[1:]
    single = pattern in ("dominant", "partially_dominant", "dominant_rare", "regional_rare")
    pool = types[: min(_POOL, max(len(types) - regions, 0))] if pattern.endswith("overlap") else types[:0]
    dealt = rest if single else types[len(pool) :]
    if not len(dealt):
        dealt = types
    weight = np.zeros((regions, number))
    rare = pattern.endswith("rare")
    few = {"dominant_rare": "everywhere", "regional_rare": 0, "partially_dominant": regions - 2}.get(pattern)
    for region in range(regions):
        own = dealt[np.arange(len(dealt)) % regions == region % max(min(regions, len(dealt)), 1)]
        own = np.concatenate([own, rng.choice(pool, 1)]) if len(pool) else own
        diverse = rng.permutation(np.resize(np.arange(1, 11), len(own)))
        many = rng.integers(75, 126 if rare else 101, len(own))
        weight[region, own] = np.ones(len(own)) if pattern.startswith("uniform") else many if rare else diverse
        if pattern == "dominant" or (pattern == "partially_dominant" and region < regions - 2):
            weight[region, special] = rng.integers(75, 101)
        elif few == "everywhere" or region == few:
            weight[region, special] = rng.integers(1, 11)
    return weight / weight.sum(1, keepdims=True)


def drawn_cells(
    key: Array, frequencies: Float[np.ndarray, "n k"], *, low: int = 2, high: int = 10
) -> Int[np.ndarray, "n k"]:
    """Numbers of cells of each type: as many as ``low`` to ``high`` cells a spot, types by their frequencies."""
    rng = generator(key)
    total = rng.integers(low, high + 1, len(frequencies))
    return rng.multinomial(total, frequencies)
