"""How far a reconstruction is from what it should be."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from spatialjax.losses.spots import Loss, Weight, over_spots


def mse(prediction: Float[Array, "n p"], target: Float[Array, "n p"], weight: Weight) -> Loss:
    """Mean squared error: mean over the columns, sum over the spots.

    Parameters
    ----------
    prediction, target
        Values of the spots.
    weight
        Weight of each spot, 0 on padding (or those that were masked out of the input: only they then count).
    """
    return over_spots(((prediction - target) ** 2).mean(-1), weight)


def tied_reconstruction(
    target: Float[Array, "n p"],
    decoded: Float[Array, "n h"],
    kernel: Float[Array, "p h"],
    *,
    weight: Weight,
    projected: Float[Array, "n h"] | None = None,
) -> Loss:
    """:func:`mse` of a reconstruction ``decoded @ kernel.T``, without the n × p product.

    ‖X − HWᵀ‖² = ‖X‖² − 2⟨XW, H⟩ + ⟨HᵀH, WᵀW⟩. Applies wherever the last layer of a decoder is linear without bias; XW
    is free where W is also the first layer of the encoder, as in STAGATE. Value and gradients are those of the dense
    form up to rounding: the relative error of the value is about 1e-7 × ‖X‖² / ‖X − HWᵀ‖², so prefer :func:`mse` where
    a fit is nearly exact.

    Parameters
    ----------
    target
        X, features of the spots.
    decoded
        H, last hidden layer.
    kernel
        W, weights of the last layer, (columns of X, columns of H).
    weight
        Weight of each spot, 0 on padding.
    projected
        XW, where it was computed before.
    """
    weight = jnp.asarray(weight, jnp.float32)
    real = (weight != 0)[:, None]
    decoded = jnp.where(real, decoded, 0.0)
    projected = jnp.where(real, target @ kernel if projected is None else projected, 0.0)
    square, _ = over_spots((target**2).sum(-1), weight)
    cross = (weight[:, None] * projected * decoded).sum()
    gram = ((decoded.T @ (weight[:, None] * decoded)) * (kernel.T @ kernel)).sum()
    return (square - 2.0 * cross + gram) / target.shape[-1], weight.sum()


def scaled_cosine(
    prediction: Float[Array, "n p"], target: Float[Array, "n p"], weight: Weight, *, exponent: float = 3.0
) -> Loss:
    """Scaled cosine error (1 − cos)^exponent of each spot (Hou et al. 2022, GraphMAE).

    Parameters
    ----------
    prediction, target
        Values of the spots; a row of zeros has cosine 0.
    weight
        Weight of each spot: of the masked ones only, where the input was masked.
    exponent
        At least 1; larger ones make light of spots that fit already.
    """
    gap = jnp.maximum(1.0 - _cosine(prediction, target), 1e-7)
    return over_spots(gap**exponent, weight)


def log_cosine(
    prediction: Float[Array, "n p"], target: Float[Array, "n p"], weight: Weight, *, exponent: float = 2.0
) -> Loss:
    """The logarithmic form, −exponent · log((1 + cos) / 2), of STG3Net.

    Parameters
    ----------
    prediction, target
        Values of the spots.
    weight
        Weight of each spot.
    exponent
        Factor of the logarithm.
    """
    half = jnp.maximum(0.5 * (1.0 + _cosine(prediction, target)), 1e-7)
    return over_spots(-exponent * jnp.log(half), weight)


def gaussian_kl(mean: Float[Array, "n z"], log_sd: Float[Array, "n z"], weight: Weight) -> Loss:
    """KL divergence of N(mean, sd²) from N(0, 1), summed over the columns (Kingma and Welling 2014).

    Parameters
    ----------
    mean, log_sd
        Of each spot and latent column.
    weight
        Weight of each spot.
    """
    return over_spots(0.5 * (mean**2 + jnp.exp(2.0 * log_sd) - 1.0 - 2.0 * log_sd).sum(-1), weight)


def _cosine(a: Float[Array, "n p"], b: Float[Array, "n p"]) -> Float[Array, "n"]:
    length = jax.lax.rsqrt((a**2).sum(-1) + 1e-12) * jax.lax.rsqrt((b**2).sum(-1) + 1e-12)
    return (a * b).sum(-1) * length
