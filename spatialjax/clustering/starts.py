"""Where clusterings start: rows in a canonical order, and centres by greedy k-means++.

The rows are put in the order of their values first (lexicographic in the leading columns) and everything is computed in
that order, so that a permutation of the rows permutes the labels, and two runs with one key agree.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

#: Leading columns that put the rows in order; rows that agree in all of them keep the order of the caller.
ORDERED_BY = 3


def row_weights(values: Float[Array, "n p"], mask: Bool[Array, " n"] | Float[Array, " n"] | None) -> Float[Array, " n"]:
    """The mask, or weights of the rows, as float weights; 1 for every row where left out."""
    return jnp.ones(len(values), values.dtype) if mask is None else mask.astype(values.dtype)


def canonical_order(values: Float[Array, "n p"], weight: Float[Array, " n"]) -> Int[Array, " n"]:
    """Row numbers in canonical order: rows with weight first, by their values in the leading columns."""
    columns = [values[:, c] for c in reversed(range(min(ORDERED_BY, values.shape[1])))]
    return jnp.lexsort([*columns, weight <= 0])


def plus_plus(
    key: Array, values: Float[Array, "n p"], weight: Float[Array, " n"], *, number: int
) -> Float[Array, "k p"]:
    """Start centres by greedy k-means++.

    Each next centre is the best of 2 + ln K rows drawn with probability ∝ weight × squared distance to the centres so
    far; the best is the one that leaves the smallest sum of squared distances.

    Parameters
    ----------
    key
        Random key.
    values
        (n, p) rows in canonical order.
    weight
        Weight of each row; 0 is never drawn, unless all weights are 0.
    number
        Number of centres. Fewer distinct rows give repeated centres.

    References
    ----------
    Arthur & Vassilvitskii (2007), Proceedings of SODA.
    """
    trials = 2 + int(math.log(max(number, 2)))
    norm = (values**2).sum(1)

    def draw(key: Array, chance: Float[Array, " n"], count: int) -> Int[Array, " c"]:
        total = jnp.cumsum(jnp.where(chance.sum() > 0, chance, weight))
        spot = jax.random.uniform(key, (count,), values.dtype) * total[-1]
        return jnp.minimum(jnp.searchsorted(total, spot, side="right"), len(values) - 1)

    def distances(rows: Float[Array, "c p"]) -> Float[Array, "n c"]:
        return jnp.maximum(norm[:, None] - 2 * values @ rows.T + (rows**2).sum(1), 0)

    def add(carry: tuple[Array, Array], step: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        centres, nearest = carry
        place, key = step
        rows = values[draw(key, weight * nearest, trials)]
        shorter = jnp.minimum(nearest[:, None], distances(rows))
        best = jnp.argmin(weight @ shorter)
        return (centres.at[place].set(rows[best]), shorter[:, best]), None

    keys = jax.random.split(key, number)
    first = values[draw(keys[0], weight, 1)]
    centres = jnp.zeros((number, values.shape[1]), values.dtype).at[0].set(first[0])
    (centres, _), _ = jax.lax.scan(add, (centres, distances(first)[:, 0]), (jnp.arange(1, number), keys[1:]))
    return centres


def centred(values: Float[Array, "n p"], weight: Float[Array, " n"]) -> tuple[Float[Array, "n p"], Float[Array, " p"]]:
    """The values minus their weighted mean (0 where the weight is 0), and that mean."""
    mean = weight @ values / jnp.maximum(weight.sum(), jnp.finfo(values.dtype).tiny)
    return jnp.where(weight[:, None] > 0, values - mean, 0), mean


def each_start(run: object, keys: Array) -> object:
    """``run(key)`` for every key: one after the other on a CPU, together on an accelerator."""
    return jax.lax.map(run, keys) if jax.default_backend() == "cpu" else jax.vmap(run)(keys)


def best_of(results: object, score: Float[Array, " s"]) -> object:
    """The member with the largest score; of equal ones the first."""
    best = jnp.argmax(jnp.where(jnp.isnan(score), -jnp.inf, score))
    return jax.tree.map(lambda leaf: leaf[best], results)
