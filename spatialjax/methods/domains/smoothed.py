"""Principal components smoothed over the tissue, then clustered (a baseline)."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from spatialjax import clustering, graphs, propagation
from spatialjax.algorithm import solve
from spatialjax.methods.card import Card, Method, unchanged
from spatialjax.results import Domains
from spatialjax.slices import Slice


@functools.cache
def smoothed(
    *, n_domains: int = 7, components: int = 20, alpha: float | None = None, by: clustering.By = "mixture"
) -> Method:
    """Solve (I + αL) z = x for the principal components x, and cluster z: space without training.

    z minimises ``|z − x|² + α Σ (z_i − z_j)²`` over the edges of a Delaunay graph without its long edges. Where α is
    left out it is n / (190 K) for sections of n spots and K domains: the number of spots that a domain spans on each
    side grows with √(n / K). The constant was settled on labelled sections of several technologies, so that this
    baseline is, if anything, flattered.

    Parameters
    ----------
    n_domains
        Number of domains.
    components
        Number of principal components; all where the features have fewer columns.
    alpha
        Strength of smoothing; from the number of spots and domains where left out.
    by
        ``"mixture"`` with one shrunk covariance, or ``"kmeans"``.

    Returns
    -------
    Method
        Data: one section; its ``edges`` are used where given. Result: ``Domains``.

    References
    ----------
    Belkin, Matveeva & Niyogi (2004), Proceedings of COLT (Laplacian regularisation on a graph).
    """

    def prepare(section: Slice) -> Slice:
        return propagation.from_real_spots(graphs.within_sections(section, graphs.delaunay), spread)

    def spread(spots: Slice) -> Any:
        number = spots.extra.get("section")
        values = propagation.principal_components(spots.features, components, section=number)
        sections = 1 if number is None else len(np.unique(number))
        strength = propagation.strength_for(len(values) / sections, n_domains) if alpha is None else alpha
        return propagation.solve_sparse(graphs.adjacency(spots.edges), values, strength).values

    def cluster(key: Any, data: Slice) -> Domains:
        return clustering.regions(key, data.features, data.mask, number=n_domains, by=by)

    return Method(prepare, solve(cluster), unchanged, max_steps=1)


CARD = Card(
    name="smoothed",
    task="domains",
    summary="Principal components smoothed by (I + αL)⁻¹, then a mixture or k-means (baseline).",
    citation=None,
    expects="embedding",
    returns="Domains",
    default_steps=1,
    fidelity="ours",
    evidence="beats k-means without space on simulated layers (tests)",
    licence="BSD-3-Clause (this package)",
)
