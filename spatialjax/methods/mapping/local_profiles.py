"""Cells by how their counts fit what their type shows at each spot, and by where the type is (ours)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, Float, Int

from spatialjax.algorithm import Algorithm, Chain, Fit, HostSource, solve
from spatialjax.checks import InputError
from spatialjax.composition import (
    Located,
    Signatures,
    count_source,
    located,
    mean_signatures,
    nowhere,
    place_features,
    places,
    poisson_abundance,
    pooled_counts,
    tile_rows,
    type_sums,
)
from spatialjax.graphs import adjacency, knn
from spatialjax.methods.card import Card, Method
from spatialjax.propagation import gaussian_weights
from spatialjax.results import CellMap
from spatialjax.slices import Neighbors, bucket
from spatialjax.tables import Reference, SpotTable
from spatialjax.tiles import Tile

#: Cells of a block, of one type each, and spots of a tile.
_CELLS, _SPOTS = 256, 1024
#: Steps of the two phases at the most: the first one ends after its last pair of block and tile.
_STEPS = (10**7, 1)
#: Counts at the expected level that stand beside those of a gene over all spots.
_PLATFORM = 4.0
#: Cells at the scatter of all types that stand beside those of a type.
_BORROWED = 20.0
#: Ratio of distances that count as equal.
_TIED = 1.001
#: Least expected count, and logarithm of the weight of a place without a spot.
_TINY, _NEVER = 1e-9, -1e30
#: Share of the largest abundance that the last Newton step may still move, in the median spot.
_SETTLED = 0.05


@functools.cache
def local_profiles(
    *,
    power: float = 0.5,
    pseudo_counts: float = 4.0,
    anywhere: float = 0.1,
    neighbours: int = 6,
    genes: int = 2000,
    kept: int = 10,
) -> Method:
    """Map cells by the likelihood of their counts under the profile that their type has at each spot.

    A cell c of type k is at spot s with a probability in proportion to ``π_ks exp{τ ℓ_cs}``.

    The prior π_ks is the share of the type's cells that the composition of the spots (a Poisson fit of signatures B)
    puts there, by halves in the spot itself and in its neighbourhood, and with a small probability that of all cells.

    The likelihood asks whether the cell deviates from its type as the spot deviates from its composition. With the
    expected counts μ of a spot, of which w_sk b_kg come from the type, ``r_skg = (α + Σ w b y / μ) / (α + Σ w b)`` is
    what the type shows of a gene there against its mean, the sums over the spot and its neighbours with Gaussian
    weights; y / μ is relative to its mean over all spots, so that no gene counts for its platform. The counts of a
    cell of depth N are negative binomial with mean ``N q_kg r_skg`` and the scatter φ_kg between the cells of its type;
    its log likelihood against r = 1, to second order in log r with the expected curvature, is

    ``ℓ_cs = Σ_g z_cg log r_skg - ½ Σ_g h_cg (log r_skg)²``, ``z = (x - Nq)/(1 + φNq)``, ``h = Nq/(1 + φNq)``,

    two products of matrices. Its power τ < 1 since genes of a cell are no independent witnesses. Cells and spots meet
    in blocks, and probabilities are summed up as they come: a table of all cells and all spots is never there.

    Parameters
    ----------
    power
        τ.
    pseudo_counts
        α: counts at the type's mean that stand beside those of a spot.
    anywhere
        Weight of the places of all cells in the prior.
    neighbours
        Nearest spots of one section that lend their counts to a spot, more where several are equally far; 0 for none.
    genes
        Genes that are used, those that should tell most of the place of a cell: with the largest scatter between spots
        times counts of the cells.
    kept
        Number of spots that are remembered of each cell, the most probable ones.

    Returns
    -------
    Method
        Data: a ``SpotTable`` with ``xy`` and a ``Reference``. Result: ``CellMap``.

    Raises
    ------
    ValueError
        If an option is out of range.
    InputError
        When run, if the spots have no coordinates.

    Notes
    -----
    Constants were settled on halves of measured cells, of which one was binned to spots, by the probability of the true
    spot (benchmarks/mapping.py): MERFISH, seqFISH embryo and STARmap. Cells of types that differ little from place to
    place get hardly more than the prior; ``evidence`` says so.
    """
    if not (power > 0 and pseudo_counts > 0 and 0 < anywhere <= 1 and neighbours >= 0 and genes > 0 and kept > 0):
        raise ValueError(
            "Expected power, pseudo_counts, genes and kept above 0, anywhere in (0, 1] and neighbours of at least 0."
        )

    def prepare(spots: SpotTable, reference: Reference) -> Any:
        if spots.xy is None:
            raise InputError("Mapping of cells needs the coordinates of the spots, found none: give obsm['spatial'].")
        fitted = _fitted(spots, reference)
        chosen = _telling_genes(fitted, spots, reference, number=genes)
        features, middle = place_features(spots.xy, spots.section)
        return {
            "tile": _pairs(fitted, spots, reference, chosen=chosen, anywhere=anywhere, neighbours=neighbours),
            "types": _type_tables(fitted, reference, chosen),
            "features": _padded(features, bucket(spots.shape[0] - 1) + _SPOTS),
            "middle": middle,
            "moved": np.float32(fitted.moved),
        }

    def finish(found: Any, spots: SpotTable, reference: Reference) -> CellMap:
        cells = len(reference.types)
        read = jax.tree.map(lambda leaf: np.asarray(leaf)[:cells], found["places"])
        return CellMap(
            spots=read.spots,
            probabilities=read.probabilities,
            section=read.section,
            position=read.position,
            sd=read.sd,
            confidence=_confidence(read.entropy, spots.shape[0]),
            converged=np.bool_(found["moved"] < _SETTLED),
            evidence=read.evidence,
        )

    return Method(prepare, _mapping(power, pseudo_counts, kept), finish, max_steps=_STEPS)


def _confidence(entropy: Any, spots: int) -> np.ndarray:
    return np.clip(1.0 - entropy / max(np.log(spots), _TINY), 0.0, 1.0).astype(np.float32)


@functools.cache
def _mapping(power: float, pseudo_counts: float, kept: int) -> Chain:
    """Visit every pair of a block of cells and a tile of spots, then read out where the cells are."""

    def init(key: Any, data: Any, start: Any = None) -> Any:
        del key
        if start is not None:
            return start
        tile = data["tile"]
        return {"cells": nowhere(tile.size, kept=kept, features=data["features"].shape[1]), "visited": jnp.int32(0)}

    def step(key: Any, state: Any, data: Any) -> tuple[Any, dict[str, Any]]:
        del key
        tile = data["tile"]
        values = tile.values
        fit = power * _log_likelihood(values, data["types"], pseudo_counts) + values["prior"]
        own: Located = jax.tree.map(tile.gather, state["cells"])
        rows = jax.lax.dynamic_slice_in_dim(data["features"], values["first"], len(values["prior"]))
        known = located(own, jnp.where(values["prior"] > 0.1 * _NEVER, fit, _NEVER), rows, first=values["first"])
        visited = state["visited"] + 1
        info = {"done": visited >= values["steps"], "share": visited / values["steps"]}
        return {"cells": jax.tree.map(tile.scatter, known, state["cells"]), "visited": visited}, info

    def readout(key: Any, state: Any, data: Any) -> tuple[()]:
        del key, state, data
        return ()

    return Chain(Algorithm(init, step, readout), _whole, solve(_read))


def _whole(fit: Fit, data: Any) -> tuple[Any, Any]:
    return {"cells": fit.state["cells"], "middle": data["middle"], "moved": data["moved"]}, None


def _read(key: Any, data: Any) -> Any:
    del key
    return {"places": places(data["cells"], data["middle"]), "moved": data["moved"]}


def _log_likelihood(values: Any, types: Any, pseudo_counts: float) -> Float[Array, "b n"]:
    """ℓ of the cells of a block, all of one type, at the spots of a tile."""
    share, scatter, mean = (types[name][values["kind"]] for name in ("share", "scatter", "mean"))
    # What the type is expected to show there of each gene, and the same times what is seen against what is expected.
    expected = values["amount"][:, None] * mean
    seen = values["seen"] * mean
    log_ratio = jnp.log((pseudo_counts + seen) / (pseudo_counts + expected))
    usual = values["depth"][:, None] * share
    damped = 1.0 / (1.0 + scatter * usual)
    return ((values["counts"] - usual) * damped) @ log_ratio.T - 0.5 * (usual * damped) @ jnp.square(log_ratio).T


class _Fitted(NamedTuple):
    """The composition of the spots, and what it expects."""

    signatures: Signatures
    abundance: Float[np.ndarray, "n k"]
    platform: Float[np.ndarray, " g"]
    moved: float


@functools.cache
def _composition() -> Callable[..., Any]:
    def found(counts: Any, signatures: Signatures) -> tuple[Any, Any]:
        abundance, _, moved = poisson_abundance(counts, signatures)
        return abundance, moved

    return jax.jit(found)


def _fitted(spots: SpotTable, reference: Reference) -> _Fitted:
    signatures = mean_signatures(reference.counts, reference.types, number=len(reference.names))
    source = count_source(spots, signatures)
    parts = [_composition()(*(source.at(t).values[name] for name in ("counts", "shared"))) for t in range(source.sweep)]
    n = spots.shape[0]
    abundance, moved = (np.concatenate([np.asarray(part[i]) for part in parts])[:n] for i in range(2))
    expected = abundance.sum(0, dtype=np.float64) @ np.asarray(signatures.means, np.float64)
    platform = (_PLATFORM + pooled_counts(spots)) / (_PLATFORM + expected)
    return _Fitted(signatures, abundance.astype(np.float64), platform, float(np.median(moved)))


def _expected(fitted: _Fitted, start: int, stop: int, chosen: Any = slice(None)) -> Float[np.ndarray, "b g"]:
    """Counts that the composition of a stretch of spots gives to genes at the level of these spots."""
    means = np.asarray(fitted.signatures.means, np.float64)[:, chosen] * fitted.platform[chosen]
    return np.maximum(fitted.abundance[start:stop] @ means, _TINY)


def _telling_genes(fitted: _Fitted, spots: SpotTable, reference: Reference, *, number: int) -> Int[np.ndarray, " h"]:
    """Genes with the largest scatter of the spots around what is expected there, times what cells show of it."""
    if spots.shape[1] <= number:
        return np.arange(spots.shape[1])
    excess, square = np.zeros(spots.shape[1]), np.zeros(spots.shape[1])
    size = tile_rows(*spots.shape)
    for start in range(0, spots.shape[0], size):
        expected = _expected(fitted, start, start + size)
        seen = spots.rows(start, min(start + size, spots.shape[0])).toarray()
        excess += (np.square(seen - expected) - expected).sum(0)
        square += np.square(expected).sum(0)
    shown = np.asarray(reference.counts.sum(0), np.float64).ravel()
    told = np.maximum(excess, 0.0) / np.maximum(square, _TINY) * shown
    return np.sort(np.lexsort((np.arange(len(told)), -told))[:number])


def _type_tables(fitted: _Fitted, reference: Reference, chosen: Int[np.ndarray, " h"]) -> dict[str, np.ndarray]:
    """Of each type and gene: share of a cell's counts, scatter between cells, counts of a cell at the spots' level."""
    means = np.asarray(fitted.signatures.means, np.float64)
    share = (means / means.sum(1, keepdims=True))[:, chosen]
    counts, types, number = reference.counts[:, chosen].astype(np.float64), reference.types, len(reference.names)
    depth = np.asarray(reference.counts.sum(1), np.float64).ravel()
    squares = type_sums(counts.multiply(counts).tocsr(), types, number=number)
    crossed = type_sums(sp.diags(depth) @ counts, types, number=number)
    sums, cells = (type_sums(table[:, None], types, number=number) for table in (depth, np.ones(len(depth))))
    bent = type_sums(np.square(depth)[:, None], types, number=number) * share**2
    excess = squares - 2.0 * crossed * share + bent - sums * share
    pooled = np.maximum(excess.sum(0) / np.maximum(bent.sum(0), _TINY), 0.0)
    borrowed = _BORROWED / cells * bent
    scatter = np.maximum((excess + borrowed * pooled) / np.maximum(bent + borrowed, _TINY), 0.0)
    tables = {"share": share, "scatter": scatter, "mean": (means * fitted.platform)[:, chosen]}
    return {name: table.astype(np.float32) for name, table in tables.items()}


def _neighbourhood(spots: SpotTable, neighbours: int) -> sp.csr_matrix:
    """(n, n) weight of each spot for each spot of its section, its own 1."""
    n = spots.shape[0]
    section = np.zeros(n, int) if spots.section is None else np.asarray(spots.section)
    rows, columns, weights = [np.arange(n)], [np.arange(n)], [np.ones(n)]
    for each in np.unique(section):
        own = np.flatnonzero(section == each)
        if len(own) < 2 or neighbours == 0:
            continue
        near = sp.coo_matrix(adjacency(_nearest(np.asarray(spots.xy, np.float64)[own], neighbours)))
        rows.append(own[near.row])
        columns.append(own[near.col])
        weights.append(near.data)
    where = (np.concatenate(rows), np.concatenate(columns))
    return sp.csr_matrix((np.concatenate(weights), where), shape=(n, n))


def _nearest(xy: Float[np.ndarray, "n 2"], number: int) -> Neighbors:
    """The nearest spots with Gaussian weights, those that are as far as the last one too: on a lattice many are."""
    number = min(number, len(xy) - 1)
    table = knn(xy, min(2 * number + 2, len(xy) - 1))
    length = np.linalg.norm(xy[table.index] - xy[:, None], axis=2)
    near = (table.weight > 0) & (length <= _TIED * length[:, number - 1 : number])
    return gaussian_weights(Neighbors(table.index, near.astype(np.float32)), xy)


def _pairs(
    fitted: _Fitted, spots: SpotTable, reference: Reference, *, chosen: Any, anywhere: float, neighbours: int
) -> HostSource:
    """Every block of cells of one type beside every tile of spots, spots of a type changing last."""
    n, cells, types = spots.shape[0], len(reference.types), np.asarray(reference.types)
    members = [np.flatnonzero(types == kind) for kind in range(len(reference.names))]
    block = min(_CELLS, bucket(max(map(len, members)) - 1))
    width = min(_SPOTS, bucket(n - 1))
    visits = [
        (kind, first, begin)
        for kind, own in enumerate(members)
        for first in range(0, n, width)
        for begin in range(0, len(own), block)
    ]
    nearby, ratio = _neighbourhood(spots, neighbours), _ratios(fitted, spots, chosen)
    prior = _log_prior(fitted.abundance, nearby, anywhere)
    depth = np.asarray(reference.counts.sum(1), np.float32).ravel()
    counts, table = reference.counts[:, chosen].astype(np.float32), np.zeros((bucket(cells - 1), 0), np.float32)

    @functools.lru_cache(maxsize=1)
    def side(kind: int, first: int) -> dict[str, Any]:
        rows = slice(first, min(first + width, n))
        lent = nearby[rows] @ sp.diags(fitted.abundance[:, kind])
        return {
            "seen": _padded((lent @ ratio).toarray(), width),
            "amount": _padded(np.asarray(lent.sum(1)).ravel(), width),
            "prior": _padded(prior[rows, kind], width, fill=_NEVER),
            "first": np.int32(first),
            "kind": np.int32(kind),
        }

    def at(t: int) -> Tile:
        kind, first, begin = visits[int(t) % len(visits)]
        own = members[kind][begin : begin + block]
        rows = np.full(block, len(table), np.int32)
        rows[: len(own)] = own
        values = {"counts": _padded(counts[own].toarray(), block), "depth": _padded(depth[own], block)}
        values |= side(kind, first) | {"steps": np.int32(len(visits))}
        return Tile(values, rows, rows < len(table), table)

    return HostSource(at, len(visits))


def _ratios(fitted: _Fitted, spots: SpotTable, chosen: Int[np.ndarray, " h"]) -> sp.csr_matrix:
    """(n, h) counts of the spots over what is expected there: as sparse as the counts."""
    size, parts = tile_rows(spots.shape[0], len(chosen)), []
    for start in range(0, spots.shape[0], size):
        seen = sp.coo_matrix(spots.rows(start, min(start + size, spots.shape[0]))[:, chosen])
        expected = _expected(fitted, start, start + size, chosen)
        parts.append(sp.csr_matrix((seen.data / expected[seen.row, seen.col], (seen.row, seen.col)), shape=seen.shape))
    return sp.csr_matrix(sp.vstack(parts, format="csr"))


def _log_prior(abundance: Float[np.ndarray, "n k"], nearby: sp.csr_matrix, anywhere: float) -> Float[np.ndarray, "n k"]:
    """Logarithm of where a cell of each type is before its counts are looked at; a spot without cells has none."""
    every = abundance.sum(1) / max(abundance.sum(), _TINY)
    mixed = anywhere * np.repeat(every[:, None], abundance.shape[1], 1)
    for amount in (abundance, (nearby @ abundance) * (every > 0)[:, None]):
        total = amount.sum(0)
        own = np.where(total > 0, amount / np.where(total > 0, total, 1.0), every[:, None])
        mixed += 0.5 * (1.0 - anywhere) * own
    return np.where(mixed > 0, np.log(np.where(mixed > 0, mixed, 1.0)), _NEVER)


def _padded(table: np.ndarray, size: int, *, fill: float = 0.0) -> np.ndarray:
    padded = np.full((size, *table.shape[1:]), fill, np.float32)
    padded[: len(table)] = table
    return padded


CARD = Card(
    name="local_profiles",
    task="mapping",
    summary="Likelihood of a cell's counts under the profile of its type at each spot; prior by the composition.",
    citation=None,
    expects="counts",
    returns="CellMap",
    default_steps=_STEPS,
    fidelity="ours",
    evidence="benchmarks/mapping.py: held-out cells with known places, beside the type alone and Tangram",
    licence="BSD-3-Clause (this package)",
    notes="τ, α and the weight of any place were settled on the sets that the benchmark shows.",
)
