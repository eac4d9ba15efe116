"""The fused Gromov–Wasserstein problem: its data, objective and gradient."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from spatialjax.transport import costs
from spatialjax.transport.costs import Cost


@struct.dataclass
class FusedProblem:
    r"""Match the spots of two sections by their features and by the distances within each section.

    .. math:: F(T) = (1 - \alpha) \sum_{ij} M_{ij} T_{ij} + \alpha \sum_{ijkl} (C_{ik} - D_{jl})^2\, T_{ij} T_{kl}

    Attributes
    ----------
    linear
        ``M``, cost of matching a spot of the source with a spot of the target.
    source, target
        ``C`` and ``D``, symmetric costs within each section, dense or ``Factored``.
    a, b
        Masses of the spots, 0 on padding, each with sum 1.
    alpha
        Weight of the distances within the sections, in [0, 1].
    """

    linear: Float[Array, "n m"]
    source: Cost
    target: Cost
    a: Float[Array, " n"]
    b: Float[Array, " m"]
    alpha: Float[Array, ""]


@partial(jax.jit, static_argnames="normalise")
def fused_problem(
    linear: Float[Array, "n m"],
    source: Cost,
    target: Cost,
    *,
    a: Float[Array, " n"],
    b: Float[Array, " m"],
    alpha: Float[Array, ""] | float = 0.5,
    normalise: bool = True,
) -> FusedProblem:
    """Put a problem together.

    Parameters
    ----------
    linear, source, target, alpha
        See ``FusedProblem``.
    a, b
        Weights of the spots, 0 on padding; divided by their sums.
    normalise
        Bring both terms to 1 on the independent coupling ``a ⊗ b``: the linear cost is divided by its weighted mean,
        both inner costs by one common factor, which keeps the sizes of the sections comparable.
    """
    a, b = a / jnp.sum(a), b / jnp.sum(b)
    linear = jnp.where((a > 0)[:, None] & (b > 0)[None, :], linear, 0)
    alpha = jnp.asarray(alpha, linear.dtype)
    if normalise:
        linear = linear / _positive(costs.mean_cost(linear, a, b))
        factor = 1 / jnp.sqrt(_positive(independent(source, target, a=a, b=b)))
        source, target = costs.scaled(source, factor), costs.scaled(target, factor)
    return FusedProblem(linear, source, target, a, b, alpha)


def independent(source: Cost, target: Cost, *, a: Float[Array, " n"], b: Float[Array, " m"]) -> Float[Array, ""]:
    """The Gromov–Wasserstein term of the coupling ``a ⊗ b``."""
    cross = (a @ costs.apply(source, a)) * (b @ costs.apply(target, b))
    return a @ costs.apply_squared(source, a) + b @ costs.apply_squared(target, b) - 2 * cross


def gradient(problem: FusedProblem, plan: Float[Array, "n m"]) -> tuple[Float[Array, "n m"], Float[Array, ""]]:
    """Gradient and value of the objective, for any marginals of the plan."""
    rows, columns = plan.sum(1), plan.sum(0)
    constant_rows = costs.apply_squared(problem.source, rows)
    constant_columns = costs.apply_squared(problem.target, columns)
    inner = costs.sandwich(problem.source, plan, problem.target)
    half = constant_rows[:, None] + constant_columns[None, :] - 2 * inner
    first = (1 - problem.alpha) * problem.linear
    slope = first + 2 * problem.alpha * half
    return slope, jnp.sum(plan * (first + problem.alpha * half))


def objective(problem: FusedProblem, plan: Float[Array, "n m"]) -> Float[Array, ""]:
    """Value of the objective."""
    return gradient(problem, plan)[1]


def _positive(value: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.where(value > 0, value, 1)
