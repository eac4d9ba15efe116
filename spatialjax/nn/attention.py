"""Graph attention: GAT, GATv2, and the auto-encoder with a tied decoder."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from spatialjax.nn.messages import Attention, Graph, attend, gather, softmax, spread

#: Xavier normal with gain √2: variance 4 / (fan in + fan out).
_XAVIER = nn.initializers.variance_scaling(2.0, "fan_avg", "normal")


def _score(name: str, values: Any) -> Any:
    if name == "sigmoid":
        return jax.nn.sigmoid(values)
    if name == "leaky_relu":
        return jax.nn.leaky_relu(values, 0.2)
    raise ValueError(f"Expected score to be 'sigmoid' or 'leaky_relu', found {name!r}.")


class GraphAttention(nn.Module):
    """Graph attention (Veličković et al. 2018): a softmax over neighbours and the spot itself of s(u·Wh_i + v·Wh_j).

    Only whether an edge is used counts, not its weight.

    Attributes
    ----------
    features
        Width of the output of each head.
    heads
        Number of heads.
    score
        What is applied before the softmax: ``"leaky_relu"`` as published, ``"sigmoid"`` as in STAGATE.
    join
        ``"concatenate"`` gives heads × features columns, ``"mean"`` features.
    use_bias
        Whether a bias is added.
    """

    features: int
    heads: int = 1
    score: Literal["sigmoid", "leaky_relu"] = "leaky_relu"
    join: Literal["concatenate", "mean"] = "concatenate"
    use_bias: bool = True

    @nn.compact
    def __call__(self, h: Float[Array, "n p"], graph: Graph) -> tuple[Float[Array, "n q"], Attention]:
        """Output and the attention that made it.

        Parameters
        ----------
        h
            Values of the spots.
        graph
            The neighbours.
        """
        kernel = self.param("kernel", _XAVIER, (h.shape[-1], self.heads * self.features))
        values = (h @ kernel).reshape(-1, self.heads, self.features)
        receiver = self.param("receiver", _vectors, (self.heads, self.features))
        sender = self.param("sender", _vectors, (self.heads, self.features))
        attention = pair_attention(graph, (values * receiver).sum(-1), (values * sender).sum(-1), score=self.score)
        return _joined(self, attend(graph, attention, values)), attention


class GraphAttentionV2(nn.Module):
    """Graph attention whose ranking of neighbours depends on the spot, a·LeakyReLU(Uh_i + Vh_j) (Brody et al. 2022).

    Attributes
    ----------
    features
        Width of the output of each head.
    heads
        Number of heads.
    join
        ``"concatenate"`` gives heads × features columns, ``"mean"`` features.
    use_bias
        Whether a bias is added.
    """

    features: int
    heads: int = 1
    join: Literal["concatenate", "mean"] = "concatenate"
    use_bias: bool = True

    @nn.compact
    def __call__(self, h: Float[Array, "n p"], graph: Graph) -> tuple[Float[Array, "n q"], Attention]:
        """Output and the attention that made it.

        Parameters
        ----------
        h
            Values of the spots.
        graph
            The neighbours.
        """
        shape = (-1, self.heads, self.features)
        receiver = nn.Dense(self.heads * self.features, use_bias=self.use_bias, name="receiver")(h).reshape(shape)
        sender = nn.Dense(self.heads * self.features, use_bias=self.use_bias, name="sender")(h).reshape(shape)
        vector = self.param("score", _vectors, (self.heads, self.features))

        def logit(pair: Any) -> Any:
            return (jax.nn.leaky_relu(pair, 0.2) * vector).sum(-1)

        edges = logit(spread(graph, receiver) + gather(graph, sender))
        attention = softmax(graph, edges, logit(receiver + sender))
        return _joined(self, attend(graph, attention, sender)), attention


class TiedOutput(NamedTuple):
    """What :class:`TiedAttentionAutoencoder` computes.

    Attributes
    ----------
    latent
        (n, latent) embedding.
    decoded
        (n, hidden) last hidden layer of the decoder; the reconstruction is ``decoded @ kernel.T``.
    projected
        (n, hidden) features @ kernel, computed once for encoder and loss.
    kernel
        (p, hidden) weights shared by the first layer and the last.
    attention
        Attention shared by encoder and decoder.
    """

    latent: Float[Array, "n z"]
    decoded: Float[Array, "n h"]
    projected: Float[Array, "n h"]
    kernel: Float[Array, "p h"]
    attention: Attention

    def reconstruction(self) -> Float[Array, "n p"]:
        """The features as decoded; for training ``losses.tied_reconstruction`` avoids this product."""
        return self.decoded @ self.kernel.T


class TiedAttentionAutoencoder(nn.Module):
    """The auto-encoder of STAGATE (Dong and Zhang 2022): the decoder is the encoder's transpose.

    H = ELU(A·XW₁), Z = HW₂, Ĥ = ELU(A·ZW₂ᵀ), X̂ = ĤW₁ᵀ, without biases, A the softmax of scored pairs of the first
    layer. Gradients flow through both uses of W₁, W₂ and A. A·(ZW₂ᵀ) is computed as (AZ)W₂ᵀ, in the narrow layer.

    Attributes
    ----------
    hidden
        Width of the hidden layer.
    latent
        Width of the embedding.
    score
        What is applied to u·Wx_i + v·Wx_j before the softmax: ``"sigmoid"`` as published, ``"leaky_relu"`` (0.2) as in
        one version of the authors' code.
    """

    hidden: int = 512
    latent: int = 30
    score: Literal["sigmoid", "leaky_relu"] = "sigmoid"

    @nn.compact
    def __call__(self, x: Float[Array, "n p"], graph: Graph) -> TiedOutput:
        """Encode and decode up to the last hidden layer.

        Parameters
        ----------
        x
            Features of the spots, e.g. log1p of depth-scaled counts.
        graph
            The neighbours.
        """
        kernel = self.param("kernel", _XAVIER, (x.shape[-1], self.hidden))
        narrow = self.param("narrow", _XAVIER, (self.hidden, self.latent))
        receiver = self.param("receiver", _vectors, (1, self.hidden))
        sender = self.param("sender", _vectors, (1, self.hidden))
        projected = x @ kernel
        attention = pair_attention(graph, projected @ receiver.T, projected @ sender.T, score=self.score)
        latent = nn.elu(attend(graph, attention, projected[:, None])[:, 0]) @ narrow
        decoded = nn.elu(attend(graph, attention, latent[:, None])[:, 0] @ narrow.T)
        return TiedOutput(latent, decoded, projected, kernel, attention)


def pair_attention(
    graph: Graph,
    receiver: Float[Array, "n heads"],
    sender: Float[Array, "n heads"],
    *,
    score: Literal["sigmoid", "leaky_relu"] = "leaky_relu",
) -> Attention:
    """Softmax over neighbours and self of score(receiver_i + sender_j).

    Parameters
    ----------
    graph
        The neighbours.
    receiver
        What a spot adds to the logit of its own edges.
    sender
        What a neighbour adds.
    score
        Function applied before the softmax.
    """
    edges = _score(score, spread(graph, receiver) + gather(graph, sender))
    return softmax(graph, edges, _score(score, receiver + sender))


def _vectors(key: Any, shape: tuple[int, int], dtype: Any = jnp.float32) -> Any:
    """Normal with variance 4 / (features (heads + 1)), Xavier with gain √2 for one vector a head."""
    heads, features = shape
    return jax.random.normal(key, shape, dtype) * (4.0 / (features * (heads + 1))) ** 0.5


def _joined(layer: Any, out: Any) -> Any:
    if layer.join == "concatenate":
        out = out.reshape(out.shape[0], -1)
    elif layer.join == "mean":
        out = out.mean(1)
    else:
        raise ValueError(f"Expected join to be 'concatenate' or 'mean', found {layer.join!r}.")
    return out + layer.param("bias", nn.initializers.zeros, (out.shape[-1],)) if layer.use_bias else out
