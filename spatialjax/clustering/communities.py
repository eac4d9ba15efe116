"""Leiden communities of a graph, at a resolution or with a target count; on the host, needs ``igraph``."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, Int

from spatialjax.clustering.labels import by_size


class Communities(NamedTuple):
    """Communities of a graph.

    Attributes
    ----------
    labels
        (n,) community of each row, 0 for the largest.
    number
        Number of communities.
    resolution
        The resolution that gave them.
    converged
        Whether the target count was met; True where none was asked for.
    """

    labels: Int[np.ndarray, " n"]
    number: int
    resolution: float
    converged: bool


def leiden(
    key: Array,
    adjacency: Any,
    *,
    number: int | None = None,
    resolution: float = 1.0,
    rounds: int = -1,
    tries: int = 30,
) -> Communities:
    """Leiden communities by modularity.

    With ``number`` the resolution is bracketed by doubling or halving from ``resolution`` and then bisected on its
    logarithm; every try starts from the same random state. Where no try meets the count, the nearest one is returned
    with ``converged`` False.

    Parameters
    ----------
    key
        Random key.
    adjacency
        (n, n) sparse matrix of edge weights of at least 0; ``(W + Wᵀ) / 2`` is used, without self loops.
    number
        Target count of communities, or None.
    resolution
        Resolution of the modularity, or where the search starts.
    rounds
        Rounds of the algorithm; −1 goes on until nothing improves.
    tries
        Largest number of resolutions tried.

    Raises
    ------
    ImportError
        If igraph is not installed.
    ValueError
        If the target count is not between 1 and the number of rows.

    References
    ----------
    Traag, Waltman & van Eck (2019), Scientific Reports 9.
    """
    igraph = _igraph()
    matrix = sp.csr_matrix(adjacency, dtype=np.float64)
    if number is not None and not 1 <= number <= matrix.shape[0]:
        raise ValueError(f"Expected between 1 and {matrix.shape[0]} communities, one row each at most, found {number}.")
    upper = sp.triu((matrix + matrix.T) / 2, k=1).tocoo()
    upper.eliminate_zeros()
    graph = igraph.Graph(n=matrix.shape[0], edges=np.stack([upper.row, upper.col], 1).tolist())
    seed = int(jax.random.bits(key, dtype=np.uint32))

    def run(value: float) -> Communities:
        with _seeded(igraph, seed):
            found = graph.community_leiden(
                objective_function="modularity", weights=upper.data.tolist(), resolution=value, n_iterations=rounds
            )
        labels = by_size(np.asarray(found.membership))
        count = int(labels.max()) + 1
        return Communities(labels, count, value, number is None or count == number)

    return run(resolution) if number is None else _search(run, number, resolution, tries=tries)


def _search(run: Any, number: int, start: float, *, tries: int) -> Communities:
    best = run(start)
    low, high, value = 0.0, np.inf, start
    for _ in range(tries - 1):
        if best.converged:
            break
        current = best if value == best.resolution else last
        low, high = (value, high) if current.number < number else (low, value)
        value = value * 2 if np.isinf(high) else value / 2 if low == 0 else float(np.sqrt(low * high))
        last = run(value)
        if abs(last.number - number) < abs(best.number - number):
            best = last
    return best


def _igraph() -> Any:
    try:
        import igraph
    except ImportError as error:
        raise ImportError(
            "Expected the package igraph for Leiden communities, found it not installed: install spatialjax[cluster], "
            "or choose k-means or the mixture."
        ) from error
    return igraph


@contextmanager
def _seeded(igraph: Any, seed: int) -> Iterator[None]:
    """Give igraph a generator of its own, and afterwards the one it has after import: Python's ``random``."""
    igraph.set_random_number_generator(random.Random(seed))
    try:
        yield
    finally:
        igraph.set_random_number_generator(random)
