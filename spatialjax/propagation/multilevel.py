"""The solve (I + αL) x = b for very many spots: conjugate gradients behind a cycle over coarser copies of the system.

Strong smoothing couples spots that lie far apart, and with a diagonal preconditioner the rounds grow with the reach of
the smoothing. A cycle over levels (smoothed aggregation), each with about a tenth of the rows of the one before, needs
some twenty rounds whatever the size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int
from scipy.sparse.linalg import splu

from spatialjax.propagation.solving import Solution, laplacian

#: Rows below which a level is solved by a factorisation.
COARSEST = 150
#: Largest share of the rows that the next level may keep; a level that does not shrink further is the last.
_SHRINK = 0.8
#: Step of Jacobi and of the smoothed interpolation, in units of one over the spectral radius.
_DAMPING = 4.0 / 3.0
#: Columns that are solved together; more would leave the processor's cache.
_BLOCK = 32


def solve_multilevel(
    adjacency: Any,
    values: Float[np.ndarray, "n p"],
    alpha: float,
    *,
    tolerance: float = 1e-4,
    max_steps: int = 100,
) -> Solution:
    """Solve (I + αL) x = b on the host in time that grows with the number of spots, however strong the smoothing.

    Parameters
    ----------
    adjacency
        (n, n) sparse matrix of edge weights of at least 0; ``(W + Wᵀ) / 2`` is used, self loops are left out.
    values
        (n, p) right-hand sides b; worked on in float32.
    alpha
        Strength of smoothing, at least 0.
    tolerance
        Largest error of a column in the norm ``√(xᵀAx)``, relative to that of the solution, as conjugate gradients
        estimate it from the preconditioned residual. ‖b − Ax‖ would ask for much more: it weighs the finest waves most,
        which a strong smoothing takes away.
    max_steps
        Largest number of rounds.

    Returns
    -------
    Solution
        Of numpy arrays; ``converged`` says whether every column met the tolerance.

    Raises
    ------
    ValueError
        If the shapes disagree, or a weight or α is negative or no number.

    References
    ----------
    Vaněk, Mandel & Brezina (1996), Computing 56; Strakoš & Tichý (2005), BIT Numerical Mathematics 45 (error estimates
    in preconditioned conjugate gradients).
    """
    if not (np.isfinite(alpha) and alpha >= 0):
        raise ValueError(f"Expected alpha of at least 0, found {alpha}: it is a strength.")
    bend = laplacian(adjacency)
    if bend.shape[0] != len(values):
        raise ValueError(f"Expected one row of values for each of {bend.shape[0]} spots, found {len(values)} rows.")
    system = sp.csr_matrix(sp.identity(len(values), format="csr") + alpha * bend, dtype=np.float32)
    levels = Hierarchy(system)
    solution, residual = np.empty(values.shape, np.float32), np.zeros(values.shape[1], np.float32)
    steps, converged = 0, True
    for start in range(0, values.shape[1], _BLOCK):
        columns = slice(start, start + _BLOCK)
        b = np.ascontiguousarray(values[:, columns], np.float32)
        x, rounds, met = _conjugate_gradients(system, b, levels, tolerance=tolerance, max_steps=max_steps)
        size = np.sqrt(_dot(b, b))
        residual[columns] = np.sqrt(_dot(b - system @ x, b - system @ x)) / np.where(size > 0, size, 1.0)
        solution[:, columns], steps, converged = x, max(steps, rounds), converged and met
    return Solution(solution, residual, np.int32(steps), np.bool_(converged))


class Level(NamedTuple):
    """One level of a hierarchy.

    Attributes
    ----------
    matrix
        The system on this level.
    inverse
        Damped inverse of its diagonal.
    interpolation
        (n, m) from the next level to this one.
    restriction
        (m, n) its transpose.
    """

    matrix: sp.csr_matrix
    inverse: Float[np.ndarray, "n 1"]
    interpolation: sp.csr_matrix
    restriction: sp.csr_matrix


class Hierarchy:
    """Levels of a symmetric positive definite system; calling it applies one symmetric V-cycle.

    Parameters
    ----------
    matrix
        (n, n) symmetric positive definite, with rows that sum to something above 0 (as those of I + αL).

    References
    ----------
    Vaněk, Mandel & Brezina (1996), Computing 56.
    """

    def __init__(self, matrix: sp.csr_matrix) -> None:
        self._kind = matrix.dtype
        self._levels: list[Level] = []
        while matrix.shape[0] > COARSEST:
            group = aggregates(matrix)
            size = int(group.max()) + 1
            if size > _SHRINK * matrix.shape[0]:
                break
            level = _level(matrix, group, size)
            self._levels.append(level)
            matrix = sp.csr_matrix(level.restriction @ (matrix @ level.interpolation))
        self._last = splu(sp.csc_matrix(matrix, dtype=np.float64), permc_spec="MMD_AT_PLUS_A")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of rows of each level, the finest first."""
        return (*(level.matrix.shape[0] for level in self._levels), self._last.shape[0])

    def __call__(self, residual: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n p"]:
        """One V-cycle from zero: an approximate solution of the system for each column."""
        return self._cycle(residual, 0)

    def _cycle(self, b: Float[np.ndarray, "n p"], depth: int) -> Float[np.ndarray, "n p"]:
        if depth == len(self._levels):
            return self._last.solve(b.astype(np.float64)).astype(self._kind)
        level = self._levels[depth]
        x = level.inverse * b
        x += level.interpolation @ self._cycle(level.restriction @ (b - level.matrix @ x), depth + 1)
        x += level.inverse * (b - level.matrix @ x)
        return x


def aggregates(matrix: sp.csr_matrix) -> Int[np.ndarray, " n"]:
    """Disjoint neighbourhoods that cover all rows: the group of each row, numbered from 0.

    Centres are rows whose fixed pseudo-random rank is the largest within two steps, round after round, until every row
    lies within two steps of a centre; rows join the centre of a neighbour.

    Parameters
    ----------
    matrix
        (n, n) with a symmetric pattern.

    References
    ----------
    Luby (1986), SIAM Journal on Computing 15 (independent sets from random ranks).
    """
    n = matrix.shape[0]
    start, near = matrix.indptr, matrix.indices
    lonely = np.diff(start) == 0
    starts = np.minimum(start[:-1], max(len(near) - 1, 0))
    rank = (np.arange(n, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) % np.uint64(2**61 - 1)).astype(np.int64) + 1

    def highest(values: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Largest value among a row and its neighbours."""
        if not len(near):
            return values
        around = np.maximum.reduceat(values[near], starts)
        return np.maximum(values, np.where(lonely, 0, around))

    owner, open_rows = np.zeros(n, np.int64), np.ones(n, bool)
    while open_rows.any():
        left = np.where(open_rows, rank, 0)
        centres = open_rows & (highest(highest(left)) == rank)
        first = highest(np.where(centres, rank, 0))
        second = highest(first)
        owner = np.where(open_rows & (first > 0), first, owner)
        owner = np.where(open_rows & (owner == 0), second, owner)
        open_rows &= owner == 0
    return np.unique(owner, return_inverse=True)[1].reshape(-1)


def _level(matrix: sp.csr_matrix, group: Int[np.ndarray, " n"], size: int) -> Level:
    """Interpolation that is constant on the aggregates, smoothed by one Jacobi step."""
    n, diagonal = matrix.shape[0], matrix.diagonal()
    radius = float((np.abs(matrix) @ np.ones(n, matrix.dtype) / diagonal).max())
    inverse = (_DAMPING / radius / diagonal).astype(matrix.dtype)
    constant = sp.csr_matrix((np.ones(n, matrix.dtype), group, np.arange(n + 1)), shape=(n, size))
    interpolation = sp.csr_matrix(constant - sp.diags(inverse) @ (matrix @ constant))
    return Level(matrix, inverse[:, None], interpolation, sp.csr_matrix(interpolation.T))


def _dot(u: Float[np.ndarray, "n p"], v: Float[np.ndarray, "n p"]) -> Float[np.ndarray, " p"]:
    """Inner product of each column, in double precision."""
    return np.einsum("ij,ij->j", u, v, dtype=np.float64)


def _conjugate_gradients(
    system: sp.csr_matrix, b: Float[np.ndarray, "n p"], levels: Hierarchy, *, tolerance: float, max_steps: int
) -> tuple[Float[np.ndarray, "n p"], int, bool]:
    """Every column with a step length of its own; the solution, the rounds, and whether all met the tolerance."""
    x, r = np.zeros_like(b), b.copy()
    z = levels(r)
    d, rz = z.copy(), _dot(r, z)
    moving = rz > 0
    for step in range(max_steps):
        if not moving.any():
            return x, step, True
        ad = system @ d
        curve = _dot(d, ad)
        moving &= curve > 0
        length = np.where(moving, rz / np.where(moving, curve, 1.0), 0.0).astype(b.dtype)
        x += length * d
        r -= length * ad
        z = levels(r)
        new = _dot(r, z)
        d *= np.where(moving, new / np.where(moving, rz, 1.0), 0.0).astype(b.dtype)
        d += z
        rz = new
        moving &= rz > tolerance**2 * _dot(x, b)
    return x, max_steps, not moving.any()
