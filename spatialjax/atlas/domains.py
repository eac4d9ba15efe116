"""The 3D neighbourhood of all spots, and the domains that run through the sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from spatialjax.atlas.placing import Placed, neighbours_in_frame
from spatialjax.graphs import adjacency, cross_slice, knn
from spatialjax.registration.pairs import MIXED_SPOTS

#: Spots that the mixture is fitted on at the most; the others are assigned afterwards.
MAX_FITTED = 20_000
#: Spots that the number of domains is chosen on at the most.
MAX_TRIED = 4_000
#: Leading shared components that tell domains apart; the number of domains hardly depends on it between 6 and 12.
COMPONENTS = 10
#: Numbers of domains that are tried where none is given.
TRIED = tuple(range(2, 16))


@dataclass(frozen=True)
class Domains:
    """Domains of all spots, sections one after the other, rows in canonical order.

    Attributes
    ----------
    labels
        Domain of each spot, 0 for the largest domain.
    confidence
        Probability of that domain under the mixture.
    number
        Number of domains.
    criterion
        Number of domains tried -> Bayesian information criterion (smaller is better); empty where the number was given.
    """

    labels: Int[np.ndarray, " n"]
    confidence: Float[np.ndarray, " n"]
    number: int
    criterion: dict[int, float]


def graph3d(stack: Any, placed: Placed, *, within: int = 6, across: int = 3) -> sp.csr_matrix:
    """Neighbours of every spot in its own section and in the next sections of the same frame.

    The two kinds are chosen apart, because the distance between sections can be a tenth or three times that between
    spots.

    Parameters
    ----------
    stack, placed
        The sections and where they lie.
    within
        Neighbours in the spot's own section.
    across
        Neighbours in each next section, at most one pitch and a half away in the plane.

    Returns
    -------
    csr_matrix
        (n, n) symmetric, 1 for each edge, all sections one after the other.
    """
    sections = stack.sections
    start = np.concatenate([[0], np.cumsum([len(s.xy) for s in sections])])
    blocks: list[list[Any]] = [[None] * len(sections) for _ in sections]
    for i, section in enumerate(sections):
        n = len(section.xy)
        near = knn(section.xy, within, max_distance=3.0 * section.pitch) if n > 1 else None
        blocks[i][i] = adjacency(near) if near is not None else sp.csr_matrix((n, n))
    for a, b in neighbours_in_frame(placed):
        reach = 1.5 * max(sections[a].pitch, sections[b].pitch)
        for i, j in ((a, b), (b, a)):
            table = cross_slice(placed.xyz[i][:, :2], placed.xyz[j][:, :2], across, max_distance=reach)
            blocks[i][j] = adjacency(table, columns=int(start[j + 1] - start[j]))
    graph = sp.csr_matrix(sp.block_array(blocks, format="csr"))
    return graph.maximum(graph.T).tocsr()


def find_domains(
    embeddings: Sequence[Float[np.ndarray, "n p"]],
    graph: sp.csr_matrix,
    *,
    number: int | None = None,
    rng: np.random.Generator,
    rounds: int = 2,
) -> Domains:
    """Gaussian mixture (one covariance for all domains) on features averaged over the 3D neighbourhood.

    The leading components alone are used. Where ``number`` is left out it is chosen by the Bayesian information
    criterion. Averaged features of near spots repeat each other, so the criterion counts independent neighbourhoods
    instead of spots.

    Parameters
    ----------
    embeddings
        Shared features of each section.
    graph
        (n, n) neighbours of all spots, see :func:`graph3d`.
    number
        Number of domains, or None.
    rng
        Draws the spots that the mixture is fitted on and the starts of the mixture.
    rounds
        Number of neighbour averages.

    Returns
    -------
    Domains
        Domains ordered by size.
    """
    values = np.concatenate([e[:, :COMPONENTS] for e in embeddings]).astype(np.float64)
    total = len(values)
    mean = graph + sp.identity(total, format="csr")
    mean = sp.diags(1.0 / np.asarray(mean.sum(1)).ravel()) @ mean
    for _ in range(rounds):
        values = mean @ values
    scale = values.std(0).max()
    if scale <= 1e-9 * np.abs(values).max() or number == 1:
        return Domains(np.zeros(total, int), np.ones(total), 1, {})
    values = (values - values.mean(0)) / scale
    chosen = values[_some(total, MAX_FITTED, rng)]
    seed = int(rng.integers(2**31 - 1))
    # The shared features mix so many spots in three rounds in the plane; the rounds here go on, over more neighbours.
    pooled = MIXED_SPOTS * (3 + rounds) / 3 * (1.0 + graph.nnz / total) / 7.0
    criterion: dict[int, float] = {}
    if number is None:
        tried = chosen[_some(len(chosen), MAX_TRIED, rng)]
        number, criterion = _choose(tried, seed=seed, independent=max(total / pooled, 2.0))
    number = min(number, len(np.unique(chosen, axis=0)))
    model = _mixture(chosen, number, seed=seed, starts=3)
    share = model.predict_proba(values)
    order = np.argsort(-np.bincount(share.argmax(1), minlength=number), kind="stable")
    share = share[:, order]
    return Domains(share.argmax(1), share.max(1), number, criterion)


def _some(total: int, most: int, rng: np.random.Generator) -> Int[np.ndarray, " m"]:
    return np.sort(rng.choice(total, most, replace=False)) if total > most else np.arange(total)


def _choose(values: Float[np.ndarray, "n p"], *, seed: int, independent: float) -> tuple[int, dict[int, float]]:
    """The number of domains with the smallest criterion; the search ends after three increases."""
    n, p = values.shape
    places = len(np.unique(values, axis=0))
    criterion: dict[int, float] = {}
    for number in TRIED:
        if number > places:
            break
        model = _mixture(values, number, seed=seed, starts=1)
        free = number * p + p * (p + 1) / 2 + number - 1
        criterion[number] = float(-2 * independent * model.score(values) + free * np.log(independent))
        best = min(criterion, key=criterion.__getitem__)
        if number - best >= 3:
            break
    return best, criterion


def _mixture(values: Float[np.ndarray, "n p"], number: int, *, seed: int, starts: int) -> Any:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    model = GaussianMixture(
        number, covariance_type="tied", n_init=starts, max_iter=100, tol=1e-3, reg_covar=1e-4, random_state=seed
    )
    # Threads would wait for each other on matrices this small, fifty times longer on a busy machine. One thread also
    # gives the same bits whatever their number.
    with warnings.catch_warnings(), threadpool_limits(1):
        # A hundred rounds settle the labels; the last digits of the likelihood do not matter here.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(values)
