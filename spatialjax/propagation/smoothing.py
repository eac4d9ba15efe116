"""Smoothing of sections of any size: the solve that suits the number of spots, whole or in tiles with a halo."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from spatialjax.propagation.components import LARGE
from spatialjax.propagation.multilevel import solve_multilevel
from spatialjax.propagation.solving import solve_sparse
from spatialjax.tiles import compact_parts

#: Reaches of the smoothing that a halo is wide: what lies beyond weighs e⁻⁶.
HALO = 6.0


def smooth(
    adjacency: Any,
    values: Float[np.ndarray, "n p"],
    alpha: float,
    *,
    xy: Float[np.ndarray, "n d"] | None = None,
    tile: int | None = None,
) -> Float[np.ndarray, "n p"]:
    """(I + αL)⁻¹ of each column: ``solve_sparse`` for up to 30,000 spots, ``solve_multilevel`` for more.

    Parameters
    ----------
    adjacency
        (n, n) sparse matrix of edge weights of at least 0.
    values
        (n, p) float32 values of the spots.
    alpha
        Strength of smoothing, at least 0.
    xy
        Coordinates of the spots, in any unit; needed for tiles.
    tile
        Of more spots than this, compact parts are smoothed one after the other, each with a halo of :data:`HALO`
        reaches (see :func:`reach`), in the memory of one part; None smooths the section as a whole.

    Raises
    ------
    ValueError
        If tiles are asked for without coordinates, or an input is out of range.
    """
    if tile is None or len(values) <= tile:
        solve = solve_sparse if len(values) <= LARGE else solve_multilevel
        return solve(adjacency, values, alpha).values
    if xy is None or tile < 1:
        raise ValueError(f"Expected tile >= 1 and the coordinates of the spots, found tile={tile} and xy={xy}.")
    matrix, xy = sp.csr_matrix(adjacency), np.asarray(xy, np.float64)
    wide = HALO * reach(matrix, xy, alpha)
    found = np.empty(values.shape, np.float32)
    for core in compact_parts(xy, np.arange(len(xy)), size=tile):
        low, high = xy[core].min(0) - wide, xy[core].max(0) + wide
        rows = np.flatnonzero(((xy >= low) & (xy <= high)).all(1))
        part = smooth(matrix[rows][:, rows], values[rows], alpha)
        found[core] = part[np.searchsorted(rows, core)]
    return found


def reach(adjacency: Any, xy: Float[np.ndarray, "n d"], alpha: float) -> float:
    """Distance over which (I + αL)⁻¹ falls to about 1/e, in the unit of the coordinates.

    For values that vary slowly, L x is −¼ Σ_j w_ij ‖x_i − x_j‖² ∇²x in the plane, so that smoothing is a screened
    diffusion whose reach squared is α times the mean of that sum over the spots.

    Parameters
    ----------
    adjacency
        (n, n) sparse matrix of edge weights of at least 0.
    xy
        Coordinates of the spots.
    alpha
        Strength of smoothing.
    """
    edges = sp.coo_matrix(adjacency)
    square = ((xy[edges.row] - xy[edges.col]) ** 2).sum(1)
    return float(np.sqrt(alpha * (edges.data @ square) / (2 * xy.shape[1] * max(len(xy), 1))))
