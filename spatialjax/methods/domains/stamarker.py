"""STAMarker: domains that an ensemble of STAGATE encoders agrees on, and the genes that each domain rests on."""

from __future__ import annotations

from functools import cache, partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from spatialjax.algorithm import Chain, Fit, Model, minimize
from spatialjax.clustering import co_association, tied_mixture
from spatialjax.graphs import scaled_radius, within_sections
from spatialjax.losses import cross_entropy, tied_reconstruction
from spatialjax.methods.card import Card, Method, unchanged
from spatialjax.nn import TiedAttentionAutoencoder, shuffled_rows
from spatialjax.results import DomainGenes, Domains
from spatialjax.slices import Slice

_EPOCHS = (1000, 300)


class _Classifier(nn.Module):
    """From an embedding to the logits of the domains."""

    hidden: int
    domains: int

    @nn.compact
    def __call__(self, z: Float[Array, "n z"]) -> Float[Array, "n k"]:
        return nn.Dense(self.domains)(nn.relu(nn.Dense(self.hidden)(z)))


@cache
def stamarker(
    *,
    n_domains: int = 7,
    members: int = 5,
    rule: Literal["permutation", "deviations"] = "permutation",
    level: float = 0.05,
    shadows: float = 0.25,
    deviations: float = 1.5,
    hidden: int = 512,
    latent: int = 30,
    score: Literal["sigmoid", "leaky_relu"] = "sigmoid",
    reach: float = 1.6,
    learning_rate: float = 1e-4,
) -> Method:
    r"""Domains by consensus of an ensemble of graph attention auto-encoders, and their genes by saliency.

    Auto-encoders that differ by their start are trained (see ``stagate``), the embedding of each is clustered by a
    mixture, and average linkage on the share of members that put two spots together gives consensus domains. A
    classifier of these domains is then trained on each embedding. The saliency :math:`a_{ig}` of gene *g* in spot *i*
    is the positive part of :math:`\partial \sum_j s_j / \partial x_{ig}` through encoder and classifier, :math:`s_j`
    being the largest logit of spot *j*. The published score of a gene in a domain is the logarithm of the mean of
    :math:`a_{ig}` over the spots of the domain and the members. The score that is tested here is the mean of
    :math:`a_{ig} (x_{ig} - \bar x_g)`, what the gene adds to the logit where it is high.

    Which scores are high is told by permutation: a share of the genes enters the auto-encoders a second time, each
    shuffled over the spots by a permutation of its own. Such a shadow says nothing of any domain, yet goes through the
    same training, so the shadows show what a gene gets by chance. The false discovery rate of a score is the expected
    number of genes that chance puts at or above it over the number that is found there.

    Parameters
    ----------
    n_domains
        Number of domains.
    members
        Number of auto-encoders.
    rule
        ``"permutation"`` selects genes by what they add, with a false discovery rate of at most ``level``;
        ``"deviations"`` is the published rule: published scores above their mean over the genes by ``deviations``
        standard deviations.
    level
        Largest false discovery rate.
    shadows
        Share of the genes that have a shadow, in (0, 1]; the smallest rate is 1 / (``shadows`` × genes found).
    deviations
        Factor of the standard deviation in the published rule.
    hidden, latent, score, reach
        Of the auto-encoders, see ``stagate``.
    learning_rate
        Step of Adam for the auto-encoders.

    Returns
    -------
    Method
        For one section with log1p expression of variable genes. Result: ``Domains`` with the mean of the classifiers'
        probabilities, the embedding of the first member and ``genes``; ``converged`` says whether all epochs of both
        phases were taken: the method has no other stopping rule.

    Raises
    ------
    ValueError
        If there are fewer than 2 domains or 1 member, ``shadows`` is outside (0, 1], or the rule is unknown.

    Notes
    -----
    *As published / as coded.* The code scores pairs by a LeakyReLU (``score="leaky_relu"``), and genes by the root of
    the sum of the squared saliency over a domain, without a logarithm. Its consensus cuts a tree of average linkage on
    the rows of the co-association. The published rule finds outliers, it controls no error rate; it is an option here.
    A slope alone tells markers badly: an encoder that mixes many genes in few columns has slopes for genes of pure
    noise too, hence the factor :math:`x_{ig} - \bar x_g` (Shrikumar et al. 2017). Shadows are the permutation test of
    Boruta (Kursa & Rudnicki 2010) with the count of knockoffs (Barber & Candès 2015); they keep the distribution of a
    gene, not its correlation with neighbours or depth. The code's classifier has no activation between its layers and
    takes its softmax over the spots of a batch; here, as in the paper, it is a multilayer perceptron with a softmax
    over the domains. It sees all spots at every step instead of batches of 1,000 drawn evenly from the domains: each
    domain has the same weight, steps are ten times longer (Adam, 0.01), and no spots are held out. Consensus is by
    distinct tuples of labels, never by spots × spots.

    References
    ----------
    Zhang et al. (2023), Nucleic Acids Research 51.
    """
    if n_domains < 2 or members < 1:
        raise ValueError(
            f"Expected at least 2 domains and 1 member, found n_domains={n_domains} and members={members}."
        )
    if not 0 < shadows <= 1:
        raise ValueError(f"Expected a share of shadows above 0 and up to 1, found {shadows}.")
    if rule not in ("permutation", "deviations"):
        raise ValueError(f"Expected rule to be 'permutation' or 'deviations', found {rule!r}.")
    network = TiedAttentionAutoencoder(hidden, latent, score)
    select = partial(_within, level=level) if rule == "permutation" else partial(_outliers, deviations=deviations)

    def prepare(section: Slice) -> Slice:
        return within_sections(section, lambda xy: scaled_radius(xy, reach))

    def handover(fit: Fit, section: Slice) -> tuple[dict[str, Any], None]:
        real = np.flatnonzero(np.asarray(section.mask))
        found = co_association(np.asarray(fit.result["labels"])[:, real].T, number=n_domains)
        labels = np.zeros(section.capacity, np.int32)
        labels[real] = np.asarray(found.probability).argmax(1)
        data = {"section": section, "labels": jnp.asarray(labels), "encoders": fit.state.params["members"]}
        return data | {"embedding": fit.result["embedding"], **fit.state.aux}, None

    encoders = _encoders(network, members=members, n_domains=n_domains, shadows=shadows)
    # Each member has a gradient norm and moments of its own, as rows of a local table have.
    slow = optax.chain(optax.clip_by_global_norm(5.0), optax.add_decayed_weights(1e-4), optax.adam(learning_rate))
    classifiers = _classifiers(network, _Classifier(latent, n_domains), rule=rule, select=select)
    rate = optax.exponential_decay(0.01, transition_steps=250, decay_rate=0.5, staircase=True)
    fast = optax.chain(optax.add_decayed_weights(1e-4), optax.adam(rate))
    chain = Chain(minimize(encoders, slow, local=("members",)), handover, minimize(classifiers, fast))
    return Method(prepare, chain, unchanged, _EPOCHS)


