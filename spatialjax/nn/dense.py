"""Dense blocks with normalisation that does not see padding, and the reversal of gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015) whose statistics are weighted, so that padding does not count.

    The running statistics are the collection ``batch_stats``: pass them in and take them back with
    ``mutable=["batch_stats"]`` in training.

    Attributes
    ----------
    momentum
        Share of the new batch in the running statistics.
    epsilon
        Added to the variance.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, h: Float[Array, "n p"], weights: Float[Array, "n"], *, train: bool = False
    ) -> Float[Array, "n p"]:
        """Normalise the columns.

        Parameters
        ----------
        h
            Values of the spots.
        weights
            Weights of the spots in the statistics, 0 on padding.
        train
            Use (and remember) the statistics of these spots; otherwise the running ones.
        """
        width = h.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, (width,))
        variance = self.variable("batch_stats", "variance", jnp.ones, (width,))
        scale = self.param("scale", nn.initializers.ones, (width,))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        centre, spread = mean.value, variance.value
        if train:
            share = _shares(weights)
            centre = share @ h
            spread = share @ (h - centre) ** 2
            if not self.is_initializing():
                moved = [(mean, centre), (variance, spread)]
                for running, new in moved:
                    running.value = (1 - self.momentum) * running.value + self.momentum * jax.lax.stop_gradient(new)
        return (h - centre) * jax.lax.rsqrt(spread + self.epsilon) * scale + bias


class DenseBlock(nn.Module):
    """Dense layer, normalisation, activation, dropout.

    Attributes
    ----------
    features
        Width of the output.
    norm
        ``"batch"`` (weighted, see :class:`BatchNorm`), ``"layer"`` or None.
    activation
        Function of the values, or None.
    dropout
        Probability that a value is dropped in training.
    use_bias
        Whether the dense layer has a bias.
    momentum, epsilon
        Of the batch normalisation.
    """

    features: int
    norm: Literal["batch", "layer"] | None = "batch"
    activation: Callable[[Any], Any] | None = nn.elu
    dropout: float = 0.0
    use_bias: bool = True
    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, h: Float[Array, "n p"], weights: Float[Array, "n"], *, train: bool = False, key: Any = None
    ) -> Float[Array, "n q"]:
        """Apply the block.

        Parameters
        ----------
        h
            Values of the spots.
        weights
            Weights of the spots, 0 on padding; read by batch normalisation only.
        train
            Whether statistics are those of the batch and values are dropped.
        key
            Random key of the dropout.

        Raises
        ------
        ValueError
            If ``norm`` is unknown, or values are to be dropped without a key.
        """
        h = nn.Dense(self.features, use_bias=self.use_bias)(h)
        if self.norm == "batch":
            h = BatchNorm(self.momentum, self.epsilon)(h, weights, train=train)
        elif self.norm == "layer":
            h = nn.LayerNorm()(h)
        elif self.norm is not None:
            raise ValueError(f"Expected norm to be 'batch', 'layer' or None, found {self.norm!r}.")
        h = h if self.activation is None else self.activation(h)
        return drop(h, self.dropout, key) if train else h


class Discriminator(nn.Module):
    """Dense blocks and logits, e.g. of the section that an embedding comes from.

    Attributes
    ----------
    classes
        Number of classes.
    widths
        Widths of the hidden layers, each batch-normalised with a leaky rectifier.
    dropout
        Dropout after each of them.
    momentum, epsilon
        Of the batch normalisation.
    """

    classes: int
    widths: tuple[int, ...] = (64, 64)
    dropout: tuple[float, ...] = (0.0, 0.0)
    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, h: Float[Array, "n p"], weights: Float[Array, "n"], *, key: Any = None) -> Float[Array, "n k"]:
        """Logits of the classes.

        Parameters
        ----------
        h
            Values of the spots.
        weights
            Weights of the spots in the statistics, 0 on padding.
        key
            Random key of the dropout; with it statistics are those of the batch, without it the running ones.
        """
        keys = [None] * len(self.widths) if key is None else list(jax.random.split(key, len(self.widths)))
        for width, rate, own in zip(self.widths, self.dropout, keys, strict=True):
            block = DenseBlock(
                width, activation=nn.leaky_relu, dropout=rate, momentum=self.momentum, epsilon=self.epsilon
            )
            h = block(h, weights, train=key is not None, key=own)
        return nn.Dense(self.classes)(h)


def drop(h: Float[Array, "*n p"], rate: float, key: Any) -> Float[Array, "*n p"]:
    """Dropout: each value is 0 with probability ``rate``, the others grow by 1 / (1 − rate).

    Raises
    ------
    ValueError
        If the rate is outside [0, 1), or is above 0 and there is no key.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"Expected a dropout rate from 0 up to below 1, found {rate}.")
    if rate == 0:
        return h
    if key is None:
        raise ValueError(f"Expected a random key for dropout at rate {rate}, found None: pass key=.")
    return jnp.where(jax.random.bernoulli(key, 1 - rate, h.shape), h / (1 - rate), 0.0)


@jax.custom_vjp
def reverse_gradient(h: Float[Array, "*n"], strength: Float[Array, ""] | float) -> Float[Array, "*n"]:
    """The values themselves forward, their gradient times −``strength`` backward (Ganin and Lempitsky 2015).

    An encoder followed by this and a discriminator is trained against the discriminator in one step.
    """
    del strength
    return h


def _reverse_forward(h: Any, strength: Any) -> tuple[Any, Any]:
    return h, jnp.asarray(strength)


def _reverse_backward(strength: Any, slope: Any) -> tuple[Any, Any]:
    return -strength * slope, jnp.zeros_like(strength)


reverse_gradient.defvjp(_reverse_forward, _reverse_backward)


def _shares(weights: Any) -> Any:
    weights = jnp.asarray(weights, jnp.float32)
    return weights / jnp.maximum(weights.sum(), 1e-12)
