"""Least squares with weights of at least 0, for many right-hand sides at once."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

#: Sweeps at the most, and the relative change of a sweep at which it ends.
SWEEPS, TOLERANCE = 100, 1e-5


def nnls(
    gram: Float[Array, "*n k k"],
    target: Float[Array, "n k"],
    *,
    start: Float[Array, "n k"] | None = None,
    sweeps: int = SWEEPS,
    tolerance: float = TOLERANCE,
) -> Float[Array, "n k"]:
    """Minimise ½ wᵀHw − hᵀw over w ≥ 0 for each row, by coordinate descent over all rows together.

    Parameters
    ----------
    gram
        H, one (K, K) matrix for all rows or one for each; with a positive diagonal, else that weight is 0.
    target
        h, (n, K).
    start
        Weights to begin with; 0 where left out.
    sweeps, tolerance
        Number of sweeps at the most, and the change relative to the largest weight of the row at which it ends.

    References
    ----------
    Franc, Hlaváč & Navara (2005), CAIP (sequential coordinate-wise descent for non-negative least squares).
    """
    number = target.shape[-1]
    start = jnp.zeros_like(target) if start is None else start
    # Types first: one coordinate of all rows is a contiguous row then.
    columns = jnp.moveaxis(gram, 0, -1) if gram.ndim == 3 else gram
    diagonal = jnp.moveaxis(jnp.diagonal(gram, axis1=-2, axis2=-1), -1, 0)
    inverse = jnp.where(diagonal > 0, 1.0 / jnp.where(diagonal > 0, diagonal, 1.0), 0.0)
    aims = target.T

    def coordinate(k: Any, weights: Float[Array, "k n"]) -> Float[Array, "k n"]:
        column = columns[k]
        pull = column @ weights if column.ndim == 1 else (column * weights).sum(0)
        return weights.at[k].set(jnp.maximum(weights[k] + (aims[k] - pull) * inverse[k], 0.0))

    def sweep(carry: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        weights, _, count = carry
        moved = jax.lax.fori_loop(0, number, coordinate, weights)
        change = jnp.abs(moved - weights).max(0) / jnp.maximum(jnp.abs(moved).max(0), 1e-30)
        return moved, change.max(), count + 1

    def going(carry: tuple[Any, Any, Any]) -> Any:
        return (carry[1] > tolerance) & (carry[2] < sweeps)

    first = (start.T, jnp.asarray(jnp.inf, target.dtype), jnp.int32(0))
    return jax.lax.while_loop(going, sweep, first)[0].T
