"""Optimal transport between sections: Sinkhorn scaling, fused Gromov–Wasserstein, exact plans on the host."""

from spatialjax.transport.costs import Factored, euclidean, mean_cost, squared_distances, squared_euclidean
from spatialjax.transport.exact import ExactFused, ExactPlan, conditional_gradient, exact_transport
from spatialjax.transport.fused import fused_gromov_wasserstein
from spatialjax.transport.gromov import FusedProblem, fused_problem, gradient, objective
from spatialjax.transport.sinkhorn import Coupling, marginal_error, rounded, sinkhorn

__all__ = [
    "Coupling",
    "ExactFused",
    "ExactPlan",
    "Factored",
    "FusedProblem",
    "conditional_gradient",
    "euclidean",
    "exact_transport",
    "fused_problem",
    "fused_gromov_wasserstein",
    "gradient",
    "marginal_error",
    "mean_cost",
    "objective",
    "rounded",
    "sinkhorn",
    "squared_distances",
    "squared_euclidean",
]
