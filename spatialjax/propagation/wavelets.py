"""Diffusion wavelets on a graph or a hypergraph: features of each neighbourhood without training; on the host.

With the lazy diffusion P = ½ (I + D⁻¹W), Ψ_0 = I − P and Ψ_j = P^(2^(j−1)) − P^(2^j) pass what changes over 2^j
steps. All is by sparse products with thin matrices; no power of P is formed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

Diffusion = Callable[[Float[np.ndarray, "n p"]], Float[np.ndarray, "n p"]]


def lazy_diffusion(adjacency: Any) -> Diffusion:
    """One step of the lazy random walk on a graph, P = ½ (I + D⁻¹W); an isolated spot keeps its value.

    Parameters
    ----------
    adjacency
        (n, n) sparse matrix of edge weights of at least 0.
    """
    walk = _row_stochastic(adjacency)
    idle = _idle(walk)
    return lambda values: 0.5 * (values + walk @ values + idle * values)


def hypergraph_diffusion(incidence: Any) -> Diffusion:
    """One step of the lazy random walk on a hypergraph: to one of the spot's hyperedges, then to one of its spots.

    P = ½ (I + D_v⁻¹ H D_e⁻¹ Hᵀ), the walk of two steps on the bipartite graph of spots and hyperedges; the matrix of
    spots by spots is not formed. A spot without a hyperedge keeps its value.

    Parameters
    ----------
    incidence
        (n, e) sparse matrix, the weight of each spot in each hyperedge, at least 0.
    """
    to_edge, to_spot = _row_stochastic(incidence), _row_stochastic(sp.csr_matrix(incidence).T)
    idle = _idle(to_edge)
    return lambda values: 0.5 * (values + to_edge @ (to_spot @ values) + idle * values)


def neighbourhoods(adjacency: Any) -> sp.csr_matrix:
    """(n, n) incidence of the hypergraph with one hyperedge for each spot: the spot and its neighbours, weight 1."""
    matrix = sp.csr_matrix(adjacency)
    joined = (matrix.T + sp.identity(matrix.shape[0])).tocsr()
    joined.data = np.ones_like(joined.data)
    return joined


def wavelets(diffusion: Diffusion, values: Float[np.ndarray, "n p"], *, scales: int = 4) -> Float[np.ndarray, "j n p"]:
    """Wavelet coefficients Ψ_j f for j = 0 … ``scales``; with P^(2^scales) f they add up to f.

    Parameters
    ----------
    diffusion
        Of :func:`lazy_diffusion` or :func:`hypergraph_diffusion`.
    values
        (n, p) signals f, one a column.
    scales
        Largest j; 2^``scales`` steps are made.

    References
    ----------
    Coifman & Maggioni (2006), Applied and Computational Harmonic Analysis 21; Gao, Wolf & Hirn (2019), Proceedings of
    ICML.
    """
    if scales < 0:
        raise ValueError(f"Expected at least scale 0, found scales={scales}.")
    values = _floating(values)
    found = np.empty((scales + 1, *values.shape), values.dtype)
    current = diffusion(values)
    found[0] = values - current
    for scale in range(1, scales + 1):
        before = current
        for _ in range(2 ** (scale - 1)):
            current = diffusion(current)
        found[scale] = before - current
    return found


def scattering(
    diffusion: Diffusion, incidence: Any, values: Float[np.ndarray, "n p"], *, scales: int = 4, moments: int = 1
) -> Float[np.ndarray, "e f"]:
    """Wavelet features of each hyperedge: the moments of ‖Ψ_j f‖ over its spots, and the mean of f.

    Parameters
    ----------
    diffusion
        Of :func:`hypergraph_diffusion` or :func:`lazy_diffusion`.
    incidence
        (n, e) weight of each spot in each hyperedge, for instance of :func:`neighbourhoods`: then row ``i`` describes
        the surroundings of spot ``i``.
    values
        (n, p) signals.
    scales
        Largest scale of the wavelets.
    moments
        Number of moments; the q-th is the q-th root of the mean of ‖Ψ_j f‖^q.

    Returns
    -------
    array
        (e, p · (1 + moments · (scales + 1))): the means of the signals, then the moments of scale 0, and so on.

    References
    ----------
    Sun et al. (2025), Hyperedge Representations with Hypergraph Wavelets, Proceedings of ICASSP; Gao, Wolf & Hirn
    (2019), Proceedings of ICML (moments).
    """
    if moments < 1:
        raise ValueError(f"Expected at least one moment, found moments={moments}.")
    values = _floating(values)
    mean = _row_stochastic(sp.csr_matrix(incidence).T).astype(values.dtype)
    parts = [mean @ values]
    for coefficient in np.abs(wavelets(diffusion, values, scales=scales)):
        parts += [(mean @ coefficient**q) ** (1.0 / q) for q in range(1, moments + 1)]
    return np.concatenate(parts, axis=1)


def _floating(values: Any) -> np.ndarray:
    values = np.asarray(values)
    return values if values.dtype == np.float32 else values.astype(np.float64)


def _row_stochastic(matrix: Any) -> sp.csr_matrix:
    matrix = sp.csr_matrix(matrix, dtype=np.float32)
    if not (np.isfinite(matrix.data).all() and (matrix.data >= 0).all()):
        raise ValueError("Expected weights of at least 0, found negative weights or no numbers: correct the graph.")
    total = np.asarray(matrix.sum(1)).ravel()
    return sp.csr_matrix(
        sp.diags(np.where(total > 0, 1.0 / np.where(total > 0, total, 1.0), 0.0)) @ matrix, dtype=np.float32
    )


def _idle(walk: sp.csr_matrix) -> Float[np.ndarray, "n 1"]:
    """1 for rows from which the walk leads nowhere."""
    return (np.diff(walk.indptr) == 0).astype(np.float32)[:, None]
