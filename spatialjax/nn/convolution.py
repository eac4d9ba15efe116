"""Graph convolutions: GCN, residual, Chebyshev."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from spatialjax.nn.messages import Graph, propagate

Normalisation = Literal["symmetric", "left", "none"]
SelfLoop = Literal["before", "after", "none"]


class GraphConvolution(nn.Module):
    """Graph convolution ÂHW + b (Kipf and Welling 2017), computed on the narrower side of W.

    Attributes
    ----------
    features
        Width of the output.
    normalisation
        See :func:`spatialjax.nn.propagate`.
    self_loop
        See :func:`spatialjax.nn.propagate`.
    use_bias
        Whether a bias is added.
    """

    features: int
    normalisation: Normalisation = "symmetric"
    self_loop: SelfLoop = "before"
    use_bias: bool = True

    @nn.compact
    def __call__(self, h: Float[Array, "n p"], graph: Graph) -> Float[Array, "n q"]:
        """Convolve.

        Parameters
        ----------
        h
            Values of the spots.
        graph
            The neighbours.
        """
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (h.shape[-1], self.features))

        def passed(values: Any) -> Any:
            return propagate(values, graph, normalisation=self.normalisation, self_loop=self.self_loop)

        out = passed(h @ kernel) if self.features < h.shape[-1] else passed(h) @ kernel
        return out + self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else out


class ResidualConvolution(nn.Module):
    """H + σ(ÂHW + b); the first term goes through a matrix of its own where the widths differ.

    Attributes
    ----------
    features
        Width of the output.
    activation
        σ.
    normalisation
        See :func:`spatialjax.nn.propagate`.
    self_loop
        See :func:`spatialjax.nn.propagate`.
    """

    features: int
    activation: Callable[[Any], Any] = nn.relu
    normalisation: Normalisation = "symmetric"
    self_loop: SelfLoop = "before"

    @nn.compact
    def __call__(self, h: Float[Array, "n p"], graph: Graph) -> Float[Array, "n q"]:
        """Convolve and add.

        Parameters
        ----------
        h
            Values of the spots.
        graph
            The neighbours.
        """
        convolution = GraphConvolution(self.features, normalisation=self.normalisation, self_loop=self.self_loop)
        kept = h if h.shape[-1] == self.features else nn.Dense(self.features, use_bias=False, name="kept")(h)
        return kept + self.activation(convolution(h, graph))


class ChebyshevConvolution(nn.Module):
    """Σ_k T_k(L̃) H W_k + b with L̃ = 2L/λ − I, L = I − Â without self loops (Defferrard et al. 2016).

    Attributes
    ----------
    features
        Width of the output.
    order
        Highest power of the Laplacian: order + 1 weight matrices.
    normalisation
        Of the Laplacian: ``"symmetric"``, or ``"left"`` for I − D^-1 A.
    use_bias
        Whether a bias is added.
    """

    features: int
    order: int = 2
    normalisation: Literal["symmetric", "left"] = "symmetric"
    use_bias: bool = True

    @nn.compact
    def __call__(
        self, h: Float[Array, "n p"], graph: Graph, top: Float[Array, ""] | float = 2.0
    ) -> Float[Array, "n q"]:
        """Convolve.

        Parameters
        ----------
        h
            Values of the spots.
        graph
            The neighbours.
        top
            Largest eigenvalue λ of L: 2 is its upper bound, :func:`top_eigenvalue` estimates it.

        Raises
        ------
        ValueError
            If the order is negative.
        """
        if self.order < 0:
            raise ValueError(f"Expected an order of at least 0, found {self.order}.")

        def rescaled(values: Any) -> Any:
            return 2.0 / top * _laplacian(values, graph, self.normalisation) - values

        shape = (h.shape[-1], self.features)
        before, now, out = None, h, 0.0
        for power in range(self.order + 1):
            out = out + now @ self.param(f"kernel{power}", nn.initializers.xavier_uniform(), shape)
            if power < self.order:
                before, now = now, rescaled(now) if before is None else 2.0 * rescaled(now) - before
        return out + self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else out


def top_eigenvalue(graph: Graph, *, count: int, steps: int = 50) -> Float[Array, ""]:
    """Largest eigenvalue of the normalised Laplacian of a symmetric graph by power iteration, from below.

    The random-walk Laplacian I − D^-1 A has the same one.

    Parameters
    ----------
    graph
        The neighbours.
    count
        Number of spots, padding included.
    steps
        Steps of the iteration.
    """
    start = jnp.cos(2.4 * jnp.arange(count, dtype=jnp.float32))[:, None]

    def unit(v: Any) -> Any:
        return v * jax.lax.rsqrt((v**2).sum() + 1e-20)

    def step(_: Any, v: Any) -> Any:
        return unit(_laplacian(v, graph, "symmetric"))

    v = jax.lax.fori_loop(0, steps, step, unit(_laplacian(start, graph, "symmetric")))
    return jnp.maximum((v * _laplacian(v, graph, "symmetric")).sum(), 1e-6)


def _laplacian(values: Any, graph: Graph, normalisation: str) -> Any:
    """(I − Â) values; 0 on spots without an edge, padding among them."""
    joined = propagate(jnp.ones_like(values[:, :1]), graph, normalisation="none", self_loop="none") > 0
    passed = propagate(values, graph, normalisation=normalisation, self_loop="none")
    return jnp.where(joined, values - passed, 0.0)
