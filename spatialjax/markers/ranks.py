"""The Wilcoxon rank-sum test of many genes, with control of the false discovery rate; on the host."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

#: Elements of a dense block of genes at the most.
_BLOCK = 2**24


class RankTest(NamedTuple):
    """One test for each gene.

    Attributes
    ----------
    score
        Standardised rank sum: above 0 where the gene is higher inside.
    p
        Two-sided p-value.
    adjusted
        The same after Benjamini–Hochberg over the genes.
    """

    score: Float[np.ndarray, " g"]
    p: Float[np.ndarray, " g"]
    adjusted: Float[np.ndarray, " g"]


def rank_sum(values: Any, inside: Bool[np.ndarray, " n"], outside: Bool[np.ndarray, " n"]) -> RankTest:
    """Wilcoxon rank-sum test of every gene between two groups of spots.

    Normal approximation with the variance corrected for ties, without a continuity correction. A gene without variation
    has score 0 and p = 1.

    Parameters
    ----------
    values
        (n, g) sparse or dense; any monotone transform of a gene gives the same result.
    inside, outside
        The spots of the two groups; spots of neither do not count.

    Raises
    ------
    ValueError
        If a group is empty or the groups share a spot.

    References
    ----------
    Wilcoxon (1945), Biometrics Bulletin 1; Mann & Whitney (1947), Annals of Mathematical Statistics 18; Benjamini &
    Hochberg (1995), Journal of the Royal Statistical Society B 57.
    """
    inside, outside = np.asarray(inside, bool), np.asarray(outside, bool)
    if not inside.any() or not outside.any() or (inside & outside).any():
        raise ValueError(
            f"Expected two groups of spots without a spot in common, found {inside.sum()} and {outside.sum()} spots, "
            f"{(inside & outside).sum()} of them in both."
        )
    return each_rank_sum(values, np.where(inside, 0, np.where(outside, 1, -1)))[0]


def each_rank_sum(values: Any, labels: Int[np.ndarray, " n"]) -> dict[int, RankTest]:
    """:func:`rank_sum` of each group of spots against all others, with one ranking for all groups.

    Parameters
    ----------
    values
        (n, g) sparse or dense.
    labels
        Group of each spot; spots with a negative one do not count.

    Returns
    -------
    dict
        Test of each group.

    Raises
    ------
    ValueError
        If there are fewer than two groups.
    """
    from scipy import stats

    labels = np.asarray(labels)
    kept = labels >= 0
    groups = np.unique(labels[kept])
    if len(groups) < 2:
        raise ValueError(f"Expected spots of at least two groups, found {len(groups)}.")
    table = _rows(values, kept)
    member = (labels[kept] == groups[:, None]).astype(np.float64)
    total, width = table.shape
    size = member.sum(1)
    score = np.zeros((len(groups), width))
    step = max(1, _BLOCK // total)
    # A gene that no spot shows has score 0; of tens of thousands many are.
    shown = np.flatnonzero(table.getnnz(0)) if sp.issparse(table) else np.arange(width)
    for start in range(0, len(shown), step):
        columns = shown[start : start + step]
        deviation = stats.rankdata(_dense(table[:, columns]), axis=0).astype(np.float64) - 0.5 * (total + 1)
        variance = np.outer(size * (total - size), (deviation**2).sum(0)) / (total * max(total - 1, 1))
        score[:, columns] = (member @ deviation) / np.sqrt(np.where(variance > 0, variance, 1.0))
    p = 2.0 * stats.norm.sf(np.abs(score))
    adjusted = stats.false_discovery_control(p, axis=1) if width else p
    return {int(group): RankTest(score[row], p[row], adjusted[row]) for row, group in enumerate(groups)}


def _rows(values: Any, group: Any) -> Any:
    return sp.csc_matrix(sp.csr_matrix(values)[group]) if sp.issparse(values) else np.asarray(values)[group]


def _dense(block: Any) -> np.ndarray:
    return block.toarray() if sp.issparse(block) else block
