"""Splane of SPACEL: domains of several sections from cell-type proportions, by an adversarial graph auto-encoder."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int
from scipy.sparse.linalg import eigsh

from spatialjax import clustering, graphs, losses, markers, nn, propagation
from spatialjax.algorithm import Algorithm, Turn, alternate
from spatialjax.algorithm.adaptors import weighted_mean
from spatialjax.methods.card import Card, Method, unchanged
from spatialjax.results import Embedding
from spatialjax.slices import Neighbors, Slice, in_canonical_order, section_members

#: Epochs between two looks at the held-out spots.
_LOOK_EVERY = 5


class Composition(NamedTuple):
    """What the network sees.

    Attributes
    ----------
    section
        Standardised proportions with the graph of each section.
    weights
        Weight of each cell type, together 1.
    pull
        Factor of the likeness of neighbours, the inverse of the mean Moran's I of the types with a weight.
    top
        Largest eigenvalue of the Laplacian.
    member
        (n, sections) one-hot number of the section, 0 on padding.
    place
        Where each spot of the caller stands: noise is drawn in canonical order.
    """

    section: Slice
    weights: Float[Array, " c"]
    pull: Float[Array, ""]
    top: Float[Array, ""]
    member: Float[Array, "n s"]
    place: Int[Array, " n"]


class Kept(NamedTuple):
    """State of the training: that of the two players, and the best network so far with what made it the best."""

    inner: Any
    best: Any
    loss: Float[Array, ""]
    scatter: Float[Array, ""]
    since: Int[Array, ""]
    epoch: Int[Array, ""]


class Autoencoder(linen.Module):
    """Chebyshev convolutions to an embedding of unit length and back."""

    types: int
    hidden: int
    latent: int
    order: int
    dropout: float

    def setup(self) -> None:
        """Two convolutions there, two back."""
        widths = (self.hidden, self.latent, self.hidden, self.types)
        self.layers = [nn.ChebyshevConvolution(width, order=self.order, normalisation="left") for width in widths]

    def __call__(self, data: Composition, key: Any = None) -> tuple[Float[Array, "n z"], Float[Array, "n c"]]:
        """Embedding and decoded proportions; values are dropped where a key is given."""
        keys = [None] * 4 if key is None else list(jax.random.split(key, 4))
        h = self._pair(self.layers[:2], data.section.features, data, keys=keys[:2])
        low, high = h.min(-1, keepdims=True), h.max(-1, keepdims=True)
        z = (h - low) / (high - low + 1e-6)
        z = z * jax.lax.rsqrt((z**2).sum(-1, keepdims=True) + 1e-12)
        return z, self._pair(self.layers[2:], z, data, keys=keys[2:])

    def _pair(self, layers: Any, h: Any, data: Composition, *, keys: Any) -> Any:
        first, second = layers

        def dropped(values: Any, key: Any) -> Any:
            return values if key is None else nn.drop(values, self.dropout, key)

        h = jax.nn.leaky_relu(first(dropped(h, keys[0]), data.section.edges, data.top))
        return second(dropped(h, keys[1]), data.section.edges, data.top)


@functools.cache
def splane(
    *,
    n_domains: int = 7,
    hidden: int = 64,
    latent: int = 16,
    order: int = 2,
    dropout: float = 0.8,
    adversary: float = 0.5,
    train_share: float = 0.5,
    least: float = 0.01,
    learning_rate: float = 3e-3,
    patience: int = 60,
) -> Method:
    """Embedding of cell-type proportions that neighbours share and that hides the section (Xu et al. 2023).

    Chebyshev convolutions C → 64 → 16 and back, with dropout, on the graph of each section (the six nearest spots,
    without edges above 1.3 × their median). The embedding of a spot is brought to [0, 1] and to length 1. The loss is
    Σ_c w_c (KL(x_c ‖ x̂_c) − cos(x_c, x̂_c)) over half of the spots for each cell type c, plus (mean abs(z_i − z_j) −
    mean z_i·z_j) / (mean Moran's I) over the edges, minus ``adversary`` × the cross entropy of a discriminator of the
    sections; w_c is the mean Moran's I of the type over the sections, 0 where it is negative. Network and
    discriminator take turns. Every five epochs the other half of the spots is looked at: the network is kept when its
    loss there and the Davies–Bouldin index of k-means both fall, and training ends when that has not happened more than
    ``patience`` times in a row.

    Parameters
    ----------
    n_domains
        Number of domains of that k-means; the embedding itself has none. Cluster it by k-means, as published.
    hidden, latent
        Widths of the layers.
    order
        Highest power of the Laplacian.
    dropout
        Probability that a value is dropped before each convolution.
    adversary
        Factor of the discriminator's cross entropy.
    train_share
        Probability that a spot is one of those trained on.
    least
        Smaller proportions count as 0.
    learning_rate
        Of RMSprop, for both players.
    patience
        Looks without an improvement; 60 is the whole budget.

    Returns
    -------
    Method
        Data: one section of proportions, (n, types), or several in one slice with ``extra["section"]``; ``edges`` are
        used where given. Result: ``Embedding``.

    Notes
    -----
    *As published / as coded:* the PyTorch code adds the cosine up to version 1.1.4 (later ones subtract it), passes
    one-hot sections as logits and softmax values as labels, divides standardised columns, whose sum is 0, by their sum,
    averages the divergence over the spots instead of summing, and takes the largest eigenvalue of a matrix that is not
    symmetric from a solver for symmetric ones: the paper is followed. Columns become shares of the spots by a softmax.
    The code drops types of negative weight from the input, ours from the loss only, and normalises the discriminator's
    layers after the rectifier, ours before. Edges weigh 1 (coded: their length, the same on a
    lattice). The code waits for 10 looks only; the first look, at an untrained network, then often stays the best.
    Without several sections the discriminator has nothing to tell and adds nothing.

    References
    ----------
    Xu et al. (2023), Nature Communications 14; Defferrard, Bresson & Vandergheynst (2016), NeurIPS; Davies & Bouldin
    (1979), IEEE Transactions on Pattern Analysis and Machine Intelligence 1.
    """

    def parts(data: Composition) -> tuple[Autoencoder, nn.Discriminator]:
        types, sections = data.section.features.shape[1], data.member.shape[1]
        judge = nn.Discriminator(sections, widths=(hidden, hidden), dropout=(0.0, 0.5))
        return Autoencoder(types, hidden, latent, order, dropout), judge

    def init(key: Any, data: Composition) -> tuple[dict[str, Any], dict[str, Any]]:
        network, judge = parts(data)
        network_key, judge_key, half_key = jax.random.split(key, 3)
        blank = jnp.zeros((data.section.capacity, latent))
        started = judge.init(judge_key, blank, data.section.weights)
        params = {"network": network.init(network_key, data), "judge": started["params"]}
        train = nn.masked_rows(half_key, data.section.mask, train_share)
        return params, {"train": train, "statistics": started["batch_stats"]}

    def of_network(params: Any, aux: Any, key: Any, data: Composition) -> Any:
        own_key, judge_key = jax.random.split(key)
        z, decoded = parts(data)[0].apply(params["network"], data, own_key)
        told, _ = _judged(parts(data)[1], params, aux, z, key=judge_key, data=data)
        value = fit_loss(z, decoded, data, rows=aux["train"]) - adversary * told
        return losses.of_all(value, data.section.weights), (aux, {"told": told})

    def of_judge(params: Any, aux: Any, key: Any, data: Composition) -> Any:
        own_key, judge_key = jax.random.split(key)
        z, _ = parts(data)[0].apply(params["network"], data, own_key)
        told, aux = _judged(parts(data)[1], params, aux, z, key=judge_key, data=data)
        return losses.of_all(told, data.section.weights), (aux, {})

    def look(key: Any, inner: Any, data: Composition) -> tuple[Any, Any]:
        z, decoded = parts(data)[0].apply(inner.params["network"], data)
        held = data.section.mask & ~inner.aux["train"]
        found = clustering.kmeans(key, z, data.section.mask, number=n_domains, starts=10)
        return fit_loss(z, decoded, data, rows=held), davies_bouldin(
            z, found.labels, data.section.weights, number=n_domains
        )

    def readout(key: Any, kept: Kept, data: Composition) -> Embedding:
        del key
        z, _ = parts(data)[0].apply(kept.best, data)
        return Embedding(jnp.where(data.section.mask[:, None], z, 0.0)[data.place], kept.since > patience)

    rms = optax.rmsprop(learning_rate, decay=0.99, eps=1e-8, eps_in_sqrt=False)
    turns = Turn(of_network, ("network",), rms), Turn(of_judge, ("judge",), rms)
    players = alternate(*turns, init=init, readout=lambda *_: None)
    prepare = functools.partial(compose, least=least)
    return Method(prepare, keep_best(players, look, readout, patience=patience), unchanged, max_steps=300)


def _judged(judge: Any, params: Any, aux: Any, z: Any, *, key: Any, data: Composition) -> tuple[Any, Any]:
    """Mean cross entropy of the discriminator in training, and ``aux`` with its statistics moved."""
    variables = {"params": params["judge"], "batch_stats": aux["statistics"]}
    logits, moved = judge.apply(variables, z, data.section.weights, key=key, mutable=["batch_stats"])
    told = losses.cross_entropy(logits, data.member.argmax(-1), data.section.weights)
    return weighted_mean(*told), {**aux, "statistics": moved["batch_stats"]}


def compose(section: Slice, *, least: float) -> Composition:
    """Standardised proportions, graph and weights of the cell types, on the host.

    Parameters
    ----------
    section
        Proportions of the cell types, of one section or of several with ``extra["section"]``.
    least
        Smaller proportions count as 0.
    """
    section, place = in_canonical_order(graphs.within_sections(section, _grid))
    shown = np.where(np.asarray(section.features) < least, 0.0, np.asarray(section.features))
    section = section.replace(features=jnp.asarray(shown.astype(np.float32)))
    rows = np.flatnonzero(np.asarray(section.mask))
    adjacency = graphs.adjacency(section.edges)[rows][:, rows]
    member = section_members(section)
    own = [np.flatnonzero(column) for column in member[rows].T]
    morans = np.mean([markers.morans_i(shown[rows[each]], adjacency[each][:, each]) for each in own], axis=0)
    kept = np.maximum(morans, 0.0)
    kept = kept if kept.sum() > 0 else np.ones_like(kept)
    mean = kept[kept > 0].mean()
    return Composition(
        propagation.from_real_spots(section, lambda spots: _standardised(spots.features)).replace(edges=section.edges),
        jnp.asarray(kept / kept.sum(), jnp.float32),
        jnp.asarray(1.0 / max(mean, 0.01), jnp.float32),
        jnp.asarray(_top_eigenvalue(adjacency), jnp.float32),
        jnp.asarray(member),
        jnp.asarray(place),
    )


def _grid(xy: Float[np.ndarray, "n d"]) -> Neighbors:
    """The six nearest spots without long edges, in both directions."""
    near = graphs.knn(xy, 6)
    rows, places = np.nonzero(near.weight)
    if not len(rows):
        return near
    length = np.linalg.norm(xy[rows] - xy[near.index[rows, places]], axis=1)
    return graphs.knn(xy, 6, max_distance=1.3 * float(np.median(length)), symmetric=True)


def _standardised(values: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
    spread = values.std(0)
    return (values - values.mean(0)) / np.where(spread > 1e-6, spread, 1.0)


def _top_eigenvalue(adjacency: Any) -> float:
    """Largest eigenvalue of the normalised Laplacian, at least 1."""
    matrix = propagation.laplacian(adjacency, normalized=True)
    if matrix.shape[0] < 16:
        return max(1.0, float(np.linalg.eigvalsh(matrix.toarray()).max()))
    start = np.asarray(matrix.diagonal()) + 0.1 * np.asarray(abs(matrix).sum(1)).ravel()
    start += np.asarray(adjacency.sum(1)).ravel() * 0.01 + 1e-3
    return max(1.0, float(eigsh(matrix, 1, which="LA", v0=start, return_eigenvectors=False)[0]))


def fit_loss(
    z: Float[Array, "n z"], decoded: Float[Array, "n c"], data: Composition, *, rows: Bool[Array, " n"]
) -> Float[Array, ""]:
    """Cosine and divergence of the columns over some spots, and the unlikeness of neighbours.

    Parameters
    ----------
    z
        Embedding.
    decoded
        Decoded proportions.
    data
        What was encoded.
    rows
        Spots that the columns are compared over.
    """
    target, share = data.section.features, rows.astype(jnp.float32)[:, None]
    x, y = share * target, share * decoded
    cosine = (x * y).sum(0) * jax.lax.rsqrt((x**2).sum(0) * (y**2).sum(0) + 1e-12)
    wanted, found = (jax.nn.log_softmax(jnp.where(rows[:, None], v, -1e30), axis=0) for v in (target, decoded))
    divergence = (jnp.exp(wanted) * jnp.where(rows[:, None], wanted - found, 0.0)).sum(0)
    edges = data.section.edges
    weight = edges.weight * data.section.weights[:, None]
    near = z[edges.index]
    unlike = jnp.abs(z[:, None] - near).mean(-1) - (z[:, None] * near).sum(-1)
    neighbours = weighted_mean((weight * unlike).sum(), weight.sum())
    return (data.weights * (divergence - cosine)).sum() + data.pull * neighbours


def davies_bouldin(
    z: Float[Array, "n z"], labels: Int[Array, " n"], weights: Float[Array, " n"], *, number: int
) -> Float[Array, ""]:
    """Mean over the clusters of the worst (s_i + s_j) / d_ij: spreads over the distance of the centres.

    Parameters
    ----------
    z
        Embedding.
    labels
        Cluster of each spot.
    weights
        Weights of the spots, 0 on padding.
    number
        Number of clusters; empty ones do not count.
    """
    member = jax.nn.one_hot(labels, number) * weights[:, None]
    size = jnp.maximum(member.sum(0), 1e-12)
    centres = member.T @ z / size[:, None]
    away = jnp.sqrt(((z - centres[labels]) ** 2).sum(-1) + 1e-12)
    spread = member.T @ away / size
    apart = jnp.sqrt(((centres[:, None] - centres[None]) ** 2).sum(-1) + 1e-12)
    used = member.sum(0) > 0
    both = used[:, None] & used[None] & ~jnp.eye(number, dtype=bool)
    worst = jnp.where(both, (spread[:, None] + spread[None]) / apart, 0.0).max(1)
    return weighted_mean(jnp.where(used, worst, 0.0).sum(), used.sum().astype(z.dtype))


def keep_best(players: Algorithm, look: Any, readout: Any, *, patience: int) -> Algorithm:
    """The two players, and the network for which held-out loss and scatter last fell together.

    Parameters
    ----------
    players
        Algorithm whose state has ``params["network"]``.
    look
        ``(key, state, data) -> (loss, scatter)``.
    readout
        ``(key, kept, data) -> result``.
    patience
        Looks without an improvement after which training is done.
    """

    def init(key: Any, data: Any, start: Any = None) -> Kept:
        inner = players.init(key, data, start=start)
        worst = jnp.float32(jnp.inf)
        return Kept(inner, inner.params["network"], worst, worst, jnp.int32(0), jnp.int32(0))

    def step(key: Any, state: Kept, data: Any) -> tuple[Kept, dict[str, Any]]:
        play_key, look_key = jax.random.split(key)
        inner, info = players.step(play_key, state.inner, data)

        def looked(kept: Kept) -> Kept:
            loss, scatter = look(look_key, inner, data)
            better = (kept.loss - loss > 1e-4) & (kept.scatter > scatter)
            best = jax.tree.map(lambda new, old: jnp.where(better, new, old), inner.params["network"], kept.best)
            loss, scatter = jnp.where(better, loss, kept.loss), jnp.where(better, scatter, kept.scatter)
            return kept._replace(best=best, loss=loss, scatter=scatter, since=jnp.where(better, 0, kept.since + 1))

        kept = jax.lax.cond(state.epoch % _LOOK_EVERY == 0, looked, lambda kept: kept, state)
        told = {"loss": info["loss0"], "judge": info["loss1"], "held_out": kept.loss, "scatter": kept.scatter}
        return kept._replace(inner=inner, epoch=state.epoch + 1), {**told, "done": kept.since > patience}

    return Algorithm(init, step, readout)


CARD = Card(
    name="splane",
    task="domains",
    summary="Adversarial Chebyshev auto-encoder of cell-type proportions, for several sections (SPACEL).",
    citation="xu2023spacel",
    expects="proportions",
    returns="Embedding",
    default_steps=300,
    fidelity="published",
    evidence=(
        "authors' code on the same input and weights, without divergence, adversary and dropout: weights of the types, "
        "Chebyshev terms, embedding, decoded proportions, loss and gradients to 2e-4, embedding after 20 steps to "
        "1e-2; layers of three simulated sections found jointly and mixed across a batch shift (tests)"
    ),
    licence="no licence in the authors' repository",
    notes=(
        "Divergence and discriminator as published: the code divides by sums that are 0, and passes labels as logits; "
        "its first PyTorch versions add the cosine. Expects "
        "cell-type proportions, from deconvolution or from labelled cells."
    ),
)
