"""How far a predicted composition is from the true one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from spatialjax.losses.spots import Loss, Weight, over_spots


def composition_kl(logits: Float[Array, "n k"], shares: Float[Array, "n k"], weight: Weight) -> Loss:
    """KL divergence Σ_k p log(p / softmax(logits)) of the prediction from the true shares.

    Parameters
    ----------
    logits
        Of each spot and type.
    shares
        True shares p, each row sums to 1.
    weight
        Weight of each spot, 0 on padding.
    """
    known = jnp.where(shares > 0, shares * jnp.log(jnp.where(shares > 0, shares, 1.0)), 0.0)
    return over_spots((known - shares * jax.nn.log_softmax(logits)).sum(-1), weight)


def kl_minus_cosine(
    prediction: Float[Array, "n p"], target: Float[Array, "n p"], weight: Weight, *, least: float = 1e-7
) -> Loss:
    """Mean over the columns of t log(t / q), minus the cosine of prediction and target (Xu et al. 2023).

    t and q are target and prediction scaled to sum to 1, each held to at least ``least``: of values below 0 the first
    term sees nothing, the cosine does.

    Parameters
    ----------
    prediction, target
        Values of the spots.
    weight
        Weight of each spot, 0 on padding.
    least
        Share that stands for none in a logarithm.
    """
    t, q = _as_shares(target, least), _as_shares(prediction, least)
    length = jax.lax.rsqrt((target**2).sum(-1) + 1e-12) * jax.lax.rsqrt((prediction**2).sum(-1) + 1e-12)
    cosine = (target * prediction).sum(-1) * length
    return over_spots((t * jnp.log(t / q)).mean(-1) - cosine, weight)


def _as_shares(values: Float[Array, "n p"], least: float) -> Float[Array, "n p"]:
    positive = jnp.maximum(values, least)
    return positive / positive.sum(-1, keepdims=True)
