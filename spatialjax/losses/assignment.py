"""Soft assignment of spots to clusters: DEC and balanced prototypes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from spatialjax.losses.spots import Loss, Weight, over_spots


def student_t(
    z: Float[Array, "n z"], centres: Float[Array, "k z"], *, alpha: float = 1.0, exponent: float | None = None
) -> Float[Array, "n k"]:
    """Share of each cluster in each spot by a Student kernel, (1 + ‖z − μ‖² / α)^−exponent, rows summing to 1.

    Parameters
    ----------
    z
        Embedding of the spots.
    centres
        Centres of the clusters.
    alpha
        Degrees of freedom.
    exponent
        (α + 1) / 2 where left out, as published for DEC (Xie et al. 2016) and SpaGCN. SpaGCN as coded raises to α + 1
        (``q**(alpha + 1.0) / 2.0`` halves the value, not the exponent, and the half cancels): pass ``alpha + 1``.
    """
    power = 0.5 * (alpha + 1.0) if exponent is None else exponent
    square = ((z[:, None] - centres[None]) ** 2).sum(-1)
    return jax.nn.softmax(-power * jnp.log1p(square / alpha), axis=-1)


def sharpened(q: Float[Array, "n k"], weight: Weight) -> Float[Array, "n k"]:
    """Target of DEC: q² over the size of the cluster, rows summing to 1; no gradient.

    Parameters
    ----------
    q
        Shares of the clusters.
    weight
        Weight of each spot in the sizes, 0 on padding.
    """
    weight = jnp.asarray(weight, q.dtype)
    target = q**2 / jnp.maximum(weight @ q, 1e-12)
    return jax.lax.stop_gradient(target / jnp.maximum(target.sum(-1, keepdims=True), 1e-12))


def assignment_kl(q: Float[Array, "n k"], target: Float[Array, "n k"], weight: Weight) -> Loss:
    """KL divergence Σ_k p log(p / q) of the shares from their target, the clustering loss of DEC.

    Parameters
    ----------
    q
        Shares of the clusters, from :func:`student_t`.
    target
        From :func:`sharpened`, kept for some steps.
    weight
        Weight of each spot.
    """
    ratio = jnp.log(jnp.maximum(target, 1e-12)) - jnp.log(jnp.maximum(q, 1e-12))
    return over_spots((target * ratio).sum(-1), weight)


def balanced_assignment(
    scores: Float[Array, "n k"], weight: Weight, *, epsilon: float = 0.05, steps: int = 3
) -> Float[Array, "n k"]:
    """Shares of prototypes that use all prototypes equally, by Sinkhorn steps in logarithms; no gradient.

    The online clustering of SwAV (Caron et al. 2020).

    Parameters
    ----------
    scores
        Similarity of each spot and prototype, e.g. cosines.
    weight
        Weight of each spot in the balance, 0 on padding.
    epsilon
        Entropy: small values give hard shares.
    steps
        Number of Sinkhorn steps.
    """
    weight = jnp.asarray(weight, scores.dtype)
    mass = jnp.where(weight > 0, jnp.log(jnp.where(weight > 0, weight, 1.0)), -1e30)[:, None]
    logits = jax.lax.stop_gradient(scores) / epsilon

    def step(_: int, column: Float[Array, "k"]) -> Float[Array, "k"]:
        share = jax.nn.log_softmax(logits - column, axis=-1)
        return column + jax.nn.logsumexp(share + mass, axis=0)

    column = jax.lax.fori_loop(0, steps, step, jnp.zeros(scores.shape[-1], scores.dtype))
    return jax.nn.softmax(logits - column, axis=-1)


def swapped_assignment(
    scores: tuple[Float[Array, "n k"], Float[Array, "n k"]],
    weight: Weight,
    *,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    steps: int = 3,
) -> Loss:
    """Cross entropy of each of two views with the balanced shares of the other (SwAV, Caron et al. 2020).

    Parameters
    ----------
    scores
        Similarity of each spot and prototype in the two views.
    weight
        Weight of each spot.
    temperature
        Divides the scores that are trained.
    epsilon, steps
        See :func:`balanced_assignment`.
    """
    first, second = scores

    def one(target: Float[Array, "n k"], trained: Float[Array, "n k"]) -> Float[Array, "n"]:
        share = balanced_assignment(target, weight, epsilon=epsilon, steps=steps)
        return -(share * jax.nn.log_softmax(trained / temperature, axis=-1)).sum(-1)

    return over_spots(0.5 * (one(first, second) + one(second, first)), weight)


def cross_entropy(logits: Float[Array, "n k"], labels: Int[Array, "n"], weight: Weight) -> Loss:
    """Cross entropy with integer labels, e.g. of a discriminator of sections.

    Parameters
    ----------
    logits
        Of each spot and class.
    labels
        (n,) number of the class; any value in range on padding.
    weight
        Weight of each spot.
    """
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), labels[:, None].astype(jnp.int32), 1)
    return over_spots(-chosen[:, 0], weight)
