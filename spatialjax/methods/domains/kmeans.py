"""k-means on principal components, without space (a baseline)."""

from __future__ import annotations

import functools
from typing import Any

from spatialjax import clustering, propagation
from spatialjax.algorithm import solve
from spatialjax.methods.card import Card, Method, unchanged
from spatialjax.results import Domains
from spatialjax.slices import Slice


@functools.cache
def kmeans(*, n_domains: int = 7, components: int = 20) -> Method:
    """k-means on the leading principal components of the features: what a method that knows places must beat.

    The columns are centred (each section on its own), turned to principal components and clustered by Lloyd's algorithm
    from ten k-means++ starts. Coordinates are not read.

    Parameters
    ----------
    n_domains
        Number of domains.
    components
        Number of principal components; all where the features have fewer columns.

    Returns
    -------
    Method
        Data: one section. Result: ``Domains``; the shares are those of a mixture with the same centres and one
        spherical variance.

    References
    ----------
    Lloyd (1982), IEEE Transactions on Information Theory 28; Arthur & Vassilvitskii (2007), Proceedings of SODA.
    """

    def prepare(section: Slice) -> Slice:
        return propagation.from_real_spots(
            section, lambda s: propagation.principal_components(s.features, components, section=s.extra.get("section"))
        )

    def cluster(key: Any, data: Slice) -> Domains:
        return clustering.regions(key, data.features, data.mask, number=n_domains, by="kmeans")

    return Method(prepare, solve(cluster), unchanged, max_steps=1)


CARD = Card(
    name="kmeans",
    task="domains",
    summary="k-means on principal components, without space (baseline).",
    citation=None,
    expects="embedding",
    returns="Domains",
    default_steps=1,
    fidelity="ours",
    evidence="textbook k-means; labels agree with scikit-learn's (tests)",
    licence="BSD-3-Clause (this package)",
)
