"""DestVI: spots as sums of types, each type at a place of its own in a latent space learnt from single cells."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spatialjax import losses, nn
from spatialjax.algorithm import Chain, Fit, Model, host_row_source, minimize
from spatialjax.algorithm.adaptors import weighted_mean
from spatialjax.composition import (
    composed,
    drawn_first,
    informative_genes,
    latent_prior,
    mean_signatures,
    packed,
    pooled_counts,
    read_by_tiles,
    row_tables,
    training_rows,
    unpacked,
)
from spatialjax.keys import generator
from spatialjax.methods.card import Card, Method
from spatialjax.results import Proportions
from spatialjax.tables import Reference, SpotTable

#: Steps: the draw of the order of the cells, the model of the cells, the model of the spots.
_STEPS = (1, 3000, 2000)
#: Share of the steps in which the priors reach their weight: of cells and of spots.
_WARM_UP = (1.0, 0.1)
#: Cells of a minibatch.
_CELLS = 128
#: Pseudo-spots, how many are made at once, and the concentration of their compositions.
_PSEUDO, _AT_ONCE, _FEW_TYPES = 8192, 256, 0.03
#: Least weight of a place under its prior: of a type that is not there.
_LEAST_WEIGHT = 1e-3


class Options(NamedTuple):
    """What the losses need to know; see :func:`destvi`."""

    latent: int
    widths: tuple[int, ...]
    batch: int
    known: float

    def encoder(self) -> nn.CountEncoder:
        """Of single cells."""
        return nn.CountEncoder(self.latent, self.widths, dropout=0.05)

    def decoder(self, genes: int) -> nn.CountDecoder:
        """Of single cells and, by type, of spots."""
        return nn.CountDecoder(genes, self.widths, dropout=0.05)

    def stack(self, features: int) -> nn.DenseStack:
        """From the counts of a spot to what is sought."""
        return nn.DenseStack(self.widths, 0.05, features)


@functools.cache
def destvi(
    *,
    genes: int = 1000,
    latent: int = 5,
    widths: tuple[int, ...] = (128, 128),
    components: int = 15,
    batch: int = 64,
    known: float = 100.0,
    cell_rate: float = 1e-3,
    spot_rate: float = 3e-3,
) -> Method:
    """Composition and state of each type in each spot (Lopez et al. 2022).

    A variational auto-encoder of the counts of single cells, negative binomial, is told their types: a cell of type c
    at the place γ spreads its counts over the genes as f(γ, c). Its decoder then stands fixed in the model of a spot
    with l counts,

    ``y_g ~ NB(l [Σ_c v_c f(γ_c, c)_g exp(β_g) + v₀ softmax(η)_g], size_g)``,

    with abundances v and places γ found from the counts by networks, factors of the genes β and a profile η of what no
    type explains. γ_c has an empirical prior, a mixture over clusters of the cells of type c; β and η have N(0, 1). The
    network of the abundances also learns from pseudo-spots whose composition is known: types in Dirichlet shares at
    places drawn from their priors, with the depth of the spots and the factors of the genes.

    Parameters
    ----------
    genes
        Number of genes, the most informative ones among those that the spots show.
    latent
        Columns of γ.
    widths
        Widths of the hidden layers of all networks.
    components
        Components of the prior of γ for each type.
    batch
        Spots of a step, and pseudo-spots.
    known
        Weight of the Kullback–Leibler divergence of the known composition of pseudo-spots from the one found; none are
        made where 0.
    cell_rate, spot_rate
        Of Adam, for the model of the cells and of the spots.

    Returns
    -------
    Method
        Data: a ``SpotTable`` and a ``Reference``. Result: ``Proportions``, converged once the default number of steps
        was taken: v without v₀, over the depth of the types on these genes, so that it counts cells where the authors'
        code returns shares of RNA.

    Notes
    -----
    Sized for a processor: the code trains 300 epochs of cells and 2,000 of spots on 2,000 variable genes. As published:
    point estimates of v and γ, both amortised, under the prior, with its weight warmed up. *As coded, not as
    published:* the prior of the place of a type counts as much as the type does in the spot (at least .001), since the
    places of the types that are not there would else decide what the network learns; and the pseudo-spots. Other than
    as coded: pseudo-spots are drawn once, before the factors of the genes are known, which multiply their counts, and
    teach the shares of the types alone; later releases also teach
    that there is no rest, explain their counts, and mixtures of them with spots, weigh the
    likelihood three times, punish the entropy of v, hold β near 0 in every spot and know several states of a type in a
    spot. The sizes of the negative binomial begin at those of the cells. Single cells are given to the device as
    minibatches from a sparse table; training sees at most 8,192 spots, evenly out of all.

    Raises
    ------
    ValueError
        If ``known`` is negative.

    References
    ----------
    Lopez et al. (2022), Nature Biotechnology 40, 1360–1369.
    """
    if known < 0:
        raise ValueError(f"Expected a weight of the known compositions of at least 0, found {known}.")
    options = Options(latent, widths, batch, known)

    def prepare(spots: SpotTable, reference: Reference) -> Any:
        kept = _chosen(spots, reference, genes)
        return {
            "cells": packed(reference.counts[:, kept]),
            "types": np.asarray(reference.types, np.int32),
            "names": np.zeros((len(reference.names), 0), np.float32),
            "spots": training_rows(spots, kept),
        }

    def draw(key: Any, data: Any) -> Any:
        member = np.eye(len(data["names"]), dtype=np.float32)[np.asarray(data["types"])]
        tables = {"counts": unpacked(data["cells"]), "member": member}
        order, prior = jax.random.split(key)
        return {
            "tile": host_row_source(tables, size=_CELLS, key=order),
            "types": np.asarray(data["types"]),
            "names": data["names"],
            "spots": data["spots"],
            "bits": np.asarray(jax.random.key_data(prior)),
        }

    def finish(found: Any, spots: SpotTable, reference: Reference) -> Proportions:
        kept, key = _chosen(spots, reference, genes), jax.random.wrap_key_data(found["bits"])
        counts = read_by_tiles(_reading(options), key, spots, shared=found["network"], genes=kept)
        means = mean_signatures(reference.counts, reference.types, number=len(reference.names)).means
        depth = np.asarray(means, np.float64)[:, kept].sum(1)
        return composed(counts.astype(np.float64) / depth, spots, settled=found["settled"])

    training = _training(options, components, (cell_rate, spot_rate))
    return Method(prepare, drawn_first(draw, training), finish, max_steps=_STEPS)


def _chosen(spots: SpotTable, reference: Reference, genes: int) -> np.ndarray:
    """The most informative genes among those that the spots show."""
    signatures = mean_signatures(reference.counts, reference.types, number=len(reference.names))
    shown = np.flatnonzero(pooled_counts(spots) > 0)
    return shown[informative_genes(signatures.replace(means=signatures.means[:, shown]), genes)]


@functools.cache
def _training(options: Options, components: int, rates: tuple[float, float]) -> Chain:
    cells = Model(*(functools.partial(part, options) for part in (_start_cells, _cell_loss, _places)))
    spots = Model(*(functools.partial(part, options) for part in (_start_spots, _spot_loss, _read)))

    def to_spots(fit: Fit, data: Any) -> tuple[Any, Any]:
        found = jax.tree.map(fit.result.merge, fit.result.tiles)
        keys, types = jax.random.split(jax.random.wrap_key_data(data["bits"])), data["types"]
        latent = (np.asarray(found["mean"]), np.exp(np.asarray(found["log_sd"])))
        prior = latent_prior(keys[0], latent, types, number=len(data["names"]), components=components)
        told = {"spots": data["spots"], "prior": prior, "decoder": fit.state.params["decoder"]}
        return {**told, "pseudo": _pseudo_spots(options, keys[1], told)}, None

    return Chain(minimize(cells, optax.adam(rates[0], eps=0.01)), to_spots, minimize(spots, optax.adam(rates[1])))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _shown(options: Options, genes: int, decoder: Any, places: Any) -> Any:
    """(n, K, g) counts of a cell of each type at its place, as shares."""
    size, kinds, latent = places.shape
    member, library = jnp.tile(jnp.eye(kinds), (size, 1)), jnp.ones(size * kinds)
    made = options.decoder(genes).apply(decoder, places.reshape(size * kinds, latent), member, library=library)
    return made.mean.reshape(size, kinds, genes)


def _pseudo_spots(options: Options, key: Any, told: dict[str, Any]) -> dict[str, np.ndarray]:
    """Counts of mixtures of types at places of their priors, and the shares of the types. On the host."""
    keys, spots, kinds = jax.random.split(key), told["spots"], told["prior"].mean.shape[0]
    rng, genes = generator(keys[0]), spots["values"].shape[1]
    number = _PSEUDO if options.known else 0
    share = rng.dirichlet(np.full(kinds, _FEW_TYPES), number).astype(np.float32)
    depth = np.asarray(spots["values"].sum(1))[rng.integers(0, spots["number"], number)]
    places = told["prior"].drawn(keys[1], number).astype(np.float32)
    size = np.exp(np.clip(np.asarray(told["decoder"]["params"]["head"]["log_size"], np.float64), -10.0, 10.0))
    counts = np.zeros((number, genes), np.float32)
    for start in range(0, number, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        shown = np.asarray(_shown(options, genes, told["decoder"], places[part]))
        mean = depth[part, None] * np.einsum("nk,nkg->ng", share[part], shown)
        counts[part] = rng.poisson(rng.gamma(size, size=mean.shape) * mean / size)
    return {"counts": counts, "share": share}


def _start_cells(options: Options, key: Any, data: Any) -> tuple[dict[str, Any], Any]:
    keys, values = jax.random.split(key), data["tile"].values
    counts, member = values["counts"][:1], values["member"][:1]
    decoder, place = options.decoder(counts.shape[1]), jnp.zeros((1, options.latent))
    return {
        "encoder": options.encoder().init(keys[0], counts, member),
        "decoder": decoder.init(keys[1], place, member, library=jnp.ones(1)),
    }, {"step": jnp.float32(0)}


def _warmth(aux: Any, phase: int) -> Any:
    return jnp.minimum(aux["step"] / (_WARM_UP[phase - 1] * _STEPS[phase]), 1.0)


def _cell_loss(options: Options, params: Any, aux: Any, key: Any, data: Any) -> Any:
    keys, values, weight = jax.random.split(key), data["tile"].values, data["tile"].core
    counts, member = values["counts"], values["member"]
    z = options.encoder().apply(params["encoder"], counts, member, key=keys[0])
    decoder = options.decoder(counts.shape[1])
    made = decoder.apply(params["decoder"], z.sample, member, library=counts.sum(1), key=keys[1])
    counted, size = losses.negative_binomial(counts, made.mean, made.log_size, weight=weight)
    prior, _ = losses.gaussian_kl(z.mean, z.log_sd, weight)
    return (counted + _warmth(aux, 1) * prior, size), ({"step": aux["step"] + 1.0}, {"prior": prior / size})


def _places(options: Options, key: Any, params: Any, aux: Any, data: Any) -> Any:
    del key, aux
    values = data["tile"].values
    z = options.encoder().apply(params["encoder"], values["counts"], values["member"])
    return {"mean": z.mean, "log_sd": z.log_sd}


def _start_spots(options: Options, key: Any, data: Any) -> tuple[dict[str, Any], Any]:
    keys, (kinds, _, latent) = jax.random.split(key), data["prior"].mean.shape
    row = data["spots"]["values"][:1]
    size = data["decoder"]["params"]["head"]["log_size"]
    return {
        "abundance": options.stack(kinds + 1).init(keys[0], row),
        "places": options.stack(kinds * latent).init(keys[1], row),
        "genes": {"factor": jnp.zeros(row.shape[1]), "rest": jnp.zeros(row.shape[1]), "log_size": size},
    }, {"step": jnp.float32(0)}


def _abundance(options: Options, params: Any, counts: Any, *, kinds: int, key: Any = None) -> Any:
    """(n, K + 1) v, the last column that of no type."""
    return jax.nn.softplus(options.stack(kinds + 1).apply(params["abundance"], jnp.log1p(counts), key=key))


def _spot_loss(options: Options, params: Any, aux: Any, key: Any, data: Any) -> Any:
    keys, kinds, spots = jax.random.split(key, 4), data["prior"].mean.shape[0], data["spots"]
    counts = spots["values"][jax.random.randint(keys[0], (options.batch,), 0, spots["number"])]
    v = _abundance(options, params, counts, kinds=kinds, key=keys[1])
    places = options.stack(kinds * options.latent).apply(params["places"], jnp.log1p(counts), key=keys[2])
    places = places.reshape(options.batch, kinds, options.latent)
    own, shown = params["genes"], _shown(options, counts.shape[1], data["decoder"], places)
    typed = jnp.einsum("nk,nkg->ng", v[:, :-1], shown) * jnp.exp(own["factor"])
    mean = counts.sum(1, keepdims=True) * (typed + v[:, -1:] * jax.nn.softmax(own["rest"]))
    weight = jnp.ones(options.batch)
    counted = weighted_mean(*losses.negative_binomial(counts, mean, own["log_size"], weight=weight))
    unlikely = -(data["prior"].log_density(places) * (v[:, :-1] + _LEAST_WEIGHT)).sum(1).mean()
    # One prior for all spots, of which this is the part of one.
    shared = 0.5 * (jnp.square(own["factor"]).sum() + jnp.square(own["rest"]).sum()) / spots["number"]
    value = counted + _warmth(aux, 2) * unlikely + shared
    metrics = {"counted": counted, "unlikely": unlikely, "rest": (v[:, -1] / v.sum(1)).mean()}
    if options.known:
        metrics["missed"] = _missed(options, params, keys[3], data)
        value = value + options.known * metrics["missed"]
    return losses.of_all(value, weight), ({"step": aux["step"] + 1.0}, metrics)


def _missed(options: Options, params: Any, key: Any, data: Any) -> Any:
    """Divergence of the known composition of some pseudo-spots from the one that is found, without the rest.

    That pseudo-spots have no rest must not teach that spots have none.
    """
    keys, pseudo = jax.random.split(key), data["pseudo"]
    drawn = jax.random.randint(keys[0], (options.batch,), 0, pseudo["counts"].shape[0])
    # The factors say how the spots would show these cells; what they are is for the spots to say.
    counts = pseudo["counts"][drawn] * jax.lax.stop_gradient(jnp.exp(params["genes"]["factor"]))
    v = _abundance(options, params, counts, kinds=pseudo["share"].shape[1], key=keys[1])
    found, share = v[:, :-1] / v[:, :-1].sum(1, keepdims=True), pseudo["share"][drawn]
    return jax.scipy.special.rel_entr(share, found + 1e-8).sum(1).mean()


def _read(options: Options, key: Any, params: Any, aux: Any, data: Any) -> Any:
    del options
    network = {"abundance": params["abundance"], "kinds": jnp.zeros((data["prior"].mean.shape[0], 0))}
    return {"network": network, "settled": aux["step"] >= _STEPS[2], "bits": jax.random.key_data(key)}


@functools.cache
def _reading(options: Options) -> Chain:
    def counted(key: Any, data: Any) -> Any:
        del key
        counts, network = data["tile"].values["counts"], data["tile"].values["shared"]
        v = _abundance(options, network, counts, kinds=network["kinds"].shape[0])
        return v[:, :-1] * counts.sum(1, keepdims=True)

    return row_tables(counted)


CARD = Card(
    name="destvi",
    task="deconvolution",
    summary="Spots as sums of types, each at a latent place of a conditional auto-encoder of single cells.",
    citation="lopez2022destvi",
    expects="counts",
    returns="Proportions",
    default_steps=_STEPS,
    fidelity="published",
    evidence="tests/methods/test_destvi_deconvolution.py: prior, gene factors and unknown part of simulated spots",
    licence="BSD-3-Clause (github.com/scverse/scvi-tools); written from the equations",
    notes="As published, with the pseudo-spots and the weighted prior of later releases; sized for a processor.",
)
