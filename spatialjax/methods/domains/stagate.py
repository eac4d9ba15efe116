"""STAGATE: an auto-encoder that attends to neighbours."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import jax.numpy as jnp
import optax

from spatialjax.algorithm import Model, minimize
from spatialjax.graphs import scaled_radius, within_sections
from spatialjax.losses import tied_reconstruction
from spatialjax.methods.card import Card, Method, unchanged
from spatialjax.nn import TiedAttentionAutoencoder
from spatialjax.results import Embedding
from spatialjax.slices import Slice

_EPOCHS = 1000


@cache
def stagate(
    *,
    hidden: int = 512,
    latent: int = 30,
    score: Literal["sigmoid", "leaky_relu"] = "sigmoid",
    reach: float = 1.6,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    clip: float = 5.0,
) -> Method:
    r"""Embed spots by a graph attention auto-encoder whose decoder is the transpose of its encoder.

    :math:`H = \mathrm{ELU}(A X W_1)`, :math:`Z = H W_2`, :math:`\hat H = \mathrm{ELU}(A Z W_2^T)`,
    :math:`\hat X = \hat H W_1^T`; row *i* of *A* is a softmax over spot *i* and its neighbours *j* of
    :math:`\sigma(u \cdot W_1^T x_i + v \cdot W_1^T x_j)`. Minimises the mean of :math:`(X - \hat X)^2` by Adam on all
    spots at once. The loss and its gradient come from :math:`\|X\|^2 - 2\langle X W_1, \hat H\rangle +
    \langle \hat H^T \hat H, W_1^T W_1\rangle`, so that the reconstruction is never made: an epoch has two products of
    the size of the data instead of four.

    Parameters
    ----------
    hidden
        Width of the hidden layer.
    latent
        Number of components of the embedding.
    score
        What is applied to the score of a pair before the softmax.
    reach
        Radius of the neighbourhood in units of ``graphs.spacing(xy).pitch``: 6 neighbours on a hexagonal lattice,
        8 on a square one and of cells at random on average. Not used where the section brings its own ``edges``.
    learning_rate
        Step of Adam.
    weight_decay
        Factor of the parameters that is added to the clipped gradient (an L2 penalty, as in the authors' optimizer).
    clip
        Largest norm of the gradient of all parameters together.

    Returns
    -------
    Method
        For one section with log1p expression of (3,000) variable genes. Result: ``Embedding``; its ``converged`` says
        whether all 1,000 epochs were taken: the method has no other stopping rule.

    Raises
    ------
    ValueError
        If ``reach`` is not above 0.

    Notes
    -----
    *As published / as coded.* The paper squashes scores by a sigmoid, as do the first (TensorFlow) code and the PyTorch
    code today; the latter began with a LeakyReLU of slope 0.2. In PyTorch the decoder's weights are views of the
    encoder's and parameters of their own: the optimizer moves the same numbers twice a step, by the gradient of each
    use; here, as the equations say, the two gradients are added and the weights move once, so that the first steps are
    about half as long. A radius in the unit of the coordinates (150 pixels on Visium) is replaced by one in units of
    the spacing. The graph that is pruned by a first clustering is left out.

    References
    ----------
    Dong, Zhang (2022), Nature Communications 13.
    """
    if not reach > 0:
        raise ValueError(f"Expected a reach above 0, found {reach}.")
    network = TiedAttentionAutoencoder(hidden, latent, score)

    def prepare(section: Slice) -> Slice:
        return within_sections(section, lambda xy: scaled_radius(xy, reach))

    def init(key: Any, section: Slice) -> Any:
        return {"network": network.init(key, section.features, section.edges)["params"]}, jnp.int32(0)

    def loss(params: Any, epoch: Any, key: Any, section: Slice) -> Any:
        del key
        out = network.apply({"params": params["network"]}, section.features, section.edges)
        parts = tied_reconstruction(
            section.features, out.decoded, out.kernel, weight=section.weights, projected=out.projected
        )
        return parts, (epoch + 1, {})

    def readout(key: Any, params: Any, epoch: Any, section: Slice) -> Embedding:
        del key
        out = network.apply({"params": params["network"]}, section.features, section.edges)
        return Embedding(jnp.where(section.mask[:, None], out.latent, 0.0), epoch >= _EPOCHS)

    optimizer = optax.chain(
        optax.clip_by_global_norm(clip), optax.add_decayed_weights(weight_decay), optax.adam(learning_rate)
    )
    return Method(prepare, minimize(Model(init, loss, readout), optimizer), unchanged, _EPOCHS)


CARD = Card(
    name="stagate",
    task="domains",
    summary="Graph attention auto-encoder with a tied decoder",
    citation="dong2022stagate",
    expects="log1p",
    returns="Embedding",
    default_steps=_EPOCHS,
    fidelity="verified",
    evidence=(
        "authors' PyTorch code on the same input and weights: graph, embedding, loss and gradients to 2e-5, 20 steps "
        "of gradient descent to 1e-4; recovers simulated layers (tests)"
    ),
    licence="MIT (authors' PyG code)",
    notes=(
        "Tied weights move once a step, by the sum of the gradients of both uses (authors' PyTorch code: twice, by "
        "each); radius in units of the spacing; no graph pruned by a first clustering."
    ),
)
