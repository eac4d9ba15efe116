"""Diffusion wavelets on the hypergraph of neighbourhoods: an embedding without training."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp

from spatialjax import graphs, propagation
from spatialjax.algorithm import solve
from spatialjax.methods.card import Card, Method, unchanged
from spatialjax.results import Embedding
from spatialjax.slices import Slice


@functools.cache
def hypergraph_wavelets(*, scales: int = 4, moments: int = 1, components: int = 20) -> Method:
    """Describe each neighbourhood by how fast the features change over it, at dyadic scales; nothing is trained.

    A hyperedge is a spot with its neighbours, H the incidence of spots and hyperedges. The lazy walk
    ``P = ½ (I + D_v⁻¹ H D_e⁻¹ Hᵀ)`` goes from a spot to one of its hyperedges and on to one of its spots; the wavelets
    are ``Ψ_0 = I − P`` and ``Ψ_j = P^(2^(j−1)) − P^(2^j)``. A hyperedge has the mean of each feature f over its spots
    and the moments of ``|Ψ_j f|``, and the leading principal components of these columns are the embedding of the spot
    at its centre. The columns are not standardised: that would make the coefficients of noise as loud as the means.

    Only sparse products with thin matrices are made; the work grows with the spots, the features and 2^``scales``.

    Parameters
    ----------
    scales
        Largest j.
    moments
        Number of moments of each coefficient.
    components
        Number of principal components returned.

    Returns
    -------
    Method
        Data: one section; its ``edges`` are used where given, else the neighbours are those of a Delaunay graph without
        long edges. Result: ``Embedding``.

    References
    ----------
    Sun et al. (2025), Proceedings of IEEE ICASSP.
    """

    def prepare(section: Slice) -> Slice:
        return propagation.from_real_spots(graphs.within_sections(section, graphs.delaunay), describe)

    def describe(spots: Slice) -> Any:
        number = spots.extra.get("section")
        values = propagation.centred_by_section(spots.features, number)
        incidence = propagation.neighbourhoods(graphs.adjacency(spots.edges))
        diffusion = propagation.hypergraph_diffusion(incidence)
        columns = propagation.scattering(diffusion, incidence, values, scales=scales, moments=moments)
        return propagation.principal_components(columns, components, section=number)

    def read(key: Any, data: Slice) -> Embedding:
        del key
        return Embedding(data.features, jnp.bool_(True))

    return Method(prepare, solve(read), unchanged, max_steps=1)


CARD = Card(
    name="hypergraph_wavelets",
    task="domains",
    summary="Diffusion wavelets on the hypergraph of neighbourhoods; an embedding without training.",
    citation="sun2025hypergraph",
    expects="embedding",
    returns="Embedding",
    default_steps=1,
    fidelity="reconstruction",
    evidence="wavelet coefficients equal those of the authors' code to 2e-5; recovers simulated layers (tests)",
    licence="non-commercial (authors' code; written from the equations)",
    notes="From the abstract and the equations of the wavelets. Assumed: one hyperedge for each spot and its Delaunay "
    "neighbours, means of the features beside the moments, principal components at the end. The authors' code gives "
    "the features to the hyperedges, walks over the dual hypergraph without laziness and keeps signed coefficients.",
)
