"""Corrupted inputs of self-supervised training; the same for real spots whatever the padding."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def shuffled_rows(key: Any, mask: Bool[Array, "n"]) -> Int[Array, "n"]:
    """A random permutation of the real spots; padding stays where it is.

    ``h[shuffled_rows(key, mask)]`` is the corrupted view of deep graph infomax (Veličković et al. 2019).

    Parameters
    ----------
    key
        Random key.
    mask
        True for real spots.
    """
    order = jnp.where(mask, jax.random.uniform(key, mask.shape), jnp.inf)
    real = jnp.argsort(~mask, stable=True)
    return jnp.zeros(mask.shape, real.dtype).at[real].set(jnp.argsort(order, stable=True))


def masked_rows(key: Any, mask: Bool[Array, "n"], rate: float) -> Bool[Array, "n"]:
    """True for real spots chosen with probability ``rate``, whose features are to be hidden and reconstructed.

    Parameters
    ----------
    key
        Random key.
    mask
        True for real spots.
    rate
        Probability, from 0 to 1.

    Raises
    ------
    ValueError
        If the rate is outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"Expected a masking rate between 0 and 1, found {rate}.")
    return jax.random.bernoulli(key, rate, mask.shape) & mask


def hide_rows(
    h: Float[Array, "n p"], hidden: Bool[Array, "n"], token: Float[Array, "p"] | float = 0.0
) -> Float[Array, "n p"]:
    """Replace the features of hidden spots by a token, learned or 0 (GraphMAE, Hou et al. 2022).

    Parameters
    ----------
    h
        Features of the spots.
    hidden
        From :func:`masked_rows`.
    token
        Features that take their place.
    """
    return jnp.where(hidden[:, None], token, h)
