"""A fast solver of fused Gromov–Wasserstein problems: proximal or entropic outer steps, Sinkhorn inside."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from spatialjax.algorithm.core import Algorithm
from spatialjax.transport.gromov import FusedProblem, gradient, objective
from spatialjax.transport.sinkhorn import (
    FORBIDDEN,
    Coupling,
    Scalings,
    divergence,
    log_product,
    marginal_error,
    rounded,
    scale,
    support,
)


@struct.dataclass
class State:
    """Where the outer iterations stand.

    Attributes
    ----------
    log_plan
        Logarithm of the plan, ``FORBIDDEN`` on padding: no entry is ever lost to underflow.
    slope
        Gradient of the objective at the plan.
    scalings
        Scalings of the last inner problem.
    objective, unit
        Value at the plan, and on the independent coupling (the unit of ``epsilon`` and ``rho``).
    error
        Marginal error of the plan.
    step
        Outer iterations done.
    done
        Whether the stopping rule was met.
    """

    log_plan: Float[Array, "n m"]
    slope: Float[Array, "n m"]
    scalings: Scalings
    objective: Float[Array, ""]
    unit: Float[Array, ""]
    error: Float[Array, ""]
    step: Int[Array, ""]
    done: Bool[Array, ""]


@cache
def fused_gromov_wasserstein(
    *,
    epsilon: float = 0.05,
    epsilon_start: float | None = None,
    decay: float = 0.8,
    rho: float | None = None,
    proximal: bool = True,
    rounds: int = 1,
    kernel_iterations: int = 20,
    tolerance: float = 1e-3,
    marginal_tolerance: float = 1e-2,
) -> Algorithm:
    r"""Solver of ``FusedProblem`` problems; one step is one outer iteration.

    Each step linearises the objective at the plan :math:`T_k` and solves
    :math:`\min_T \langle \nabla F(T_k), T\rangle + \epsilon\,\mathrm{KL}(T \mid R)` by Sinkhorn scaling, with
    :math:`R = T_k` (proximal steps, which approach a plan without entropy) or :math:`R = a \otimes b` (entropic).

    Parameters
    ----------
    epsilon
        Strength of the entropy, in units of the objective of the independent coupling.
    epsilon_start, decay
        Where given, step ``k`` uses ``max(epsilon, epsilon_start * decay**k)``.
    rho
        Strength of the marginals, in the same units: each pays ``rho KL(marginal | mass)``. None for exact marginals.
    proximal
        Whether the entropy is relative to the last plan.
    rounds, kernel_iterations
        Inner budget: rounds of one log-domain and ``kernel_iterations`` kernel-domain iterations.
    tolerance
        Relative change of the objective below which the iterations stop.
    marginal_tolerance
        Largest marginal error of a plan that counts as converged.

    Returns
    -------
    Algorithm
        Data: ``FusedProblem``; ``start``: a plan. Info: ``objective``, ``marginal_error``, ``epsilon``, ``done``.
        Result: ``Coupling``, whose plan has exact marginals (unless ``rho`` is given); its ``error`` is the marginal
        error before the plan was rounded to them.

    Notes
    -----
    With factored costs a step takes O(n m) time for points of fixed dimension; nothing larger than the plan is made.

    References
    ----------
    Peyré, Cuturi, Solomon (2016), ICML; Xu et al. (2019), ICML, for the proximal steps; Scetbon, Peyré, Cuturi (2022),
    ICML, for factored costs.
    """

    def init(_: Any, data: FusedProblem, start: Any = None) -> State:
        return _begin(data, start)

    def step(_: Any, state: State, data: FusedProblem) -> tuple[State, dict[str, Any]]:
        relative = jnp.asarray(epsilon, data.linear.dtype)
        if epsilon_start is not None:
            relative = jnp.maximum(epsilon, epsilon_start * decay ** state.step.astype(relative.dtype))
        tau = 1.0 if rho is None else rho / (rho + relative)
        reference = state.log_plan if proximal else log_product(data.a, data.b)
        kernel = reference - state.slope / (relative * state.unit)
        kernel = jnp.where(support(data.a, data.b), kernel, FORBIDDEN)
        scalings = scale(
            kernel,
            data.a,
            data.b,
            tau=tau,
            start=state.scalings,
            rounds=rounds,
            kernel_iterations=kernel_iterations,
        )
        log_plan = jnp.where(
            kernel > 0.5 * FORBIDDEN, kernel + scalings.rows[:, None] + scalings.columns[None, :], FORBIDDEN
        )
        plan = jnp.exp(log_plan)
        slope, value = gradient(data, plan)
        if rho is not None:
            value += rho * state.unit * (divergence(plan.sum(1), data.a) + divergence(plan.sum(0), data.b))
        error = marginal_error(plan, data.a, data.b, scalings=scalings, tau=tau)
        change = jnp.abs(value - state.objective) / jnp.maximum(jnp.abs(value), 1e-6 * state.unit)
        done = (change < tolerance) & (error < marginal_tolerance) & (relative <= epsilon) & (state.step > 0)
        info = {"objective": value, "marginal_error": error, "epsilon": relative, "done": done}
        return State(log_plan, slope, scalings, value, state.unit, error, state.step + 1, done), info

    def readout(_: Any, state: State, data: FusedProblem) -> Coupling:
        plan = jnp.exp(state.log_plan)
        if rho is not None:
            return Coupling(plan, state.objective, state.error, state.done)
        plan = rounded(plan, data.a, data.b)
        return Coupling(plan, objective(data, plan), state.error, state.done)

    return Algorithm(init, step, readout)


def _begin(data: FusedProblem, start: Any) -> State:
    independent = data.a[:, None] * data.b[None, :]
    unit = jnp.abs(objective(data, independent))
    unit = jnp.where(unit > 0, unit, 1)
    # A little of the independent coupling, so that no pair is excluded for good.
    plan = independent if start is None else 0.999 * start + 0.001 * independent
    slope, value = gradient(data, plan)
    log_plan = jnp.where(support(data.a, data.b), jnp.log(jnp.where(plan > 0, plan, 1)), FORBIDDEN)
    zero = jnp.zeros((), data.linear.dtype)
    scalings = Scalings(jnp.zeros_like(data.a), jnp.zeros_like(data.b))
    return State(log_plan, slope, scalings, value, unit, zero, jnp.int32(0), jnp.bool_(False))
