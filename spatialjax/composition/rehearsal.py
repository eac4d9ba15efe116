"""Pseudo-spots like the spots of a tissue, made of cells that the signatures that judge them have not seen."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from spatialjax.algorithm import HostSource
from spatialjax.composition.profiles import pooled_counts
from spatialjax.composition.pseudospots import scaled_counts, summed_cells
from spatialjax.composition.signatures import Signatures, mean_signatures
from spatialjax.composition.tilewise import places, tile_rows
from spatialjax.keys import generator
from spatialjax.tables import Reference, SpotTable
from spatialjax.tiles import Tile

#: Counts that draw the ratio of observed and fitted counts of a gene towards 1.
_PRIOR_COUNTS = 4.0
#: Factor of the number of cells, drawn evenly on the scale of logarithms, where the number is not known.
_LEAST_CELLS, _MOST_CELLS = 0.7, 2.5


def calibration_spots(
    key: Array,
    spots: SpotTable,
    reference: Reference,
    *,
    drawn: Float[np.ndarray, "n k"],
    fitted: Float[np.ndarray, "n k"],
    genes: Any = None,
    number: int = 800,
    folds: int = 4,
) -> tuple[HostSource, Float[np.ndarray, "p k"], int]:
    """Pseudo-spots in compositions of the spots, their truth, and how many there are.

    Cells of each type are dealt to folds in turn. Spots of a fold are sums of its cells, judged by signatures of the
    other folds (a type with too few cells is on both sides). The number of cells of a spot is that of the draw times a
    random factor, or the known one; counts are thinned back to the depth, and scaled gene by gene by the ratio of
    observed and fitted totals.

    Parameters
    ----------
    key
        Random key.
    spots
        The spots.
    reference
        The reference, with the genes that are used.
    drawn
        (n, K) one draw of the abundances of each spot.
    fitted
        (n, K) fitted abundances.
    genes
        Columns of the spots that are used; all where left out.
    number, folds
        Of pseudo-spots and of parts of the reference.

    Returns
    -------
    tuple
        A source whose tiles come with the signatures of their fold, (p, K) true proportions, and p.
    """
    rng, n = generator(key), spots.shape[0]
    drawn, fitted = np.asarray(drawn, np.float64)[:n], np.asarray(fitted, np.float64)[:n]
    whole = mean_signatures(reference.counts, reference.types, number=len(reference.names))
    ratio = _gene_ratio(spots, fitted.sum(0) @ np.asarray(whole.means, np.float64), genes)
    filled = np.flatnonzero(drawn.sum(1) > 0)
    each, size = -(-number // folds), tile_rows(n, reference.counts.shape[1])
    tiles, truth = [], []
    for fold, held in enumerate(held_out(reference.types, folds=folds)):
        keys = jax.random.split(jax.random.fold_in(key, fold), 2)
        pick = rng.choice(filled, each)
        cells, thinning = _cell_numbers(rng, drawn[pick], None if spots.n_cells is None else spots.n_cells[pick])
        own = np.where(_with_lonely(held, reference.types), reference.types, -1)
        made = summed_cells(keys[0], reference.counts, own, cells=cells)
        counts = scaled_counts(keys[1], made.counts, ratio[None, :] * thinning[:, None])
        rest = _with_lonely(~held, reference.types)
        judged = mean_signatures(reference.counts[rest], reference.types[rest], number=len(reference.names))
        tiles += [(counts[start : start + size], judged) for start in range(0, each, size)]
        truth.append(cells / cells.sum(1, keepdims=True))
    return _source(tiles, size, number=each * folds), np.concatenate(truth), each * folds


def held_out(types: Int[np.ndarray, " m"], *, folds: int) -> Bool[np.ndarray, "f m"]:
    """Which cells each fold holds: cells of a type are dealt to the folds in turn."""
    order = np.argsort(types, kind="stable")
    place = np.empty(len(types), int)
    place[order] = np.arange(len(types)) - np.searchsorted(types[order], types[order])
    return place % folds == np.arange(folds)[:, None]


def _with_lonely(chosen: Bool[np.ndarray, " m"], types: Int[np.ndarray, " m"]) -> Bool[np.ndarray, " m"]:
    """The chosen cells, and all cells of a type of which none is chosen."""
    some = np.zeros(types.max() + 1, bool)
    some[types[chosen]] = True
    return chosen | ~some[types]


def _cell_numbers(
    rng: np.random.Generator, drawn: Float[np.ndarray, "p k"], known: Float[np.ndarray, " p"] | None
) -> tuple[Int[np.ndarray, "p k"], Float[np.ndarray, " p"]]:
    """Whole numbers of cells, and what the counts have to be multiplied by."""
    total = drawn.sum(1)
    factor = np.exp(rng.uniform(np.log(_LEAST_CELLS), np.log(_MOST_CELLS), len(drawn)))
    if known is not None:
        factor = np.where(known > 0, known / total, factor)
    wanted = drawn * factor[:, None]
    cells = np.floor(wanted + rng.uniform(size=wanted.shape)).astype(int)
    empty = cells.sum(1) == 0
    cells[empty, wanted[empty].argmax(1)] = 1
    return cells, 1.0 / factor


def _gene_ratio(spots: SpotTable, expected: Float[np.ndarray, " g"], genes: Any) -> Float[np.ndarray, " g"]:
    total = pooled_counts(spots)
    total = total if genes is None else total[genes]
    return (_PRIOR_COUNTS + total) / (_PRIOR_COUNTS + expected)


def _source(tiles: list[tuple[Any, Signatures]], size: int, *, number: int) -> HostSource:
    starts = np.cumsum([0, *(part.shape[0] for part, _ in tiles)])

    def at(t: int) -> Tile:
        part, judged = tiles[t % len(tiles)]
        dense = np.zeros((size, part.shape[1]), np.float32)
        part.toarray(out=dense[: part.shape[0]])
        start = int(starts[t % len(tiles)])
        rows, core, table = places(start, size, number)
        core = core & (np.arange(size) < part.shape[0])
        return Tile({"counts": dense, "shared": judged}, np.where(core, rows, len(table)).astype(np.int32), core, table)

    return HostSource(at, len(tiles))
