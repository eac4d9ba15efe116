"""Features of the surroundings of each spot beside its own, without training; on the host, by sparse products."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from spatialjax.graphs import adjacency
from spatialjax.slices import Neighbors


def gaussian_weights(neighbors: Neighbors, xy: Float[np.ndarray, "n d"], *, width: float | None = None) -> Neighbors:
    """The table with weights exp(−d² / 2σ²) on its edges.

    Parameters
    ----------
    neighbors
        Neighbour table of numpy arrays.
    xy
        Coordinates, µm.
    width
        σ, µm; the median length of the edges where left out.
    """
    index, used = np.asarray(neighbors.index), np.asarray(neighbors.weight) > 0
    xy = np.asarray(xy, np.float64)
    length = np.linalg.norm(xy[index] - xy[:, None], axis=2)
    if width is None:
        width = float(np.median(length[used])) if used.any() else 1.0
    weight = np.where(used, np.exp(-0.5 * (length / max(width, 1e-30)) ** 2), 0.0)
    return Neighbors(index, weight.astype(np.float32))


def neighbour_mean(neighbors: Neighbors, values: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n p"]:
    """Weighted mean of the neighbours, without the spot itself; an isolated spot keeps its own values."""
    weights = _shares(neighbors)
    values = np.asarray(values, np.float64)
    alone = np.diff(weights.indptr) == 0
    return np.where(alone[:, None], values, weights @ values)


def azimuthal_gradient(
    neighbors: Neighbors, values: Float[np.ndarray, "n p"], xy: Float[np.ndarray, "n 2"], *, centred: bool = False
) -> Float[np.ndarray, "n p"]:
    """Magnitude of the azimuthal Gabor filter, ‖Σ_j w_ij x_j e^{iφ_ij}‖: how fast a feature changes, in any direction.

    Parameters
    ----------
    neighbors
        Neighbour table; the weights of each row are divided by their sum.
    values
        (n, p) features.
    xy
        Coordinates in the plane, µm; φ_ij is the direction from spot ``i`` to spot ``j``. The first two of three.
    centred
        Subtract the weighted mean of the neighbours from x_j first, so that a constant feature has no gradient at the
        border of a section.

    Returns
    -------
    array
        0 for an isolated spot.
    """
    weights = _shares(neighbors)
    values, xy = np.asarray(values, np.float64), np.asarray(xy, np.float64)
    rows = np.repeat(np.arange(len(xy)), np.diff(weights.indptr))
    step = xy[weights.indices, :2] - xy[rows, :2]
    length = np.linalg.norm(step, axis=1, keepdims=True)
    direction = step / np.where(length > 0, length, 1.0)
    mean = weights @ values if centred else 0.0
    total = 0.0
    for axis in range(2):
        filtered = sp.csr_matrix((weights.data * direction[:, axis], weights.indices, weights.indptr), weights.shape)
        total = total + (filtered @ values - np.asarray(filtered.sum(1)) * mean) ** 2
    return np.sqrt(total)


def banksy(
    neighbors: Neighbors,
    values: Float[np.ndarray, "n p"],
    xy: Float[np.ndarray, "n 2"],
    *,
    weight: float = 0.8,
    gradient: bool = True,
    centred: bool = False,
) -> Float[np.ndarray, "n q"]:
    """A spot's own features, their mean around it and their azimuthal gradient, side by side.

    Every column of every part is z-scored; the parts are multiplied by √(1 − λ), √(λ/μ) and √(λ/2μ) with μ = 3/2, so
    that the squared factors add up to 1 (without the gradient: √(1 − λ) and √λ).

    Parameters
    ----------
    neighbors
        Neighbour table with weights, for instance of :func:`gaussian_weights`.
    values
        (n, p) log-normalised values or components.
    xy
        Coordinates, µm.
    weight
        λ, from 0 (the spot alone) to 1 (its surroundings alone); 0.2 for cell types and 0.8 for domains in the paper.
    gradient
        Add the azimuthal gradient.
    centred
        See :func:`azimuthal_gradient`.

    Returns
    -------
    array
        (n, 3p) or (n, 2p) float32.

    Raises
    ------
    ValueError
        If λ is not between 0 and 1.

    References
    ----------
    Singhal et al. (2024), Nature Genetics 56 (BANKSY), from the equations.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"Expected a weight between 0 and 1 for the surroundings, found {weight}.")
    parts = [np.asarray(values, np.float64), neighbour_mean(neighbors, values)]
    shares = [1 - weight, weight]
    if gradient:
        parts.append(azimuthal_gradient(neighbors, values, xy, centred=centred))
        shares = [1 - weight, weight * 2 / 3, weight / 3]
    return np.concatenate([np.sqrt(s) * _standardised(p) for s, p in zip(shares, parts, strict=True)], 1).astype(
        np.float32
    )


def concatenation(
    neighbors: Neighbors, values: Float[np.ndarray, "n p"], *, rings: int = 1
) -> Float[np.ndarray, "n q"]:
    """A spot's own features, and after them their means over one, two … ``rings`` rounds of neighbours.

    Parameters
    ----------
    neighbors
        Neighbour table.
    values
        (n, p) features.
    rings
        Number of rounds of averaging, each added as p columns.

    Returns
    -------
    array
        (n, p · (rings + 1)) float32.
    """
    parts = [np.asarray(values, np.float64)]
    for _ in range(rings):
        parts.append(neighbour_mean(neighbors, parts[-1]))
    return np.concatenate(parts, 1).astype(np.float32)


def _shares(neighbors: Neighbors) -> sp.csr_matrix:
    """Weights of the neighbours, each row divided by its sum."""
    matrix = adjacency(neighbors)
    total = np.asarray(matrix.sum(1)).ravel()
    return sp.csr_matrix(sp.diags(np.where(total > 0, 1.0 / np.where(total > 0, total, 1.0), 0.0)) @ matrix)


def _standardised(values: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n p"]:
    """Mean 0 and variance 1 for each column; a constant column is 0."""
    centred = values - values.mean(0)
    spread = centred.std(0)
    used = spread > 1e-9 * np.maximum(np.abs(values).max(0), 1e-30)
    return np.where(used, centred / np.where(used, spread, 1.0), 0.0)
