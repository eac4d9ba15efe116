"""What stands at the end of a network: latent Gaussians, count distributions, pairs of spots."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Gaussian(NamedTuple):
    """A latent Gaussian of each spot.

    Attributes
    ----------
    mean, log_sd
        (n, z) parameters.
    sample
        (n, z) one draw, or the mean where no key was given.
    """

    mean: Float[Array, "n z"]
    log_sd: Float[Array, "n z"]
    sample: Float[Array, "n z"]


class GaussianHead(nn.Module):
    """Mean, log standard deviation and a reparametrised draw (Kingma and Welling 2014).

    Attributes
    ----------
    features
        Number of latent columns.
    """

    features: int

    @nn.compact
    def __call__(self, h: Float[Array, "n p"], key: Any = None) -> Gaussian:
        """Parameters and a draw.

        Parameters
        ----------
        h
            Values of the spots.
        key
            Random key of the draw; the mean is taken where left out.
        """
        return draw(nn.Dense(self.features, name="mean")(h), nn.Dense(self.features, name="log_sd")(h), key)


def draw(mean: Float[Array, "n z"], log_sd: Float[Array, "n z"], key: Any = None) -> Gaussian:
    """A reparametrised draw, for means and deviations from any layer.

    Parameters
    ----------
    mean, log_sd
        Parameters; the logarithm is held between −10 and 10.
    key
        Random key; the mean is taken where left out.
    """
    log_sd = jnp.clip(log_sd, -10.0, 10.0)
    if key is None:
        return Gaussian(mean, log_sd, mean)
    return Gaussian(mean, log_sd, mean + jnp.exp(log_sd) * jax.random.normal(key, mean.shape, mean.dtype))


class CountParameters(NamedTuple):
    """Parameters of a negative binomial, with or without extra zeros; see ``losses.negative_binomial``.

    Attributes
    ----------
    mean
        (n, p) expected raw counts.
    log_size
        Logarithm of the size (inverse dispersion), (p,) or (n, p): variance mean + mean² / size.
    zero_logit
        (n, p) logit of the share of extra zeros, or None.
    """

    mean: Float[Array, "n p"]
    log_size: Float[Array, "*n p"]
    zero_logit: Float[Array, "n p"] | None


class CountHead(nn.Module):
    """Parameters of raw counts: library size × softmax, and the size of the negative binomial.

    Attributes
    ----------
    features
        Number of genes.
    dispersion
        ``"gene"`` has one size a gene, ``"spot"`` one a gene and spot.
    zeros
        Whether there are extra zeros (ZINB).
    """

    features: int
    dispersion: Literal["gene", "spot"] = "gene"
    zeros: bool = False

    @nn.compact
    def __call__(self, h: Float[Array, "n p"], library: Float[Array, "n"]) -> CountParameters:
        """Parameters of the counts.

        Parameters
        ----------
        h
            Values of the spots.
        library
            Total raw counts of each spot; 0 on padding.

        Raises
        ------
        ValueError
            If ``dispersion`` is unknown.
        """
        mean = jax.nn.softmax(nn.Dense(self.features, name="mean")(h), axis=-1) * library[:, None]
        if self.dispersion == "gene":
            log_size = self.param("log_size", nn.initializers.zeros, (self.features,))
        elif self.dispersion == "spot":
            log_size = nn.Dense(self.features, name="log_size")(h)
        else:
            raise ValueError(f"Expected dispersion to be 'gene' or 'spot', found {self.dispersion!r}.")
        return CountParameters(mean, log_size, nn.Dense(self.features, name="zero")(h) if self.zeros else None)


def inner_product(z: Float[Array, "n z"], first: Int[Array, "*e"], second: Int[Array, "*e"]) -> Float[Array, "*e"]:
    """Logits of edges between pairs of spots, their inner products (Kipf and Welling 2016); never n × n.

    Parameters
    ----------
    z
        Embedding of the spots.
    first, second
        Numbers of the spots of each pair, of shapes that broadcast; see ``losses.sampled_pairs``.
    """
    return (z[first] * z[second]).sum(-1)


class Bilinear(nn.Module):
    """Discriminator of pairs, aᵢᵀ W bᵢ + c (Veličković et al. 2019)."""

    @nn.compact
    def __call__(self, a: Float[Array, "n p"], b: Float[Array, "n q"]) -> Float[Array, "n"]:
        """Logit of each row pair.

        Parameters
        ----------
        a, b
            Values of the spots, e.g. embedding and ``neighbour_readout``.
        """
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (a.shape[-1], b.shape[-1]))
        return ((a @ kernel) * b).sum(-1) + self.param("bias", nn.initializers.zeros, ())
