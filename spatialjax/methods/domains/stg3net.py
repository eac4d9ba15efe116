"""STG3Net: a masked graph auto-encoder that joins sections by anchors and an adversary."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as linen
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from spatialjax import clustering, graphs, losses, nn, propagation
from spatialjax.algorithm import Algorithm, Turn, alternate
from spatialjax.algorithm.adaptors import weighted_mean
from spatialjax.methods.card import Card, Method, unchanged
from spatialjax.results import Embedding
from spatialjax.slices import Slice, in_canonical_order, section_members

_PUBLISHED_STEPS = 1000


class Joined(NamedTuple):
    """Principal components with the graph of each section, in canonical order.

    Attributes
    ----------
    section
        The spots.
    member
        (n, sections) one-hot number of the section, 0 on padding.
    place
        Where each spot of the caller stands.
    """

    section: Slice
    member: Float[Array, "n s"]
    place: Int[Array, " n"]


class Convolved(linen.Module):
    """Graph convolution, normalisation, activation, dropout."""

    features: int
    activation: Any
    dropout: float

    @linen.compact
    def __call__(self, h: Any, section: Slice, key: Any = None) -> Float[Array, "n q"]:
        """Train with a key, on batch statistics."""
        h = nn.GraphConvolution(self.features)(h, section.edges)
        h = self.activation(nn.BatchNorm()(h, section.weights, train=key is not None))
        return h if key is None else nn.drop(h, self.dropout, key)


class Encoder(linen.Module):
    """Two dense blocks and two graph convolutions."""

    widths: tuple[int, ...]
    latent: int
    dropout: float

    @linen.compact
    def __call__(self, x: Any, section: Slice, key: Any = None) -> Float[Array, "n z"]:
        """Train with a key, on batch statistics."""
        keys = [None] * 4 if key is None else list(jax.random.split(key, 4))
        for width, own in zip(self.widths[:2], keys[:2], strict=True):
            block = nn.DenseBlock(width, dropout=self.dropout, momentum=0.01, epsilon=1e-3)
            x = block(x, section.weights, train=key is not None, key=own)
        x = Convolved(self.widths[2], jax.nn.relu, self.dropout)(x, section, keys[2])
        return Convolved(self.latent, lambda h: h, self.dropout)(x, section, keys[3])


class Decoder(linen.Module):
    """A linear bridge and one graph convolution."""

    features: int
    dropout: float

    @linen.compact
    def __call__(self, z: Any, section: Slice, key: Any = None) -> Float[Array, "n p"]:
        """Train with a key, on batch statistics."""
        bridged = linen.Dense(z.shape[-1], use_bias=False)(z)
        return Convolved(self.features, lambda h: h, self.dropout)(bridged, section, key)


class Options(NamedTuple):
    """What the losses need to know; see :func:`stg3net`."""

    encoder: Encoder
    n_domains: int
    dropout: float
    rates: tuple[float, float]
    reconstruction: float
    triplet: float
    adversary: float
    first_anchors: int
    candidates: int

    def network(self, name: str, data: Joined) -> Any:
        """One of the three networks."""
        if name == "decoder":
            return Decoder(data.section.features.shape[1], self.dropout)
        if name == "encoder":
            return self.encoder
        return nn.Discriminator(data.member.shape[1], dropout=(self.dropout,) * 2, momentum=0.01, epsilon=1e-3)


@functools.cache
def stg3net(
    *,
    n_domains: int = 7,
    components: int = 200,
    k: int = 12,
    widths: tuple[int, int, int] = (64, 32, 64),
    latent: int = 16,
    dropout: float = 0.2,
    mask_share: float = 0.5,
    replace_share: float = 0.1,
    reconstruction: float = 0.7,
    triplet: float = 1.0,
    adversary: float = 0.1,
    first_anchors: int = 500,
    anchors_every: int = 50,
    candidates: int = 50,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-3,
) -> Method:
    """Masked graph auto-encoder of principal components for several sections (Fang, Zhu and Min 2024).

    Of ``mask_share`` of the spots the features are hidden: nine in ten get a learned token, the others the features of
    another spot. The encoder, dense 64 and 32 and graph convolutions to 64 and 16, sees each section's graph of nearest
    spots; a bridge and one graph convolution decode. The loss is ``reconstruction`` × −2 log((1 + cos) / 2) of the
    hidden spots, plus the triplet loss of the anchors, minus ``adversary`` × the cross entropy of a discriminator that
    tells the sections apart and that takes a step of its own before each step. From step ``first_anchors`` on, every
    ``anchors_every`` steps, a mixture clusters the embedding; the positive of a spot is the most alike of its
    ``candidates`` nearest spots of other sections, by inner product, of which half are dropped at random and those of
    another cluster left out; the negative is any spot of its own section.

    Parameters
    ----------
    n_domains
        Number of clusters in the search for anchors; the embedding itself has none. Cluster it by a mixture with one
        covariance, as published.
    components
        Number of principal components of the features.
    k
        Nearest spots of the same section in the graph.
    widths, latent
        Widths of the hidden layers and of the embedding.
    dropout
        Probability that a value is dropped after each layer.
    mask_share, replace_share
        Share of the spots that are hidden, and share of those that show another spot.
    reconstruction, triplet, adversary
        Factors of the losses.
    first_anchors, anchors_every, candidates
        See above.
    learning_rate, weight_decay
        Of Adam, after clipping the gradient to norm 5; the decay is added to the gradient.

    Returns
    -------
    Method
        Data: one section of log1p values, or several in one slice with ``extra["section"]``; ``edges`` are used where
        given. Result: ``Embedding``, converged once the published 1,000 steps were taken.

    Notes
    -----
    *As published / as coded:* the code evaluates the discriminator without gradient, so that the adversary never
    reaches the encoder, and passes its one-hot labels as logits; here the gradient flows and the labels are labels, as
    published. It also gives a graph that is normalised already to layers that add the identity and normalise again, so
    that half of what a layer sees is the spot itself; here the graph is normalised once. *Not as coded:* a positive for
    each spot of each section, where the authors also give an anchor to the far end of each pair; no early stop (theirs
    waits for 500 steps of 1,000). The full matrix of similarities is never made, but blocks of its rows. One section
    has no anchors and nothing to tell apart: what is left is the masked auto-encoder.

    References
    ----------
    Fang, Zhu & Min (2024), Proceedings of IEEE BIBM; Hou et al. (2022), Proceedings of KDD (masked auto-encoder);
    Schroff, Kalenichenko & Philbin (2015), Proceedings of CVPR (triplets).
    """

    options = Options(
        Encoder(widths, latent, dropout), n_domains, dropout, (mask_share, replace_share),
        reconstruction=reconstruction, triplet=triplet, adversary=adversary,
        first_anchors=first_anchors, candidates=candidates,
    )  # fmt: skip
    adam = optax.chain(
        optax.clip_by_global_norm(5.0), optax.add_decayed_weights(weight_decay), optax.adam(learning_rate)
    )
    turns = (
        Turn(functools.partial(_judge_loss, options), ("judge",), adam),
        Turn(functools.partial(_encoder_loss, options), ("encoder", "decoder", "token"), adam),
        Turn(functools.partial(_anchor_search, options), (), optax.identity(), every=anchors_every),
    )

    def readout(key: Any, params: Any, aux: Any, data: Joined) -> Embedding:
        del key
        z, _ = _applied(options.encoder, "encoder", params, aux, data.section.features, section=data.section)
        return Embedding(jnp.where(data.section.mask[:, None], z, 0.0)[data.place], aux["step"] >= _PUBLISHED_STEPS)

    players = alternate(*turns, init=functools.partial(_start, options), readout=readout)
    prepare = functools.partial(join, components=components, k=k)
    return Method(prepare, _with_loss(players), unchanged, max_steps=_PUBLISHED_STEPS)


def corrupted(
    section: Slice, token: Float[Array, " p"], key: Array, *, rates: tuple[float, float]
) -> tuple[Float[Array, "n p"], Bool[Array, " n"]]:
    """Features with some spots hidden, and which.

    Parameters
    ----------
    section
        The spots.
    token
        What most hidden spots show.
    key
        Random key.
    rates
        Share of the spots that are hidden, and share of those that show the features of another spot.
    """
    hide_key, replace_key, order_key = jax.random.split(key, 3)
    hidden = nn.masked_rows(hide_key, section.mask, rates[0])
    replaced = hidden & nn.masked_rows(replace_key, section.mask, rates[1])
    others = section.features[nn.shuffled_rows(order_key, section.mask)]
    seen = nn.hide_rows(section.features, hidden & ~replaced, token)
    return jnp.where(replaced[:, None], others, seen), hidden


def join(section: Slice, *, components: int, k: int) -> Joined:
    """Principal components, graph and numbers of the sections, on the host.

    Parameters
    ----------
    section
        Expression of one section, or of several with ``extra["section"]``.
    components
        Number of principal components.
    k
        Nearest spots in the graph.
    """
    section, place = in_canonical_order(graphs.within_sections(section, lambda xy: graphs.knn(xy, k, symmetric=True)))
    reduced = propagation.from_real_spots(
        section.replace(edges=None), lambda spots: propagation.principal_components(spots.features, components)
    ).replace(edges=section.edges)
    return Joined(reduced, jnp.asarray(section_members(section)), jnp.asarray(place))


def _start(options: Options, key: Any, data: Joined) -> tuple[dict[str, Any], dict[str, Any]]:
    section, names = data.section, ("encoder", "decoder", "judge")
    blank = jnp.zeros((section.capacity, options.encoder.latent))
    inputs = dict(zip(names, (section.features, blank, blank), strict=True))
    keys = dict(zip(names, jax.random.split(key, 3), strict=True))
    beside = dict(zip(names, (section, section, section.weights), strict=True))
    variables = {name: options.network(name, data).init(keys[name], inputs[name], beside[name]) for name in names}
    rows = jnp.arange(section.capacity, dtype=jnp.int32)
    aux = {
        "step": jnp.int32(0),
        "statistics": {name: variables[name]["batch_stats"] for name in names},
        "anchors": losses.Anchors(rows, rows, jnp.zeros(section.capacity)),
    }
    params = {name: variables[name]["params"] for name in names}
    return {**params, "token": jnp.zeros(section.features.shape[1])}, aux


def _applied(
    network: Any, name: str, params: Any, aux: Any, values: Any, *, section: Slice, key: Any = None
) -> tuple[Any, Any]:
    """Output of a network, and ``aux`` with its statistics moved where it is trained (with a key)."""
    variables = {"params": params[name], "batch_stats": aux["statistics"][name]}
    out, moved = network.apply(
        variables, values, section.weights if name == "judge" else section, key=key, mutable=["batch_stats"]
    )
    return out, {**aux, "statistics": {**aux["statistics"], name: moved["batch_stats"]}}


def _judge_loss(options: Options, params: Any, aux: Any, key: Any, data: Joined) -> Any:
    section, (corrupt_key, judge_key) = data.section, jax.random.split(key)
    seen, _ = corrupted(section, params["token"], corrupt_key, rates=options.rates)
    z, _ = _applied(options.encoder, "encoder", params, aux, seen, section=section)
    judge = options.network("judge", data)
    logits, aux = _applied(judge, "judge", params, aux, z, section=section, key=judge_key)
    return losses.cross_entropy(logits, data.member.argmax(-1), section.weights), (aux, {})


def _encoder_loss(options: Options, params: Any, aux: Any, key: Any, data: Joined) -> Any:
    section, keys = data.section, jax.random.split(key, 3)
    seen, hidden = corrupted(section, params["token"], keys[0], rates=options.rates)
    z, aux = _applied(options.encoder, "encoder", params, aux, seen, section=section, key=keys[1])
    decoder = options.network("decoder", data)
    decoded, aux = _applied(decoder, "decoder", params, aux, z, section=section, key=keys[2])
    logits, _ = _applied(options.network("judge", data), "judge", params, aux, z, section=section)
    anchors = aux["anchors"]
    triples = (jnp.arange(section.capacity), anchors.positive, anchors.negative)
    parts = {
        "hidden": losses.log_cosine(decoded, section.features, hidden * section.weights),
        "triplet": losses.triplet(z, triples, anchors.weight * section.weights),
        "told": losses.cross_entropy(logits, data.member.argmax(-1), section.weights),
    }
    means = {name: weighted_mean(*part) for name, part in parts.items()}
    value = options.reconstruction * means["hidden"] + options.triplet * means["triplet"]
    value = value - options.adversary * means["told"]
    return losses.of_all(value, section.weights), ({**aux, "step": aux["step"] + 1}, means)


def _anchor_search(options: Options, params: Any, aux: Any, key: Any, data: Joined) -> Any:
    """New anchors from the present embedding, once training has come far enough; nothing is trained."""
    cluster_key, anchor_key = jax.random.split(key)

    def search() -> losses.Anchors:
        z, _ = _applied(options.encoder, "encoder", params, aux, data.section.features, section=data.section)
        found = clustering.tied_mixture(cluster_key, z, data.section.mask, number=options.n_domains)
        return losses.find_anchors(anchor_key, z, data.member, labels=found.labels, candidates=options.candidates)

    anchors = jax.lax.cond(aux["step"] > options.first_anchors, search, lambda: aux["anchors"])
    return losses.of_all(jnp.float32(0.0), data.section.weights), ({**aux, "anchors": anchors}, {})


def _with_loss(players: Algorithm) -> Algorithm:
    """The same, with the losses under the names of the two players."""

    def step(key: Any, state: Any, data: Any) -> tuple[Any, dict[str, Any]]:
        state, info = players.step(key, state, data)
        named = {"loss": info["loss1"], "judge": info["loss0"]}
        return state, {**named, **{name: info[f"{name}1"] for name in ("hidden", "triplet", "told")}}

    return players._replace(step=step)


CARD = Card(
    name="stg3net",
    task="domains",
    summary="Masked graph auto-encoder that joins sections by anchors and an adversary.",
    citation="fang2024stg3net",
    expects="log1p",
    returns="Embedding",
    default_steps=1000,
    fidelity="published",
    evidence=(
        "authors' networks and turns on the same input, weights, hidden spots and anchors, plain graph and no dropout: "
        "embedding, losses and gradients to 2e-4, 20 steps to 1e-3; layers of simulated sections found across a batch "
        "shift; the adversary reaches the encoder (tests)"
    ),
    licence="no licence in the authors' repository",
    notes=(
        "The adversarial gradient reaches the encoder, as published; the authors' code evaluates the discriminator "
        "without gradient. The graph is normalised once (authors' code: twice, with the identity added between)."
    ),
)
