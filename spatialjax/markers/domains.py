"""Genes that are higher in a domain than in the domains around it; on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree

from spatialjax import graphs
from spatialjax.markers.ranks import each_rank_sum
from spatialjax.slices import Neighbors


class MarkerGenes(NamedTuple):
    """One value for each gene.

    Attributes
    ----------
    passed
        Whether the gene marks the domain.
    score, p, adjusted
        Of the rank-sum test, see ``RankTest``.
    inside, outside
        Share of the spots where the gene is seen.
    fold_change
        exp of the difference of the mean values, the ratio of geometric means of 1 + x for log1p values.
    """

    passed: Bool[np.ndarray, " g"]
    score: Float[np.ndarray, " g"]
    p: Float[np.ndarray, " g"]
    adjusted: Float[np.ndarray, " g"]
    inside: Float[np.ndarray, " g"]
    outside: Float[np.ndarray, " g"]
    fold_change: Float[np.ndarray, " g"]

    @property
    def ranked(self) -> Int[np.ndarray, " m"]:
        """Positions of the genes that passed, the largest score first."""
        return np.array([gene for gene in np.argsort(-self.score, kind="stable") if self.passed[gene]], int)


def around(xy: Float[np.ndarray, "n d"], *, neighbours: float = 10.0) -> Neighbors:
    """All spots within the radius that holds ``neighbours`` other spots on average.

    Parameters
    ----------
    xy
        Coordinates of one section, µm.
    neighbours
        Mean number of other spots; all of them where there are no more.
    """
    xy = np.asarray(xy, np.float64)
    n = len(xy)
    if n <= neighbours + 1:
        return graphs.knn(xy, max(1, n - 1))
    tree = cKDTree(xy)
    wanted = int(np.ceil(0.5 * neighbours * n))
    reach = float(np.median(tree.query(xy, k=int(np.ceil(neighbours)) + 1)[0][:, -1])) or 1e-12
    pairs = tree.query_pairs(reach, output_type="ndarray")
    while len(pairs) < wanted:
        reach *= 1.5
        pairs = tree.query_pairs(reach, output_type="ndarray")
    length = np.sort(np.linalg.norm(xy[pairs[:, 0]] - xy[pairs[:, 1]], axis=1))
    return graphs.radius(xy, max(float(length[wanted - 1]) * (1 + 1e-9), 1e-12))


def neighbouring_domains(
    labels: Int[np.ndarray, " n"], neighbors: Neighbors, domain: int, *, share: float = 0.5, most: int = 3
) -> list[int]:
    """The domains around a domain, the closest contact first.

    A domain is around it when the pairs of a spot of the domain and a spot of the other one are more than ``share``
    times as many as the other one has spots.

    Parameters
    ----------
    labels
        Domain of each spot; negative ones do not count.
    neighbors
        Who is near whom, see :func:`around`.
    domain
        The domain that is asked about.
    share
        Smallest number of pairs for each spot of the other domain.
    most
        Largest number of domains returned.

    Returns
    -------
    list
        Empty where no domain is near enough.

    References
    ----------
    Hu et al. (2021), Nature Methods 18.
    """
    labels = np.asarray(labels)
    index, used = np.asarray(neighbors.index), np.asarray(neighbors.weight) != 0
    touched = labels[index][labels == domain][used[labels == domain]]
    others = [int(each) for each in np.unique(labels) if each != domain and each >= 0]
    pairs = {each: int((touched == each).sum()) for each in others}
    near = [each for each in others if pairs[each] > share * (labels == each).sum()]
    return sorted(near, key=lambda each: -pairs[each])[:most]


def domain_genes(
    values: Any,
    labels: Int[np.ndarray, " n"],
    domain: int,
    *,
    against: Sequence[int] | None = None,
    level: float = 0.05,
    seen: float = 0.8,
    ratio: float = 1.0,
    fold_change: float = 1.5,
) -> MarkerGenes:
    """Genes higher in a domain than in other domains: a rank-sum test, and how often and how much.

    Parameters
    ----------
    values
        (n, g) log1p of depth-scaled counts, sparse or dense.
    labels
        Domain of each spot; negative ones do not count.
    domain
        The domain.
    against
        Domains to compare with, e.g. :func:`neighbouring_domains`; all others where left out.
    level
        Largest adjusted p-value.
    seen
        Smallest share of the spots of the domain where the gene is above 0.
    ratio
        Smallest ratio of that share to the share outside; more than it is needed.
    fold_change
        Smallest fold change; more than it is needed.

    Raises
    ------
    ValueError
        If the domain, or those it is compared with, have no spot.

    References
    ----------
    Hu et al. (2021), Nature Methods 18: the defaults are theirs.
    """
    labels = np.asarray(labels)
    own = labels == domain
    rest = (labels >= 0) & ~own if against is None else np.isin(labels, list(against)) & ~own
    if not own.any() or not rest.any():
        raise ValueError(
            f"Expected spots in domain {domain} and in those it is compared with, found {own.sum()} and {rest.sum()}."
        )
    two = np.where(own, 0, np.where(rest, 1, -1))
    return each_domain_genes(values, two, level=level, seen=seen, ratio=ratio, fold_change=fold_change)[0]


def each_domain_genes(
    values: Any,
    labels: Int[np.ndarray, " n"],
    *,
    level: float = 0.05,
    seen: float = 0.8,
    ratio: float = 1.0,
    fold_change: float = 1.5,
) -> dict[int, MarkerGenes]:
    """:func:`domain_genes` of every domain against all others; the genes are ranked once for all domains.

    Parameters
    ----------
    values
        (n, g) log1p of depth-scaled counts, sparse or dense.
    labels
        Domain of each spot; negative ones do not count.
    level, seen, ratio, fold_change
        As in :func:`domain_genes`.

    Returns
    -------
    dict
        Genes of each domain.

    Raises
    ------
    ValueError
        If there are fewer than two domains.
    """
    labels = np.asarray(labels)
    tests = each_rank_sum(values, labels)
    kept = np.flatnonzero(labels >= 0)
    table = sp.csr_matrix(values)[kept] if sp.issparse(values) else np.asarray(values)[kept]
    member = (labels[kept] == np.array(list(tests))[:, None]).astype(np.float64)
    size = member.sum(1, keepdims=True)
    rest = len(kept) - size
    sums, seen_in = (member @ each for each in (table, (table > 0).astype(np.float32)))
    gap = sums / size - (sums.sum(0) - sums) / rest
    inside, outside = seen_in / size, (seen_in.sum(0) - seen_in) / rest
    found = {}
    for row, (domain, test) in enumerate(tests.items()):
        fold = np.exp(np.clip(gap[row], -50.0, 50.0))
        passed = (test.adjusted < level) & (inside[row] > seen) & (inside[row] > ratio * outside[row])
        passed &= (fold > fold_change) & (test.score > 0)
        found[domain] = MarkerGenes(passed, *test, inside[row], outside[row], fold)
    return found
