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


def _codes(labels: Any) -> np.ndarray:
    return np.unique(np.asarray(labels), return_inverse=True)[1].reshape(-1)
