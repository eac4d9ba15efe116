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
from spatialjax.methods.card import Card, Method
from spatialjax.results import Proportions
from spatialjax.tables import Reference, SpotTable

#: Steps: the draw of the order of the cells, the model of the cells, the model of the spots.
_STEPS = (1, 3000, 2000)
#: Share of the steps in which the priors reach their weight: of cells and of spots.
_WARM_UP = (1.0, 0.1)
#: Cells of a minibatch.
_CELLS = 128


class Options(NamedTuple):
    """What the losses need to know; see :func:`destvi`."""

    latent: int
    widths: tuple[int, ...]
    batch: int

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
    cell_rate: float = 1e-3,
    spot_rate: float = 3e-3,
) -> Method:
    """Composition and state of each type in each spot (Lopez et al. 2022).

    A variational auto-encoder of the counts of single cells, negative binomial, is told their types: a cell of type c
    at the place γ spreads its counts over the genes as f(γ, c). Its decoder then stands fixed in the model of a spot
    with l counts,

    ``y_g ~ NB(l [Σ_c v_c f(γ_c, c)_g exp(β_g) + v₀ softmax(η)_g], size_g)``,

    with abundances v and places γ found from the counts by networks, factors of the genes β and a profile η of what no
    type explains. γ_c has an empirical prior, a mixture over clusters of the cells of type c; β and η have N(0, 1).

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
        Spots of a step.
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
    published:* later releases weigh the likelihood three times, punish the entropy of v twice, mix in pseudo-spots and
    know several states and an unknown type; none of this is here. The sizes of the negative binomial begin at those of
    the cells. Single cells are given to the device as minibatches from a sparse table; training sees at most 8,192
    spots, evenly out of all.

    References
    ----------
    Lopez et al. (2022), Nature Biotechnology 40, 1360–1369.
    """
    options = Options(latent, widths, batch)

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
        key, types = jax.random.wrap_key_data(data["bits"]), data["types"]
        latent = (np.asarray(found["mean"]), np.exp(np.asarray(found["log_sd"])))
        prior = latent_prior(key, latent, types, number=len(data["names"]), components=components)
        return {"spots": data["spots"], "prior": prior, "decoder": fit.state.params["decoder"]}, None

    return Chain(minimize(cells, optax.adam(rates[0], eps=0.01)), to_spots, minimize(spots, optax.adam(rates[1])))


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
    keys, (kinds, _, latent), spots = jax.random.split(key, 3), data["prior"].mean.shape, data["spots"]
    counts = spots["values"][jax.random.randint(keys[0], (options.batch,), 0, spots["number"])]
    size, width = counts.shape
    v = _abundance(options, params, counts, kinds=kinds, key=keys[1])
    places = options.stack(kinds * latent).apply(params["places"], jnp.log1p(counts), key=keys[2])
    places = places.reshape(size, kinds, latent)
    member = jnp.tile(jnp.eye(kinds), (size, 1))
    flat = places.reshape(size * kinds, latent)
    shown = options.decoder(width).apply(data["decoder"], flat, member, library=jnp.ones(size * kinds)).mean
    own = params["genes"]
    typed = jnp.einsum("nk,nkg->ng", v[:, :-1], shown.reshape(size, kinds, width)) * jnp.exp(own["factor"])
    mean = counts.sum(1, keepdims=True) * (typed + v[:, -1:] * jax.nn.softmax(own["rest"]))
    weight = jnp.ones(size)
    counted = weighted_mean(*losses.negative_binomial(counts, mean, own["log_size"], weight=weight))
    unlikely = -data["prior"].log_density(places).sum(1).mean()
    # One prior for all spots, of which this is the part of one.
    shared = 0.5 * (jnp.square(own["factor"]).sum() + jnp.square(own["rest"]).sum()) / spots["number"]
    value = counted + _warmth(aux, 2) * unlikely + shared
    metrics = {"counted": counted, "unlikely": unlikely, "rest": (v[:, -1] / v.sum(1)).mean()}
    return losses.of_all(value, weight), ({"step": aux["step"] + 1.0}, metrics)


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
    notes="As published, without the terms of later releases; fewer steps, sized for a processor.",
)
