"""How many domains: agreement of partitions with one count, over seeds or members; on the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from spatialjax.clustering.labels import fowlkes_mallows_matrix, rand_matrix


class Stability(NamedTuple):
    """Agreement for each number of clusters.

    Attributes
    ----------
    number
        (c,) numbers of clusters, ascending.
    rand
        (c,) mean adjusted Rand index over pairs of members.
    spread
        (c,) its standard deviation over pairs: large where members fall into competing partitions.
    fowlkes_mallows
        (c,) mean Fowlkes–Mallows index; not corrected for chance, so it falls with the number.
    candidates
        Numbers that are worth a look, the most stable first: the local maxima of ``rand``. A curve that only falls has
        its first number.
    """

    number: Int[np.ndarray, " c"]
    rand: Float[np.ndarray, " c"]
    spread: Float[np.ndarray, " c"]
    fowlkes_mallows: Float[np.ndarray, " c"]
    candidates: tuple[int, ...]


def stability(partitions: Mapping[int, Any]) -> Stability:
    """Curve of agreement over the number of clusters, with candidates instead of one answer.

    Stability alone seldom names the number that an anatomist would: two or three candidates are worth a look.

    Parameters
    ----------
    partitions
        Number of clusters -> (n, m) labels of at least two members (seeds, scales, subsets of features).

    Raises
    ------
    ValueError
        If there is no number, or a table has fewer than two members.

    References
    ----------
    Ben-Hur, Elisseeff & Guyon (2002), Pacific Symposium on Biocomputing; von Luxburg (2010), Foundations and Trends in
    Machine Learning 2.
    """
    if not partitions:
        raise ValueError("Expected partitions for at least one number of clusters, found none.")
    number = np.array(sorted(partitions))
    rand, spread, fowlkes = [], [], []
    for count in number:
        table = np.asarray(partitions[int(count)])
        if table.ndim != 2 or table.shape[1] < 2:
            raise ValueError(
                f"Expected labels of at least two members for {count} clusters, found shape {table.shape}."
            )
        pairs = np.triu_indices(table.shape[1], 1)
        agreement = rand_matrix(table)[pairs]
        rand.append(agreement.mean())
        spread.append(agreement.std())
        fowlkes.append(fowlkes_mallows_matrix(table)[pairs].mean())
    rand = np.array(rand)
    padded = np.concatenate([[-np.inf], rand, [-np.inf]])
    peaks = np.flatnonzero((padded[1:-1] > padded[:-2]) & (padded[1:-1] >= padded[2:]))
    candidates = tuple(int(number[i]) for i in peaks[np.argsort(-rand[peaks], kind="stable")])
    return Stability(number, rand, np.array(spread), np.array(fowlkes), candidates)
