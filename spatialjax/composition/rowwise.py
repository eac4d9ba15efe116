"""Methods that treat each spot by itself: tables of all spots made tile by tile, and the result made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from spatialjax.algorithm import Chain, Fit, map_tiles, solve
from spatialjax.composition.tilewise import in_cells, without_counts
from spatialjax.results import Proportions
from spatialjax.tables import SpotTable

#: Steps of the two phases of ``row_tables`` at the most: the first one ends after its last tile.
ROW_STEPS = (10**6, 1)


def row_tables(function: Callable[[Any, Any], Any]) -> Chain:
    """Compute tables with one row a spot tile by tile, and read them out whole.

    Parameters
    ----------
    function
        ``(key, data) -> rows``: a pytree whose leaves have one row for each place of the tile.

    Returns
    -------
    Chain
        Two phases, for ``max_steps=ROW_STEPS``. Data: a dict with one source and ``"number"``, the number of spots;
        other entries are there for ``function``. Result: the tables, with free places below the spots.
    """
    return Chain(map_tiles(function, total=_number), _whole, solve(_as_they_are))


def composed(abundance: Float[np.ndarray, "n k"], spots: SpotTable, *, settled: Any) -> Proportions:
    """The result of a method without stated uncertainty.

    Parameters
    ----------
    abundance
        (n, K) numbers of cells, on the scale of the reference's depth.
    spots
        The spots.
    settled
        Whether the method met its own stopping rule.

    Returns
    -------
    Proportions
        NaN in a spot without counts. A spot whose counts fit no type at all gets the mean composition of the others,
        and an abundance of 0.
    """
    abundance = np.asarray(abundance, np.float64)
    total = abundance.sum(1, keepdims=True)
    shares = abundance / np.where(total > 0, total, 1.0)
    filled = total[:, 0] > 0
    usual = shares[filled].mean(0) if filled.any() else np.full(abundance.shape[1], 1.0 / abundance.shape[1])
    shares = np.where(total > 0, shares, usual)
    nothing = without_counts(spots)[:, None]
    values = np.where(nothing, np.nan, shares).astype(np.float32)
    return Proportions(values, in_cells(np.where(nothing, 0.0, abundance), spots), np.bool_(settled))


def _number(data: Any) -> Any:
    return data["number"]


def _whole(fit: Fit, data: Any) -> tuple[Any, Any]:
    del data
    return fit.state.tables, None


def _as_they_are(key: Any, data: Any) -> Any:
    del key
    return data
