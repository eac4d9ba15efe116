"""k-means with a mask: every step is two matrix products."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from spatialjax.clustering.starts import best_of, canonical_order, centred, each_start, plus_plus, row_weights


@struct.dataclass
class KMeans:
    """A fitted k-means.

    Attributes
    ----------
    labels
        (n,) cluster of each row, 0 for the largest cluster; 0 on padding.
    centres
        (k, p) means of the clusters; empty clusters come last.
    inertia
        Weighted sum of squared distances to the centres.
    converged
        Whether the labels stood still before the last step.
    """

    labels: Int[Array, " n"]
    centres: Float[Array, "k p"]
    inertia: Float[Array, ""]
    converged: Bool[Array, ""]


@partial(jax.jit, static_argnames=("number", "starts", "steps"))
def kmeans(
    key: Array,
    values: Float[Array, "n p"],
    mask: Bool[Array, " n"] | Float[Array, " n"] | None = None,
    *,
    number: int,
    starts: int = 10,
    steps: int = 100,
) -> KMeans:
    """Lloyd's algorithm from several greedy k-means++ starts; the one with the smallest inertia is returned.

    The rows are worked on in canonical order (see ``clustering.starts``), so a permutation of the rows permutes the
    labels. Works under ``jit`` and ``vmap``, over keys or over members of one shape.

    Parameters
    ----------
    key
        Random key of the starts.
    values
        (n, p) rows.
    mask
        True for real rows; or weights of at least 0.
    number
        Number of clusters. Fewer distinct rows leave clusters empty.
    starts
        Number of starts.
    steps
        Largest number of steps of a start.

    References
    ----------
    Lloyd (1982), IEEE Transactions on Information Theory 28; Arthur & Vassilvitskii (2007), Proceedings of SODA.
    """
    weight = row_weights(values, mask)
    order = canonical_order(values, weight)
    weight = weight[order]
    x, mean = centred(values[order], weight)
    runs = each_start(lambda k: _lloyd(k, x, weight, number=number, steps=steps), jax.random.split(key, starts))
    labels, centres, inertia, converged = best_of(runs, -runs[2])
    size = weight @ jax.nn.one_hot(labels, number, dtype=x.dtype)
    rank = jnp.argsort(-size, stable=True)
    labels = jnp.where(weight > 0, jnp.argsort(rank)[labels], 0)
    back = jnp.zeros(len(order), jnp.int32).at[order].set(labels.astype(jnp.int32))
    return KMeans(back, centres[rank] + mean, inertia, converged)


def nearest_centre(
    values: Float[Array, "n p"], centres: Float[Array, "k p"]
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """The nearest centre of each row and the squared distance to it."""
    half = 0.5 * (centres**2).sum(1) - values @ centres.T
    return jnp.argmin(half, 1).astype(jnp.int32), jnp.maximum(2 * half.min(1) + (values**2).sum(1), 0)


def _lloyd(
    key: Array, x: Float[Array, "n p"], weight: Float[Array, " n"], *, number: int, steps: int
) -> tuple[Array, ...]:
    def unfinished(state: Any) -> Bool[Array, ""]:
        _, _, moved, step = state
        return moved & (step < steps)

    def advance(state: Any) -> Any:
        centres, labels, _, step = state
        member = jax.nn.one_hot(labels, number, dtype=x.dtype) * weight[:, None]
        size = member.sum(0)[:, None]
        centres = jnp.where(size > 0, member.T @ x / jnp.where(size > 0, size, 1), centres)
        new, _ = nearest_centre(x, centres)
        return centres, new, (new != labels).any(), step + 1

    centres = plus_plus(key, x, weight, number=number)
    labels, _ = nearest_centre(x, centres)
    centres, labels, moved, _ = jax.lax.while_loop(
        unfinished, advance, (centres, labels, jnp.bool_(True), jnp.int32(0))
    )
    _, distance = nearest_centre(x, centres)
    return labels, centres, weight @ distance, ~moved