def _shadows(key: Any, section: Slice, share: float) -> Float[Array, "n s"]:
    """A share of the genes, each shuffled over the real spots by itself."""
    genes = section.features.shape[1]
    key_choice, key_order = jax.random.split(key)
    number = max(1, round(share * genes))
    chosen = section.features[:, jax.random.permutation(key_choice, genes)[:number]]
    orders = jax.vmap(lambda own: shuffled_rows(own, section.mask))(jax.random.split(key_order, number))
    return jnp.take_along_axis(chosen, orders.T, 0)


def _encoders(network: TiedAttentionAutoencoder, *, members: int, n_domains: int, shadows: float) -> Model:
    """The ensemble of auto-encoders; reads out the embedding of each member and its clusters."""

    def apply(own: Any, x: Any, section: Slice) -> Any:
        return network.apply({"params": own}, x, section.edges)

    def init(key: Any, section: Slice) -> Any:
        key_shadow, key_start = jax.random.split(key)
        shadow = _shadows(key_shadow, section, shadows)
        x = jnp.concatenate([section.features, shadow], 1)
        start = jax.vmap(lambda own: network.init(own, x, section.edges)["params"])
        return {"members": start(jax.random.split(key_start, members))}, {"shadow": shadow, "epoch": jnp.int32(0)}

    def loss(params: Any, aux: Any, key: Any, section: Slice) -> Any:
        del key
        weights, x = section.weights, jnp.concatenate([section.features, aux["shadow"]], 1)

        def one(own: Any) -> Any:
            out = apply(own, x, section)
            return tied_reconstruction(x, out.decoded, out.kernel, weight=weights, projected=out.projected)[0]

        # The sum, not the mean: the gradient of a member does not depend on their number.
        total = jax.lax.map(one, params["members"]).sum()
        return (total, weights.sum()), ({**aux, "epoch": aux["epoch"] + 1}, {})

    def readout(key: Any, params: Any, aux: Any, section: Slice) -> dict[str, Any]:
        x = jnp.concatenate([section.features, aux["shadow"]], 1)

        def one(member: Any) -> Any:
            own, own_key = member
            latent = jnp.where(section.mask[:, None], apply(own, x, section).latent, 0.0)
            return latent, tied_mixture(own_key, latent, section.mask, number=n_domains, starts=5).labels

        embedding, labels = jax.lax.map(one, (params["members"], jax.random.split(key, members)))
        return {"embedding": embedding, "labels": labels}

    return Model(init, loss, readout)


