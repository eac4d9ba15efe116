"""A spot's features beside the means of its rings of neighbours, then a mixture (a baseline)."""

from __future__ import annotations

import functools
from typing import Any

from spatialjax import clustering, graphs, propagation
from spatialjax.algorithm import solve
from spatialjax.methods.card import Card, Method, unchanged
from spatialjax.results import Domains
from spatialjax.slices import Slice


@functools.cache
def neighbours(*, n_domains: int = 7, components: int = 20, rings: int = 3, by: clustering.By = "mixture") -> Method:
    """Concatenate the components of a spot with their means over its neighbours, and cluster.

    With the row-stochastic matrix P of a Delaunay graph without its long edges, the features are
    ``[x, Px, …, P^rings x]``. *As published* (CellCharter, with x from a variational auto-encoder) the l-th block is
    the mean over the spots exactly l edges away and the mixture has full covariances; here the l-th block is the l-fold
    average, and the covariance is shared.

    Parameters
    ----------
    n_domains
        Number of domains.
    components
        Number of principal components of the features; all where there are fewer columns.
    rings
        Number of rounds of averaging.
    by
        ``"mixture"`` with one shrunk covariance, or ``"kmeans"``.

    Returns
    -------
    Method
        Data: one section; its ``edges`` are used where given. Result: ``Domains``.

    References
    ----------
    Varrone et al. (2024), Nature Genetics 56.
    """

    def prepare(section: Slice) -> Slice:
        return propagation.from_real_spots(graphs.within_sections(section, graphs.delaunay), beside)

    def beside(spots: Slice) -> Any:
        values = propagation.principal_components(spots.features, components, section=spots.extra.get("section"))
        return propagation.concatenation(spots.edges, values, rings=rings)

    def cluster(key: Any, data: Slice) -> Domains:
        return clustering.regions(key, data.features, data.mask, number=n_domains, by=by)

    return Method(prepare, solve(cluster), unchanged, max_steps=1)


CARD = Card(
    name="neighbours",
    task="domains",
    summary="A spot's components beside the means of its rings of neighbours, then a mixture (baseline).",
    citation="varrone2024cellcharter",
    expects="embedding",
    returns="Domains",
    default_steps=1,
    fidelity="published",
    evidence="beats k-means without space on simulated layers (tests)",
    licence="BSD-3-Clause; written from the description",
    notes="Repeated averages in place of exact rings, one covariance in place of one for each cluster, and components "
    "in place of a variational auto-encoder.",
)
