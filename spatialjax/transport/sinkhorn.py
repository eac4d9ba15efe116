"""Entropic transport: kernel-domain scaling where the regularisation allows it, log-domain otherwise.

The iterations work on a *log kernel* ``L`` and find the plan ``exp(L_ij + f_i + g_j)``. They run in rounds: one
iteration in the log domain, whose scalings are absorbed into the kernel, then a fixed number in the kernel domain,
which cost a tenth. Where these leave the range of float32 (a very small regularisation) the round keeps its log-domain
iteration only.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

#: Log kernel of a pair that may not be matched; finite, so that differences stay finite.
FORBIDDEN = -1e30
_TRUSTED = 60.0


@struct.dataclass
class Coupling:
    """A transport plan.

    Attributes
    ----------
    plan
        Mass moved between the spots; 0 on padding.
    objective
        What was minimised, without the entropy.
    error
        Largest error of the two marginals (L1) in units of the total mass; for relaxed marginals, of their optimality.
    converged
        Whether the error, and the stopping rule of the solver, were met.
    """

    plan: Float[Array, "n m"]
    objective: Float[Array, ""]
    error: Float[Array, ""]
    converged: Bool[Array, ""]


@struct.dataclass
class Scalings:
    """Logarithms of the scalings of a log kernel; 0 on padding."""

    rows: Float[Array, " n"]
    columns: Float[Array, " m"]


def log_kernel(
    cost: Float[Array, "n m"],
    a: Float[Array, " n"],
    b: Float[Array, " m"],
    *,
    epsilon: Float[Array, ""] | float,
) -> Float[Array, "n m"]:
    """``log(a_i b_j) - cost_ij / epsilon``, the entropy being relative to ``a ⊗ b``; ``FORBIDDEN`` on padding."""
    return jnp.where(support(a, b), log_product(a, b) - cost / epsilon, FORBIDDEN)


def support(a: Float[Array, " n"], b: Float[Array, " m"]) -> Bool[Array, "n m"]:
    """True where both spots carry mass."""
    return (a > 0)[:, None] & (b > 0)[None, :]


def log_product(a: Float[Array, " n"], b: Float[Array, " m"]) -> Float[Array, "n m"]:
    """``log(a_i b_j)``, 0 in place of the logarithm of 0."""
    return _log(a)[:, None] + _log(b)[None, :]


def scale(
    kernel: Float[Array, "n m"],
    a: Float[Array, " n"],
    b: Float[Array, " m"],
    *,
    tau: Float[Array, ""] | float = 1.0,
    start: Scalings | None = None,
    rounds: int = 1,
    kernel_iterations: int = 10,
    tolerance: float = 0.0,
) -> Scalings:
    """Scale the rows and columns of ``exp(kernel)`` to the marginals.

    Parameters
    ----------
    kernel
        Log kernel, ``FORBIDDEN`` where no mass may go.
    a, b
        Masses, 0 on padding.
    tau
        1 for exact marginals; ``rho / (rho + epsilon)`` for a penalty ``rho KL`` on each marginal.
    start
        Scalings to begin with.
    rounds
        Largest number of rounds.
    kernel_iterations
        Kernel-domain iterations after the log-domain one of each round; 0 for the log domain alone.
    tolerance
        Row error below which the iterations stop; 0 to spend the whole budget, which also keeps reverse-mode
        differentiation possible.
    """
    if start is None:
        start = Scalings(jnp.zeros_like(a), jnp.zeros_like(b))

    def body(scalings: Scalings) -> tuple[Scalings, Any]:
        return _round(scalings, kernel, (a, b), tau=tau, kernel_iterations=kernel_iterations)

    if tolerance == 0:
        return jax.lax.fori_loop(0, rounds, lambda _, scalings: body(scalings)[0], start)

    def unfinished(carry: Any) -> Any:
        return (carry[0] < rounds) & (carry[1] > tolerance)

    first = (jnp.int32(0), jnp.asarray(jnp.inf, a.dtype), start)
    return jax.lax.while_loop(unfinished, lambda carry: (carry[0] + 1, *body(carry[2])[::-1]), first)[2]


@partial(jax.jit, static_argnames=("tolerance", "rounds", "kernel_iterations"))
def sinkhorn(
    cost: Float[Array, "n m"],
    a: Float[Array, " n"],
    b: Float[Array, " m"],
    *,
    epsilon: Float[Array, ""] | float = 0.05,
    rho: Float[Array, ""] | float = float("inf"),
    tolerance: float = 1e-3,
    rounds: int = 200,
    kernel_iterations: int = 20,
) -> Coupling:
    r"""Entropic transport of one cost, with exact or relaxed marginals.

    Minimises :math:`\langle C, T\rangle + \epsilon\,\mathrm{KL}(T \mid a \otimes b) + \rho\,\mathrm{KL}(T1 \mid a)
    + \rho\,\mathrm{KL}(T^\top 1 \mid b)`. The entropy is relative to ``a ⊗ b``, so that the mass of a relaxed plan does
    not grow with the number of spots.

    Parameters
    ----------
    cost
        Cost between the spots of two sections; its values on padding do not matter.
    a, b
        Masses of the spots, 0 on padding; equal totals where the marginals are exact.
    epsilon
        Strength of the entropy, in units of the mean cost under ``a ⊗ b``.
    rho
        Strength of the marginals, in the same units; infinite for exact marginals.
    tolerance
        Marginal error (share of the total mass) at which the iterations stop; 0 to spend the whole budget, which makes
        the result differentiable in reverse mode.
    rounds, kernel_iterations
        Budget: rounds of one log-domain and ``kernel_iterations`` kernel-domain iterations.

    Returns
    -------
    Coupling
        ``converged`` is False where the budget ended first: the plan is finite, but not to be trusted.

    References
    ----------
    Cuturi (2013), NeurIPS; Chizat et al. (2018), Math. Comp. 87; Schmitzer (2019), SIAM J. Sci. Comput. 41.
    """
    masses = jnp.where(support(a, b), a[:, None] * b[None, :], 0)
    mean = jnp.sum(masses * jnp.abs(jnp.where(masses > 0, cost, 0))) / jnp.sum(masses)
    kernel = log_kernel(cost, a, b, epsilon=epsilon * mean)
    tau = 1 / (1 + epsilon / rho)
    scalings = scale(
        kernel, a, b, tau=tau, rounds=rounds, kernel_iterations=kernel_iterations, tolerance=0.5 * tolerance
    )
    plan = jnp.exp(kernel + scalings.rows[:, None] + scalings.columns[None, :])
    error = marginal_error(plan, a, b, scalings=scalings, tau=tau)
    strength = jnp.where(jnp.isinf(rho), 0, rho) * mean
    objective = jnp.sum(plan * jnp.where(masses > 0, cost, 0))
    objective += strength * (divergence(plan.sum(1), a) + divergence(plan.sum(0), b))
    return Coupling(plan, objective, error, error <= tolerance)


def marginal_error(
    plan: Float[Array, "n m"],
    a: Float[Array, " n"],
    b: Float[Array, " m"],
    *,
    scalings: Scalings | None = None,
    tau: Float[Array, ""] | float = 1.0,
) -> Float[Array, ""]:
    """Largest L1 error of the two marginals in units of the total mass.

    Parameters
    ----------
    plan, a, b
        A plan and the masses it should have.
    scalings, tau
        For relaxed marginals: the masses that are optimal for these scalings take the place of ``a`` and ``b``.
    """
    if scalings is not None:
        a, b = _target(a, scalings.rows, tau), _target(b, scalings.columns, tau)
    rows, columns = jnp.sum(jnp.abs(plan.sum(1) - a)), jnp.sum(jnp.abs(plan.sum(0) - b))
    return jnp.maximum(rows / jnp.sum(a), columns / jnp.sum(b))


def divergence(p: Float[Array, " n"], q: Float[Array, " n"]) -> Float[Array, ""]:
    """Generalised Kullback–Leibler divergence ``Σ p log(p / q) - p + q``; entries with ``q = 0`` count 0."""
    return jnp.sum(jnp.where(q > 0, p * (_log(p) - _log(q)) - p + q, 0))


def rounded(plan: Float[Array, "n m"], a: Float[Array, " n"], b: Float[Array, " m"]) -> Float[Array, "n m"]:
    """The plan moved onto exact marginals.

    Rows and columns with too much mass are scaled down, the missing mass is added as an independent coupling.

    References
    ----------
    Altschuler, Weed, Rigollet (2017), NeurIPS, algorithm 2.
    """
    plan = plan * jnp.minimum(1, _divide(a, plan.sum(1)))[:, None]
    plan = plan * jnp.minimum(1, _divide(b, plan.sum(0)))[None, :]
    rows, columns = jnp.maximum(a - plan.sum(1), 0), jnp.maximum(b - plan.sum(0), 0)
    missing = jnp.sum(rows)
    return plan + rows[:, None] * columns[None, :] / jnp.where(missing > 0, jnp.sum(columns), 1)


def _round(
    start: Scalings, kernel: Float[Array, "n m"], masses: tuple[Any, Any], *, tau: Any, kernel_iterations: int
) -> tuple[Scalings, Any]:
    """One round, and the row error it began with (the columns are exact after each round)."""
    a, b = masses
    incoming = jax.nn.logsumexp(kernel + start.columns[None, :], axis=1)
    mass, target = jnp.where(a > 0, jnp.exp(start.rows + incoming), 0), _target(a, start.rows, tau)
    error = jnp.sum(jnp.abs(mass - target)) / jnp.sum(target)
    rows = jnp.where(a > 0, tau * (_log(a) - incoming), 0)
    columns = jnp.where(b > 0, tau * (_log(b) - jax.nn.logsumexp(kernel + rows[:, None], axis=0)), 0)
    if kernel_iterations:
        absorbed = jnp.exp(kernel + rows[:, None] + columns[None, :])
        damp_rows, damp_columns = jnp.exp((tau - 1) * rows), jnp.exp((tau - 1) * columns)

        def iterate(_: Any, uv: Any) -> Any:
            u = _divide(a, absorbed @ uv[1]) ** tau * damp_rows
            return u, _divide(b, u @ absorbed) ** tau * damp_columns

        u, v = jax.lax.fori_loop(0, kernel_iterations, iterate, (jnp.ones_like(a), jnp.ones_like(b)))
        u, v = jnp.where(a > 0, u, 1), jnp.where(b > 0, v, 1)
        log_u, log_v = jnp.log(u), jnp.log(v)
        trusted = jnp.all(jnp.abs(log_u) < _TRUSTED) & jnp.all(jnp.abs(log_v) < _TRUSTED)
        rows += jnp.where(trusted, log_u, 0)
        columns += jnp.where(trusted, log_v, 0)
    return Scalings(rows, columns), error.astype(a.dtype)


def _target(mass: Any, log_scaling: Any, tau: Any) -> Any:
    return mass * jnp.exp(-log_scaling * (1 - tau) / tau)


def _log(values: Any) -> Any:
    return jnp.log(jnp.where(values > 0, values, 1))


def _divide(numerator: Any, denominator: Any) -> Any:
    return jnp.where(denominator > 0, numerator / jnp.where(denominator > 0, denominator, 1), 0)
