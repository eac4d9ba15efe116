"""Families of distributions that numpyro lacks, for ``numpyro.sample`` in a model."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from numpyro.distributions import Distribution, constraints
from numpyro.distributions.util import promote_shapes, validate_sample

from spatialjax.probability.lognormal import poisson_lognormal_log_prob


class PoissonLogNormal(Distribution):
    """Counts y ~ Poisson(μ e^ε) with ε ~ N(0, σ²), the errors integrated out.

    A model without a latent error for each count: ``numpyro.sample("counts", PoissonLogNormal(log_mean, sigma),
    obs=counts)``.

    Parameters
    ----------
    log_mean
        log μ, the logarithm of the median of the mean.
    sigma
        σ, above 0.
    validate_args
        As everywhere in numpyro.

    References
    ----------
    Aitchison & Ho (1989), Biometrika 76.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"log_mean": constraints.real, "sigma": constraints.positive}
    support = constraints.nonnegative_integer
    pytree_data_fields = ("log_mean", "sigma")

    def __init__(
        self, log_mean: Float[Array, "..."] | float, sigma: Float[Array, "..."] | float, *, validate_args: Any = None
    ) -> None:
        self.log_mean, self.sigma = promote_shapes(log_mean, sigma)
        shape = jax.lax.broadcast_shapes(jnp.shape(log_mean), jnp.shape(sigma))
        super().__init__(batch_shape=shape, validate_args=validate_args)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Int[Array, "..."]:
        """Counts of shape ``sample_shape + batch_shape``: an error each, then a Poisson draw.

        Parameters
        ----------
        key
            Random key.
        sample_shape
            Shape of independent draws.
        """
        error, count = jax.random.split(key)
        shape = sample_shape + self.batch_shape
        rate = jnp.exp(self.log_mean + self.sigma * jax.random.normal(error, shape))
        return jax.random.poisson(count, rate, shape)

    @validate_sample
    def log_prob(self, value: Any) -> Float[Array, "..."]:
        """Log probability of counts, see ``poisson_lognormal_log_prob``.

        Parameters
        ----------
        value
            Counts of a shape that broadcasts.
        """
        return poisson_lognormal_log_prob(value, self.log_mean, self.sigma)

    @property
    def mean(self) -> Float[Array, "..."]:
        """``μ exp(σ²/2)``."""
        return jnp.broadcast_to(jnp.exp(self.log_mean + 0.5 * jnp.square(self.sigma)), self.batch_shape)

    @property
    def variance(self) -> Float[Array, "..."]:
        """``m + m² (exp(σ²) − 1)`` with the mean m."""
        return self.mean + jnp.square(self.mean) * jnp.expm1(jnp.square(self.sigma))
