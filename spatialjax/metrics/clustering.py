"""How well domains agree with labels, and how coherent they are in space."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree


def ari(labels: Any, others: Any) -> float:
    """Adjusted Rand index: 1 for equal partitions, 0 on average for random ones.

    References
    ----------
    Hubert & Arabie (1985), Journal of Classification 2.
    """
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(_codes(labels), _codes(others)))


def nmi(labels: Any, others: Any) -> float:
    """Mutual information over the mean of the two entropies, from 0 to 1."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(_codes(labels), _codes(others)))


def chaos(xy: Float[np.ndarray, "n d"], labels: Any) -> float:
    """Mean distance of each spot to the nearest spot of its own domain, in standardised coordinates.

    Smaller is more coherent. A domain of one spot does not count.

    Parameters
    ----------
    xy
        Coordinates; each axis is divided by its standard deviation.
    labels
        Domain of each spot.

    References
    ----------
    Shang & Zhou (2022), Nature Communications 13.
    """
    codes = _codes(labels)
    xy = np.asarray(xy, np.float64)
    spread = xy.std(0)
    xy = (xy - xy.mean(0)) / np.where(spread > 0, spread, 1.0)
    nearest = []
    for code in np.unique(codes):
        members = xy[codes == code]
        if len(members) > 1:
            nearest.append(cKDTree(members).query(members, k=2)[0][:, 1])
    return float(np.concatenate(nearest).mean()) if nearest else float("nan")


def pas(xy: Float[np.ndarray, "n d"], labels: Any, *, k: int = 10, limit: int = 6) -> float:
    """Share of spots that differ from at least ``limit`` of their ``k`` nearest neighbours; smaller is more coherent.

    Parameters
    ----------
    xy
        Coordinates.
    labels
        Domain of each spot.
    k
        Number of neighbours.
    limit
        Number of differing neighbours that makes a spot abnormal.

    References
    ----------
    Shang & Zhou (2022), Nature Communications 13.
    """
    codes, xy = _codes(labels), np.asarray(xy, np.float64)
    if len(xy) <= k:
        raise ValueError(f"Expected more than {k} spots, found {len(xy)}: choose a smaller k.")
    neighbours = cKDTree(xy).query(xy, k=k + 1)[1]
    own = neighbours == np.arange(len(xy))[:, None]
    own[~own.any(1), -1] = True
    neighbours = neighbours[~own].reshape(len(xy), k)
    return float(((codes[neighbours] != codes[:, None]).sum(1) >= limit).mean())


def section_mixing(labels: Any, section: Any) -> float:
    """How evenly sections share the domains: uncertainty of a spot's section once its domain is known.

    As a part of what it is without the domain, H(section given domain) / H(section): 1 where each domain has its share
    of every section, 0 where every section has domains of its own. Sections of different tissue do not reach 1, so that
    agreement with labels belongs beside it.

    Parameters
    ----------
    labels
        Domain of each spot of all sections.
    section
        Section of each spot.

    Returns
    -------
    float
        NaN for a single section.
    """
    table = np.zeros((_codes(labels).max(initial=0) + 1, _codes(section).max(initial=0) + 1))
    np.add.at(table, (_codes(labels), _codes(section)), 1.0 / max(len(_codes(labels)), 1))
    entropy = lambda share: -float((share[share > 0] * np.log(share[share > 0])).sum())
    whole = entropy(table.sum(0))
    return (entropy(table) - entropy(table.sum(1))) / whole if whole > 0 else float("nan")


def neighbour_mixing(embedding: Float[np.ndarray, "n p"], section: Any, *, k: int = 30) -> float:
    """How many sections there are among the nearest spots in an embedding, from 0 (one) to 1 (as among all spots).

    The inverse Simpson index of the sections of the ``k`` nearest spots and the spot itself, minus 1, over the same of
    all spots; mean over the spots.

    Parameters
    ----------
    embedding
        What sections share.
    section
        Section of each spot.
    k
        Nearest spots that are looked at.

    Returns
    -------
    float
        NaN for a single section. Sampling takes it a little below 1 where sections are mixed by chance.

    Raises
    ------
    ValueError
        If there are not more than ``k`` spots.

    References
    ----------
    Korsunsky et al. (2019), Nature Methods 16 (the index, there with weights by distance).
    """
    from sklearn.neighbors import NearestNeighbors

    embedding, codes = np.asarray(embedding), _codes(section)
    if len(embedding) <= k:
        raise ValueError(f"Expected more than {k} spots, found {len(embedding)}.")
    found = NearestNeighbors(n_neighbors=k + 1).fit(embedding).kneighbors(embedding, return_distance=False)
    members = np.arange(codes.max() + 1)
    near = np.stack([(codes[found] == each).mean(1) for each in members], 1)
    every = ((codes[:, None] == members).mean(0) ** 2).sum()
    return float((1.0 / (near**2).sum(1) - 1.0).mean() / (1.0 / every - 1.0)) if every < 1 else float("nan")


def _codes(labels: Any) -> np.ndarray:
    return np.unique(np.asarray(labels), return_inverse=True)[1].reshape(-1)
