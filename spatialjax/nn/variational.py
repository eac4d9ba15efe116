"""Encoder and decoder of variational auto-encoders of raw counts, under a condition; the dense layers of both."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from spatialjax.nn.dense import DenseBlock
from spatialjax.nn.heads import CountHead, CountParameters, Gaussian, GaussianHead


class DenseStack(nn.Module):
    """Dense blocks with layer normalisation and rectifier.

    Attributes
    ----------
    widths
        Widths of the blocks.
    dropout
        Probability that a value is dropped after each of them in training.
    features
        Width of a linear layer behind them; none where left out.
    """

    widths: tuple[int, ...]
    dropout: float = 0.0
    features: int | None = None

    @nn.compact
    def __call__(self, h: Float[Array, "n p"], *, key: Any = None) -> Float[Array, "n q"]:
        """Apply the blocks.

        Parameters
        ----------
        h
            Values of the rows.
        key
            Random key of the dropout; without it nothing is dropped.
        """
        keys = [None] * len(self.widths) if key is None else list(jax.random.split(key, len(self.widths)))
        for width, own in zip(self.widths, keys, strict=True):
            block = DenseBlock(width, norm="layer", activation=jax.nn.relu, dropout=self.dropout)
            h = block(h, jnp.ones(len(h)), train=own is not None, key=own)
        return h if self.features is None else nn.Dense(self.features)(h)


class CountEncoder(nn.Module):
    """Latent Gaussian of each row of counts (Lopez et al. 2018): log1p, dense blocks with layer normalisation.

    Attributes
    ----------
    latent
        Number of latent columns.
    widths
        Widths of the hidden layers.
    dropout
        Probability that a value is dropped in training.
    """

    latent: int
    widths: tuple[int, ...] = (128, 128)
    dropout: float = 0.1

    @nn.compact
    def __call__(
        self, counts: Float[Array, "n g"], condition: Float[Array, "n c"] | None = None, *, key: Any = None
    ) -> Gaussian:
        """Parameters of the latent Gaussian, and a draw.

        Parameters
        ----------
        counts
            Raw counts.
        condition
            What else is known of each row, such as its type as one-hot numbers.
        key
            Random key of dropout and draw; without it nothing is dropped and the mean is taken.
        """
        log = jnp.log1p(counts)
        h = log if condition is None else jnp.concatenate([log, condition], -1)
        dense_key, draw_key = (None, None) if key is None else jax.random.split(key)
        return GaussianHead(self.latent)(DenseStack(self.widths, self.dropout)(h, key=dense_key), draw_key)


class CountDecoder(nn.Module):
    """Parameters of the counts of each row from its latent place: dense blocks, then :class:`CountHead`.

    Attributes
    ----------
    features
        Number of genes.
    widths
        Widths of the hidden layers.
    dropout
        Probability that a value is dropped in training.
    dispersion, zeros
        See :class:`CountHead`.
    """

    features: int
    widths: tuple[int, ...] = (128, 128)
    dropout: float = 0.0
    dispersion: Literal["gene", "spot"] = "gene"
    zeros: bool = False

    @nn.compact
    def __call__(
        self, z: Float[Array, "n z"], condition: Float[Array, "n c"], *, library: Float[Array, "n"], key: Any = None
    ) -> CountParameters:
        """Parameters of the counts.

        Parameters
        ----------
        z
            Latent places.
        condition
            What is known of each row, such as its type as one-hot numbers.
        library
            Total raw counts of each row; 1 for shares.
        key
            Random key of the dropout.
        """
        h = DenseStack(self.widths, self.dropout)(jnp.concatenate([z, condition], -1), key=key)
        return CountHead(self.features, dispersion=self.dispersion, zeros=self.zeros, name="head")(h, library)
