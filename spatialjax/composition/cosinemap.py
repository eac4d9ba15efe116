"""Tangram's map of cells, or of whole types, onto spots: its objective, and what it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from spatialjax.algorithm import Algorithm, Model, minimize
from spatialjax.composition.lognormal import pooled_composition
from spatialjax.composition.poisson import poisson_abundance
from spatialjax.composition.profiles import mean_profiles, pooled_counts, top_genes
from spatialjax.composition.signatures import mean_signatures, type_sums
from spatialjax.composition.softmap import predicted
from spatialjax.composition.tilewise import without_counts
from spatialjax.slices import bucket
from spatialjax.tables import Reference, SpotTable

#: Share of the norm below which a gene or a spot is taken for empty.
_TINY = 1e-12
#: Spots that are made dense at once.
_ROWS = 4096

MODES = ("clusters", "cells", "constrained")
FREQUENCIES = ("fitted", "pooled", "reference", "coded")
DENSITIES = ("depth", "counts", "uniform", None)


class MapWeights(NamedTuple):
    """Weights of the terms of the objective of ``cosine_map``.

    Attributes
    ----------
    genes, spots
        Of the mean cosine of each gene over the spots, and of each spot over the genes.
    density
        Of the divergence of the density of the cells, or of the counts that they bring, from the wanted one.
    entropy
        Of the entropy of where each cell is.
    """

    genes: float = 1.0
    spots: float = 0.0
    density: float = 1.0
    entropy: float = 0.0


def cosine_map(
    read: Callable[[Any, Any], Any], *, weights: MapWeights, learning_rate: float, filtered: bool
) -> Algorithm:
    """Train a soft map of rows of cells onto spots by Adam.

    ``−λ_g mean_g cos(Ŷ_·g, Y_·g) − λ_s mean_s cos(Ŷ_s·, Y_s·) + λ_d KL(d ‖ Σ_c m_c T_c· / Σ m) + λ_r Σ_c H(T_c·)``
    with ``Ŷ = TᵀX``, T the softmax of the logits over the spots and m the weights of the rows in the density.

    Parameters
    ----------
    read
        ``(params, data) -> result``: ``params["map"]`` holds the logits.
    weights
        λ.
    learning_rate
        Of Adam.
    filtered
        Whether a filter ``sigmoid(params["filter"])`` chooses about ``data["target"]`` of the cells.

    Returns
    -------
    Algorithm
        Data: what ``map_data`` gives.

    References
    ----------
    Biancalani et al. (2021), Nature Methods 18, 1352–1362.
    """

    def init(key: Any, data: Any) -> tuple[Any, Any]:
        del key
        params = {"map": jnp.zeros((len(data["values"]), len(data["mask"])))}
        if filtered:
            params["filter"] = jnp.zeros(len(data["values"]))
        return params, ()

    def loss(params: Any, aux: Any, key: Any, data: Any) -> Any:
        del key
        mass, amount = mapped_mass(params, data)
        weight = mass * data["weight"]
        made = predicted(params["map"], data["values"] * mass[:, None], weight, mask=data["mask"])
        genes = _cosine(made.values, data["counts"], axis=0)
        total = -weights.genes * genes.mean()
        if weights.spots:
            filled = (data["counts"].sum(1) > 0).astype(jnp.float32)
            spots = _cosine(made.values, data["counts"], axis=1)
            total = total - weights.spots * (spots * filled).sum() / jnp.maximum(filled.sum(), 1.0)
        if weights.density:
            share = made.density / jnp.maximum(weight.sum(), _TINY)
            wanted = data["density"]
            ratio = jnp.log(jnp.maximum(wanted, _TINY)) - jnp.log(jnp.maximum(share, _TINY))
            total = total + weights.density * jnp.where(wanted > 0, wanted * ratio, 0.0).sum()
        if weights.entropy:
            total = total + weights.entropy * made.entropy
        if filtered:
            total = total + jnp.abs(amount.sum() - data["target"]) + (mass * (1.0 - mass) * (data["cells"] > 0)).sum()
        return (total, jnp.float32(1.0)), (aux, {"cosine": genes.mean()})

    def readout(key: Any, params: Any, aux: Any, data: Any) -> Any:
        del key, aux
        return read(params, data)

    return minimize(Model(init, loss, readout), optax.adam(learning_rate))


def mapped_mass(params: Any, data: Any) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """How much of each row is mapped, and how many cells that is.

    Parameters
    ----------
    params, data
        Of ``cosine_map``.
    """
    mass = jax.nn.sigmoid(params["filter"]) if "filter" in params else jnp.ones(len(data["cells"]))
    return mass, mass * data["cells"]


def check_map(*, mode: str, frequencies: str, density: str | None) -> None:
    """Refuse what ``map_data`` does not know.

    Parameters
    ----------
    mode, frequencies, density
        See ``map_data``.

    Raises
    ------
    ValueError
        If an option is none of those.
    """
    for name, value, known in (
        ("mode", mode, MODES), ("frequencies", frequencies, FREQUENCIES), ("density", density, DENSITIES)
    ):  # fmt: skip
        if value not in known:
            raise ValueError(f"Expected {name} to be one of {', '.join(map(repr, known))}, found {value!r}.")


def map_data(
    spots: SpotTable,
    reference: Reference,
    *,
    mode: str,
    frequencies: str,
    density: str | None,
    genes: int,
    cells: float | None,
) -> dict[str, Any]:
    """What ``cosine_map`` is given: dense counts of cells or types and of spots on the most telling genes.

    Parameters
    ----------
    spots, reference
        The counts.
    mode
        ``"clusters"`` for one row a type, else one row a cell.
    frequencies
        How many cells of each type are mapped: ``"fitted"`` as a Poisson fit of each spot says, ``"pooled"`` as the
        pooled counts of the spots say, else as many as in the reference; with ``"coded"`` the members of clusters
        count alike.
    density
        What the density of cells is proportional to, ``"counts"`` or ``"uniform"``; with ``"depth"`` the density of the
        counts that the cells bring with them is proportional to the counts. None for nothing.
    genes
        Genes of each type, the most telling ones.
    cells
        Cells that a filter chooses; those counted in the spots, or one a spot, where None.

    Returns
    -------
    dict
        ``values``, ``cells``, ``weight`` and ``member`` of the rows: counts of all cells that a row stands for, their
        number, their part in the density, and how many of each type; ``counts``, ``mask`` and ``density`` of the spots;
        the ``target`` of the filter.

    Raises
    ------
    ValueError
        If an option is none of those, or the spots show no telling gene.
    """
    check_map(mode=mode, frequencies=frequencies, density=density)
    total = pooled_counts(spots)
    profiles = mean_profiles(reference)
    kept = top_genes(profiles, genes)
    kept = kept[total[kept] > 0]
    if not len(kept):
        raise ValueError("Expected spots that show a gene of some type, found none: check the names of the genes.")
    target = np.float32(cells if cells is not None else _cells_of(spots))
    measured = _measured(spots, kept, density)
    amount = np.bincount(reference.types, minlength=len(reference.names)).astype(np.float64)
    if frequencies in ("fitted", "pooled"):
        if frequencies == "fitted":
            shares = _fitted_cells(measured["counts"], reference, kept)
        else:
            shares = pooled_composition(total[kept], profiles.shares[:, kept]) / profiles.depth
        amount = amount.sum() * shares / shares.sum()
    read = np.ones_like(amount) if (mode, frequencies) == ("clusters", "coded") else amount
    mapped = _mapped(reference, kept, mode, amount=amount, read=read)
    depth = _depth(reference, profiles.depth, mode, places=len(mapped["cells"])) if density == "depth" else 1.0
    return {**mapped, **measured, "weight": (mapped["cells"] * depth).astype(np.float32), "target": target}


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


def _depth(reference: Reference, depth: np.ndarray, mode: str, *, places: int) -> np.ndarray:
    """(rows,) mean counts of a cell of each row, over all genes."""
    if mode == "clusters":
        return depth
    found = np.zeros(places)
    found[: len(reference.types)] = np.asarray(reference.counts.sum(1)).ravel()
    return found


def _fitted_cells(counts: np.ndarray, reference: Reference, kept: np.ndarray) -> np.ndarray:
    """(K,) cells of each type that a Poisson fit finds in all spots together, spot by spot."""
    signatures = mean_signatures(reference.counts, reference.types, number=len(reference.names))
    own = signatures.replace(means=signatures.means[:, kept])
    total = np.zeros(len(reference.names))
    for start in range(0, len(counts), _ROWS):
        part = counts[start : start + _ROWS]
        free = min(len(counts), _ROWS) - len(part)
        total += np.asarray(_cells_found(np.pad(part, ((0, free), (0, 0))), own), np.float64)
    return total if total.sum() > 0 else np.ones_like(total)


@jax.jit
def _cells_found(counts: Any, signatures: Any) -> Any:
    # No tolerance: free rows must not end the steps sooner.
    return poisson_abundance(counts, signatures, tolerance=0.0)[0].sum(0)


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
    wanted = filled.astype(np.float32) if density == "uniform" else total
    return {"counts": counts, "mask": filled, "density": wanted / max(float(wanted.sum()), 1.0)}


def _cells_of(spots: SpotTable) -> float:
    """Cells that were counted in the spots; else one a spot with counts."""
    if spots.n_cells is not None:
        return float(np.sum(spots.n_cells))
    return float(np.sum(~without_counts(spots)))
