"""The sparse solve (I + αL) x = b: smoothing over a graph by a linear system instead of rounds of averaging.

``x`` minimises ``|x − b|² + α Σ w_ij (x_i − x_j)²`` over the undirected edges. A column of a constant stays as it is
with the combinatorial Laplacian, an isolated spot keeps its value, and α is the only option: the larger, the smoother.

Two solvers of the same system, both by conjugate gradients with a Jacobi preconditioner and a step length for each
column: :func:`solve` on the device over a neighbour table (jitted, masked, differentiable, maps over batches), and
:func:`solve_sparse` on the host over a scipy matrix, for sections up to millions of spots.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from spatialjax.slices import Neighbors

#: Spots of a section for each domain and unit of α; settled on labelled sections of several technologies.
SPOTS_PER_ALPHA = 190.0
#: Columns that the host solver treats together; more would leave the processor's cache.
_BLOCK = 32
#: Places of a neighbour table whose sums are one program: their values are read once from the cache.
_UNROLLED = 8


@struct.dataclass
class Solution:
    """A solved system.

    Attributes
    ----------
    values
        (n, p) solution; 0 on padding.
    residual
        ‖b − Ax‖ / ‖b‖ of each column, from the solution itself.
    steps
        Rounds of conjugate gradients.
    converged
        Whether every column met the tolerance.
    """

    values: Float[Array, "n p"]
    residual: Float[Array, " p"]
    steps: Int[Array, ""]
    converged: Bool[Array, ""]


@partial(jax.jit, static_argnames=("normalized", "symmetric", "tolerance", "max_steps"))
def solve(
    neighbors: Neighbors,
    values: Float[Array, "n p"],
    alpha: Float[Array, "..."] | float,
    *,
    mask: Bool[Array, " n"] | None = None,
    normalized: bool = False,
    symmetric: bool = True,
    tolerance: float = 1e-5,
    max_steps: int = 1000,
) -> Solution:
    """Solve (I + αL) x = b on the device, column by column.

    Derivatives with respect to ``values``, ``alpha`` and the edge weights come from the implicit function theorem:
    one more solve, whatever the number of rounds.

    Parameters
    ----------
    neighbors
        Neighbour table with weights of at least 0.
    values
        (n, p) right-hand sides b.
    alpha
        Strength of smoothing, at least 0: one number, or one for each column.
    mask
        True for real spots; edges from or to others do not count, and their values are 0 in the result.
    normalized
        Laplacian I − D^-½ W D^-½ instead of D − W; an isolated spot keeps its value with either.
    symmetric
        The table holds every edge in both directions with one weight, as ``graphs.delaunay``, ``graphs.radius``,
        ``graphs.lattice`` and ``graphs.knn(symmetric=True)`` give it. Where False, W is replaced by (W + Wᵀ) / 2, at
        the price of a scatter in every round.
    tolerance
        Largest ‖b − Ax‖ / ‖b‖ of a column.
    max_steps
        Largest number of rounds.

    Returns
    -------
    Solution
        ``converged`` is False where a column missed ten times the tolerance, which an asymmetric table given as a
        symmetric one shows too.

    References
    ----------
    Hestenes & Stiefel (1952), Journal of Research of the National Bureau of Standards 49.
    """
    index = neighbors.index
    weight = neighbors.weight.astype(values.dtype)
    if mask is not None:
        weight = weight * mask[:, None] * mask[index]
        values = values * mask[:, None]
    degree = weight.sum(1)
    if not symmetric:
        degree = 0.5 * (degree + jnp.zeros_like(degree).at[index].add(weight))
    used = degree > 0
    root = jnp.where(used, jax.lax.rsqrt(jnp.where(used, degree, 1.0)), 0.0)
    alpha = jnp.broadcast_to(jnp.asarray(alpha, values.dtype), values.shape[1:])

    def product(x: Float[Array, "n p"]) -> Float[Array, "n p"]:
        y = x * root[:, None] if normalized else x
        near = neighbour_sum(Neighbors(index, weight), y)
        if not symmetric:
            near = 0.5 * (near + _scattered(index, weight, y))
        bend = jnp.where(used[:, None], x, 0.0) - root[:, None] * near if normalized else degree[:, None] * x - near
        return x + alpha * bend

    diagonal = 1.0 + alpha * (used.astype(values.dtype) if normalized else degree)[:, None]

    def cg(_: Any, b: Float[Array, "n p"]) -> tuple[Float[Array, "n p"], Int[Array, ""]]:
        return _conjugate_gradients(product, b, diagonal, tolerance=tolerance, max_steps=max_steps)

    solution, steps = jax.lax.custom_linear_solve(product, values, cg, symmetric=True, has_aux=True)
    size = jnp.sqrt((values**2).sum(0) + jnp.finfo(values.dtype).tiny)
    gap = values - product(solution)
    residual = jax.lax.stop_gradient(jnp.sqrt((gap**2).sum(0) + jnp.finfo(values.dtype).tiny) / size)
    residual = jnp.where((values != 0).any(0), residual, 0.0)
    return Solution(solution, residual, steps, (residual <= 10 * tolerance).all())


def solve_sparse(
    adjacency: Any,
    values: Float[np.ndarray, "n p"],
    alpha: Float[np.ndarray, " p"] | float,
    *,
    normalized: bool = False,
    tolerance: float = 1e-5,
    max_steps: int = 1000,
) -> Solution:
    """Solve (I + αL) x = b on the host, by sparse products over blocks of columns.

    Parameters
    ----------
    adjacency
        (n, n) sparse matrix of edge weights of at least 0; ``(W + Wᵀ) / 2`` is used, self loops are left out.
    values
        (n, p) right-hand sides b. float32 is kept, anything else becomes float64.
    alpha
        Strength of smoothing, at least 0: one number, or one for each column.
    normalized
        Laplacian I − D^-½ W D^-½ instead of D − W.
    tolerance
        Largest ‖b − Ax‖ / ‖b‖ of a column.
    max_steps
        Largest number of rounds.

    Returns
    -------
    Solution
        Of numpy arrays.

    Raises
    ------
    ValueError
        If the shapes disagree, or a weight or α is negative or no number.
    """
    values = np.asarray(values)
    values = values if values.dtype == np.float32 else values.astype(np.float64)
    alpha = np.broadcast_to(np.asarray(alpha, values.dtype), values.shape[1:])
    if not (np.isfinite(alpha).all() and (alpha >= 0).all()):
        raise ValueError(
            f"Expected alpha of at least 0, found {alpha.min() if alpha.size else alpha}: it is a strength."
        )
    bend = laplacian(adjacency, normalized=normalized).astype(values.dtype)
    if bend.shape[0] != len(values):
        raise ValueError(f"Expected one row of values for each of {bend.shape[0]} spots, found {len(values)} rows.")
    solution, residual = np.empty_like(values), np.zeros(values.shape[1], values.dtype)
    diagonal, steps = bend.diagonal(), 0
    for start in range(0, values.shape[1], _BLOCK):
        columns = slice(start, start + _BLOCK)
        b, a = np.ascontiguousarray(values[:, columns]), alpha[columns]
        x, rounds = _host_conjugate_gradients(
            bend, b, a, diagonal=1.0 + diagonal[:, None] * a, tolerance=tolerance, max_steps=max_steps
        )
        size = np.sqrt((b.astype(np.float64) ** 2).sum(0))
        gap = np.sqrt(((b - x - a * (bend @ x)).astype(np.float64) ** 2).sum(0))
        solution[:, columns], steps = x, max(steps, rounds)
        residual[columns] = np.where(size > 0, gap / np.where(size > 0, size, 1.0), 0.0)
    return Solution(solution, residual, np.int32(steps), np.bool_((residual <= 10 * tolerance).all()))


def strength_for(spots: float, domains: int) -> float:
    """Strength α of smoothing for a section of so many spots that holds so many domains: n / (190 K).

    The number of spots that a domain spans on each side grows with √(n / K), and α with its square.

    Parameters
    ----------
    spots
        Spots of one section; of several sections their mean.
    domains
        Number of domains.
    """
    return spots / (SPOTS_PER_ALPHA * domains)


def laplacian(adjacency: Any, *, normalized: bool = False) -> sp.csr_matrix:
    """Graph Laplacian of the undirected graph with weights ``(W + Wᵀ) / 2``, on the host.

    Parameters
    ----------
    adjacency
        (n, n) sparse matrix of edge weights of at least 0; self loops are left out.
    normalized
        I − D^-½ W D^-½ instead of D − W; the row of an isolated spot is 0 in both.

    Raises
    ------
    ValueError
        If the matrix is not square, or a weight is negative or no number.
    """
    matrix = sp.csr_matrix(adjacency, dtype=np.float64)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"Expected a square matrix of edge weights, found shape {matrix.shape}.")
    if not (np.isfinite(matrix.data).all() and (matrix.data >= 0).all()):
        raise ValueError(
            "Expected edge weights of at least 0, found negative weights or no numbers: correct the graph."
        )
    matrix = (matrix - sp.diags(matrix.diagonal())).tocsr()
    matrix = ((matrix + matrix.T) / 2).tocsr()
    degree = np.asarray(matrix.sum(1)).ravel()
    if not normalized:
        return sp.csr_matrix(sp.diags(degree) - matrix)
    used = degree > 0
    root = sp.diags(np.where(used, 1.0 / np.sqrt(np.where(used, degree, 1.0)), 0.0))
    return sp.csr_matrix(sp.diags(used.astype(np.float64)) - root @ matrix @ root)


def neighbour_sum(neighbors: Neighbors, values: Float[Array, "n p"]) -> Float[Array, "n p"]:
    """Weighted sum over the neighbours of each spot, one place of the table at a time: no array of places and columns.

    Parameters
    ----------
    neighbors
        Neighbour table.
    values
        (n, p) values of the spots.
    """
    index, weight, values = (jnp.asarray(each) for each in (neighbors.index, neighbors.weight, values))
    width = index.shape[1]

    def add(place: Any, total: Float[Array, "n p"]) -> Float[Array, "n p"]:
        return total + weight[:, place, None] * values[index[:, place]]

    return jax.lax.fori_loop(0, width, add, jnp.zeros_like(values), unroll=min(_UNROLLED, max(width, 1)))


def _scattered(index: Int[Array, "n k"], weight: Float[Array, "n k"], x: Float[Array, "n p"]) -> Float[Array, "n p"]:
    """The same sum along the edges turned round."""
    return jnp.zeros_like(x).at[index].add(weight[..., None] * x[:, None, :])


def _conjugate_gradients(
    product: Any, b: Float[Array, "n p"], diagonal: Float[Array, "n p"], *, tolerance: float, max_steps: int
) -> tuple[Float[Array, "n p"], Int[Array, ""]]:
    """Every column with a step length of its own; a column that is done no longer moves."""
    goal = tolerance**2 * (b**2).sum(0)

    def unfinished(state: Any) -> Bool[Array, ""]:
        _, r, _, _, step = state
        return (step < max_steps) & ((r**2).sum(0) > goal).any()

    def advance(state: Any) -> Any:
        x, r, d, rz, step = state
        ad = product(d)
        curve = (d * ad).sum(0)
        moving = ((r**2).sum(0) > goal) & (curve > 0)
        length = jnp.where(moving, rz / jnp.where(moving, curve, 1.0), 0.0)
        x, r = x + length * d, r - length * ad
        z = r / diagonal
        new = (r * z).sum(0)
        d = z + jnp.where(moving, new / jnp.where(moving, rz, 1.0), 0.0) * d
        return x, r, d, new, step + 1

    x = b / diagonal
    r = b - product(x)
    z = r / diagonal
    x, _, _, _, steps = jax.lax.while_loop(unfinished, advance, (x, r, z, (r * z).sum(0), jnp.int32(0)))
    return x, steps


def _host_conjugate_gradients(
    bend: sp.csr_matrix,
    b: Float[np.ndarray, "n p"],
    alpha: Float[np.ndarray, " p"],
    *,
    diagonal: Float[np.ndarray, "n p"],
    tolerance: float,
    max_steps: int,
) -> tuple[Float[np.ndarray, "n p"], int]:
    dot = lambda u, v: np.einsum("ij,ij->j", u, v)
    goal = tolerance**2 * dot(b, b)
    x = b / diagonal
    r = b - x - alpha * (bend @ x)
    z = r / diagonal
    d, rz = z.copy(), dot(r, z)
    for step in range(max_steps):
        moving = dot(r, r) > goal
        if not moving.any():
            return x, step
        ad = d + alpha * (bend @ d)
        curve = dot(d, ad)
        moving &= curve > 0
        length = np.where(moving, rz / np.where(moving, curve, 1), 0).astype(b.dtype)
        x += length * d
        r -= length * ad
        np.divide(r, diagonal, out=z)
        new = dot(r, z)
        d *= np.where(moving, new / np.where(moving, rz, 1), 0).astype(b.dtype)
        d += z
        rz = new
    return x, max_steps
