"""Whether a plan says anything: solvers of non-convex problems can end beside the product of the marginals.

Such a plan has exact marginals, a small error and a finite objective, but matches every spot with every other one. It
is told by its mutual information, and by an objective that is no better than that of the product.
"""

from __future__ import annotations

import warnings

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

from spatialjax.transport.gromov import FusedProblem, independent
from spatialjax.transport.sinkhorn import Coupling

#: Share of the largest possible information below which a plan counts as collapsed.
LEAST_INFORMATION = 0.02
#: Relative gain over the product of the marginals below which an objective counts as collapsed.
LEAST_GAIN = 1e-3


@struct.dataclass
class GuardedCoupling(Coupling):
    """A plan that was looked at for collapse; ``converged`` is False where it is collapsed.

    Attributes
    ----------
    information
        Mutual information of source and target spots under the plan, nats; 0 for the product of the marginals.
    collapsed
        Whether the plan is, for all purposes, the product of its marginals.
    """

    information: Float[Array, ""]
    collapsed: Bool[Array, ""]


def information(plan: Float[Array, "n m"]) -> Float[Array, ""]:
    r"""Mutual information of rows and columns, :math:`\sum_{ij} T_{ij} \log (T_{ij} / (r_i c_j))` of the plan / mass.

    Parameters
    ----------
    plan
        Non-negative, of any positive total mass; empty rows and columns count 0.
    """
    mass = plan.sum()
    plan = plan / jnp.where(mass > 0, mass, 1)
    entropies = [jnp.sum(_entropy(values)) for values in (plan.sum(1), plan.sum(0), plan)]
    return jnp.maximum(entropies[0] + entropies[1] - entropies[2], 0)


def is_collapsed(
    found: Float[Array, ""],
    *,
    most: Float[Array, ""] | float,
    objective: Float[Array, ""],
    product: Float[Array, ""],
) -> Bool[Array, ""]:
    """Whether a plan is no more than the product of its marginals.

    Parameters
    ----------
    found
        Mutual information of the plan, nats.
    most
        The largest that it could be, e.g. the logarithm of the number of spots or of the rank.
    objective, product
        What was minimised, at the plan and at the product of its marginals.
    """
    return (found < LEAST_INFORMATION * most) | (objective >= product - LEAST_GAIN * jnp.abs(product))


def plan_collapsed(
    plan: Float[Array, "n m"],
    problem: FusedProblem,
    *,
    objective: Float[Array, ""] | float,
    share: Float[Array, ""] | float = 1.0,
) -> Bool[Array, ""]:
    """Whether a plan of a fused problem is no more than the product of its marginals.

    Parameters
    ----------
    plan
        A plan of mass ``share``, on the device or on the host.
    problem
        Its problem, on the device or on the host.
    objective
        Value of the plan.
    share
        Mass that is matched.
    """
    a, b, alpha = problem.a, problem.b, problem.alpha
    spots = jnp.minimum(jnp.sum(a > 0), jnp.sum(b > 0)).astype(jnp.float32)
    quadratic = independent(problem.source, problem.target, a=a, b=b)
    product = share * (1 - alpha) * (a @ problem.linear @ b) + alpha * share**2 * quadratic
    found = information(jnp.asarray(plan, jnp.float32))
    return is_collapsed(found, most=jnp.log(spots), objective=objective, product=product)


def host_collapsed(
    plan: Float[np.ndarray, "n m"], problem: FusedProblem, *, objective: float, share: float = 1.0
) -> np.bool_:
    """``plan_collapsed`` of a finished plan on the host.

    Warns
    -----
    RuntimeWarning
        If it is.
    """
    collapsed = np.bool_(plan_collapsed(plan, problem, objective=objective, share=share))
    if collapsed:
        warnings.warn(
            "The plan is no better than the product of its marginals: do not use its pose. Try other features, a "
            "larger alpha, or another method.",
            RuntimeWarning,
            stacklevel=3,
        )
    return collapsed


def _entropy(values: Float[Array, "..."]) -> Float[Array, "..."]:
    return -values * jnp.log(jnp.where(values > 0, values, 1))
