"""The centre of several sections: plans to each of them in turn with a factorisation of its expression."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float
from scipy.sparse.linalg import svds

from spatialjax.algorithm.core import Algorithm
from spatialjax.transport.collapse import plan_collapsed
from spatialjax.transport.costs import Cost, squared_distances
from spatialjax.transport.fused import State, fused_gromov_wasserstein
from spatialjax.transport.gromov import FusedProblem, gradient
from spatialjax.transport.sections import row_divergence
from spatialjax.transport.sinkhorn import support

#: Expression costs between the centre and a section, and the loss of the factorisation that goes with each.
Kind = Literal["kl", "euclidean"]
_TINY = 1e-12


@struct.dataclass
class CenterProblem:
    r"""Sections with weights :math:`\lambda_q`, and where the spots of their centre are.

    .. math:: R = \sum_q \lambda_q \Big[(1 - \alpha) \sum_{ij} c\big((WH)_i, x^q_j\big) T^q_{ij}
       + \alpha \sum_{ijkl} (C_{ik} - D^q_{jl})^2\, T^q_{ij} T^q_{kl}\Big]

    Attributes
    ----------
    center
        ``C``, cost between the spots of the centre.
    sections
        ``D``, cost within each section.
    values
        Expression of the spots of each section, not negative.
    a, b
        Masses of the spots of the centre and of each section, 0 on padding, each with sum 1.
    weights
        ``λ``, with sum 1.
    left, right
        First factors ``W`` and ``H``.
    alpha
        Weight of the distances.
    """

    center: Cost
    sections: tuple[Cost, ...]
    values: tuple[Float[Array, "m g"], ...]
    a: Float[Array, " n"]
    b: tuple[Float[Array, " m"], ...]
    weights: Float[Array, " q"]
    left: Float[Array, "n r"]
    right: Float[Array, "r g"]
    alpha: Float[Array, ""]


@struct.dataclass
class CenterState:
    """Where the rounds stand: factors of the centre, one solver for each section, the objective."""

    left: Float[Array, "n r"]
    right: Float[Array, "r g"]
    solvers: tuple[State, ...]
    objective: Float[Array, ""]
    done: Bool[Array, ""]


@struct.dataclass
class CenterCoupling:
    """A centre and its plans.

    Attributes
    ----------
    left, right
        Factors of the expression of the centre, 0 on padding.
    plans
        From the centre to each section.
    objective
        ``R`` of these plans and factors.
    error
        Largest marginal error of a plan before it was moved to exact marginals.
    converged
        Whether the stopping rule was met and no plan collapsed.
    collapsed
        Whether each plan is no more than the product of its marginals.
    """

    left: Float[Array, "n r"]
    right: Float[Array, "r g"]
    plans: tuple[Float[Array, "n m"], ...]
    objective: Float[Array, ""]
    error: Float[Array, ""]
    converged: Bool[Array, ""]
    collapsed: Bool[Array, " q"]


@cache
def center_of_sections(
    *, kind: Kind = "kl", iterations: int = 5, updates: int = 20, tolerance: float = 1e-3
) -> Algorithm:
    """Solver of ``CenterProblem`` problems; one step is one round.

    A round takes a few proximal steps of each plan with the centre held, then a few multiplicative updates of the
    factors with the plans held, each from where the last round left it.

    Parameters
    ----------
    kind
        Expression cost and loss of the factorisation: ``"kl"`` (divergence of normalised rows; Kullback–Leibler) or
        ``"euclidean"`` (squared distance; Frobenius).
    iterations, updates
        Proximal steps of each plan and updates of the factors in a round.
    tolerance
        Relative change of the objective in a round below which the run ends, once every plan has settled.

    Returns
    -------
    Algorithm
        Data: ``CenterProblem``. Info: ``objective``, ``marginal_error``, ``done``. Result: ``CenterCoupling``.

    References
    ----------
    Zeira, Land, Strzalkowski, Raphael (2022), Nature Methods 19, "Center slice integration".
    """
    solver = fused_gromov_wasserstein(epsilon=0.02, epsilon_start=0.2, rounds=3)

    def init(key: Any, data: CenterProblem, start: Any = None) -> CenterState:
        left, right = (data.left, data.right) if start is None else start
        solvers = tuple(solver.init(key, problem) for problem in _problems(data, left, right, kind=kind))
        total = _total(data, [each.objective for each in solvers])
        return CenterState(left, right, solvers, total, jnp.bool_(False))

    def step(key: Any, state: CenterState, data: CenterProblem) -> tuple[CenterState, dict[str, Any]]:
        solvers, settled = [], []
        for problem, each in zip(_problems(data, state.left, state.right, kind=kind), state.solvers, strict=True):
            each = each.replace(slope=gradient(problem, jnp.exp(each.log_plan))[0])
            each = jax.lax.fori_loop(0, iterations, lambda _, s, p=problem: solver.step(key, s, p)[0], each)
            solvers.append(each)
            settled.append(each.done)
        total = _total(data, [each.objective for each in solvers])
        values = mapped_values([jnp.exp(each.log_plan) for each in solvers], data.values, data.weights)
        factors = jax.lax.fori_loop(
            0, updates, lambda _, pair: factor_update(values, *pair, kind=kind), (state.left, state.right)
        )
        change = jnp.abs(total - state.objective) / jnp.maximum(jnp.abs(total), _TINY)
        done = (change < tolerance) & jnp.all(jnp.stack(settled))
        error = jnp.max(jnp.stack([each.error for each in solvers]))
        state = CenterState(*factors, tuple(solvers), total, done)
        return state, {"objective": total, "marginal_error": error, "done": done}

    def readout(key: Any, state: CenterState, data: CenterProblem) -> CenterCoupling:
        problems = _problems(data, state.left, state.right, kind=kind)
        runs = [solver.readout(key, each, problem) for each, problem in zip(state.solvers, problems, strict=True)]
        collapsed = jnp.stack(
            [
                plan_collapsed(run.plan, problem, objective=run.objective)
                for run, problem in zip(runs, problems, strict=True)
            ]
        )
        return CenterCoupling(
            left=state.left,
            right=state.right,
            plans=tuple(run.plan for run in runs),
            objective=_total(data, [run.objective for run in runs]),
            error=jnp.max(jnp.stack([run.error for run in runs])),
            converged=state.done & ~jnp.any(collapsed),
            collapsed=collapsed,
        )

    return Algorithm(init, step, readout)


def mapped_values(plans: Any, values: Any, weights: Any) -> Float[Array, "n g"]:
    r"""What the sections show at the spots of the centre, :math:`n \sum_q \lambda_q T^q X^q`.

    ``n`` counts the spots that carry mass; numpy arrays give numpy, jax arrays jax.
    """
    spots = (plans[0].sum(1) > 0).sum()
    return sum(weight * (plan @ x) for weight, plan, x in zip(weights, plans, values, strict=True)) * spots


def factor_update(
    values: Float[Array, "n g"], left: Float[Array, "n r"], right: Float[Array, "r g"], *, kind: Kind
) -> tuple[Float[Array, "n r"], Float[Array, "r g"]]:
    """One multiplicative update of both factors of ``values ≈ left @ right``; the loss never grows.

    Parameters
    ----------
    values, left, right
        Not negative; numpy arrays give numpy, jax arrays jax.
    kind
        ``"kl"`` for the generalised Kullback–Leibler divergence, ``"euclidean"`` for squared differences.

    References
    ----------
    Lee, Seung (2000), NeurIPS 13, theorems 1 and 2.
    """
    if kind == "kl":
        left = left * ((values / (left @ right + _TINY)) @ right.T) / (right.sum(1)[None, :] + _TINY)
        right = right * (left.T @ (values / (left @ right + _TINY))) / (left.sum(0)[:, None] + _TINY)
    else:
        left = left * (values @ right.T) / (left @ (right @ right.T) + _TINY)
        right = right * (left.T @ values) / ((left.T @ left) @ right + _TINY)
    return left, right


def first_factors(
    values: Float[np.ndarray, "n g"], *, rank: int
) -> tuple[Float[np.ndarray, "n r"], Float[np.ndarray, "r g"]]:
    """Non-negative factors to begin with, from the leading singular vectors: no random number, any order of the spots.

    Each pair of vectors gives its positive or its negative part, whichever is larger; zeros become a small share of
    the mean, so that multiplicative updates can move them.

    Parameters
    ----------
    values
        Not negative.
    rank
        Number of factors, at most that of the spots and of the genes.

    References
    ----------
    Boutsidis, Gallopoulos (2008), Pattern Recognition 41.
    """
    if rank < min(values.shape):
        left, scale, right = svds(values, k=rank, v0=np.ones(min(values.shape)))
        order = np.argsort(-scale)
        left, scale, right = left[:, order], scale[order], right[order]
    else:
        left, scale, right = np.linalg.svd(values, full_matrices=False)
    parts = []
    for u, v in zip(left.T, right, strict=True):
        signs = [(np.maximum(sign * u, 0), np.maximum(sign * v, 0)) for sign in (1, -1)]
        sizes = [np.linalg.norm(p) * np.linalg.norm(q) for p, q in signs]
        best = int(np.argmax(sizes))
        p, q = signs[best]
        size = max(sizes[best], 1e-300)
        parts.append((p / max(np.linalg.norm(p), 1e-300), q * size / max(np.linalg.norm(q), 1e-300)))
    first = np.stack([p for p, _ in parts], 1) * np.sqrt(scale)
    second = np.stack([q for _, q in parts]) * np.sqrt(scale)[:, None]
    floor = 1e-2 * np.sqrt(max(values.mean(), 1e-12) / len(parts))
    return np.maximum(first, floor), np.maximum(second, floor)


def _problems(data: CenterProblem, left: Any, right: Any, *, kind: str) -> list[FusedProblem]:
    """One fused problem for each section, with the centre as it is."""
    expression, cost = left @ right, row_divergence if kind == "kl" else squared_distances
    found = []
    for inner, values, b in zip(data.sections, data.values, data.b, strict=True):
        linear = jnp.where(support(data.a, b), cost(expression, values), 0)
        found.append(FusedProblem(linear, data.center, inner, data.a, b, data.alpha))
    return found


def _total(data: CenterProblem, parts: Any) -> Float[Array, ""]:
    return jnp.sum(data.weights * jnp.stack(parts))
