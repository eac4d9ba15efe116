"""CellDART: a network learns compositions from mixed cells, and an adversary makes it see spots as it sees mixtures."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse as sp
from jaxtyping import Array, Float

from spatialjax import losses, nn
from spatialjax.algorithm import Algorithm, Chain, Fit, Model, Turn, alternate, minimize
from spatialjax.algorithm.adaptors import weighted_mean
from spatialjax.composition import (
    cells_of_shares,
    composed,
    drawn_first,
    mean_profiles,
    packed,
    read_by_tiles,
    row_tables,
    scaled_rows,
    shown_markers,
    training_rows,
    unpacked,
    weighted_mixtures,
)
from spatialjax.composition.networked import ScaledRows
from spatialjax.methods.card import Card, Method
from spatialjax.results import Proportions
from spatialjax.tables import Reference, SpotTable

#: Steps: the draw of the mixtures, ten epochs of them by batches, and turns of the two players.
_STEPS = (1, 400, 3000)
#: Of the batch normalisation.
_NORM = {"momentum": 0.01, "epsilon": 1e-3}
_MIXED, _SPOT = 0, 1


class Network(linen.Module):
    """Encoder of the values of a row."""

    widths: tuple[int, ...]

    @linen.compact
    def __call__(self, x: Any, *, train: bool = False) -> Float[Array, "n z"]:
        """Train on batch statistics."""
        for width in self.widths:
            x = nn.DenseBlock(width, **_NORM)(x, jnp.ones(len(x)), train=train)
        return x


class Judge(linen.Module):
    """Logits of where a row comes from."""

    width: int

    @linen.compact
    def __call__(self, z: Any, key: Any = None) -> Float[Array, "n 2"]:
        """Train with a key, on batch statistics."""
        block = nn.DenseBlock(self.width, dropout=0.5, **_NORM)
        return linen.Dense(2)(block(z, jnp.ones(len(z)), train=key is not None, key=key))


class Options(NamedTuple):
    """What the losses need to know; see :func:`celldart`."""

    widths: tuple[int, ...]
    judge: int
    adversary: float
    batch: int


@functools.cache
def celldart(
    *,
    genes: int = 20,
    pseudo_spots: int = 20_000,
    cells: int = 10,
    even: bool = True,
    widths: tuple[int, ...] = (1024, 64),
    judge: int = 32,
    adversary: float = 0.6,
    batch: int = 512,
    learning_rate: float = 1e-3,
    judge_rate: float = 5e-3,
) -> Method:
    """Composition by adversarial domain adaptation from mixtures of cells to spots (Bae et al. 2022).

    Mixtures are weighted means of ``cells`` random cells of the reference. Rows of both kinds are scaled to 10,000
    counts and, on marker genes, become log1p and are spread from 0 to 1 row by row. An encoder and a softmax learn the
    weights of the types in the mixtures, by KL divergence. Then two players take turns: encoder and softmax go down
    ``KL + adversary × CE``, with the cross entropy CE of a judge that tells mixtures from spots under flipped labels;
    the judge goes down its cross entropy under the true ones.

    Parameters
    ----------
    genes
        Markers of each type.
    pseudo_spots, cells
        Number of mixtures, and cells of each.
    even
        Whether mixtures hold all types alike; otherwise, as published, as often as the reference has them.
    widths, judge
        Widths of the hidden layers of encoder and judge.
    adversary
        Weight of the flipped cross entropy.
    batch
        Mixtures, and spots, of a step.
    learning_rate, judge_rate
        Of Adam, for the network and for the judge.

    Returns
    -------
    Method
        Data: a ``SpotTable`` and a ``Reference``. Result: ``Proportions``, converged once the published number of turns
        was taken.

    Notes
    -----
    The adversary makes the hidden values of mixtures and spots alike *in distribution*, which is right where both hold
    like compositions: spots with fewer cells, or types that are more or less frequent, are pulled towards the mixtures.
    So ``cells`` should be near the number of cells of a spot; where that cannot be said, ``adversary=0`` is safer.

    *Not as coded:* the code scales each cell to one depth before it is mixed, so that its network learns shares of RNA;
    here raw counts are mixed and the mixture is scaled, so that shares count cells. Mixtures hold all types alike
    (``even``); markers are chosen by what their share tells of a type in place of a rank test; minibatches are drawn
    with replacement; the two turns of a step see batches of their own; training sees at most 8,192 spots, evenly out of
    all.

    *As published / as coded:* the code averages the KL divergence over mixtures and spots, where spots weigh nothing,
    so that it counts half; here it counts whole. The code keeps moments for the judge in the optimizer of the network
    although that step is undone, and restores the judge's running statistics with its weights; here each player moves
    its own groups alone.

    References
    ----------
    Bae et al. (2022), Nucleic Acids Research 50, e57; Tzeng et al. (2017), Proceedings of CVPR (adversarial
    discriminative domain adaptation).
    """
    options = Options(widths, judge, adversary, batch)
    training = _training(options, learning_rate, judge_rate)

    def prepare(spots: SpotTable, reference: Reference) -> Any:
        kept = shown_markers(mean_profiles(reference), spots, genes)
        return {
            "cells": packed(_with_rest(reference.counts, kept)),
            "types": np.asarray(reference.types, np.int32),
            "names": np.zeros((len(reference.names), 0), np.float32),
            "spots": training_rows(SpotTable(ScaledRows(spots)), kept),
        }

    def draw(key: Any, data: Any) -> Any:
        size = {"spots": pseudo_spots, "number": len(data["names"]), "cells": cells, "even": even}
        made = weighted_mixtures(key, unpacked(data["cells"]), np.asarray(data["types"]), **size)
        return {
            "mixed": scaled_rows(made.values)[:, :-1].toarray().astype(np.float32),
            "shares": made.shares.astype(np.float32),
            "spots": data["spots"],
        }

    def finish(found: Any, spots: SpotTable, reference: Reference) -> Proportions:
        profiles = mean_profiles(reference)
        kept = shown_markers(profiles, spots, genes)
        scaled, key = SpotTable(ScaledRows(spots)), jax.random.wrap_key_data(found["bits"])
        shares = read_by_tiles(_reading(options), key, scaled, shared=found["network"], genes=kept)
        return composed(cells_of_shares(shares, spots, profiles.depth), spots, settled=found["settled"])

    return Method(prepare, drawn_first(draw, training), finish, max_steps=_STEPS)


def _with_rest(counts: Any, kept: np.ndarray) -> sp.csr_matrix:
    """The counts of the chosen genes, and in a last column those of all others."""
    chosen = sp.csr_matrix(counts[:, kept], dtype=np.float64)
    rest = counts.sum(1) - chosen.sum(1)
    return sp.csr_matrix(sp.hstack([chosen, sp.csr_matrix(rest)]))


@functools.cache
def _training(options: Options, learning_rate: float, judge_rate: float) -> Chain:
    """Pretraining on mixtures alone, then the two players in turns."""
    init, readout = functools.partial(_start, options), functools.partial(_read, options)
    network, judge = optax.adam(learning_rate), optax.adam(judge_rate)
    players = alternate(
        Turn(functools.partial(_network_loss, options), ("encoder", "types"), network),
        Turn(functools.partial(_judge_loss, options), ("judge",), judge),
        init=init,
        readout=readout,
    )
    first = minimize(Model(init, functools.partial(_mixture_loss, options), readout), network)
    return Chain(first, _warm, _with_names(players))


def _warm(fit: Fit, data: Any) -> tuple[Any, Any]:
    """The pretrained groups and their running statistics go on."""
    return {**data, "statistics": fit.state.aux["statistics"]}, fit.state.params


def _start(options: Options, key: Any, data: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    keys = jax.random.split(key, 3)
    variables = {
        "encoder": Network(options.widths).init(keys[0], data["mixed"][:1]),
        "judge": Judge(options.judge).init(keys[1], jnp.zeros((1, options.widths[-1]))),
    }
    types = linen.Dense(data["shares"].shape[1]).init(keys[2], jnp.zeros((1, options.widths[-1])))
    statistics = {name: found["batch_stats"] for name, found in variables.items()}
    params = {name: found["params"] for name, found in variables.items()}
    aux = {"step": jnp.int32(0), "statistics": data.get("statistics", statistics)}
    return {**params, "types": types["params"]}, aux


def _drawn(options: Options, key: Any, data: Any) -> tuple[Any, Any, Any]:
    """Mixtures, their shares and spots of a step."""
    keys, size = jax.random.split(key), (options.batch,)
    mixed = jax.random.randint(keys[0], size, 0, len(data["mixed"]))
    spot = jax.random.randint(keys[1], size, 0, data["spots"]["number"])
    return spread(data["mixed"][mixed]), data["shares"][mixed], spread(data["spots"]["values"][spot])


def spread(values: Float[Array, "n g"]) -> Float[Array, "n g"]:
    """Rows as log1p, from 0 for their smallest value to 1 for their largest; 0 where all are alike."""
    log = jnp.log1p(values)
    low = log.min(1, keepdims=True)
    return (log - low) / jnp.maximum(log.max(1, keepdims=True) - low, 1e-8)


def _applied(
    network: Any, name: str, params: Any, aux: Any, values: Any, **options: Any
) -> tuple[Float[Array, "n z"], Any]:
    """Output of a network, and ``aux`` with its statistics moved where it is trained."""
    variables = {"params": params[name], "batch_stats": aux["statistics"][name]}
    out, moved = network.apply(variables, values, **options, mutable=["batch_stats"])
    return out, {**aux, "statistics": {**aux["statistics"], name: moved["batch_stats"]}}


def _mixture_loss(options: Options, params: Any, aux: Any, key: Any, data: Any) -> Any:
    mixed, shares, _ = _drawn(options, key, data)
    z, aux = _applied(Network(options.widths), "encoder", params, aux, mixed, train=True)
    logits = linen.Dense(shares.shape[1]).apply({"params": params["types"]}, z)
    return losses.composition_kl(logits, shares, jnp.ones(options.batch)), (aux, {})


def _judged(options: Options, params: Any, aux: Any, key: Any, data: Any) -> tuple[Any, ...]:
    """KL divergence of the mixtures, and the logits of the judge with the true origins."""
    keys = jax.random.split(key)
    mixed, shares, spot = _drawn(options, keys[0], data)
    z, aux = _applied(Network(options.widths), "encoder", params, aux, jnp.concatenate([mixed, spot]), train=True)
    logits = linen.Dense(shares.shape[1]).apply({"params": params["types"]}, z[: options.batch])
    told, aux = _applied(Judge(options.judge), "judge", params, aux, z, key=keys[1])
    origin = jnp.repeat(jnp.array([_MIXED, _SPOT]), options.batch)
    return weighted_mean(*losses.composition_kl(logits, shares, jnp.ones(options.batch))), told, origin, aux


def _network_loss(options: Options, params: Any, aux: Any, key: Any, data: Any) -> Any:
    kl, told, origin, moved = _judged(options, params, aux, key, data)
    # What the judge's statistics become is the judge's turn to say.
    statistics = {**moved["statistics"], "judge": aux["statistics"]["judge"]}
    weight = jnp.ones(2 * options.batch)
    value = kl + options.adversary * weighted_mean(*losses.cross_entropy(told, 1 - origin, weight))
    return losses.of_all(value, weight), ({"step": aux["step"] + 1, "statistics": statistics}, {"kl": kl})


def _judge_loss(options: Options, params: Any, aux: Any, key: Any, data: Any) -> Any:
    _, told, origin, moved = _judged(options, params, aux, key, data)
    statistics = {**aux["statistics"], "judge": moved["statistics"]["judge"]}
    right = (told.argmax(-1) == origin).mean(dtype=jnp.float32)
    loss = losses.cross_entropy(told, origin, jnp.ones(2 * options.batch))
    return loss, ({**aux, "statistics": statistics}, {"right": right})


def _read(options: Options, key: Any, params: Any, aux: Any, data: Any) -> Any:
    del options, data
    network = {
        "encoder": {"params": params["encoder"], "batch_stats": aux["statistics"]["encoder"]},
        "types": {"params": params["types"]},
    }
    return {"network": network, "settled": aux["step"] >= _STEPS[2], "bits": jax.random.key_data(key)}


@functools.cache
def _reading(options: Options) -> Chain:
    def shares(key: Any, data: Any) -> Any:
        del key
        values = data["tile"].values
        network = values["shared"]
        z = Network(options.widths).apply(network["encoder"], spread(values["counts"]))
        kinds = network["types"]["params"]["bias"].shape[0]
        return jax.nn.softmax(linen.Dense(kinds).apply(network["types"], z))

    return row_tables(shares)


def _with_names(players: Algorithm) -> Algorithm:
    """The same, with the losses under the names of the two players."""

    def step(key: Any, state: Any, data: Any) -> tuple[Any, dict[str, Any]]:
        state, info = players.step(key, state, data)
        return state, {"loss": info["loss0"], "kl": info["kl0"], "judge": info["loss1"], "right": info["right1"]}

    return players._replace(step=step)


CARD = Card(
    name="celldart",
    task="deconvolution",
    summary="A network trained on mixtures of cells, adapted to the spots by an adversary.",
    citation="bae2022celldart",
    expects="counts",
    returns="Proportions",
    default_steps=_STEPS,
    fidelity="published",
    evidence="tests/methods/test_celldart_deconvolution.py: turns of the two players, simulated spots",
    licence="no licence in the repository github.com/mexchy1000/CellDART; written from the equations",
    notes="Raw counts are mixed, so that shares count cells; mixtures hold all types alike (see the docstring).",
)
