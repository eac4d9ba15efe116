"""Tangram: cells, or the types as a whole, are mapped onto the spots so that the sum of them shows the spots' genes."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from spatialjax.algorithm import Algorithm
from spatialjax.composition import MapWeights, check_map, composed, cosine_map, map_data, mapped_mass, predicted
from spatialjax.methods.card import Card, Method
from spatialjax.results import Proportions
from spatialjax.tables import Reference, SpotTable

#: Least number of cells that changes are relative to, and steps of the default run.
_TINY, _STEPS = 1e-12, 1000
#: Mean absolute change of the density by the last step, relative to its mean, at which a map has settled.
_SETTLED = 1e-2


@functools.cache
def tangram(
    *,
    mode: Literal["clusters", "cells", "constrained"] = "clusters",
    frequencies: Literal["fitted", "pooled", "reference", "coded"] = "fitted",
    density: Literal["depth", "counts", "uniform"] | None = "depth",
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

    ``−λ_g mean_g cos(Ŷ_·g, Y_·g) − λ_s mean_s cos(Ŷ_s·, Y_s·) + λ_d KL(d ‖ Σ_c m_c T_c· / Σ m) + λ_r Σ_c H(T_c·)``,

    H the entropy and m_c the counts of the cell, so that d is met by counts. Composition of a spot: the expected number
    of cells of each type there. ``"clusters"`` maps the sums of the counts of each type in place of the cells.
    ``"constrained"`` maps cells, of which a filter f_c = sigmoid(·) chooses about as many as the spots hold; its loss
    has ``|Σ f − cells| + Σ (f − f²)`` too.

    Parameters
    ----------
    mode
        What is mapped. Clusters need the memory of spots × genes; cells and constrained that of cells × spots for the
        map itself and twice more for the moments of its optimizer.
    frequencies
        How many cells each type has in the spots: what a Poisson fit of each spot says (summed over the spots), what
        their pooled counts say, as many as in the reference, or ``"coded"``: as many as in the reference in the
        prediction, all types alike in the composition of clusters. A map places every cell, so a type that is frequent
        in the reference alone would be so in the spots.
    density
        What the density d over the spots is proportional to: their counts, which the counts of the cells have to meet
        (``"depth"``) or the number of the cells (``"counts"``, m_c = 1); nothing, ``"uniform"``; None for no such term.
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
    draws, so that the order of cells and spots carries no meaning; types are as frequent as the spots say (see
    ``frequencies``); the density is that of counts, where the code takes every cell for one and its tutorial brings all
    cells to one depth before; marker genes are chosen by what their share tells of a type; clusters by default, where
    the code maps cells. Spots are seen all at once, dense on the chosen genes.

    ``mode="cells", frequencies="reference"`` maps each cell of the reference once, as the code does by default: right
    where the reference is a sample of the very cells in the spots (seqFISH+ in ``benchmarks/deconvolution.py``), and
    far off where its types are in other proportions.

    References
    ----------
    Biancalani et al. (2021), Nature Methods 18, 1352–1362.
    """
    options = {"mode": mode, "frequencies": frequencies, "density": density}
    check_map(**options)

    def prepare(spots: SpotTable, reference: Reference) -> Any:
        return map_data(spots, reference, genes=genes, cells=cells, **options)

    def finish(found: Any, spots: SpotTable, reference: Reference) -> Proportions:
        del reference
        return composed(np.asarray(found["abundance"])[: spots.shape[0]], spots, settled=found["settled"])

    weights = MapWeights(weight_genes, weight_spots, 0.0 if density is None else weight_density, weight_entropy)
    return Method(prepare, _mapping(weights, learning_rate, filtered=mode == "constrained"), finish, max_steps=_STEPS)


@functools.cache
def _mapping(weights: MapWeights, learning_rate: float, *, filtered: bool) -> Algorithm:
    """The map, whose result also says whether one more step would still move the composition."""

    def read(params: Any, data: Any) -> Any:
        mass, amount = mapped_mass(params, data)
        made = predicted(params["map"], data["member"] * mass[:, None], amount, mask=data["mask"])
        return {"abundance": made.values}

    algorithm = cosine_map(read, weights=weights, learning_rate=learning_rate, filtered=filtered)

    def readout(key: Any, state: Any, data: Any) -> Any:
        now = algorithm.readout(key, state, data)["abundance"]
        then = algorithm.readout(key, algorithm.step(key, state, data)[0], data)["abundance"]
        moved = jnp.abs(then - now).sum() / jnp.maximum(now.sum(), _TINY)
        return {"abundance": now, "settled": moved < _SETTLED}

    return Algorithm(algorithm.init, algorithm.step, readout)


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
    notes="Clusters by default; logits begin at 0, types are as frequent as the spots say (see the docstring).",
)
