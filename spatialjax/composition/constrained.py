"""Least squares whose weights are shares of a given total, for many rows at once, each alone or smooth over a graph."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Bool, Float
from optax.projections import projection_simplex

from spatialjax.propagation import neighbour_sum
from spatialjax.slices import Neighbors

#: Steps at the most, and residuals, relative to the total and to the targets, at which a row has settled.
STEPS, TOLERANCE = 1000, 1e-5
#: Over-relaxation, and steps between two looks at the balance of the residuals.
_RELAXED, _BETWEEN = 1.6, 10
#: Change of the penalty at a look at the most, and ratio of the residuals that asks for one.
_FACTOR, _UNEVEN = 5.0, 2.0
#: Exchanges of zeros at a look.
_EXCHANGES = 4
#: Rounds of conjugate gradients in a step, and their residual beside that of the steps.
_ROUNDS, _FINER = 30, 0.1
#: Least scale of a row, and least residual that is compared.
_TINY = 1e-12


@struct.dataclass
class SimplexFit:
    """Weights that sum to the total.

    Attributes
    ----------
    weights
        (n, K), none below 0, each row sums to its total to rounding.
    primal
        (n,) distance between the weights and those that fit best near them, relative to the total.
    dual
        (n,) change of the weights by the last step, as a force, relative to the target.
    steps
        Number of steps.
    converged
        (n,) whether both residuals are below the tolerance.
    """

    weights: Float[Array, "n k"]
    primal: Float[Array, " n"]
    dual: Float[Array, " n"]
    steps: Any
    converged: Bool[Array, " n"]


class _Problem(NamedTuple):
    """Gram matrices and targets along the simplex, totals, mean eigenvalues, and what residuals are relative to."""

    gram: Any
    target: Any
    size: Any
    scale: Any
    force: Any


class _State(NamedTuple):
    """Weights off and on the simplex, the force between them over the penalty, the penalty, and the residuals."""

    free: Any
    kept: Any
    force: Any
    penalty: Any
    primal: Any
    dual: Any


def onto_simplex(points: Float[Array, "n k"], total: Any = 1.0) -> Float[Array, "n k"]:
    """The nearest weights of at least 0 that sum to the total, for each row, exactly, by sorting.

    Parameters
    ----------
    points
        Any values.
    total
        What weights sum to, above 0: one number or (n,).

    References
    ----------
    Held, Wolfe & Crowder (1974), Mathematical Programming 6; Duchi et al. (2008), ICML.
    """
    size = jnp.broadcast_to(jnp.asarray(total, points.dtype), points.shape[:1])[:, None]
    return jax.vmap(projection_simplex)(points / size) * size


def simplex_least_squares(
    gram: Float[Array, "*n k k"],
    target: Float[Array, "n k"],
    *,
    total: Any = 1.0,
    neighbors: Neighbors | None = None,
    strength: Any = 1.0,
    start: Float[Array, "n k"] | None = None,
    steps: int = STEPS,
    tolerance: float = TOLERANCE,
) -> SimplexFit:
    """Minimise ``Σ_i (½ w_iᵀH_i w_i − h_iᵀw_i) + λ/2 Σ_k w_·kᵀ L w_·k`` over w ≥ 0 with ``Σ_k w_ik`` given.

    With ``H_i = X V_i Xᵀ`` and ``h_i = X V_i y_i`` this is weighted least squares of y on the rows of X. L = D − W is
    the Laplacian of a graph of the rows. The alternating direction method of multipliers: a linear system (by the
    eigenvectors of each H; with a graph by conjugate gradients, where L is only ever multiplied by), the projection
    onto the simplex, and a force that draws the two together; each row has a penalty of its own, which balances its
    residuals. Without a graph, every ten steps the optimum of the weights above 0 is taken, with a few exchanges of
    zeros, which settles a row however alike its types are; and a row that has settled stands still, so that it does not
    depend on the others.

    Parameters
    ----------
    gram
        H, one (K, K) matrix for all rows or one for each, positive semi-definite.
    target
        h, (n, K).
    total
        What the weights of a row sum to, above 0: one number or (n,).
    neighbors
        The graph: a table that holds every edge in both directions with one weight; none where left out.
    strength
        λ, at least 0, with a graph.
    start
        (n, K) weights to begin with; equal shares where left out.
    steps
        Number of steps at the most.
    tolerance
        Residual at which a row has settled, see ``SimplexFit``.

    References
    ----------
    Boyd et al. (2011), Foundations and Trends in Machine Learning 3(1) (the method, its residuals and its penalty);
    Hintermüller, Ito & Kunisch (2002), SIAM Journal on Optimization 13, 865–888 (the exchanges).
    """
    n, number = target.shape
    size = jnp.broadcast_to(jnp.asarray(total, target.dtype), (n,))
    gram, target = _within(gram, target, size)
    axes = jnp.linalg.eigh(gram)
    scale = jnp.broadcast_to(jnp.maximum(axes[0].mean(-1), _TINY), (n,))
    force = jnp.maximum(jnp.linalg.norm(target, axis=1), scale * size / number)
    problem = _Problem(gram, target, size, scale, force)
    # Beside a stiff graph the target is small: what it makes of the weights is known no better than they are.
    coarse = jnp.ones_like(force)
    solve = functools.partial(_by_axes, *axes)
    if neighbors is not None:
        coarse = jnp.maximum(1.0, strength * neighbors.weight.sum(1) * size / number / force)
        solve = _over_graph(gram, solve, neighbors, strength=strength, tolerance=_FINER * tolerance)

    def settled(state: _State) -> Bool[Array, " n"]:
        return jnp.maximum(state.primal, state.dual / coarse) < tolerance

    def step(state: _State) -> _State:
        penalty = state.penalty[:, None]
        free = solve(target + penalty * (state.kept - state.force), penalty, state.free)
        mixed = _RELAXED * free + (1.0 - _RELAXED) * state.kept
        kept = onto_simplex(mixed + state.force, size)
        primal = jnp.linalg.norm(free - kept, axis=1) / size
        dual = state.penalty * jnp.linalg.norm(kept - state.kept, axis=1) / force
        return _State(free, kept, state.force + mixed - kept, state.penalty, primal, dual)

    def going(carry: tuple[_State, Any]) -> Any:
        return (carry[1] < steps) & ~settled(carry[0]).all()

    def advance(carry: tuple[_State, Any]) -> tuple[_State, Any]:
        before, count = carry[0], carry[1] + 1
        state, look = step(before), count % _BETWEEN == 0
        # Steps surely settle only where the penalty stays in the end.
        balanced = lambda state: _where(settled(state), state, _balanced(state))
        state = jax.lax.cond(look & (count <= steps // 2), balanced, _as_it_is, state)
        if neighbors is None:
            refined = functools.partial(_refined, problem, tolerance=tolerance)
            state = _where(settled(before), before, jax.lax.cond(look, refined, _as_it_is, state))
        return state, count

    first = jnp.full_like(target, 1.0 / number) * size[:, None] if start is None else onto_simplex(start, size)
    never = jnp.full(n, jnp.inf, target.dtype)
    begun = _State(first, first, jnp.zeros_like(first), scale, never, never)
    last, count = jax.lax.while_loop(going, advance, (begun, jnp.int32(0)))
    return SimplexFit(last.kept, last.primal, last.dual, count, settled(last))


def accounted_abundance(
    gram: Float[Array, "*n k k"],
    target: Float[Array, "n k"],
    depth: Float[Array, " k"],
    *,
    counts: Float[Array, " n"],
    start: Float[Array, "n k"] | None = None,
) -> SimplexFit:
    """Abundances that fit best among those whose cells would have exactly the counts of the spot in all.

    Parameters
    ----------
    gram, target
        Of the abundances, see ``simplex_least_squares``.
    depth
        (K,) counts of a cell of each type, above 0.
    counts
        (n,) counts of each spot; without any its abundances are 0.
    start
        (n, K) abundances to begin with; equal shares of the counts where left out.

    Returns
    -------
    SimplexFit
        Its weights are the abundances; residuals are those of the shares of the counts.
    """
    size = jnp.maximum(counts, _TINY)[:, None]
    shares = None if start is None else start * depth / size
    found = simplex_least_squares(gram / (depth[:, None] * depth), target / (depth * size), start=shares)
    return found.replace(weights=found.weights * counts[:, None] / depth)


def _within(gram: Any, target: Any, size: Any) -> tuple[Any, Any]:
    """The same problem in directions that keep the sum, beside equal shares.

    What all types have in common is by far the largest eigenvalue where profiles are alike, and says nothing there.
    """
    number = target.shape[1]
    middle = target - (gram.sum(-1) if gram.ndim == 3 else gram.sum(-1)[None]) * size[:, None] / number
    rows = gram - gram.mean(-1, keepdims=True)
    return rows - rows.mean(-2, keepdims=True), middle - middle.mean(1, keepdims=True)


def _as_it_is(state: _State) -> _State:
    return state


def _where(rows: Bool[Array, " n"], first: _State, second: _State) -> _State:
    return jax.tree.map(lambda a, b: jnp.where(rows if a.ndim == 1 else rows[:, None], a, b), first, second)


def _balanced(state: _State) -> _State:
    """Another penalty for rows of which one residual is far above the other."""
    ratio = jnp.sqrt(jnp.maximum(state.primal, _TINY) / jnp.maximum(state.dual, _TINY))
    uneven = (ratio > _UNEVEN) | (ratio < 1.0 / _UNEVEN)
    factor = jnp.where(uneven, jnp.clip(ratio, 1.0 / _FACTOR, _FACTOR), 1.0)
    return state._replace(penalty=state.penalty * factor, force=state.force / factor[:, None])


def _refined(problem: _Problem, state: _State, *, tolerance: float) -> _State:
    """Rows whose zeros are those of the optimum, or are after a few exchanges of types, are there."""

    def exchange(_: Any, carry: tuple[_State, Any]) -> tuple[_State, Any]:
        state, on = carry
        free, lack, other = _face_optimum(problem, on)
        better = lack < jnp.minimum(tolerance, jnp.maximum(state.primal, state.dual))
        kept = jnp.where(better[:, None], free, state.kept)
        found = state._replace(
            kept=kept, primal=jnp.where(better, 0.0, state.primal), dual=jnp.where(better, lack, state.dual)
        )
        return found, other

    return jax.lax.fori_loop(0, _EXCHANGES, exchange, (state, state.kept > 0))[0]


def _face_optimum(problem: _Problem, on: Bool[Array, "n k"]) -> tuple[Any, Any, Any]:
    """The optimum of the weights that are on, what it lacks of being that of all, and which to have on next.

    What it lacks is the slope along the simplex where a weight may move, relative to the force; infinite where a weight
    is below 0.
    """
    gram, target, size, scale, force = problem
    own = on.astype(target.dtype)
    both = own[:, :, None] * own[:, None, :]
    # A term of the sum alone makes the matrix definite, and changes nothing where the sum is given.
    matrix = both * (gram + scale[:, None, None]) + jax.vmap(jnp.diag)((1.0 - own) * scale[:, None])
    right = jnp.stack([own * (target + (scale * size)[:, None]), own], -1)
    free, shift = jnp.moveaxis(jax.vmap(_solved)(matrix, right), -1, 0)
    free = free + ((size - free.sum(1)) / jnp.maximum(shift.sum(1), _TINY))[:, None] * shift
    slope = (free @ gram if gram.ndim == 2 else jnp.einsum("nkl,nl->nk", gram, free)) - target
    slope = slope - ((own * slope).sum(1) / jnp.maximum(own.sum(1), 1.0))[:, None]
    lack = jnp.linalg.norm(jnp.where(on, slope, jnp.minimum(slope, 0.0)), axis=1) / force
    inside = jnp.isfinite(lack) & (free >= 0).all(1)
    return free, jnp.where(inside, lack, jnp.inf), jnp.where(on, free > 0, slope < 0)


def _solved(matrix: Any, right: Any) -> Any:
    """Solve a positive definite system."""
    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix, lower=True), right)


def _by_axes(values: Any, vectors: Any, right: Any, penalty: Any, guess: Any = None) -> Any:
    """Solve (H + p) x = b for each row by the eigenvalues and eigenvectors of H."""
    del guess
    if vectors.ndim == 2:
        return ((right @ vectors) / (values + penalty)) @ vectors.T
    turned = jnp.einsum("nkl,nk->nl", vectors, right) / (values + penalty)
    return jnp.einsum("nkl,nl->nk", vectors, turned)


def _over_graph(
    gram: Any, solve_rows: Callable[..., Any], neighbors: Neighbors, *, strength: Any, tolerance: float
) -> Callable[..., Any]:
    """Solve (H + p + λL) x = b of all rows together, begun at a guess."""
    degree = strength * neighbors.weight.sum(1)[:, None]

    def solve(right: Any, penalty: Any, guess: Any) -> Any:
        def product(x: Any) -> Any:
            own = x @ gram if gram.ndim == 2 else jnp.einsum("nkl,nl->nk", gram, x)
            off = x - x.mean(1, keepdims=True)
            return own + penalty * x + degree * off - strength * neighbour_sum(neighbors, off)

        near = lambda x: solve_rows(x, penalty + degree)
        return cg(product, right, x0=guess, tol=tolerance, maxiter=_ROUNDS, M=near)[0]

    return solve
