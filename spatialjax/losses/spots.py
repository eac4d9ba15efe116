"""The convention of every loss: a weighted sum over spots and the weight that belongs to it."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

#: Weight of each spot in a loss, or a mask: 0 on padding and in halos.
Weight = Float[Array, "n"] | Bool[Array, "n"]

#: A loss: sum and weight; ``algorithm.weighted_mean`` divides them, ``algorithm.joint`` adds them over sections.
Loss = tuple[Float[Array, ""], Float[Array, ""]]


def over_spots(values: Float[Array, "n"], weight: Weight) -> Loss:
    """Σ weight × value and Σ weight; values where the weight is 0 are not read.

    Parameters
    ----------
    values
        Loss of each spot.
    weight
        Weight of each spot, or a mask: 0 on padding and in halos.
    """
    values = jnp.asarray(values)
    weight = jnp.asarray(weight, values.dtype)
    return (weight * jnp.where(weight != 0, values, 0.0)).sum(), weight.sum()


def of_all(value: Float[Array, ""], weight: Weight) -> Loss:
    """A statistic of all spots of a section as a loss: value × Σ weight and Σ weight.

    Parameters
    ----------
    value
        The statistic.
    weight
        Weight of each spot, or a mask.
    """
    size = jnp.asarray(weight, jnp.float32).sum()
    return value * size, size
