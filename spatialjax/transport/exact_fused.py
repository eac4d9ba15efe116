"""Un-regularised fused Gromov–Wasserstein on the host, in float64, of all of the mass or a share of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from spatialjax.transport.exact import exact_partial_transport


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


def conditional_gradient(
    linear: Float[np.ndarray, "n m"],
    source: Float[np.ndarray, "n n"],
    target: Float[np.ndarray, "m m"],
    *,
    a: Float[np.ndarray, " n"],
    b: Float[np.ndarray, " m"],
    alpha: float,
    share: float = 1.0,
    start: Float[np.ndarray, "n m"] | None = None,
    max_iterations: int = 200,
    tolerance: float = 1e-9,
) -> ExactFused:
    r"""Un-regularised fused Gromov–Wasserstein by conditional gradient with exact steps.

    Each iteration moves towards the plan of least linearised cost, by the step that minimises the objective (a
    parabola) on the way. Where only a share of the mass is matched the marginals change on the way too; the terms of
    the objective that they enter are counted anew at each step.

    Parameters
    ----------
    linear, source, target, a, b, alpha
        The problem, see ``FusedProblem``; dense, without padding, ``source`` and ``target`` symmetric.
    share
        Mass that is matched, in (0, 1].
    start
        Plan of that mass within ``a`` and ``b`` (of these marginals, where the share is 1); ``share * a ⊗ b`` where
        left out.
    max_iterations
        Largest number of linear programmes.
    tolerance
        Relative change of the objective at which to stop; also where no step could change it by more.

    References
    ----------
    Vayer et al. (2019), ICML, algorithms 1 and 2; Chapel, Alaya, Gasso (2020), NeurIPS, algorithm 1, and Liu, Zeira,
    Raphael (2023), Genome Research 33, for a share of the mass.
    """
    linear, source, target, a, b = (np.asarray(v, np.float64) for v in (linear, source, target, a, b))
    first = (1 - alpha) * linear
    begin = share * a[:, None] * b[None, :] if start is None else np.asarray(start, np.float64)
    half = _half_of_product(source, target, a=a, b=b) * share if start is None else half_gradient(source, begin, target)
    lin, quad = float(np.sum(first * begin)), float(np.sum(half * begin))
    kept, moved, vertex = 1.0, sp.csr_array(linear.shape), None
    iteration, converged = 0, False
    while iteration < max_iterations and not converged:
        iteration += 1
        vertex = exact_partial_transport(first + (2 * alpha) * half, a, b, share=share, start=vertex)
        towards, (rows, columns) = vertex.plan, vertex.plan.nonzero()
        gap = lin + 2 * alpha * quad - vertex.objective
        if gap <= tolerance * abs(lin + alpha * quad):
            converged = True
            break
        mass, other = towards[rows, columns], half_gradient(source, towards, target)
        there, cross, own = (float(mass @ values[rows, columns]) for values in (first, half, other))
        step, gain = parabola(-gap, alpha * (own - 2 * cross + quad))
        lin += step * (there - lin)
        quad = (1 - step) ** 2 * quad + 2 * step * (1 - step) * cross + step**2 * own
        kept, moved = (1 - step) * kept, (1 - step) * moved + step * towards
        other -= half
        half += step * other
        converged = -gain <= tolerance * abs(lin + alpha * quad)
    plan = sp.csr_array(moved + kept * begin) if kept > 0 else sp.csr_array(moved)
    plan.eliminate_zeros()
    return ExactFused(plan, lin + alpha * quad, iteration, converged)


def parabola(slope: float, curvature: float) -> tuple[float, float]:
    """Where in [0, 1] ``slope γ + curvature γ²`` is least, and its value there."""
    inside = float(np.clip(-slope / (2 * curvature), 0, 1)) if curvature > 0 else 1.0
    step = inside if slope * inside + curvature * inside**2 < 0 else 0.0
    return step, slope * step + curvature * step**2


def half_gradient(
    source: Float[np.ndarray, "n n"], plan: Float[np.ndarray, "n m"] | sp.csr_array, target: Float[np.ndarray, "m m"]
) -> Float[np.ndarray, "n m"]:
    """Half the gradient of the Gromov–Wasserstein term, linear in the plan, whatever its marginals."""
    inner = plan @ target
    half = source @ inner
    half *= -2
    half += np.einsum("ij,ij,j->i", source, source, np.asarray(plan.sum(1)).ravel())[:, None]
    half += np.einsum("ij,ij,j->i", target, target, np.asarray(plan.sum(0)).ravel())[None, :]
    return half


def _half_of_product(source: np.ndarray, target: np.ndarray, *, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    rows, columns = np.einsum("ij,ij,j->i", source, source, a), np.einsum("ij,ij,j->i", target, target, b)
    return rows[:, None] * b.sum() + columns[None, :] * a.sum() - 2 * np.outer(source @ a, target @ b)
