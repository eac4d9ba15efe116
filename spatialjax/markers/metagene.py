"""Combinations of genes that mark a domain better than one of them; on the host."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from spatialjax.markers.ranks import rank_sum

#: Fewest spots of either group that genes are compared on.
_FEWEST = 5


class MetaGene(NamedTuple):
    """A sum and difference of genes.

    Attributes
    ----------
    added, removed
        Positions of the genes that count up, the start gene first, and of those that count down.
    values
        (n,) value of the combination in each spot; the smallest is 0 once a gene was added.
    """

    added: tuple[int, ...]
    removed: tuple[int, ...]
    values: Float[np.ndarray, " n"]


def meta_gene(values: Any, labels: Int[np.ndarray, " n"], domain: int, *, start: int, rounds: int = 5) -> MetaGene:
    """Add genes to a start gene and take others away, until the combination marks the domain no better.

    Each round compares the domain with the spots outside it whose combination is above the mean of the domain: the gene
    that is highest in the domain is added, the one that is highest outside is taken away. A round is kept when no more
    spots than before were outside and above, and the mean difference between domain and rest does not fall.

    Parameters
    ----------
    values
        (n, g) log1p of depth-scaled counts, sparse or dense.
    labels
        Domain of each spot.
    domain
        The domain.
    start
        Position of the gene to start from.
    rounds
        Largest number of rounds.

    Raises
    ------
    ValueError
        If no spot is in the domain, or all are.

    References
    ----------
    Hu et al. (2021), Nature Methods 18.
    """
    own = np.asarray(labels) == domain
    if not own.any() or own.all():
        raise ValueError(f"Expected spots inside and outside domain {domain}, found {own.sum()} of {len(own)} inside.")
    found = MetaGene((start,), (), _column(values, start))
    most, gap = len(own), 0.0
    for _ in range(rounds):
        outside = ~own & (found.values > found.values[own].mean())
        if min(outside.sum(), own.sum()) < _FEWEST:
            break
        score = rank_sum(values, own, outside).score
        up, down = int(score.argmax()), int(score.argmin())
        combined = found.values + _column(values, up) - _column(values, down)
        combined = combined - combined.min()
        difference = float(combined[own].mean() - combined[~own].mean())
        if outside.sum() > most or difference < gap:
            break
        most, gap = int(outside.sum()), difference
        found = MetaGene((*found.added, up), (*found.removed, down), combined)
    return found


def _column(values: Any, gene: int) -> Float[np.ndarray, " n"]:
    column = sp.csc_matrix(values)[:, [gene]].toarray() if sp.issparse(values) else np.asarray(values)[:, [gene]]
    return np.asarray(column, np.float64).ravel()
