"""Partial fused Gromov–Wasserstein on the device: only a given share of the mass is matched."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from spatialjax.algorithm.core import Algorithm
from spatialjax.transport.collapse import GuardedCoupling, information, plan_collapsed
from spatialjax.transport.gromov import FusedProblem, gradient, objective
from spatialjax.transport.sinkhorn import FORBIDDEN, Scalings, marginal_error, scale, support


@struct.dataclass
class PartialProblem:
    r"""A fused problem over plans of mass ``share``: :math:`T1 \le a,\ T^\top 1 \le b,\ 1^\top T 1 = s`.

    Attributes
    ----------
    fused
        Costs and masses.
    share
        ``s``, the mass that is matched, in (0, 1].
    """

    fused: FusedProblem
    share: Float[Array, ""]


@struct.dataclass
class PartialState:
    """Where the outer iterations stand.

    Attributes
    ----------
    log_plan
        Logarithm of the plan with one more row and column for what stays unmatched; ``FORBIDDEN`` on padding.
    slope
        Gradient of the objective at the plan.
    scalings
        Scalings of the last inner problem.
    objective, unit
        Value at the plan; the unit of ``epsilon``.
    error
        Marginal error of the plan.
    step
        Outer iterations done.
    done
        Whether the stopping rule was met.
    """

    log_plan: Float[Array, "n+1 m+1"]
    slope: Float[Array, "n m"]
    scalings: Scalings
    objective: Float[Array, ""]
    unit: Float[Array, ""]
    error: Float[Array, ""]
    step: Int[Array, ""]
    done: Bool[Array, ""]


@cache
def partial_fused_gromov_wasserstein(
    *,
    epsilon: float = 0.02,
    epsilon_start: float = 0.2,
    decay: float = 0.8,
    rounds: int = 1,
    kernel_iterations: int = 20,
    tolerance: float = 1e-3,
    marginal_tolerance: float = 1e-2,
) -> Algorithm:
    r"""Solver of ``PartialProblem`` problems by proximal steps; one step is one outer iteration.

    Each step linearises the objective at the plan and scales its entropic partial transport problem. What stays
    unmatched goes to one more row and column of cost 0, whose masses ``1 - s`` leave ``s`` for the pairs; the pair of
    the two is forbidden. The entropy is relative to the last plan, unmatched masses included, so that the iterations
    approach a plan without entropy.

    Parameters
    ----------
    epsilon
        Strength of the proximal term, in units of the objective of the product coupling per unit of mass.
    epsilon_start, decay
        Step ``k`` uses ``max(epsilon, epsilon_start * decay**k)``.
    rounds, kernel_iterations
        Inner budget: rounds of one log-domain and ``kernel_iterations`` kernel-domain iterations.
    tolerance
        Relative change of the objective below which the iterations stop.
    marginal_tolerance
        Largest marginal error of a plan that counts as converged.

    Returns
    -------
    Algorithm
        Data: ``PartialProblem``; ``start``: a plan of mass ``s`` within the masses. Info: ``objective``,
        ``marginal_error``, ``epsilon``, ``done``. Result: ``GuardedCoupling``, whose plan has the mass ``s`` and stays
        within ``a`` and ``b``; its ``error`` is the marginal error before the plan was moved there.

    Notes
    -----
    The gradient counts the marginals of the plan as they are (they are not ``a`` and ``b``), from thin factors of the
    costs where these are ``Factored``.

    References
    ----------
    Chapel, Alaya, Gasso (2020), NeurIPS, for the dummy point; Liu, Zeira, Raphael (2023), Genome Research 33, for the
    fused problem; Xu et al. (2019), ICML, for proximal steps.
    """

    def init(_: Any, data: PartialProblem, start: Any = None) -> PartialState:
        return _begin(data, start)

    def step(_: Any, state: PartialState, data: PartialProblem) -> tuple[PartialState, dict[str, Any]]:
        relative = jnp.maximum(epsilon, epsilon_start * decay ** state.step.astype(state.objective.dtype))
        rows, columns, allowed = _with_unmatched(data)
        plan = jnp.exp(state.log_plan[:-1, :-1])
        # The total of the pairs is fixed: a constant changes no plan, but the mean keeps both sides of the scale close.
        mean = jnp.sum(plan * state.slope) / jnp.maximum(plan.sum(), 1e-30)
        kernel = state.log_plan - jnp.pad((state.slope - mean) / (relative * state.unit), (0, 1))
        kernel = jnp.where(allowed, kernel, FORBIDDEN)
        scalings = scale(
            kernel, rows, columns, start=state.scalings, rounds=rounds, kernel_iterations=kernel_iterations
        )
        log_plan = kernel + scalings.rows[:, None] + scalings.columns[None, :]
        log_plan = jnp.where(kernel > 0.5 * FORBIDDEN, log_plan, FORBIDDEN)
        augmented = jnp.exp(log_plan)
        slope, value = gradient(data.fused, augmented[:-1, :-1])
        error = marginal_error(augmented, rows, columns)
        change = jnp.abs(value - state.objective) / jnp.maximum(jnp.abs(value), 1e-6 * state.unit * data.share)
        done = (change < tolerance) & (error < marginal_tolerance) & (relative <= epsilon) & (state.step > 0)
        info = {"objective": value, "marginal_error": error, "epsilon": relative, "done": done}
        return PartialState(log_plan, slope, scalings, value, state.unit, error, state.step + 1, done), info

    def readout(_: Any, state: PartialState, data: PartialProblem) -> GuardedCoupling:
        plan = within(jnp.exp(state.log_plan[:-1, :-1]), data)
        return guarded(plan, data, error=state.error, converged=state.done)

    return Algorithm(init, step, readout)


def within(plan: Float[Array, "n m"], data: PartialProblem) -> Float[Array, "n m"]:
    """The plan moved into the polytope: rows and columns within the masses, the total equal to the share.

    Too full rows and columns are scaled down, then the whole; what is missing is added as a product of the free masses.
    """
    a, b, share = data.fused.a, data.fused.b, data.share
    plan = plan * jnp.minimum(1, _ratio(a, plan.sum(1)))[:, None]
    plan = plan * jnp.minimum(1, _ratio(b, plan.sum(0)))[None, :]
    plan = plan * jnp.minimum(1, _ratio(share, plan.sum()))
    rows, columns = jnp.maximum(a - plan.sum(1), 0), jnp.maximum(b - plan.sum(0), 0)
    missing = jnp.maximum(share - plan.sum(), 0)
    return plan + missing * _ratio(rows, rows.sum())[:, None] * _ratio(columns, columns.sum())[None, :]


def guarded(
    plan: Float[Array, "n m"], data: PartialProblem, *, error: Float[Array, ""], converged: Bool[Array, ""]
) -> GuardedCoupling:
    """The plan with its objective, its information and whether it collapsed.

    Parameters
    ----------
    plan
        A plan of the problem.
    data
        The problem.
    error, converged
        What the solver says; ``converged`` becomes False where the plan collapsed.
    """
    value, found = objective(data.fused, plan), information(plan)
    collapsed = plan_collapsed(plan, data.fused, objective=value, share=data.share)
    return GuardedCoupling(plan, value, error, converged & ~collapsed, found, collapsed)


def _begin(data: PartialProblem, start: Any) -> PartialState:
    rows, columns, allowed = _with_unmatched(data)
    fused, share = data.fused, data.share
    product = fused.a[:, None] * fused.b[None, :]
    unit = jnp.abs(objective(fused, share * product)) / share
    unit = jnp.where(unit > 0, unit, 1)
    # A little of the product, so that no pair is excluded for good.
    plan = share * product if start is None else 0.999 * start + 0.001 * share * product
    slope, value = gradient(fused, plan)
    unmatched = [
        jnp.maximum(mass - plan.sum(axis), 1e-3 * (1 - share) * mass) for mass, axis in ((fused.a, 1), (fused.b, 0))
    ]
    augmented = jnp.block([[plan, unmatched[0][:, None]], [unmatched[1][None, :], jnp.zeros((1, 1), plan.dtype)]])
    log_plan = jnp.where(allowed & (augmented > 0), jnp.log(jnp.where(augmented > 0, augmented, 1)), FORBIDDEN)
    zero = jnp.zeros((), plan.dtype)
    scalings = Scalings(jnp.zeros_like(rows), jnp.zeros_like(columns))
    return PartialState(log_plan, slope, scalings, value, unit, zero, jnp.int32(0), jnp.bool_(False))


def _with_unmatched(data: PartialProblem) -> tuple[Any, Any, Any]:
    """Masses of rows and columns with the unmatched ones last, and the pairs that may carry mass."""
    left = (1 - data.share)[None]
    rows, columns = jnp.concatenate([data.fused.a, left]), jnp.concatenate([data.fused.b, left])
    return rows, columns, support(rows, columns).at[-1, -1].set(False)


def _ratio(numerator: Any, denominator: Any) -> Any:
    return jnp.where(denominator > 0, numerator / jnp.where(denominator > 0, denominator, 1), 0)
