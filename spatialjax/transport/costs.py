"""Costs between the spots of one section, dense or factored, and what transport needs from them.

Squared Euclidean distances of ``d``-dimensional points have rank ``d + 2``: kept as two thin factors, every product
with a plan costs O(n m d) in place of O(n² m).
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float


@struct.dataclass
class Factored:
    """The symmetric cost matrix ``left @ right.T``.

    Attributes
    ----------
    left, right
        Thin factors.
    """

    left: Float[Array, "n r"]
    right: Float[Array, "n r"]


#: A symmetric cost between the spots of one section.
Cost = Factored | Float[Array, "n n"]


def squared_euclidean(points: Float[Array, "n d"], weights: Float[Array, " n"] | None = None) -> Factored:
    """Squared distances between the points of one section, of rank d + 2.

    Parameters
    ----------
    points
        Coordinates (µm) or other features.
    weights
        Weight of each point, 0 on padding: the points are centred on their weighted mean, which keeps float32 accurate.
    """
    weights = jnp.ones(len(points), points.dtype) if weights is None else weights
    points = jnp.where(weights[:, None] > 0, points - (weights @ points / jnp.sum(weights))[None, :], 0)
    norm = jnp.sum(points**2, axis=1, keepdims=True)
    one = jnp.ones_like(norm)
    return Factored(jnp.concatenate([norm, one, -2 * points], 1), jnp.concatenate([one, norm, points], 1))


def euclidean(points: Float[Array, "n d"]) -> Float[Array, "n n"]:
    """Distances between the points of one section, dense; gradients are finite where points coincide."""
    squared = sum((points[:, None, axis] - points[None, :, axis]) ** 2 for axis in range(points.shape[1]))
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0)


def squared_distances(points: Float[Array, "n d"], others: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """Squared distances between the points (or features) of two sections, dense."""
    norms = jnp.sum(points**2, axis=1)[:, None] + jnp.sum(others**2, axis=1)[None, :]
    return jnp.maximum(norms - 2 * points @ others.T, 0)


def scaled(cost: Cost, factor: Float[Array, ""] | float) -> Cost:
    """``factor * cost``."""
    return cost.replace(left=factor * cost.left) if isinstance(cost, Factored) else factor * cost


def dense(cost: Cost) -> Float[Array, "n n"]:
    """The matrix itself."""
    return cost.left @ cost.right.T if isinstance(cost, Factored) else cost


def apply(cost: Cost, vectors: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
    """``cost @ vectors``."""
    return cost.left @ (cost.right.T @ vectors) if isinstance(cost, Factored) else cost @ vectors


def apply_squared(cost: Cost, vector: Float[Array, " n"]) -> Float[Array, " n"]:
    """``(cost * cost) @ vector`` with the entrywise square; the square of rank r has rank r²."""
    if isinstance(cost, Factored):
        middle = (cost.right * vector[:, None]).T @ cost.right
        return jnp.sum((cost.left @ middle) * cost.left, axis=1)
    return (cost * cost) @ vector


def sandwich(source: Cost, plan: Float[Array, "n m"], target: Cost) -> Float[Array, "n m"]:
    """``source @ plan @ target`` without an n × n array where the costs are factored."""
    if isinstance(target, Factored):
        inner = plan @ target.right
        if isinstance(source, Factored):
            return source.left @ (source.right.T @ inner) @ target.left.T
        return (source @ inner) @ target.left.T
    return apply(source, plan) @ target


def mean_cost(
    cost: Float[Array, "n m"], source_weights: Float[Array, " n"], target_weights: Float[Array, " m"]
) -> Float[Array, ""]:
    """Weighted mean of a cost between sections; padding, with weight 0, does not count."""
    total = jnp.sum(source_weights) * jnp.sum(target_weights)
    return source_weights @ jnp.abs(cost) @ target_weights / total
