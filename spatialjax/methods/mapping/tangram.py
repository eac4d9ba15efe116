"""Tangram: cells are mapped onto the spots so that the sum of them shows the spots' genes."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from spatialjax.algorithm import Algorithm
from spatialjax.checks import InputError
from spatialjax.composition import (
    MapWeights,
    check_map,
    cosine_map,
    located,
    map_data,
    mapped_mass,
    nowhere,
    place_features,
    places,
)
from spatialjax.methods.card import Card, Method
from spatialjax.results import CellMap
from spatialjax.tables import Reference, SpotTable

#: Steps of the default run.
_STEPS = 1000
#: Logarithm of the weight of a place without a spot, least logarithm of a number of spots, rows that are read at once.
_NEVER, _TINY, _BLOCK = -1e30, 1e-12, 256
#: Mean distance by which one more step moves the cells, relative to the spread of the spots, below which they rest.
_SETTLED = 1e-3
#: Entries of a trained map at the most: 2 GiB, and twice that for the moments of the optimizer.
_LARGEST = 2**29


@functools.cache
def tangram(
    *,
    mode: Literal["cells", "clusters", "constrained"] = "cells",
    frequencies: Literal["fitted", "pooled", "reference"] = "pooled",
    density: Literal["depth", "counts", "uniform"] | None = "counts",
    genes: int = 100,
    weight_genes: float = 1.0,
    weight_spots: float = 0.0,
    weight_density: float = 1.0,
    weight_entropy: float = 0.0,
    learning_rate: float = 0.1,
    cells: float | None = None,
    kept: int = 10,
) -> Method:
    """Map cells onto spots by the cosine of predicted and measured genes.

    A cell c is at spot s with probability ``T_cs``, a softmax over the spots. With counts X of the cells, ``Ŷ = TᵀX``
    is what the spots should show; the loss is

    ``−λ_g mean_g cos(Ŷ_·g, Y_·g) − λ_s mean_s cos(Ŷ_s·, Y_s·) + λ_d KL(d ‖ Σ_c m_c T_c· / Σ m) + λ_r Σ_c H(T_c·)``,

    H the entropy and m_c what a cell counts in the density. The map itself is the result.

    Parameters
    ----------
    mode
        ``"cells"`` maps each cell. ``"clusters"`` maps the sums of the counts of each type, and every cell lies where
        its type does. ``"constrained"`` maps cells, of which a filter ``f_c = sigmoid(·)`` chooses about as many as the
        spots hold; its loss has ``|Σ f − cells| + Σ (f − f²)`` too. Cells and constrained need the memory of cells ×
        spots for the logits, which are what is trained, and twice more for the moments of the optimizer.
    frequencies
        How many cells each type has in the spots: what a Poisson fit of each spot says (summed over the spots), what
        the pooled counts of the spots say, or as many as in the reference.
    density
        What the density d over the spots is proportional to: their counts, which the counts of the cells have to meet
        (``"depth"``, m_c the counts of the cell) or the number of the cells (``"counts"``, m_c = 1); nothing,
        ``"uniform"``; None for no such term.
    genes
        Genes of each type, the most telling ones.
    weight_genes, weight_spots, weight_density, weight_entropy
        λ_g, λ_s, λ_d, λ_r.
    learning_rate
        Of Adam.
    cells
        Cells that the constrained mode chooses; the number that was counted in the spots, or else one a spot, where
        left out.
    kept
        Number of spots that are remembered of each cell, the most probable ones.

    Returns
    -------
    Method
        Data: a ``SpotTable`` with ``xy`` and a ``Reference``. Result: ``CellMap``; ``placed`` is the filter.

    Raises
    ------
    ValueError
        If an option is not one of those above.
    InputError
        When run, if the spots have no coordinates, or a map of all cells and spots would not fit into memory.

    Notes
    -----
    As published: objective, optimizer, full batch. Other than as coded there: logits begin at 0 instead of normal
    draws, so that the order of cells and spots carries no meaning; types are as frequent as the pooled counts say (see
    ``frequencies``); marker genes are chosen by what their share tells of a type.

    References
    ----------
    Biancalani et al. (2021), Nature Methods 18, 1352–1362.
    """
    options = {"mode": mode, "frequencies": frequencies, "density": density}
    check_map(**options)
    if frequencies == "coded":
        raise ValueError("Expected frequencies of cells for a map of cells, found 'coded': choose 'reference'.")

    def prepare(spots: SpotTable, reference: Reference) -> Any:
        if spots.xy is None:
            raise InputError("Mapping of cells needs the coordinates of the spots, found none: give obsm['spatial'].")
        size = len(reference.types) * spots.shape[0]
        if mode != "clusters" and size > _LARGEST:
            raise InputError(
                f"Expected at most {_LARGEST:,} pairs of cell and spot for mode {mode!r} of 'tangram', which trains a "
                f"number for each, found {size:,}. Use method 'local_profiles', which has no such limit, or mode "
                "'clusters'."
            )
        data = map_data(spots, reference, genes=genes, cells=cells, **options)
        features, middle = place_features(spots.xy, spots.section)
        rows = np.zeros((len(data["mask"]), features.shape[1]), np.float32)
        rows[: len(features)] = features
        off = np.linalg.norm(np.asarray(spots.xy) - np.mean(spots.xy, axis=0), axis=1)
        return data | {"features": rows, "middle": middle, "reach": np.float32(max(off.mean(), _TINY))}

    def finish(found: Any, spots: SpotTable, reference: Reference) -> CellMap:
        types = np.asarray(reference.types)
        pick = types if mode == "clusters" else np.arange(len(types))
        read = jax.tree.map(lambda leaf: np.asarray(leaf)[pick], found["places"])
        return CellMap(
            spots=read.spots,
            probabilities=read.probabilities,
            section=read.section,
            position=read.position,
            sd=read.sd,
            confidence=np.clip(1.0 - read.entropy / max(np.log(spots.shape[0]), _TINY), 0.0, 1.0).astype(np.float32),
            converged=np.asarray(found["settled"]),
            placed=np.asarray(found["placed"])[pick] if mode == "constrained" else None,
        )

    weights = MapWeights(weight_genes, weight_spots, 0.0 if density is None else weight_density, weight_entropy)
    mapping = _mapping(weights, learning_rate, kept=kept, filtered=mode == "constrained")
    return Method(prepare, mapping, finish, max_steps=_STEPS)


@functools.cache
def _mapping(weights: MapWeights, learning_rate: float, *, kept: int, filtered: bool) -> Algorithm:
    """The map, whose result also says whether one more step would still move the cells."""

    def read(params: Any, data: Any) -> Any:
        return {"places": _places(params["map"], data, kept), "placed": mapped_mass(params, data)[0]}

    algorithm = cosine_map(read, weights=weights, learning_rate=learning_rate, filtered=filtered)

    def readout(key: Any, state: Any, data: Any) -> Any:
        now = algorithm.readout(key, state, data)
        then = algorithm.readout(key, algorithm.step(key, state, data)[0], data)
        step = jnp.linalg.norm(then["places"].position - now["places"].position, axis=1)
        there = (data["cells"] > 0).astype(step.dtype)
        moved = (step * there).sum() / jnp.maximum(there.sum(), 1.0) / data["reach"]
        return now | {"settled": moved < _SETTLED}

    return Algorithm(algorithm.init, algorithm.step, readout)


def _places(logits: Any, data: Any, kept: int) -> Any:
    """Where the softmax of the logits puts each row, a block of rows at a time."""
    size = min(_BLOCK, len(logits))
    free = -len(logits) % size
    blocks = jnp.pad(logits, ((0, free), (0, 0))).reshape(-1, size, logits.shape[1])

    def one(own: Any) -> Any:
        start = nowhere(size, kept=min(kept, logits.shape[1]), features=data["features"].shape[1])
        known = located(start, jnp.where(data["mask"], own, _NEVER), data["features"], first=0)
        return places(known, data["middle"])

    found = jax.lax.map(one, blocks)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[: len(logits)], found)


CARD = Card(
    name="tangram",
    task="mapping",
    summary="Soft map of cells or types onto spots by the cosine of predicted and measured genes.",
    citation="biancalani2021tangram",
    expects="counts",
    returns="CellMap",
    default_steps=_STEPS,
    fidelity="published",
    evidence="tests/test_map_cells.py, tests/methods/test_tangram_deconvolution.py: modes on simulated spots, the loss",
    licence="BSD-3-Clause; written from the equations",
    notes="Logits begin at 0; cells of a type are as frequent as the pooled counts say (see the docstring).",
)
