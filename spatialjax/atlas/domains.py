"""The 3D neighbourhood of all spots, and the domains that run through the sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, Bool, Float, Int

from spatialjax import clustering, methods, propagation
from spatialjax.atlas.placing import Placed, neighbours_in_frame
from spatialjax.graphs import adjacency, cross_slice, knn
from spatialjax.registration.pairs import MIXED_SPOTS
from spatialjax.slices import Neighbors, Slice, bucket, make_slice

#: Options of the method: one number of components instead of three, which compiles in a third of the time. Tiles would
#: need one frame for all sections.
METHOD_OPTIONS = {"components": (25,), "tile": None}
#: Spots that the number of domains is chosen on at the most.
MAX_TRIED = 4_000
#: Leading shared components that the number of domains is chosen by; it hardly depends on them between 6 and 12.
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
        Share of the members of the consensus that agree with it.
    number
        Number of domains.
    criterion
        Number of domains tried -> Bayesian information criterion (smaller is better); empty where the number was given.
    """

    labels: Int[np.ndarray, " n"]
    confidence: Float[np.ndarray, " n"]
    number: int
    criterion: dict[int, float]


def graph3d(stack: Any, placed: Placed, *, within: int = 6, across: int = 3) -> Slice:
    """All spots in one slice, with neighbours in their own section and in the next sections of the same frame.

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
    Slice
        ``features``: components that are standardised in each section; ``edges``: symmetric, weight 1;
        ``extra["section"]``: number of the section of each spot. Sections come one after the other, each with
        coordinates of its own.
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
    features = propagation.standardized_components([s.values for s in sections], kind=stack.kind)
    return make_slice(
        np.concatenate(features),
        np.concatenate([s.xy - s.xy.mean(0) for s in sections]),
        edges=_table(graph.maximum(graph.T).tocsr()),
        extra={"section": np.repeat(np.arange(len(sections), dtype=np.int32), np.diff(start))},
    )


def find_domains(
    embeddings: Sequence[Float[np.ndarray, "n p"]],
    tissue: Slice,
    *,
    number: int | None = None,
    rng: np.random.Generator,
    rounds: int = 2,
) -> Domains:
    """Domains that run through all sections, by the default method of the task over the 3D neighbourhood.

    Where ``number`` is left out it is chosen by the Bayesian information criterion of mixtures with one covariance, on
    the leading shared components averaged over the neighbourhood. Averaged features of near spots repeat each other, so
    the criterion counts independent neighbourhoods instead of spots.

    Parameters
    ----------
    embeddings
        Shared smoothed features of each section: by what the number is chosen.
    tissue
        All spots, see :func:`graph3d`.
    number
        Number of domains, or None.
    rng
        Draws the spots that the number is chosen on, and the random key of the method.
    rounds
        Number of neighbour averages.

    Returns
    -------
    Domains
        Domains ordered by size.
    """
    values = np.concatenate([e[:, :COMPONENTS] for e in embeddings]).astype(np.float64)
    total = len(values)
    graph = adjacency(tissue.edges)[:total, :total]
    mean = graph + sp.identity(total, format="csr")
    mean = sp.diags(1.0 / np.asarray(mean.sum(1)).ravel()) @ mean
    for _ in range(rounds):
        values = mean @ values
    scale = values.std(0).max()
    if scale <= 1e-9 * np.abs(values).max() or number == 1:
        return Domains(np.zeros(total, int), np.ones(total), 1, {})
    first, second = jax.random.split(jax.random.key(int(rng.integers(2**31 - 1))))
    criterion: dict[int, float] = {}
    if number is None:
        # The shared features mix so many spots in three rounds in the plane; the rounds here go on, over more spots.
        pooled = MIXED_SPOTS * (3 + rounds) / 3 * (1.0 + graph.nnz / total) / 7.0
        tried = ((values - values.mean(0)) / scale)[_some(total, MAX_TRIED, rng)]
        number, criterion = _choose(first, tried.astype(np.float32), independent=max(total / pooled, 2.0))
    task = "domains"
    method = methods.METHODS[task][methods.DEFAULTS[task]](n_domains=min(number, total), **METHOD_OPTIONS)
    (fit,) = methods.run(method, second, [(tissue,)])
    labels = clustering.by_size(np.asarray(fit.result.labels)[:total]).astype(int)
    return Domains(labels, np.asarray(fit.result.confidence, np.float64)[:total], int(labels.max()) + 1, criterion)


def _some(total: int, most: int, rng: np.random.Generator) -> Int[np.ndarray, " m"]:
    return np.sort(rng.choice(total, most, replace=False)) if total > most else np.arange(total)


def _table(graph: sp.csr_matrix) -> Neighbors:
    """The rows of a sparse matrix as a neighbour table."""
    degree = np.diff(graph.indptr)
    n, width = len(degree), max(1, int(degree.max(initial=0)))
    index = np.repeat(np.arange(n, dtype=np.int32)[:, None], width, axis=1)
    weight = np.zeros((n, width), np.float32)
    rows = np.repeat(np.arange(n), degree)
    place = np.arange(graph.nnz) - np.repeat(graph.indptr[:-1], degree)
    index[rows, place], weight[rows, place] = graph.indices, graph.data
    return Neighbors(index, weight)


def _choose(key: Array, values: Float[np.ndarray, "n p"], *, independent: float) -> tuple[int, dict[int, float]]:
    """The number of domains with the smallest criterion; the search ends after three increases."""
    n, p = values.shape
    places = len(np.unique(values, axis=0))
    padded = np.zeros((bucket(n), p), np.float32)
    padded[:n] = values
    likelihood = np.asarray(_likelihoods(key, padded, np.arange(len(padded)) < n, used=jnp.asarray(TRIED)))
    criterion: dict[int, float] = {}
    for number, mean in zip(TRIED, likelihood, strict=True):
        if number > places:
            break
        free = number * p + p * (p + 1) / 2 + number - 1
        criterion[number] = float(-2 * independent * mean + free * np.log(independent))
        best = min(criterion, key=criterion.__getitem__)
        if number - best >= 3:
            break
    return best, criterion


@jax.jit
def _likelihoods(
    key: Array, values: Float[Array, "n p"], mask: Bool[Array, " n"], *, used: Int[Array, " c"]
) -> Float[Array, " c"]:
    """Mean log-likelihood of a mixture of each number of domains in use."""
    fit = partial(clustering.tied_mixture, key, values, mask, number=max(TRIED), shrinkage=0.0, steps=100)
    return jax.lax.map(lambda count: fit(tolerance=1e-4, lloyd_steps=10, used=count).log_likelihood, used)
