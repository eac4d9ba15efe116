"""Tangram: cells, or the types as a whole, are mapped onto the spots so that the sum of them shows the spots' genes."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spatialjax.algorithm import Algorithm, Model, minimize
from spatialjax.composition import (
    composed,
    mean_profiles,
    pooled_composition,
    pooled_counts,
    predicted,
    top_genes,
    type_sums,
    without_counts,
)
from spatialjax.methods.card import Card, Method
from spatialjax.results import Proportions
from spatialjax.slices import bucket
from spatialjax.tables import Reference, SpotTable

#: Share of the norm below which a gene or a spot is taken for empty, and steps of the default run.
_TINY, _STEPS = 1e-12, 1000
#: Spots that are made dense at once.
_ROWS = 4096
#: Mean absolute change of the density by the last step, relative to its mean, at which a map has settled.
_SETTLED = 1e-2


@functools.cache
def tangram(
    *,
    mode: Literal["clusters", "cells", "constrained"] = "clusters",
    frequencies: Literal["pooled", "reference", "coded"] = "pooled",
    density: Literal["counts", "uniform"] | None = "counts",
    genes: int = 100,
    weight_genes: float = 1.0,
    weight_spots: float = 0.0,
    weight_density: float = 1.0,
    weight_entropy: float = 0.0,
    learning_rate: float = 0.1,
    cells: float | None = None,
) -> Method:
    """Map cells onto spots by the cosine of predicted and measured genes.

    A cell c is at spot s with probability ``T_cs``, a softmax over the spots. With counts X of the cells, ``Ŷ = TᵀX``
    is what the spots should show; the loss is

    ``−λ_g mean_g cos(Ŷ_·g, Y_·g) − λ_s mean_s cos(Ŷ_s·, Y_s·) + λ_d KL(d ‖ Σ_c T_c· / M) + λ_r Σ_c H(T_c·)``,

    H the entropy. Composition of a spot: the expected number of cells of each type there. ``"clusters"`` maps the sums
    of the counts of each type in place of the cells. ``"constrained"`` maps cells, of which a filter f_c = sigmoid(·)
    chooses about as many as the spots hold; its loss has ``|Σ f − cells| + Σ (f − f²)`` too.

    Parameters
    ----------
    mode
        What is mapped. Clusters need the memory of spots × genes; cells and constrained that of cells × spots for the
        map itself and twice more for the moments of its optimizer.
    frequencies
        How many cells each type has in the spots: what the pooled counts of the spots say, as many as in the reference,
        or ``"coded"``: as many as in the reference in the prediction, all types alike in the composition of clusters.
        A map places every cell, so a type that is frequent in the reference alone would be so in the spots.
    density
        What the density d of cells over the spots is proportional to, the spots' counts or nothing; None for no such
        term.
    genes
        Genes of each type, the most telling ones.
    weight_genes, weight_spots, weight_density, weight_entropy
        λ_g, λ_s, λ_d, λ_r.
    learning_rate
        Of Adam.
    cells
        Cells that the constrained mode chooses; the number that was counted in the spots, or else one a spot, where
        left out.

    Returns
    -------
    Method
        Data: a ``SpotTable`` and a ``Reference``. Result: ``Proportions`` in cells; the abundance shares out the cells
        of the reference over the spots.

    Notes
    -----
    As published: objective, optimizer, full batch. Other than as coded there: logits begin at 0 instead of normal
    draws, so that the order of cells and spots carries no meaning; types are as frequent as the pooled counts say (see
    ``frequencies``); marker genes are chosen by what their share tells of a type. Spots are seen all at once, dense on
    the chosen genes.

    References
    ----------
    Biancalani et al. (2021), Nature Methods 18, 1352–1362.
    """
    if mode not in ("clusters", "cells", "constrained"):
        raise ValueError(f"Expected mode to be 'clusters', 'cells' or 'constrained', found {mode!r}.")
    if frequencies not in ("pooled", "reference", "coded"):
        raise ValueError(f"Expected frequencies to be 'pooled', 'reference' or 'coded', found {frequencies!r}.")
    if density not in ("counts", "uniform", None):
        raise ValueError(f"Expected density to be 'counts', 'uniform' or None, found {density!r}.")

    def prepare(spots: SpotTable, reference: Reference) -> Any:
        total = pooled_counts(spots)
        profiles = mean_profiles(reference)
        kept = top_genes(profiles, genes)
        kept = kept[total[kept] > 0]
        if not len(kept):
            raise ValueError("Expected spots that show a gene of some type, found none: check the names of the genes.")
        target = np.float32(cells if cells is not None else _cells_of(spots))
        amount = np.bincount(reference.types, minlength=len(reference.names)).astype(np.float64)
        if frequencies == "pooled":
            shares = pooled_composition(total[kept], profiles.shares[:, kept]) / profiles.depth
            amount = amount.sum() * shares / shares.sum()
        read = np.ones_like(amount) if (mode, frequencies) == ("clusters", "coded") else amount
        mapped = _mapped(reference, kept, mode, amount=amount, read=read)
        return {**mapped, **_measured(spots, kept, density), "target": target}

    def finish(found: Any, spots: SpotTable, reference: Reference) -> Proportions:
        del reference
        return composed(np.asarray(found["abundance"])[: spots.shape[0]], spots, settled=found["settled"])

    weights = (weight_genes, weight_spots, 0.0 if density is None else weight_density, weight_entropy)
    return Method(prepare, _mapping(weights, learning_rate, filtered=mode == "constrained"), finish, max_steps=_STEPS)


@functools.cache
def _mapping(weights: tuple[float, ...], learning_rate: float, *, filtered: bool) -> Algorithm:
    by_gene, by_spot, by_density, by_entropy = weights

    def init(key: Any, data: Any) -> tuple[Any, Any]:
        del key
        params = {"map": jnp.zeros((len(data["values"]), len(data["mask"])))}
        if filtered:
            params["filter"] = jnp.zeros(len(data["values"]))
        return params, ()

    def loss(params: Any, aux: Any, key: Any, data: Any) -> Any:
        del key
        mass, amount = _mass(params, data)
        made = predicted(params["map"], data["values"] * mass[:, None], amount, mask=data["mask"])
        genes = _cosine(made.values, data["counts"], axis=0)
        total = -by_gene * genes.mean()
        if by_spot:
            filled = (data["counts"].sum(1) > 0).astype(jnp.float32)
            spots = _cosine(made.values, data["counts"], axis=1)
            total = total - by_spot * (spots * filled).sum() / jnp.maximum(filled.sum(), 1.0)
        if by_density:
            share = made.density / jnp.maximum(amount.sum(), _TINY)
            wanted = data["density"]
            ratio = jnp.log(jnp.maximum(wanted, _TINY)) - jnp.log(jnp.maximum(share, _TINY))
            total = total + by_density * jnp.where(wanted > 0, wanted * ratio, 0.0).sum()
        if by_entropy:
            total = total + by_entropy * made.entropy
        if filtered:
            total = total + jnp.abs(amount.sum() - data["target"]) + (mass * (1.0 - mass) * (data["cells"] > 0)).sum()
        return (total, jnp.float32(1.0)), (aux, {"cosine": genes.mean()})

    def readout(key: Any, params: Any, aux: Any, data: Any) -> Any:
        del key, aux
        mass, amount = _mass(params, data)
        made = predicted(params["map"], data["member"] * mass[:, None], amount, mask=data["mask"])
        return {"abundance": made.values}

    return _with_state(minimize(Model(init, loss, readout), optax.adam(learning_rate)))


def _with_state(algorithm: Algorithm) -> Algorithm:
    """The algorithm whose result also says whether one more step would still move the composition."""

    def readout(key: Any, state: Any, data: Any) -> Any:
        now = algorithm.readout(key, state, data)["abundance"]
        then = algorithm.readout(key, algorithm.step(key, state, data)[0], data)["abundance"]
        moved = jnp.abs(then - now).sum() / jnp.maximum(now.sum(), _TINY)
        return {"abundance": now, "settled": moved < _SETTLED}

    return Algorithm(algorithm.init, algorithm.step, readout)


def _mass(params: Any, data: Any) -> tuple[Any, Any]:
    """How much of each row is mapped, and how many cells that is."""
    mass = jax.nn.sigmoid(params["filter"]) if "filter" in params else jnp.ones(len(data["cells"]))
    return mass, mass * data["cells"]


def _cosine(values: Any, others: Any, *, axis: int) -> Any:
    """Along an axis; 0 where one of them is 0."""
    size = jnp.square(values).sum(axis) * jnp.square(others).sum(axis)
    there = size > _TINY
    return jnp.where(there, (values * others).sum(axis) / jnp.sqrt(jnp.where(there, size, 1.0)), 0.0)


def _mapped(
    reference: Reference, kept: np.ndarray, mode: str, *, amount: np.ndarray, read: np.ndarray
) -> dict[str, Any]:
    """Rows that are mapped: counts of all the cells that each stands for, their number, and its share in the types."""
    number, types = len(reference.names), np.asarray(reference.types)
    counts, each = reference.counts[:, kept], np.bincount(types, minlength=number)
    if mode == "clusters":
        values = type_sums(counts, types, number=number) * (amount / each)[:, None]
        return {
            "values": values.astype(np.float32),
            "cells": amount.astype(np.float32),
            "member": np.diag(read).astype(np.float32),
        }
    places = bucket(len(types) - 1)
    values, member = np.zeros((places, len(kept)), np.float32), np.zeros((places, number), np.float32)
    own = np.zeros(places, np.float32)
    own[: len(types)] = (amount / each)[types]
    counts.astype(np.float32).toarray(out=values[: len(types)])
    member[np.arange(len(types)), types] = own[: len(types)]
    return {"values": values * own[:, None], "cells": own, "member": member}


def _measured(spots: SpotTable, kept: np.ndarray, density: str | None) -> dict[str, Any]:
    """Dense counts of the spots, in places that sections share, and the density of cells over them."""
    n = spots.shape[0]
    # Not the capacity of tables, of which the smallest would be a large map.
    places = bucket(n - 1)
    counts, total = np.zeros((places, len(kept)), np.float32), np.zeros(places, np.float32)
    for start in range(0, n, _ROWS):
        part = spots.rows(start, min(start + _ROWS, n))
        counts[start : start + part.shape[0]] = part[:, kept].toarray()
        total[start : start + part.shape[0]] = np.asarray(part.sum(1)).ravel()
    filled = total > 0
    wanted = total if density == "counts" else filled.astype(np.float32)
    return {"counts": counts, "mask": filled, "density": wanted / max(float(wanted.sum()), 1.0)}


def _cells_of(spots: SpotTable) -> float:
    """Cells that were counted in the spots; else one a spot with counts."""
    if spots.n_cells is not None:
        return float(np.sum(spots.n_cells))
    return float(np.sum(~without_counts(spots)))


CARD = Card(
    name="tangram",
    task="deconvolution",
    summary="Soft map of cells or types onto spots by the cosine of predicted and measured genes.",
    citation="biancalani2021tangram",
    expects="counts",
    returns="Proportions",
    default_steps=_STEPS,
    fidelity="published",
    evidence="tests/methods/test_tangram_deconvolution.py: loss in plain terms, blocks, the filter, simulated spots",
    licence="BSD-3-Clause; written from the equations",
    notes="Clusters by default; logits begin at 0 and clusters count their cells (see the docstring).",
)
