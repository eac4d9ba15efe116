"""From counts, log values, floats or categories to smoothed features that sections share; sparse in, dense out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from scipy.spatial import cKDTree
from scipy.stats import rankdata

#: Genes that enter the joint components at the most; of more, the most widely seen ones.
MAX_GENES = 10_000
#: Smoothed values kept in memory between passes at the most (elements); beyond it they are made again in each pass.
_KEPT = 2**29
_BLOCK = 4096


def size_factors(counts: Any, *, target: float | None = None) -> Float[np.ndarray, "n"]:
    """Library size of each spot over ``target`` (the median of non-empty spots where left out); 1 for empty spots."""
    total = np.asarray(counts.sum(1), np.float64).ravel()
    if target is None:
        target = float(np.median(total[total > 0])) if (total > 0).any() else 1.0
    return np.where(total > 0, total / target, 1.0)


def log_normalize(counts: Any, *, target: float | None = None) -> sp.csr_matrix:
    """``log(1 + counts / size factor)`` as a sparse float32 matrix; raw counts in.

    Parameters
    ----------
    counts
        (n, g) raw counts, sparse or dense.
    target
        Library size that every spot is brought to; the median where left out. Give the same one to every section.
    """
    matrix = sp.csr_matrix(counts, dtype=np.float32, copy=True)
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    matrix.data = np.log1p(matrix.data / size_factors(matrix, target=target)[rows]).astype(np.float32)
    return matrix


def smoothing_operator(xy: Float[np.ndarray, "n d"], *, neighbors: int = 6) -> sp.csr_matrix:
    """Row-stochastic matrix that averages each spot with its nearest ``neighbors`` (within 3 median spacings).

    Spots without a neighbour keep their own value.
    """
    n = len(xy)
    k = min(neighbors + 1, n)
    distance, index = cKDTree(xy).query(xy, k=k)
    distance, index = distance.reshape(n, k), index.reshape(n, k)
    reach = 3.0 * np.median(distance[:, 1]) if k > 1 else 0.0
    near = distance <= reach
    near[:, 0] = True
    index[:, 0] = np.where(index[:, 0] == np.arange(n), index[:, 0], np.arange(n))
    one = sp.csr_matrix((near.astype(np.float32).ravel(), index.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    one.sum_duplicates()
    one.eliminate_zeros()
    return sp.csr_matrix(sp.diags(1.0 / np.asarray(one.sum(1)).ravel()) @ one, dtype=np.float32)


def smoothed_places(xy: Float[np.ndarray, "n d"], *, rounds: int = 1) -> Float[np.ndarray, "n d"]:
    """Mean place of the spots that ``rounds`` neighbour averages mix into each spot: where its smoothed features stand.

    At the border of a section these places lie inside of the spots.
    """
    operator = smoothing_operator(xy)
    places = np.asarray(xy, np.float64)
    for _ in range(rounds):
        places = operator @ places
    return places


def seen_genes(values: Sequence[Any], *, number: int = MAX_GENES, least: int = 60) -> np.ndarray:
    """Positions of the genes that enter the joint components: those seen in enough spots of every section.

    Every gene is brought to unit variance, so one that a handful of spots show would be as loud as a marker: ``least``
    spots must show it, or a quarter of a smaller section. Of more than ``number``, the most widely seen ones are kept.

    Parameters
    ----------
    values
        One (n_i, g) matrix for each section, counts or log1p values.
    number
        Largest number of genes kept.
    least
        Smallest number of non-zero spots in each section.

    Returns
    -------
    array
        Sorted positions; all genes where hardly one is seen that often.
    """
    sizes = [max(m.shape[0], 1) for m in values]
    counts = [np.diff(sp.csc_matrix(m).indptr) for m in values]
    shares = np.min([c / n for c, n in zip(counts, sizes, strict=True)], axis=0)
    enough = np.all([c >= min(least, 0.25 * n) for c, n in zip(counts, sizes, strict=True)], axis=0)
    keep = np.flatnonzero(enough)
    if len(keep) < 3:
        keep = np.arange(len(shares))
    return np.sort(keep[np.argsort(-shares[keep], kind="stable")[:number]])


def variable_genes(values: Sequence[Any], *, number: int, kind: str = "log1p", bins: int = 20) -> np.ndarray:
    """Positions of the genes that vary most for their mean, over all sections.

    Of counts: by the variance of standardised counts. A gene's expected variance is a local quadratic fit of log
    variance on log mean; counts are standardised with it and cut at √n, so that one spot does not make a gene variable.
    Of log1p values, by normalised dispersion: genes are put into ``bins`` of equal size by their mean; in each bin
    log(variance / mean) is centred by its median and scaled by its median absolute deviation.

    Several sections: by the mean rank of a gene for counts, by its mean dispersion for log1p values.

    Parameters
    ----------
    values
        One (n_i, g) matrix for each section, raw counts or log1p values, sparse or dense.
    number
        Number of genes; all where there are no more.
    kind
        ``"counts"`` or ``"log1p"``.
    bins
        Number of groups of genes of similar mean, for log1p values.

    Returns
    -------
    array
        Sorted positions.

    Raises
    ------
    ValueError
        If ``kind`` is neither.

    References
    ----------
    Satija et al. (2015), Nature Biotechnology 33; Zheng et al. (2017), Nature Communications 8; Stuart et al. (2019),
    Cell 177 (variance of standardised counts).
    """
    if kind not in ("counts", "log1p"):
        raise ValueError(f"Expected kind to be 'counts' or 'log1p', found {kind!r}.")
    width = values[0].shape[1]
    if width <= number:
        return np.arange(width)
    tables = (sp.csr_matrix(matrix, dtype=np.float64) for matrix in values)
    if kind == "counts":
        score = sum(-rankdata(-_standardized_variance(table), method="min") for table in tables)
    else:
        score = sum(_dispersion(table, bins) for table in tables)
    return np.sort(np.argsort(-score, kind="stable")[:number])


def _moments(table: sp.csr_matrix) -> tuple[Float[np.ndarray, " g"], Float[np.ndarray, " g"]]:
    mean = np.asarray(table.mean(0)).ravel()
    return mean, np.maximum(np.asarray(table.multiply(table).mean(0)).ravel() - mean**2, 0.0)


def _standardized_variance(table: sp.csr_matrix) -> Float[np.ndarray, " g"]:
    """Variance of counts in units of what genes of like mean have, cut at √n; 0 for a constant gene."""
    n = table.shape[0]
    mean, variance = _moments(table)
    varies = variance > 1e-12
    spread = np.full(len(mean), np.inf)
    if varies.any():
        trend = _local_quadratic(np.log10(mean[varies]), np.log10(variance[varies]))
        spread[varies] = 10.0 ** (trend / 2)
    above = np.minimum((table.data - mean[table.indices]) / spread[table.indices], np.sqrt(n))
    squares = np.bincount(table.indices, above**2, minlength=len(mean))
    zeros = n - np.bincount(table.indices, minlength=len(mean))
    return (squares + zeros * (mean / spread) ** 2) / max(n - 1, 1)


def _local_quadratic(
    x: Float[np.ndarray, " g"], y: Float[np.ndarray, " g"], *, span: float = 0.3, knots: int = 100
) -> Float[np.ndarray, " g"]:
    """Local quadratic regression with tricube weights over the nearest share ``span``, linear between ``knots``.

    Cleveland (1979), Journal of the American Statistical Association 74.
    """
    places = np.unique(np.quantile(x, np.linspace(0, 1, knots)))
    reach = min(max(int(np.ceil(span * len(x))), 4), len(x)) - 1
    fitted = []
    for place in places:
        distance = np.abs(x - place)
        width = np.partition(distance, reach)[reach]
        weight = np.clip(1 - (distance / width) ** 3, 0, None) ** 3 if width > 0 else (distance == 0).astype(float)
        near = weight > 0
        steps = min(2, len(np.unique(x[near])) - 1)
        fitted.append(np.polyfit(x[near] - place, y[near], steps, w=np.sqrt(weight[near]))[-1])
    return np.interp(x, places, fitted)


def _dispersion(table: sp.csr_matrix, bins: int) -> Float[np.ndarray, " g"]:
    """log(variance / mean) against genes of like mean; −∞ for a gene that no spot shows."""
    mean, variance = _moments(table)
    dispersion = np.log(np.maximum(variance, 1e-12) / np.maximum(mean, 1e-12))
    found = np.full(len(mean), -np.inf)
    for group in np.array_split(np.argsort(mean, kind="stable"), bins):
        middle = np.median(dispersion[group])
        spread = np.median(np.abs(dispersion[group] - middle))
        found[group] = np.where(mean[group] > 0, (dispersion[group] - middle) / max(spread, 1e-6), -np.inf)
    return found


def shared_embedding(
    values: Sequence[Any],
    xy: Sequence[Float[np.ndarray, "n d"]],
    *,
    kind: str,
    components: int = 10,
    rounds: int = 1,
) -> list[Float[np.ndarray, "n p"]]:
    """Smoothed joint components of all sections.

    Counts are brought to one library size and log-transformed; every feature is averaged over near spots, centred on
    its section's mean and divided by its pooled standard deviation; the leading principal components of all sections
    together are returned. Smoothing comes before the components and each feature weighs the same: both matter for
    alignment.

    Parameters
    ----------
    values
        One (n_i, g) matrix for each section with the same features in the same order; sparse or dense.
    xy
        Coordinates of each section.
    kind
        ``"counts"`` (raw), ``"log1p"``, ``"float"``, ``"embedding"`` or ``"categories"`` (one column a type).
    components
        Number of components; fewer where there are fewer features.
    rounds
        Number of neighbour averages.

    Returns
    -------
    list
        (n_i, p) float32 for each section, each component with mean 0 in each section, and pooled variances that fall.
    """
    matrices = list(values)
    if kind == "counts":
        totals = np.concatenate([np.asarray(v.sum(1), np.float64).ravel() for v in matrices])
        target = float(np.median(totals[totals > 0])) if (totals > 0).any() else 1.0
        matrices = [log_normalize(v, target=target) for v in matrices]
    if kind in ("counts", "log1p"):
        genes = seen_genes(matrices)
        matrices = [sp.csr_matrix(m)[:, genes] for m in matrices]
    blocks = _Smoothed(matrices, [smoothing_operator(np.asarray(p, np.float64)) for p in xy], rounds)
    scale = np.sqrt(sum((b.astype(np.float64) ** 2).sum(0) for _, b in blocks) / sum(len(p) for p in xy))
    used = scale > 1e-6 * max(scale.max(), 1e-30)
    inverse = np.where(used, 1.0 / np.where(used, scale, 1.0), 0.0).astype(np.float32)
    axes = inverse[:, None] * _leading(blocks, inverse, min(components, int(used.sum())))
    parts: list[list[np.ndarray]] = [[] for _ in matrices]
    for section, block in blocks:
        parts[section].append(block @ axes)
    return [np.concatenate(p) if p else np.zeros((0, axes.shape[1]), np.float32) for p in parts]


class _Smoothed:
    """Blocks of rows of smoothed, centred values: ``(section, rows)``, made once when they fit in memory."""

    def __init__(self, matrices: Sequence[Any], operators: Sequence[sp.csr_matrix], rounds: int) -> None:
        self._parts = [(m, o, rounds) for m, o in zip(matrices, operators, strict=True)]
        size = sum(o.shape[0] for o in operators) * matrices[0].shape[1]
        self._kept = list(self._make()) if size <= _KEPT else None

    def _make(self) -> Any:
        for section, (matrix, operator, rounds) in enumerate(self._parts):
            n, width = matrix.shape
            if n * width <= _KEPT:
                yield section, _centred(operator, matrix, rounds)
                continue
            power = operator
            for _ in range(rounds - 1):
                power = power @ operator
            weights = power.T @ np.ones(n, np.float32) / n
            mean = np.asarray(matrix.T @ weights).ravel().astype(np.float32)
            for start in range(0, n, _BLOCK):
                block = power[start : start + _BLOCK] @ matrix
                yield section, (block.toarray() if sp.issparse(block) else np.asarray(block)).astype(np.float32) - mean

    def __iter__(self) -> Any:
        return iter(self._kept) if self._kept is not None else self._make()


def _centred(operator: sp.csr_matrix, matrix: Any, rounds: int) -> np.ndarray:
    values = matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)
    values = values.astype(np.float32)
    for _ in range(rounds):
        values = operator @ values
    return values - values.mean(0, dtype=np.float64).astype(np.float32)


def _leading(blocks: _Smoothed, inverse: np.ndarray, number: int, *, extra: int = 10, passes: int = 6) -> np.ndarray:
    """Leading axes of the scaled values by subspace iteration from a fixed start, signs fixed by the largest entry."""
    width = len(inverse)
    size = min(number + extra, width)
    start = np.sin(np.arange(1, width * size + 1, dtype=np.float64) ** 2).reshape(width, size)
    basis = np.linalg.qr(start)[0].astype(np.float32)
    for turn in range(passes):
        product = np.zeros((width, size))
        for _, block in blocks:
            product += block.T @ (block @ (inverse[:, None] * basis))
        product = inverse[:, None] * product
        if turn < passes - 1:
            basis = np.linalg.qr(product)[0].astype(np.float32)
    values, turn_back = np.linalg.eigh((basis.T @ product + product.T @ basis) / 2)
    vectors = basis @ turn_back[:, np.argsort(-values)[:number]]
    largest = vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])]
    return (vectors * np.where(largest < 0, -1.0, 1.0)).astype(np.float32)
