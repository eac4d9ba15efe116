"""BANKSY-type neighbourhood features, then a mixture (a baseline)."""

from __future__ import annotations

import functools
from typing import Any

from spatialjax import clustering, graphs, propagation
from spatialjax.algorithm import solve
from spatialjax.methods.card import Card, Method, unchanged
from spatialjax.results import Domains
from spatialjax.slices import Slice


@functools.cache
def banksy(
    *, n_domains: int = 7, weight: float = 0.8, k: int = 15, components: int = 20, by: clustering.By = "mixture"
) -> Method:
    """A spot's own expression, the mean around it and its azimuthal gradient, reduced and clustered.

    Each gene x gives three columns: x_i, the mean Σ w_ij x_j over the k nearest spots with Gaussian weights, and the
    magnitude abs(Σ w_ij (x_j − mean) e^{iφ_ij}) of the azimuthal Gabor filter. Each column is z-scored, the three parts
    are multiplied by √(1 − λ), √(2λ/3) and √(λ/3), and their principal components clustered.

    *As published*, the gradient takes 2k neighbours and the clusters are Leiden communities at a resolution; here both
    take k, and a mixture (or k-means) has the number of domains that was asked for.

    Parameters
    ----------
    n_domains
        Number of domains.
    weight
        λ, share of the surroundings: 0.8 for domains, 0.2 for cell types and, in the paper, for spots of 55 µm.
    k
        Number of neighbours.
    components
        Number of principal components of the columns.
    by
        ``"mixture"`` with one shrunk covariance, or ``"kmeans"``.

    Returns
    -------
    Method
        Data: one section with log1p features; its ``edges`` are used where given. Result: ``Domains``.

    References
    ----------
    Singhal et al. (2024), Nature Genetics 56.
    """

    def prepare(section: Slice) -> Slice:
        return propagation.from_real_spots(graphs.within_sections(section, lambda xy: graphs.knn(xy, k)), surroundings)

    def surroundings(spots: Slice) -> Any:
        number = spots.extra.get("section")
        near = propagation.gaussian_weights(spots.edges, spots.xy)
        values = propagation.centred_by_section(spots.features, number)
        columns = propagation.banksy(near, values, spots.xy, weight=weight, centred=True)
        return propagation.principal_components(columns, components, section=number)

    def cluster(key: Any, data: Slice) -> Domains:
        return clustering.regions(key, data.features, data.mask, number=n_domains, by=by)

    return Method(prepare, solve(cluster), unchanged, max_steps=1)


CARD = Card(
    name="banksy",
    task="domains",
    summary="A spot's genes beside their mean and azimuthal gradient around it, then a mixture (baseline).",
    citation="singhal2024banksy",
    expects="log1p",
    returns="Domains",
    default_steps=1,
    fidelity="published",
    evidence="from the equations; beats k-means without space on simulated layers (tests)",
    licence="GPL-3; written from the equations",
    notes="One number of neighbours for mean and gradient, and a mixture in place of Leiden communities.",
)
