"""Pseudo-spots that networks learn from, by the rules of the methods that train on them. On the host."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, Float, Int

from spatialjax.composition.pseudospots import scaled_counts, summed_cells
from spatialjax.keys import generator

#: Mean and standard deviation of the number of cells of a spot and of its types, and most cells.
_CELLS, _TYPES, _MOST = (10.0, 5.0), (5.0, 2.5), 20
#: Powers of the frequencies of the types: as they are, their square root, all alike.
_BALANCES = (1.0, 0.5, 0.0)


class Mixtures(NamedTuple):
    """Mixed cells whose composition is known.

    Attributes
    ----------
    values
        (n, g) csr, the mixed cells.
    shares
        (n, K) share of each type, each row sums to 1.
    """

    values: sp.csr_matrix
    shares: Float[np.ndarray, "n k"]


def weighted_mixtures(
    key: Array,
    values: Any,
    types: Int[np.ndarray, " m"],
    *,
    spots: int,
    number: int,
    cells: int = 10,
    even: bool = False,
) -> Mixtures:
    """Weighted means of as many random cells, with weights drawn evenly from 0 to 1 and scaled to sum to 1.

    Parameters
    ----------
    key
        Random key.
    values
        (m, g) values of the cells, sparse.
    types
        (m,) type of each cell, from 0.
    spots, number
        Number of pseudo-spots n and of types K.
    cells
        Cells of a pseudo-spot, drawn with replacement.
    even
        Whether all types are drawn alike, and not as often as the reference has them.

    References
    ----------
    Bae et al. (2022), Nucleic Acids Research 50, e57 (CellDART).
    """
    rng = generator(key)
    weight = rng.uniform(size=(spots, cells))
    weight /= weight.sum(1, keepdims=True)
    frequency = np.bincount(types, minlength=number)
    chance = 1.0 / frequency[types] if even else np.ones(len(types))
    chosen = rng.choice(len(types), spots * cells, p=chance / chance.sum())
    where = (np.repeat(np.arange(spots), cells), chosen)
    member = sp.csr_matrix((weight.ravel(), where), shape=(spots, len(types)))
    shares = member @ np.eye(number)[types]
    return Mixtures(sp.csr_matrix(member @ values), shares)


def balanced_cells(key: Array, types: Int[np.ndarray, " m"], *, spots: int, number: int) -> Int[np.ndarray, "n k"]:
    """Numbers of cells of each type: N(10, 5²) cells, from 1 to 20, of about N(5, 2.5²) types.

    The types of a spot are drawn with replacement, a third of the spots each by the frequencies of the types, by their
    square roots and evenly; its cells fall on these types evenly.

    Parameters
    ----------
    key
        Random key.
    types
        (m,) type of each cell, from 0.
    spots, number
        Number of pseudo-spots n and of types K.

    References
    ----------
    Xu et al. (2023), Nature Communications 14, 7603 (SPACEL; the rule of its code).
    """
    rng = generator(key)
    frequency = np.bincount(types, minlength=number) / len(types)
    total = np.clip(rng.normal(*_CELLS, spots).astype(int), 1, _MOST)
    draws = np.clip(rng.normal(*_TYPES, spots).astype(int), 1, number)
    balance = np.arange(spots) % len(_BALANCES)
    weight = np.stack([np.where(frequency > 0, frequency**power, 0.0) for power in _BALANCES])
    present = rng.multinomial(draws, (weight / weight.sum(1, keepdims=True))[balance]) > 0
    return rng.multinomial(total, present / present.sum(1, keepdims=True))


def summed_mixtures(
    key: Array, counts: Any, types: Int[np.ndarray, " m"], *, cells: Int[np.ndarray, "n k"], depths: Any
) -> Mixtures:
    """Sums of cells, thinned to depths like those of the spots.

    The depth of each pseudo-spot is drawn from the lognormal distribution with the mean and standard deviation of the
    logarithms of ``depths``; a sum that has fewer counts than that keeps them all.

    Parameters
    ----------
    key
        Random key.
    counts
        (m, g) raw counts of the cells, sparse.
    types
        (m,) type of each cell, from 0.
    cells
        (n, K) number of cells of each type in each pseudo-spot.
    depths
        Counts of each of some spots, above 0, of the same genes.
    """
    drawn, depth, thinned = jax.random.split(key, 3)
    summed = summed_cells(drawn, counts, types, cells=cells).counts
    log = np.log(np.asarray(depths, np.float64))
    wanted = np.exp(generator(depth).normal(log.mean(), log.std(), len(cells)))
    own = np.asarray(summed.sum(1), np.float64).ravel()
    scale = np.minimum(wanted / np.maximum(own, 1.0), 1.0)
    return Mixtures(scaled_counts(thinned, summed, scale[:, None]), cells / cells.sum(1, keepdims=True))
