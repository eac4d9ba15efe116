"""Partitions of the same rows as one small table: distinct tuples of labels with their counts, on the host.

M label vectors of a million rows hold far fewer distinct tuples than rows, and every consensus treats equal tuples
alike. Tuples come in sorted order, so the order of the rows does not matter.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

#: Tuples whose indicator table is dense; of more it is sparse, and sums over it are made by parts of this size.
DENSE_TUPLES = 2**15


class Tuples(NamedTuple):
    """Distinct rows of a table of labels.

    Attributes
    ----------
    codes
        (u, m) distinct tuples; the labels of each member are numbered from 0.
    count
        (u,) how many rows have each tuple.
    of_row
        (n,) tuple of each row.
    sizes
        (m,) number of labels of each member.
    """

    codes: Int[np.ndarray, "u m"]
    count: Int[np.ndarray, " u"]
    of_row: Int[np.ndarray, " n"]
    sizes: Int[np.ndarray, " m"]

    def one_hot(self) -> Float[np.ndarray, "u l"]:
        """(u, Σ sizes) indicator of each label of each member, float32."""
        start = np.cumsum(self.sizes) - self.sizes
        table = np.zeros((len(self.codes), int(self.sizes.sum())), np.float32)
        np.put_along_axis(table, self.codes + start, 1.0, axis=1)
        return table

    def indicator(self) -> Any:
        """:meth:`one_hot`, as a sparse array where there are more than ``DENSE_TUPLES`` tuples."""
        if len(self.codes) <= DENSE_TUPLES:
            return self.one_hot()
        u, m = self.codes.shape
        columns = (self.codes + (np.cumsum(self.sizes) - self.sizes)).astype(np.int32).reshape(-1)
        shape = (u, int(self.sizes.sum()))
        return sp.csr_array((np.ones(u * m, np.float32), columns, np.arange(0, u * m + 1, m)), shape=shape)


def distinct(labels: Any) -> Tuples:
    """Distinct tuples of the members' labels.

    Parameters
    ----------
    labels
        (n, m) labels, one column a member; any sortable values.

    Raises
    ------
    ValueError
        If it is no table with rows and columns.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or 0 in labels.shape:
        raise ValueError(f"Expected a table of labels, one column for each member, found shape {labels.shape}.")
    n = len(labels)
    coded = [np.unique(column, return_inverse=True) for column in labels.T]
    sizes = np.array([len(names) for names, _ in coded])
    kind = np.int16 if sizes.max() <= np.iinfo(np.int16).max else np.int32
    codes = np.stack([inverse.reshape(-1) for _, inverse in coded], 1).astype(kind)
    order = np.lexsort(codes.T[::-1])
    new = np.zeros(n, bool)
    new[0] = True
    for column in codes.T:
        column = column[order]
        new[1:] |= column[1:] != column[:-1]
    of_row = np.empty(n, np.int64)
    of_row[order] = np.cumsum(new) - 1
    count = np.diff(np.append(np.flatnonzero(new), n))
    return Tuples(codes[order[new]].astype(np.int32), count, of_row, sizes)


def by_size(labels: Any) -> Int[np.ndarray, " n"]:
    """The labels numbered by size on the host, 0 for the largest cluster; of equal ones the smaller name first."""
    _, codes, count = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    return np.argsort(np.argsort(-count, kind="stable"))[codes.reshape(-1)].astype(np.int32)


def contingency(tuples: Tuples) -> Float[np.ndarray, "l l"]:
    """(Σ sizes, Σ sizes) number of rows with each pair of labels: all tables of pairs of members at once."""
    size = int(tuples.sizes.sum())
    total = np.zeros((size, size))
    for start in range(0, len(tuples.codes), DENSE_TUPLES):
        rows = slice(start, start + DENSE_TUPLES)
        part = tuples._replace(codes=tuples.codes[rows], count=tuples.count[rows])
        table = part.one_hot().astype(np.float64)
        total += (table * part.count[:, None]).T @ table
    return total


def rand_matrix(labels: Any) -> Float[np.ndarray, "m m"]:
    """Adjusted Rand index of every pair of members, on the host; 1 for two partitions into one cluster.

    Parameters
    ----------
    labels
        (n, m) labels.

    References
    ----------
    Hubert & Arabie (1985), Journal of Classification 2.
    """
    together, alone, total = _pairs(distinct(labels))
    expected = np.outer(alone, alone) / max(total, 1.0)
    top = 0.5 * (alone[:, None] + alone[None, :])
    gap = top - expected
    return np.where(gap > 0, (together - expected) / np.where(gap > 0, gap, 1.0), 1.0)


def fowlkes_mallows_matrix(labels: Any) -> Float[np.ndarray, "m m"]:
    """Fowlkes–Mallows index of every pair of members, on the host: pairs together in both / geometric mean.

    References
    ----------
    Fowlkes & Mallows (1983), Journal of the American Statistical Association 78.
    """
    together, alone, _ = _pairs(distinct(labels))
    scale = np.sqrt(np.outer(alone, alone))
    return np.where(scale > 0, together / np.where(scale > 0, scale, 1.0), 0.0)


def _pairs(tuples: Tuples) -> tuple[Float[np.ndarray, "m m"], Float[np.ndarray, " m"], float]:
    """Pairs of rows that are together in both members, in each member, and all pairs."""
    table = contingency(tuples)
    start = np.cumsum(tuples.sizes) - tuples.sizes
    choose = lambda v: v * (v - 1) / 2
    together = np.add.reduceat(np.add.reduceat(choose(table), start, axis=0), start, axis=1)
    total = float(choose(tuples.count.sum(dtype=np.float64)))
    return together, np.diag(together).copy(), total
