"""Exact transport on the host, in float64: the linear programme, and conditional gradient for the fused problem."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment, linprog

_CANDIDATES = 6
_TOLERANCE = 1e-9


class ExactPlan(NamedTuple):
    """A vertex of the transport polytope.

    Attributes
    ----------
    plan
        Mass moved between the spots, at most n + m - 1 entries.
    objective
        Its cost.
    duals
        Prices of the rows and of the columns; None where an assignment was solved.
    """

    plan: sp.csr_array
    objective: float
    duals: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]] | None


class ExactFused(NamedTuple):
    """A stationary plan of an un-regularised fused Gromov–Wasserstein problem.

    Attributes
    ----------
    plan
        The plan.
    objective
        Its value.
    iterations
        Linear programmes solved.
    converged
        Whether the objective stopped falling before the budget ended.
    """

    plan: sp.csr_array
    objective: float
    iterations: int
    converged: bool


def exact_transport(
    cost: Float[np.ndarray, "n m"],
    a: Float[np.ndarray, " n"],
    b: Float[np.ndarray, " m"],
    *,
    duals: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]] | None = None,
) -> ExactPlan:
    """A plan of least cost with marginals ``a`` and ``b``.

    Equal masses on sections of equal size are an assignment problem. Otherwise the linear programme is solved by
    column generation: only pairs of small reduced cost enter, until the prices prove that no other pair would help.

    Parameters
    ----------
    cost
        Cost between the spots.
    a, b
        Positive masses with equal sums.
    duals
        Prices of a similar problem, to begin with.

    Raises
    ------
    ValueError
        If a mass is not positive or the sums differ.
    RuntimeError
        If the linear programme could not be solved.
    """
    cost, a, b = (np.asarray(values, np.float64) for values in (cost, a, b))
    if a.min() <= 0 or b.min() <= 0 or not np.isclose(a.sum(), b.sum(), rtol=1e-5):
        raise ValueError(
            f"Expected positive masses with equal sums, found minima {a.min():.3g}, {b.min():.3g} and sums "
            f"{a.sum():.6g}, {b.sum():.6g}: drop spots without mass and normalise both."
        )
    if len(a) == len(b) and np.ptp(a) <= 1e-12 * a[0] and np.ptp(b) <= 1e-12 * b[0]:
        rows, columns = linear_sum_assignment(cost)
        total = float(cost[rows, columns] @ a)
        return ExactPlan(sp.csr_array((a[rows], (rows, columns)), shape=cost.shape), total, None)
    return _column_generation(cost, a, b * (a.sum() / b.sum()), duals)


def conditional_gradient(
    linear: Float[np.ndarray, "n m"],
    source: Float[np.ndarray, "n n"],
    target: Float[np.ndarray, "m m"],
    *,
    a: Float[np.ndarray, " n"],
    b: Float[np.ndarray, " m"],
    alpha: float,
    start: Float[np.ndarray, "n m"] | None = None,
    max_iterations: int = 200,
    tolerance: float = 1e-9,
) -> ExactFused:
    r"""Un-regularised fused Gromov–Wasserstein by conditional gradient with exact steps.

    Each iteration moves towards the plan of least linearised cost, by the step that minimises the objective (a
    parabola) on the way.

    Parameters
    ----------
    linear, source, target, a, b, alpha
        The problem, see ``FusedProblem``; dense, without padding.
    start
        Plan with the marginals ``a`` and ``b``; ``a ⊗ b`` where left out.
    max_iterations
        Largest number of linear programmes.
    tolerance
        Relative change of the objective at which to stop.

    References
    ----------
    Vayer et al. (2019), ICML, algorithms 1 and 2.
    """
    linear, source, target, a, b = (np.asarray(v, np.float64) for v in (linear, source, target, a, b))
    iteration, converged = 0, False
    plan = a[:, None] * b[None, :] if start is None else np.asarray(start, np.float64)
    constant = (source**2 @ a)[:, None] + (target**2 @ b)[None, :]
    first, product, duals = (1 - alpha) * linear, sandwich(source, plan, target), None
    value = _value(plan, first, alpha * (constant - 2 * product))
    while iteration < max_iterations and not converged:
        iteration += 1
        slope = first + 2 * alpha * (constant - 2 * product)
        vertex = exact_transport(slope, a, b, duals=duals)
        duals = vertex.duals
        towards = vertex.plan.toarray()
        change, moved = towards - plan, sandwich(source, towards, target) - product
        step, gain = parabola(float(np.sum(slope * change)), -2 * alpha * float(np.sum(moved * change)))
        plan, product = plan + step * change, product + step * moved
        value = _value(plan, first, alpha * (constant - 2 * product))
        converged = -gain <= tolerance * abs(value)
    return ExactFused(sp.csr_array(plan), value, iteration, converged)


def _value(plan: np.ndarray, linear: np.ndarray, quadratic: np.ndarray) -> float:
    return float(np.sum(plan * (linear + quadratic)))


def parabola(slope: float, curvature: float) -> tuple[float, float]:
    """Where in [0, 1] ``slope γ + curvature γ²`` is least, and its value there."""
    inside = float(np.clip(-slope / (2 * curvature), 0, 1)) if curvature > 0 else 1.0
    step = inside if slope * inside + curvature * inside**2 < 0 else 0.0
    return step, slope * step + curvature * step**2


def sandwich(
    source: Float[np.ndarray, "n n"], plan: Float[np.ndarray, "n m"], target: Float[np.ndarray, "m m"]
) -> Float[np.ndarray, "n m"]:
    """``source @ plan @ target``, by a sparse product where the plan is nearly a vertex."""
    if np.count_nonzero(plan) < 0.1 * plan.size:
        return source @ (sp.csr_array(plan) @ target)
    return source @ plan @ target


def _column_generation(cost: np.ndarray, a: np.ndarray, b: np.ndarray, duals: tuple | None) -> ExactPlan:
    unit, size = max(float(np.ptp(cost)), 1e-300), len(a)
    scaled = (cost - cost.min()) / unit
    if duals is None:
        rows = scaled.min(1)
        reduced = scaled - rows[:, None] - (scaled - rows[:, None]).min(0)[None, :]
    else:
        reduced = scaled - ((duals[0][:, None] + duals[1][None, :]) - cost.min()) / unit
    active = _smallest(reduced, _CANDIDATES) | _northwest(a, b)
    while True:
        rows, columns = np.nonzero(active)
        values, price_a, price_b = _solve(scaled[rows, columns], (rows, columns), a * size, b * size)
        reduced = scaled - price_a[:, None] - price_b[None, :]
        wanted = (reduced < -_TOLERANCE) & ~active
        if not wanted.any():
            break
        active |= wanted & _smallest(reduced, _CANDIDATES)
    plan = sp.csr_array((values / size, (rows, columns)), shape=cost.shape)
    plan.eliminate_zeros()
    return ExactPlan(plan, float(plan.multiply(cost).sum()), (price_a * unit + cost.min(), price_b * unit))


def _solve(
    cost: np.ndarray, pairs: tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]], a: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, columns = pairs
    count, places = len(rows), np.concatenate([rows, len(a) + columns])
    entries = (np.ones(2 * count), (places, np.tile(np.arange(count), 2)))
    constraints = sp.csc_array(entries, shape=(len(a) + len(b), count))
    solution = linprog(
        cost,
        A_eq=constraints,
        b_eq=np.concatenate([a, b]),
        bounds=(0, None),
        method="highs-ds",
        options={"presolve": False},
    )
    if solution.status != 0:
        raise RuntimeError(f"Expected a solved linear programme, found: {solution.message}")
    prices = solution.eqlin.marginals
    return np.maximum(solution.x, 0), prices[: len(a)], prices[len(a) :]


def _smallest(values: np.ndarray, count: int) -> np.ndarray:
    """True at the ``count`` smallest entries of each row and of each column."""
    chosen = np.zeros(values.shape, bool)
    for axis in (0, 1):
        places = min(count, values.shape[axis]) - 1
        index = np.argpartition(values, places, axis=axis).take(range(places + 1), axis=axis)
        np.put_along_axis(chosen, index, True, axis)
    return chosen


def _northwest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Support of the north-west corner plan: some feasible plan lives on it."""
    ends = np.sort(np.concatenate([np.cumsum(a)[:-1], np.cumsum(b)[:-1]]))
    middle = (np.concatenate([[0.0], ends]) + np.concatenate([ends, [a.sum()]])) / 2
    chosen = np.zeros((len(a), len(b)), bool)
    rows = np.minimum(np.searchsorted(np.cumsum(a), middle), len(a) - 1)
    chosen[rows, np.minimum(np.searchsorted(np.cumsum(b), middle), len(b) - 1)] = True
    return chosen
