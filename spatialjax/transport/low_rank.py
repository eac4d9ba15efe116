"""Fused Gromov–Wasserstein with plans of low rank: time and memory grow with the spots, not with their square."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from spatialjax.algorithm.core import Algorithm
from spatialjax.transport import costs
from spatialjax.transport.collapse import is_collapsed
from spatialjax.transport.costs import Factored, squared_distances, squared_euclidean
from spatialjax.transport.fused import fused_gromov_wasserstein
from spatialjax.transport.gromov import fused_problem, independent
from spatialjax.transport.sinkhorn import FORBIDDEN, Scalings, marginal_error, rounded, scale, support

_COARSE_STEPS = 60
_LLOYD_ROUNDS = 5
#: Share of the product coupling in the first factors, so that no pair is excluded for good.
_SPREAD = 0.02


@struct.dataclass
class LowRankProblem:
    """The fused problem of squared distances, between features and within the sections; no cost is ever made.

    Attributes
    ----------
    source, target
        Coordinates of the spots of each section, any unit.
    source_features, target_features
        Features that the sections share.
    a, b
        Weights of the spots, 0 on padding; divided by their sums.
    alpha
        Weight of the distances within the sections, in [0, 1]; both terms are 1 on the product coupling.
    """

    source: Float[Array, "n d"]
    target: Float[Array, "m d"]
    source_features: Float[Array, "n p"]
    target_features: Float[Array, "m p"]
    a: Float[Array, " n"]
    b: Float[Array, " m"]
    alpha: Float[Array, ""]


@struct.dataclass
class LowRankCoupling:
    r"""The plan :math:`T = Q\,\mathrm{diag}(1/g)\,R^\top`.

    Attributes
    ----------
    left, right
        ``Q`` and ``R``: mass that goes from each source spot into each of the groups, and from there to each target
        spot.
    weights
        ``g``, mass of each group.
    objective
        What was minimised, 1 on the product coupling.
    error
        Largest marginal error of a factor before it was moved to exact marginals.
    converged
        Whether the stopping rule was met and the plan did not collapse.
    information
        Upper bound of the mutual information of source and target spots: the smaller of those of the spots of a
        section and their groups, nats.
    collapsed
        Whether the plan is, for all purposes, the product of its marginals.
    """

    left: Float[Array, "n r"]
    right: Float[Array, "m r"]
    weights: Float[Array, " r"]
    objective: Float[Array, ""]
    error: Float[Array, ""]
    converged: Bool[Array, ""]
    information: Float[Array, ""]
    collapsed: Bool[Array, ""]

    def carried(self, values: Float[Array, "m k"]) -> Float[Array, "n k"]:
        """Values of the target at the spots of the source: the mean of what each spot is matched with; 0 on padding."""
        mass = self.left.sum(1, keepdims=True)
        inner = (self.right.T @ values) / self.weights[:, None]
        return jnp.where(mass > 0, self.left @ inner / jnp.where(mass > 0, mass, 1), 0)

    def plan(self) -> Float[Array, "n m"]:
        """The dense plan, for small sections."""
        return (self.left / self.weights[None, :]) @ self.right.T


@struct.dataclass
class LowRankState:
    """Where the iterations stand: logarithms of the factors, weights of the groups, inner scalings, objective."""

    log_left: Float[Array, "n r"]
    log_right: Float[Array, "m r"]
    weights: Float[Array, " r"]
    scalings: tuple[Scalings, Scalings]
    objective: Float[Array, ""]
    error: Float[Array, ""]
    step: Int[Array, ""]
    done: Bool[Array, ""]


@struct.dataclass
class _Costs:
    """The costs of a problem as thin factors, scaled so that both terms are 1 on the product coupling."""

    cross: tuple[Float[Array, "n k"], Float[Array, "m k"]]
    source: Factored
    target: Factored
    a: Float[Array, " n"]
    b: Float[Array, " m"]


@cache
def low_rank_fused_gromov_wasserstein(
    *,
    rank: int = 64,
    epsilon: float = 0.02,
    epsilon_start: float = 0.2,
    decay: float = 0.8,
    rounds: int = 3,
    kernel_iterations: int = 20,
    tolerance: float = 1e-3,
    marginal_tolerance: float = 1e-2,
) -> Algorithm:
    r"""Solver of ``LowRankProblem`` problems; one step is one proximal step of each factor.

    The plan is :math:`Q\,\mathrm{diag}(1/g)\,R^\top` with groups of fixed masses ``g``. A step linearises the
    objective in ``Q``, scales ``Q ⊙ exp(-slope / ε)`` to the marginals ``(a, g)``, then does the same for ``R``.

    It does not start from the product coupling, where such solvers stay: both sections are cut into ``rank`` patches
    (k-means of the places), the small problem of the patches is solved with a plan of full rank, and the factors begin
    with that plan, every spot in the group of its patch.

    Parameters
    ----------
    rank
        Number of groups, at most that of the spots of either section.
    epsilon
        Strength of the proximal term, in units of the objective of the product coupling.
    epsilon_start, decay
        Step ``k`` uses ``max(epsilon, epsilon_start * decay**k)``.
    rounds, kernel_iterations
        Inner budget: rounds of one log-domain and ``kernel_iterations`` kernel-domain iterations.
    tolerance
        Relative change of the objective below which the iterations stop.
    marginal_tolerance
        Largest marginal error of a factor that counts as converged.

    Returns
    -------
    Algorithm
        Data: ``LowRankProblem``; ``start``: ``(Q, R, g)``. Info: ``objective``, ``marginal_error``, ``epsilon``,
        ``done``. Result: ``LowRankCoupling``.

    Notes
    -----
    Of the low-rank plans of Scetbon et al. only those of fixed ``g`` are looked at, which makes each step two Sinkhorn
    problems of size spots × rank. No array is larger than that.

    References
    ----------
    Scetbon, Peyré, Cuturi (2022), ICML 162; Lloyd (1982), IEEE Transactions on Information Theory 28, for k-means.
    """

    def init(_: Any, data: LowRankProblem, start: Any = None) -> LowRankState:
        thin = _thin(data)
        left, right, weights = _coarse(data, thin, rank) if start is None else start
        zero = jnp.zeros((), left.dtype)
        scalings = tuple(Scalings(jnp.zeros_like(mass), jnp.zeros_like(weights)) for mass in (thin.a, thin.b))
        value = _objective(thin, left, right, weights=weights, alpha=data.alpha)
        return LowRankState(_log(left), _log(right), weights, scalings, value, zero, jnp.int32(0), jnp.bool_(False))

    def step(_: Any, state: LowRankState, data: LowRankProblem) -> tuple[LowRankState, dict[str, Any]]:
        thin, weights = _thin(data), state.weights
        relative = jnp.maximum(epsilon, epsilon_start * decay ** state.step.astype(state.objective.dtype))
        logs, scalings, errors = [state.log_left, state.log_right], [], []
        for side, mass in enumerate((thin.a, thin.b)):
            slope = _slope(
                thin, jnp.exp(logs[side]), jnp.exp(logs[1 - side]), side=side, weights=weights, alpha=data.alpha
            )
            kernel = jnp.where(support(mass, weights), logs[side] - slope / relative, FORBIDDEN)
            found = scale(
                kernel,
                mass,
                weights,
                start=state.scalings[side],
                rounds=rounds,
                kernel_iterations=kernel_iterations,
            )
            log_factor = kernel + found.rows[:, None] + found.columns[None, :]
            logs[side] = jnp.where(kernel > 0.5 * FORBIDDEN, log_factor, FORBIDDEN)
            scalings.append(found)
            errors.append(marginal_error(jnp.exp(logs[side]), mass, weights))
        value = _objective(thin, *map(jnp.exp, logs), weights=weights, alpha=data.alpha)
        error = jnp.maximum(*errors)
        change = jnp.abs(value - state.objective) / jnp.maximum(jnp.abs(value), 1e-6)
        done = (change < tolerance) & (error < marginal_tolerance) & (relative <= epsilon) & (state.step > 0)
        info = {"objective": value, "marginal_error": error, "epsilon": relative, "done": done}
        return LowRankState(*logs, weights, tuple(scalings), value, error, state.step + 1, done), info

    def readout(_: Any, state: LowRankState, data: LowRankProblem) -> LowRankCoupling:
        thin, weights = _thin(data), state.weights
        left, right = (
            rounded(jnp.exp(state.log_left), thin.a, weights),
            rounded(jnp.exp(state.log_right), thin.b, weights),
        )
        value = _objective(thin, left, right, weights=weights, alpha=data.alpha)
        found = jnp.minimum(_group_information(left), _group_information(right))
        collapsed = is_collapsed(found, most=jnp.log(rank), objective=value, product=jnp.ones_like(value))
        return LowRankCoupling(left, right, weights, value, state.error, state.done & ~collapsed, found, collapsed)

    return Algorithm(init, step, readout)


def _thin(data: LowRankProblem) -> _Costs:
    a, b = data.a / data.a.sum(), data.b / data.b.sum()
    features = [
        jnp.where(mass[:, None] > 0, x, 0) for x, mass in ((data.source_features, a), (data.target_features, b))
    ]
    center = a @ features[0]
    features = [jnp.where(mass[:, None] > 0, x - center[None, :], 0) for x, mass in zip(features, (a, b), strict=True)]
    norms = [jnp.sum(x**2, 1, keepdims=True) for x in features]
    ones = [jnp.ones_like(norm) for norm in norms]
    cross = (
        jnp.concatenate([norms[0], ones[0], -2 * features[0]], 1),
        jnp.concatenate([ones[1], norms[1], features[1]], 1),
    )
    mean = (a @ cross[0]) @ (b @ cross[1])
    source, target = squared_euclidean(data.source, a), squared_euclidean(data.target, b)
    quadratic = independent(source, target, a=a, b=b)
    factor = 1 / jnp.sqrt(jnp.where(quadratic > 0, quadratic, 1))
    cross = (cross[0] / jnp.where(mean > 0, mean, 1), cross[1])
    return _Costs(cross, costs.scaled(source, factor), costs.scaled(target, factor), a, b)


def _objective(thin: _Costs, left: Any, right: Any, *, weights: Any, alpha: Any) -> Float[Array, ""]:
    """Value of the plan, for any marginals of the factors."""
    linear = jnp.sum((thin.cross[0].T @ left) / weights[None, :] * (thin.cross[1].T @ right))
    inner = jnp.outer(1 / weights, 1 / weights)
    cross = jnp.sum(_inner(thin.source, left) * _inner(thin.target, right) * inner)
    rows, columns = left @ (right.sum(0) / weights), right @ (left.sum(0) / weights)
    spread = rows @ costs.apply_squared(thin.source, rows) + columns @ costs.apply_squared(thin.target, columns)
    return (1 - alpha) * linear + alpha * (spread - 2 * cross)


def _slope(thin: _Costs, own: Any, other: Any, *, side: int, weights: Any, alpha: Any) -> Float[Array, "n r"]:
    """Derivative by one factor (0 the left one, 1 the right one), up to a constant for each row and column.

    Terms that only depend on the row or only on the group change no plan of given marginals.
    """
    cross = thin.cross if side == 0 else thin.cross[::-1]
    inner, outer = (thin.source, thin.target) if side == 0 else (thin.target, thin.source)
    linear = cross[0] @ (cross[1].T @ (other / weights[None, :]))
    middle = _inner(outer, other) / weights[:, None] / weights[None, :]
    return (1 - alpha) * linear - 4 * alpha * costs.apply(inner, own @ middle)


def _inner(cost: Factored, factor: Float[Array, "n r"]) -> Float[Array, "r r"]:
    return (factor.T @ cost.left) @ (cost.right.T @ factor)


def _coarse(data: LowRankProblem, thin: _Costs, rank: int) -> tuple[Any, Any, Any]:
    """First factors from a plan of full rank between patches of the sections."""
    patches = [_patches(xy, mass, rank) for xy, mass in ((data.source, thin.a), (data.target, thin.b))]
    masses = [jnp.maximum(patch.T @ mass, 1e-12) for patch, mass in zip(patches, (thin.a, thin.b), strict=True)]
    means = [
        [(patch * mass[:, None]).T @ jnp.where(mass[:, None] > 0, values, 0) / total[:, None] for values in pair]
        for patch, mass, total, pair in zip(
            patches,
            (thin.a, thin.b),
            masses,
            ((data.source, data.source_features), (data.target, data.target_features)),
            strict=True,
        )
    ]
    inner = [squared_euclidean(xy, total) for (xy, _), total in zip(means, masses, strict=True)]
    linear = squared_distances(means[0][1], means[1][1])
    small = fused_problem(linear, *inner, a=masses[0], b=masses[1], alpha=data.alpha)
    solver = fused_gromov_wasserstein(epsilon=0.02, epsilon_start=0.2, rounds=2)
    state = jax.lax.fori_loop(0, _COARSE_STEPS, lambda _, s: solver.step(None, s, small)[0], solver.init(None, small))
    plan = solver.readout(None, state, small).plan
    weights = plan.sum(1)
    left = patches[0] * thin.a[:, None]
    right = (patches[1] * thin.b[:, None] / masses[1][None, :]) @ plan.T
    factors = [
        (1 - _SPREAD) * rounded(factor, mass, weights) + _SPREAD * mass[:, None] * weights[None, :]
        for factor, mass in ((left, thin.a), (right, thin.b))
    ]
    return *factors, weights


def _patches(xy: Float[Array, "n d"], mass: Float[Array, " n"], rank: int) -> Float[Array, "n r"]:
    """Each spot in one of ``rank`` patches of nearby spots, 0 on padding; farthest points first, then k-means."""

    def farther(index: Any, carry: Any) -> Any:
        centers, nearest = carry
        pick = xy[jnp.argmax(jnp.where(mass > 0, nearest, -1))]
        return centers.at[index].set(pick), jnp.minimum(nearest, jnp.sum((xy - pick[None, :]) ** 2, 1))

    middle = (mass @ xy) / mass.sum()
    centers = jnp.zeros((rank, xy.shape[1]), xy.dtype)
    first = jnp.sum((xy - middle[None, :]) ** 2, 1)
    # The farthest spot from the middle comes first, whatever the order of the spots.
    centers, _ = jax.lax.fori_loop(0, 1, farther, (centers, first))
    nearest = jnp.sum((xy - centers[0][None, :]) ** 2, 1)
    centers, _ = jax.lax.fori_loop(1, rank, farther, (centers, nearest))

    def members(centers: Any) -> Any:
        closest = jnp.argmin(squared_distances(xy - middle[None, :], centers - middle[None, :]), axis=1)
        return jax.nn.one_hot(closest, rank, dtype=xy.dtype) * (mass > 0)[:, None]

    def lloyd(_: Any, centers: Any) -> Any:
        patch = members(centers) * mass[:, None]
        total = patch.sum(0)[:, None]
        return jnp.where(total > 0, patch.T @ xy / jnp.where(total > 0, total, 1), centers)

    return members(jax.lax.fori_loop(0, _LLOYD_ROUNDS, lloyd, centers))


def _group_information(factor: Float[Array, "n r"]) -> Float[Array, ""]:
    rows, groups = factor.sum(1), factor.sum(0)
    product = rows[:, None] * groups[None, :]
    ratio = jnp.where(factor > 0, factor, 1) / jnp.where((factor > 0) & (product > 0), product, 1)
    return jnp.maximum(jnp.sum(jnp.where(factor > 0, factor * jnp.log(ratio), 0)), 0)


def _log(values: Any) -> Any:
    return jnp.where(values > 0, jnp.log(jnp.where(values > 0, values, 1)), FORBIDDEN)
