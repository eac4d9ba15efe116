"""Average linkage of weighted points, and a cut that leaves no splinters; on the host."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


def weighted_average_linkage(
    distance: Float[np.ndarray, "u u"], weight: Float[np.ndarray, " u"]
) -> Int[np.ndarray, "u-1 2"]:
    """Agglomeration by the mean distance of the members, each point counting as ``weight`` equal ones.

    The nearest-neighbour chain finds the merges in O(u²) time; they are sorted by height.

    Parameters
    ----------
    distance
        (u, u) symmetric distances.
    weight
        (u,) weights above 0.

    Returns
    -------
    array
        (u − 1, 2) merges from the lowest to the highest, each given by one point of either side.

    References
    ----------
    Murtagh (1983), The Computer Journal 26.
    """
    table = np.array(distance, np.float64)
    weight = np.array(weight, np.float64)
    u = len(weight)
    np.fill_diagonal(table, np.inf)
    left = np.ones(u, bool)
    merges, heights, chain = [], [], []
    for _ in range(u - 1):
        if not chain:
            chain = [int(np.argmax(left))]
        while True:
            here = chain[-1]
            near = int(np.argmin(table[here]))
            if len(chain) > 1 and table[here, near] >= table[here, chain[-2]]:
                break
            chain.append(near)
        a, b = chain.pop(), chain.pop()
        merges.append((b, a))
        heights.append(table[a, b])
        joined = (weight[a] * table[a] + weight[b] * table[b]) / (weight[a] + weight[b])
        weight[b] += weight[a]
        left[a] = False
        joined[~left] = np.inf
        joined[b] = np.inf
        table[b], table[:, b] = joined, joined
        table[a], table[:, a] = np.inf, np.inf
    return np.array(merges, int).reshape(-1, 2)[np.argsort(heights, kind="stable")]


def balanced_cut(
    merges: Int[np.ndarray, "u-1 2"], weight: Float[np.ndarray, " u"], *, number: int, least: float
) -> Int[np.ndarray, " u"]:
    """Cut a tree at the coarsest level with exactly ``number`` clusters of at least ``least``.

    Parameters
    ----------
    merges
        Of :func:`weighted_average_linkage`.
    weight
        (u,) weights of the points.
    number
        Number of clusters.
    least
        Smallest weight of a cluster.

    Returns
    -------
    array
        Cluster of each point, −1 in smaller ones. Where no level has ``number`` such clusters, the tree is cut into
        ``number`` clusters of any size.
    """
    u = len(weight)
    best = None
    group, size = np.arange(u), np.asarray(weight, np.float64).copy()
    large = int((size >= least).sum())
    for step in range(len(merges) + 1):
        if large == number:
            best = step
        if step == len(merges):
            break
        a, b = group[merges[step, 0]], group[merges[step, 1]]
        large -= int(size[a] >= least) + int(size[b] >= least)
        size[b] += size[a]
        large += int(size[b] >= least)
        size[a] = 0.0
        group[group == a] = b
    if best is None:
        best, least = max(u - number, 0), 0.0
    group = np.arange(u)
    for a, b in merges[:best]:
        group[group == group[a]] = group[b]
    _, codes = np.unique(group, return_inverse=True)
    size = np.bincount(codes, weight)
    kept = np.flatnonzero(size >= least)
    names = np.full(len(size), -1)
    names[kept] = np.arange(len(kept))
    return names[codes]