def _classifiers(network: TiedAttentionAutoencoder, classifier: _Classifier, *, rule: str, select: Any) -> Model:
    """A classifier of the consensus domains for each member; reads out domains and genes."""
    number = classifier.domains

    def init(key: Any, data: dict[str, Any]) -> Any:
        keys = jax.random.split(key, len(data["embedding"]))
        start = jax.vmap(lambda own: classifier.init(own, data["embedding"][0])["params"])(keys)
        return {"classifiers": start}, jnp.int32(0)

    def loss(params: Any, epoch: Any, key: Any, data: dict[str, Any]) -> Any:
        del key
        weights, labels = data["section"].weights, data["labels"]
        size = weights @ jax.nn.one_hot(labels, number)
        share = weights / jnp.maximum(size[labels] * (size > 0).sum(), 1e-12)

        def one(own: Any, embedding: Any) -> Any:
            return cross_entropy(classifier.apply({"params": own}, embedding), labels, share)[0]

        values = jax.vmap(one)(params["classifiers"], data["embedding"])
        return (values.sum(), jnp.float32(1.0)), (epoch + 1, {})

    def readout(key: Any, params: Any, epoch: Any, data: dict[str, Any]) -> Domains:
        del key
        section, mask, genes = data["section"], data["section"].mask, data["section"].features.shape[1]
        share = jax.nn.one_hot(data["labels"], number) * section.weights[:, None]
        share = share / jnp.maximum(share.sum(0), 1e-12)
        x = jnp.concatenate([section.features, data["shadow"]], 1)
        high = x - section.weights @ x / jnp.maximum(section.weights.sum(), 1e-12)

        def saliency(member: Any) -> Any:
            encoder, own = member

            def top(x: Any) -> Any:
                z = network.apply({"params": encoder}, x, section.edges).latent
                return jnp.where(mask, classifier.apply({"params": own}, z).max(1), 0.0).sum()

            slope = jax.nn.relu(jax.grad(top)(x))
            return share.T @ (slope * high if rule == "permutation" else slope)

        scores = jax.lax.map(saliency, (data["encoders"], params["classifiers"])).mean(0)
        if rule == "deviations":
            # A thousandth of the mean keeps the logarithm of genes that say nothing from being an outlier below.
            scores = jnp.log(scores + 1e-3 * scores.mean(1, keepdims=True) + 1e-12)
        rates = _false_discovery_rate(scores[:, :genes], scores[:, genes:])
        found = DomainGenes(scores[:, :genes], rates, select(scores[:, :genes], rates))
        logits = jax.vmap(lambda own, z: classifier.apply({"params": own}, z))(params["classifiers"], data["embedding"])
        probability = jnp.where(mask[:, None], jax.nn.softmax(logits).mean(0), 0.0)
        complete = (data["epoch"] >= _EPOCHS[0]) & (epoch >= _EPOCHS[1])
        return Domains(probability, data["embedding"][0], complete, genes=found)

    return Model(init, loss, readout)


def _within(scores: Any, rates: Any, *, level: float) -> Any:
    del scores
    return rates <= level


def _outliers(scores: Any, rates: Any, *, deviations: float) -> Any:
    """The published rule."""
    del rates
    return scores > scores.mean(1, keepdims=True) + deviations * scores.std(1, keepdims=True)


def _false_discovery_rate(seen: Float[Array, "k g"], shadow: Float[Array, "k s"]) -> Float[Array, "k g"]:
    """Expected number of chance scores at or above each score over the number of scores found there.

    Scores of a domain are taken relative to the mean of its shadows and in units of their spread, and all domains are
    counted together; rates are then made to rise as scores fall.
    """
    centre, spread = shadow.mean(1, keepdims=True), shadow.std(1, keepdims=True) + 1e-12
    seen, shadow = (seen - centre) / spread, (shadow - centre) / spread
    ordered = jnp.sort(seen.reshape(-1))
    found = ordered.size - jnp.arange(ordered.size)
    above = shadow.size - jnp.searchsorted(jnp.sort(shadow.reshape(-1)), ordered)
    # One shadow more than was seen: no rate is 0 because there are few shadows.
    rate = jnp.minimum((above + 1) * (ordered.size / shadow.size) / found, 1.0)
    return jax.lax.cummin(rate)[jnp.searchsorted(ordered, seen)]


CARD = Card(
    name="stamarker",
    task="domains",
    summary="Consensus of STAGATE encoders, domain genes by saliency with a permutation false discovery rate",
    citation="zhang2023stamarker",
    expects="log1p",
    returns="Domains",
    default_steps=_EPOCHS,
    fidelity="published",
    evidence=(
        "authors' encoders and saliency on the same input and weights: embeddings, losses and mean saliency of each "
        "domain to 1e-4, the same consensus of five noisy partitions; finds planted layers and their markers, few "
        "genes of pure noise (tests)"
    ),
    licence="no licence (authors' code; written from the equations)",
    notes=(
        "Genes by saliency times contrast and a false discovery rate against shuffled genes, the published rule with "
        "rule='deviations'; a softmax over domains and an activation in the classifier, which the code lacks; full "
        "batches."
    ),
)
