"""How much more than Poisson noise the counts of each gene scatter around what is fitted."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

#: Tiles of counts that are read at the most: what a gene scatters is known long before all spots have been seen.
MOST_TILES = 32


def gene_overdispersion(
    parts: Iterable[tuple[Float[np.ndarray, "b g"], Float[np.ndarray, "b k"]]], means: Float[np.ndarray, "k g"]
) -> Float[np.ndarray, " g"]:
    """φ_g of a variance ``μ + φ_g μ²``, by moments, drawn towards that of all genes together.

    ``φ_g = (Σ_n (y − μ)² − μ + a φ) / (Σ_n μ² + a)`` with φ the ratio of the sums over all genes and ``a`` the median
    over genes of ``Σ_n μ²``, never below 0. A gene whose level differs between the spots and the reference, or that
    cells of one type show in bursts, gets a large one and speaks more softly.

    Parameters
    ----------
    parts
        Pairs of raw counts and fitted abundances of some spots.
    means
        Expected counts of one cell of each type.

    References
    ----------
    Anders & Huber (2010), Genome Biology 11, R106 (dispersion by moments, shared between genes).
    """
    means = np.asarray(means, np.float64)
    excess, square = np.zeros(means.shape[1]), np.zeros(means.shape[1])
    for counts, abundance in parts:
        expected = np.asarray(abundance, np.float64) @ means
        excess += ((counts - expected) ** 2 - expected).sum(0)
        square += (expected**2).sum(0)
    seen = square > 0
    if not seen.any():
        return np.zeros(means.shape[1], np.float32)
    common = max(excess[seen].sum() / square[seen].sum(), 0.0)
    weight = np.median(square[seen])
    return np.maximum((excess + common * weight) / (square + weight), 0.0).astype(np.float32)
