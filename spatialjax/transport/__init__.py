"""Optimal transport between sections: Sinkhorn, fused Gromov–Wasserstein (whole, partial, low rank), exact plans."""

from spatialjax.transport.center import (
    CenterProblem,
    center_of_sections,
    factor_update,
    first_factors,
    mapped_values,
)
from spatialjax.transport.collapse import GuardedCoupling, host_collapsed, information, is_collapsed, plan_collapsed
from spatialjax.transport.costs import Factored, euclidean, mean_cost, squared_distances, squared_euclidean
from spatialjax.transport.exact import ExactPlan, exact_partial_transport, exact_transport
from spatialjax.transport.exact_center import ExactCenter, exact_center
from spatialjax.transport.exact_fused import ExactFused, conditional_gradient
from spatialjax.transport.fused import fused_gromov_wasserstein
from spatialjax.transport.gromov import FusedProblem, fused_problem, gradient, objective
from spatialjax.transport.low_rank import LowRankCoupling, LowRankProblem, low_rank_fused_gromov_wasserstein
from spatialjax.transport.overlap import EDGES, OverlapProblem, OverlapRule, edge_inconsistency, partial_with_overlap
from spatialjax.transport.partial import PartialProblem, partial_fused_gromov_wasserstein
from spatialjax.transport.sections import (
    deviance_components,
    expression_cost,
    factored_distances,
    pitch,
    real_spots,
    scattered,
)
from spatialjax.transport.sinkhorn import Coupling, marginal_error, rounded, sinkhorn

__all__ = [
    "CenterProblem",
    "Coupling",
    "EDGES",
    "ExactCenter",
    "ExactFused",
    "ExactPlan",
    "Factored",
    "FusedProblem",
    "GuardedCoupling",
    "LowRankCoupling",
    "LowRankProblem",
    "OverlapProblem",
    "OverlapRule",
    "PartialProblem",
    "center_of_sections",
    "conditional_gradient",
    "deviance_components",
    "edge_inconsistency",
    "euclidean",
    "exact_center",
    "exact_partial_transport",
    "exact_transport",
    "expression_cost",
    "factor_update",
    "factored_distances",
    "first_factors",
    "fused_problem",
    "fused_gromov_wasserstein",
    "gradient",
    "host_collapsed",
    "information",
    "is_collapsed",
    "low_rank_fused_gromov_wasserstein",
    "mapped_values",
    "marginal_error",
    "mean_cost",
    "objective",
    "partial_fused_gromov_wasserstein",
    "partial_with_overlap",
    "pitch",
    "plan_collapsed",
    "real_spots",
    "rounded",
    "scattered",
    "sinkhorn",
    "squared_distances",
    "squared_euclidean",
]
