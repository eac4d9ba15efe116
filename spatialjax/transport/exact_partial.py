"""Exact partial transport on the host, in float64: the linear programme, and conditional gradient for the fused one."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from spatialjax.transport.exact import ExactFused, ExactPlan, exact_transport, parabola, sandwich

#: A share this close to the whole is solved with exact marginals.
_WHOLE = 1e-9


def exact_partial_transport(
    cost: Float[np.ndarray, "n m"],
    a: Float[np.ndarray, " n"],
    b: Float[np.ndarray, " m"],
    *,
    share: float,
    duals: tuple[Float[np.ndarray, " r"], Float[np.ndarray, " c"]] | None = None,
) -> ExactPlan:
    r"""A plan of least cost among those of mass ``share`` with marginals within ``a`` and ``b``.

    One more row and one more column of cost 0 take what stays unmatched; they may not be matched with each other.

    Parameters
    ----------
    cost
        Cost between the spots, of any sign.
    a, b
        Positive masses, each with sum 1.
    share
        Mass that is matched, in (0, 1].
    duals
        Prices of a similar problem of the same share, to begin with.

    Returns
    -------
    ExactPlan
        The plan between the spots; ``duals`` belong to the larger problem.

    Raises
    ------
    ValueError
        If the share is outside (0, 1], a mass is not positive or a sum is not 1.

    References
    ----------
    Chapel, Alaya, Gasso (2020), NeurIPS, proposition 1.
    """
    cost, a, b = (np.asarray(values, np.float64) for values in (cost, a, b))
    _check(a, b, share)
    if share >= 1 - _WHOLE:
        return exact_transport(cost, a, b, duals=duals)
    # Any price above -min(cost) empties the corner: the mass could be moved to a pair for less.
    corner = 2 * np.abs(cost).max() + 1e-12
    larger = np.block([[cost, np.zeros((len(a), 1))], [np.zeros((1, len(b))), np.full((1, 1), corner)]])
    found = exact_transport(larger, np.append(a / a.sum(), 1 - share), np.append(b / b.sum(), 1 - share), duals=duals)
    plan = sp.csr_array(found.plan[:-1, :-1])
    return ExactPlan(plan, float(plan.multiply(cost).sum()), found.duals)


def partial_conditional_gradient(
    linear: Float[np.ndarray, "n m"],
    source: Float[np.ndarray, "n n"],
    target: Float[np.ndarray, "m m"],
    *,
    a: Float[np.ndarray, " n"],
    b: Float[np.ndarray, " m"],
    alpha: float,
    share: float,
    start: Float[np.ndarray, "n m"] | None = None,
    max_iterations: int = 200,
    tolerance: float = 1e-9,
) -> ExactFused:
    r"""Un-regularised partial fused Gromov–Wasserstein by conditional gradient with exact steps.

    The marginals change on the way, so that the terms of the objective that they enter are counted anew at each step,
    in the slope and in the parabola along it.

    Parameters
    ----------
    linear, source, target, a, b, alpha
        The problem, see ``FusedProblem``; dense, without padding.
    share
        Mass that is matched, in (0, 1].
    start
        Plan of that mass within ``a`` and ``b``; ``share * a ⊗ b`` where left out.
    max_iterations
        Largest number of linear programmes.
    tolerance
        Relative change of the objective at which to stop.

    References
    ----------
    Chapel, Alaya, Gasso (2020), NeurIPS, algorithm 1; Liu, Zeira, Raphael (2023), Genome Research 33.
    """
    linear, source, target, a, b = (np.asarray(v, np.float64) for v in (linear, source, target, a, b))
    iteration, converged, duals = 0, False, None
    plan = share * a[:, None] * b[None, :] if start is None else np.asarray(start, np.float64)
    squared, first = (source**2, target**2), (1 - alpha) * linear
    quadratic = _quadratic(plan, (source, target), squared)
    while iteration < max_iterations and not converged:
        iteration += 1
        slope = first + 2 * alpha * quadratic
        vertex = exact_partial_transport(slope, a, b, share=share, duals=duals)
        duals = vertex.duals
        towards = vertex.plan.toarray()
        change, moved = towards - plan, _quadratic(towards, (source, target), squared) - quadratic
        step, gain = parabola(float(np.sum(slope * change)), alpha * float(np.sum(moved * change)))
        plan, quadratic = plan + step * change, quadratic + step * moved
        value = float(np.sum(plan * (first + alpha * quadratic)))
        converged = -gain <= tolerance * abs(value)
    value = float(np.sum(plan * (first + alpha * quadratic)))
    return ExactFused(sp.csr_array(plan), value, iteration, converged)


def _quadratic(plan: np.ndarray, costs: tuple[np.ndarray, ...], squared: tuple[np.ndarray, ...]) -> np.ndarray:
    """Half the gradient of the Gromov–Wasserstein term, linear in the plan."""
    marginals = squared[0] @ plan.sum(1), squared[1] @ plan.sum(0)
    return marginals[0][:, None] + marginals[1][None, :] - 2 * sandwich(costs[0], plan, costs[1])


def _check(a: np.ndarray, b: np.ndarray, share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"Expected a share of the mass in (0, 1], found {share}.")
    if not (np.isclose(a.sum(), 1, rtol=1e-5) and np.isclose(b.sum(), 1, rtol=1e-5)):
        raise ValueError(f"Expected masses that sum to 1, found {a.sum():.6g} and {b.sum():.6g}: normalise both.")
