"""Spreading values over a graph: sparse solves, diffusion wavelets, neighbourhood features, spatial components."""

from spatialjax.propagation.components import (
    LARGE,
    SpatialComponents,
    centred_by_section,
    principal_axes,
    principal_components,
    spatial_components,
)
from spatialjax.propagation.multilevel import solve_multilevel
from spatialjax.propagation.neighbourhood import (
    azimuthal_gradient,
    banksy,
    concatenation,
    gaussian_weights,
    neighbour_mean,
)
from spatialjax.propagation.real_spots import from_real_spots, real_spots
from spatialjax.propagation.smoothing import HALO, reach, smooth
from spatialjax.propagation.solving import Solution, laplacian, neighbour_sum, solve, solve_sparse, strength_for
from spatialjax.propagation.standardized import standardized_components
from spatialjax.propagation.wavelets import (
    hypergraph_diffusion,
    lazy_diffusion,
    neighbourhoods,
    scattering,
    wavelets,
)

__all__ = [
    "HALO",
    "LARGE",
    "Solution",
    "SpatialComponents",
    "azimuthal_gradient",
    "banksy",
    "centred_by_section",
    "concatenation",
    "from_real_spots",
    "gaussian_weights",
    "hypergraph_diffusion",
    "laplacian",
    "lazy_diffusion",
    "neighbour_mean",
    "neighbour_sum",
    "neighbourhoods",
    "principal_axes",
    "principal_components",
    "reach",
    "real_spots",
    "scattering",
    "smooth",
    "solve",
    "solve_multilevel",
    "solve_sparse",
    "spatial_components",
    "standardized_components",
    "strength_for",
    "wavelets",
]
