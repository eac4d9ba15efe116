"""Maps of cells onto spots that sum to one over the spots: what they predict, a block of cells at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

#: Cells of a block.
BLOCK = 256
#: Stands for the logarithm of no probability.
_NEVER = -1e30


class Predicted(NamedTuple):
    """What a map makes of the cells.

    Attributes
    ----------
    values
        (n, g) sum over the cells of their values, each times its probability at the spot.
    density
        (n,) sum of the weights of the cells times their probabilities.
    entropy
        Sum over the cells of the entropy of where they are, nats.
    """

    values: Float[Array, "n g"]
    density: Float[Array, " n"]
    entropy: Float[Array, ""]


def predicted(
    logits: Float[Array, "m n"],
    values: Float[Array, "m g"],
    weights: Float[Array, " m"],
    *,
    mask: Bool[Array, " n"],
    block: int = BLOCK,
) -> Predicted:
    """Values and weights of cells at the spots that a softmax over the spots gives them.

    Probabilities are formed a block of cells at a time, and again in the gradient: beside the logits there is never a
    table of cells and spots.

    Parameters
    ----------
    logits
        (m, n) of each cell at each spot.
    values
        (m, g) values of the cells, e.g. counts; weights are not multiplied in.
    weights
        (m,) weight of each cell in the density and the entropy; 0 for a place without a cell, whose values are 0 too.
    mask
        (n,) which spots there are.
    block
        Cells of a block.
    """
    size = min(block, len(logits))
    free = -len(logits) % size

    @jax.checkpoint
    def one(part: Any) -> Predicted:
        own, rows, mass = part
        log_map = jax.nn.log_softmax(jnp.where(mask, own, _NEVER), axis=1)
        shares = jnp.exp(log_map)
        surprise = -(shares * jnp.where(mask, log_map, 0.0)).sum(1)
        return Predicted(shares.T @ rows, mass @ shares, (mass > 0) @ surprise)

    def add(total: Predicted, part: Any) -> tuple[Predicted, None]:
        return jax.tree.map(jnp.add, total, one(part)), None

    def cut(table: Any) -> Any:
        padded = jnp.pad(table, ((0, free), *[(0, 0)] * (table.ndim - 1)))
        return padded.reshape(-1, size, *table.shape[1:])

    parts = tuple(cut(table) for table in (logits, values, weights))
    first = Predicted(
        jnp.zeros((logits.shape[1], values.shape[1])), jnp.zeros(logits.shape[1]), jnp.zeros((), logits.dtype)
    )
    if len(parts[0]) == 1:
        return one(tuple(part[0] for part in parts))
    return jax.lax.scan(add, first, parts)[0]
