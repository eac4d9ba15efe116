"""Negative log-likelihoods of raw counts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

from spatialjax.losses.spots import Loss, Weight, over_spots


def negative_binomial(
    counts: Float[Array, "n p"], mean: Float[Array, "n p"], log_size: Float[Array, "*n p"], *, weight: Weight
) -> Loss:
    """Negative log-likelihood of a negative binomial, summed over the genes.

    Variance mean + mean² / size; for a large size the Poisson likelihood (Lopez et al. 2018).

    Parameters
    ----------
    counts
        Raw counts.
    mean
        Expected counts, at least 0.
    log_size
        Logarithm of the size (inverse dispersion), of each gene, (p,), or gene and spot; held between −10 and 10.
    weight
        Weight of each spot, 0 on padding.
    """
    counts, mean, log_size = _safe(counts, mean, log_size, weight)
    return over_spots(-_log_likelihood(counts, mean, log_size).sum(-1), weight)


def zero_inflated_negative_binomial(
    counts: Float[Array, "n p"],
    mean: Float[Array, "n p"],
    log_size: Float[Array, "*n p"],
    *,
    zero_logit: Float[Array, "*n p"],
    weight: Weight,
) -> Loss:
    """Negative log-likelihood of a negative binomial with a share of extra zeros, summed over the genes.

    Parameters
    ----------
    counts
        Raw counts.
    mean
        Expected counts where there is no extra zero.
    log_size
        Logarithm of the size, as in :func:`negative_binomial`.
    zero_logit
        Logit of the share of extra zeros.
    weight
        Weight of each spot, 0 on padding.
    """
    counts, mean, log_size = _safe(counts, mean, log_size, weight)
    zero_logit = jnp.where((jnp.asarray(weight) != 0)[:, None], zero_logit, 0.0)
    kept = _log_likelihood(counts, mean, log_size) - jax.nn.softplus(zero_logit)
    at_zero = jnp.logaddexp(kept, -jax.nn.softplus(-zero_logit))
    return over_spots(-jnp.where(counts < 0.5, at_zero, kept).sum(-1), weight)


def _log_likelihood(counts: Any, mean: Any, log_size: Any) -> Any:
    """With t = log(mean / size): −size·softplus(t) + counts·(t − softplus(t)) + the binomial coefficient."""
    size = jnp.exp(log_size)
    ratio = jnp.log(mean + 1e-10) - log_size
    binomial = gammaln(counts + size) - gammaln(size) - gammaln(counts + 1.0)
    return binomial - size * jax.nn.softplus(ratio) - counts * jax.nn.softplus(-ratio)


def _safe(counts: Any, mean: Any, log_size: Any, weight: Any) -> tuple[Any, Any, Any]:
    """The parameters with harmless values on padding, so that gradients stay finite there."""
    real = (jnp.asarray(weight) != 0)[:, None]
    log_size = jnp.where(real, jnp.clip(log_size, -10.0, 10.0), 0.0)
    return jnp.where(real, counts, 0.0), jnp.where(real, mean, 1.0), log_size
