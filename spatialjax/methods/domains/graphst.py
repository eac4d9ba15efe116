"""GraphST: a linear graph auto-encoder with a contrast of each spot and its surroundings."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from spatialjax.algorithm import Model, minimize
from spatialjax.graphs import knn, within_sections
from spatialjax.losses import local_infomax, tied_reconstruction
from spatialjax.methods.card import Card, Method, unchanged
from spatialjax.nn import Bilinear, neighbour_readout, propagate, shuffled_rows
from spatialjax.results import Embedding
from spatialjax.slices import Neighbors, Slice

_EPOCHS = 600
#: Largest value of a gene in units of its standard deviation.
_MOST = 10.0


class _Data(NamedTuple):
    """A section of scaled genes with its symmetric graph, and the neighbours that each spot chose itself."""

    section: Slice
    chosen: Neighbors


@cache
def graphst(
    *,
    latent: int = 64,
    components: int = 20,
    neighbors: int = 3,
    reconstruction: float = 10.0,
    contrast: float = 1.0,
    learning_rate: float = 1e-3,
) -> Method:
    r"""Embed spots by the principal components of what a linear graph auto-encoder reconstructs.

    With :math:`\tilde A = D^{-1/2} A D^{-1/2} + I`: :math:`Z = \tilde A X W_1`, :math:`\hat X = \tilde A Z W_2`, and
    :math:`Z'` the same with the rows of *X* shuffled anew at every epoch. For :math:`h_i = \mathrm{ReLU}(z_i)` the
    context :math:`g_i` is the sigmoid of the unit-length mean of *h* over the spot and its neighbours. Minimises
    *reconstruction* × mean :math:`(X - \hat X)^2` + *contrast* × the cross entropy of a bilinear discriminator that
    tells :math:`(h_i, g_i)` from :math:`(h'_i, g_i)`, and of the same with the parts of *h* and *h'* swapped.

    All maps of *X* are linear, so nothing as large as *X* is made: :math:`X [W_1, W_2^T]` is one product, the
    reconstruction loss follows from Gram matrices of 64 × 64, and so do the components.

    Parameters
    ----------
    latent
        Width of the latent layer.
    components
        Number of principal components of the reconstruction, at most ``latent``.
    neighbors
        Number of nearest neighbours; the graph joins two spots where either chose the other. Not used where the section
        brings its own ``edges``, which are then both graphs.
    reconstruction
        Weight of the reconstruction.
    contrast
        Weight of the contrast.
    learning_rate
        Step of Adam.

    Returns
    -------
    Method
        For one section with log1p expression of (3,000) variable genes; ``prepare`` divides each gene by its standard
        deviation, without centring, and cuts at 10. Result: ``Embedding``; its ``converged`` says whether all 600
        epochs were taken: the method has no other stopping rule.

    Raises
    ------
    ValueError
        If there are more components than latent columns, or fewer than one.

    Notes
    -----
    *As published / as coded.* The loss of both; as in the code the context averages over the neighbours that a spot
    chose (not those that chose it), and the graph of the auto-encoder is symmetric. The code's variant for large data
    (self loops before the normalisation, reconstruction of unit length) and the vote over the 50 nearest spots after
    clustering (``clustering.refine``) are left out.

    References
    ----------
    Long et al. (2023), Nature Communications 14.
    """
    if not 1 <= components <= latent:
        raise ValueError(f"Expected between 1 and latent={latent} components, found {components}.")
    discriminator = Bilinear()

    def prepare(section: Slice) -> _Data:
        chosen = within_sections(section, lambda xy: knn(xy, neighbors)).edges
        section = within_sections(section, lambda xy: knn(xy, neighbors, symmetric=True))
        return _Data(section.replace(features=jnp.asarray(_scaled(section))), chosen)

    def init(key: Any, data: _Data) -> Any:
        first, second, third = jax.random.split(key, 3)
        genes, row = data.section.features.shape[1], jnp.zeros((1, latent))
        xavier = jax.nn.initializers.xavier_uniform()
        params = {
            "encoder": xavier(first, (genes, latent)),
            "decoder": xavier(second, (latent, genes)),
            "discriminator": discriminator.init(third, row, row)["params"],
        }
        return params, jnp.int32(0)

    def loss(params: Any, epoch: Any, key: Any, data: _Data) -> Any:
        section, graph = data.section, data.section.edges
        both = section.features @ jnp.concatenate([params["encoder"], params["decoder"].T], 1)
        narrow, back = both[:, :latent], both[:, latent:]
        mixed = narrow[shuffled_rows(key, section.mask)]
        z = propagate(jnp.concatenate([narrow, mixed], 1), graph, self_loop="after")
        decoded = propagate(z[:, :latent], graph, self_loop="after")
        rebuilt, weight = tied_reconstruction(
            section.features, decoded, params["decoder"].T, weight=section.weights, projected=back
        )
        views = jax.nn.relu(z[:, :latent]), jax.nn.relu(z[:, latent:])
        contrasts = 0.0
        for own, other in (views, views[::-1]):
            context = neighbour_readout(own, data.chosen)
            logits = [discriminator.apply({"params": params["discriminator"]}, h, context) for h in (own, other)]
            contrasts += local_infomax(*logits, section.weights)[0]
        total = reconstruction * rebuilt + contrast * contrasts
        return (total, weight), (epoch + 1, {"reconstruction": rebuilt / weight, "contrast": contrasts / weight})

    def readout(key: Any, params: Any, epoch: Any, data: _Data) -> Embedding:
        del key
        z = propagate(data.section.features @ params["encoder"], data.section.edges, self_loop="after")
        decoded = propagate(z, data.section.edges, self_loop="after")
        values = _components(decoded, params["decoder"], data.section.mask, number=components)
        return Embedding(values, epoch >= _EPOCHS)

    return Method(prepare, minimize(Model(init, loss, readout), optax.adam(learning_rate)), unchanged, _EPOCHS)


def _scaled(section: Slice) -> Float[np.ndarray, "n g"]:
    """Genes in units of their standard deviation over the real spots, cut."""
    features, real = np.asarray(section.features), np.asarray(section.mask)
    spread = features[real].std(0, ddof=1) if real.sum() > 1 else np.ones(features.shape[1], np.float32)
    return np.minimum(features / np.where(spread > 0, spread, 1.0), _MOST).astype(np.float32)


def _components(
    decoded: Float[Array, "n z"], decoder: Float[Array, "z g"], mask: Any, *, number: int
) -> Float[Array, "n q"]:
    """Scores on the leading principal axes of ``decoded @ decoder``, from matrices of the size of the latent layer.

    With C the centred rows and M = CᵀC, each axis in gene space is a combination Wᵀv of the rows of the decoder W; with
    S the symmetric root of WWᵀ, the eigenvectors y of S M S give the scores C S y.
    """
    share = mask.astype(decoded.dtype) / jnp.maximum(mask.sum(), 1)
    centred = jnp.where(mask[:, None], decoded - share @ decoded, 0.0)
    size, turn = jnp.linalg.eigh(decoder @ decoder.T)
    root = (turn * jnp.sqrt(jnp.maximum(size, 0.0))) @ turn.T
    rows = centred @ root
    _, axes = jnp.linalg.eigh(rows.T @ rows)
    scores = rows @ axes[:, ::-1][:, :number]
    # The sign of an axis is arbitrary: the gene that it goes along with most gets a positive one.
    along = decoder.T @ (centred.T @ scores)
    peak = jnp.take_along_axis(along, jnp.abs(along).argmax(0)[None], 0)
    return scores * jnp.where(peak < 0, -1.0, 1.0)


CARD = Card(
    name="graphst",
    task="domains",
    summary="Linear graph auto-encoder with local contrast, principal components of its reconstruction",
    citation="long2023graphst",
    expects="log1p",
    returns="Embedding",
    default_steps=_EPOCHS,
    fidelity="verified",
    evidence=(
        "authors' code on the same input, weights and permutation: preparation, both losses, gradients and components "
        "to 2e-5, components after 20 epochs to 1e-3; recovers simulated layers (tests)"
    ),
    licence="AGPL-3 (authors' code; written from the equations)",
    notes=(
        "Embedding part only. Dense variant of the code (self loops after the normalisation); no vote over 50 "
        "neighbours after clustering."
    ),
)
