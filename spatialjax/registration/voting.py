"""Labels carried over soft matches, as probabilities that are calibrated where labels are known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

#: Powers of the votes that are tried.
POWERS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.7, 8.0)


class Calibrated(NamedTuple):
    """How far the votes of matched cells can be believed.

    Attributes
    ----------
    silent
        Share of cells about which a match says nothing, so that only the frequency of the labels is known.
    power
        Power that the votes are raised to: above 1 where the winner is right more often than its share says.
    base
        Frequency of each label, the null.
    cells
        Cells that this rests on.
    agreement
        Share of these whose own label won the vote.
    null
        Share that would have, had the votes been dealt out at random.
    """

    silent: float
    power: float
    base: Float[np.ndarray, " l"]
    cells: int
    agreement: float
    null: float


def votes(matches: sp.spmatrix, codes: Int[np.ndarray, " m"], number: int) -> Float[np.ndarray, "n l"]:
    """Share of the weight of each cell's matches that carries each label; rows of 0 where no match has a label.

    Parameters
    ----------
    matches
        (n, m) weights of the labelled side for each cell.
    codes
        Label of each of the m cells, -1 for none.
    number
        Number of labels.
    """
    known = codes >= 0
    columns = np.flatnonzero(known)
    one_hot = sp.csr_matrix((np.ones(len(columns)), (columns, codes[known])), (len(codes), number))
    mass = np.asarray((sp.csr_matrix(matches) @ one_hot).todense(), np.float64)
    total = mass.sum(1, keepdims=True)
    return np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)


def without_self(matches: sp.spmatrix) -> sp.csr_matrix:
    """Matches of a section with itself, no cell with itself; rows sum to 1 again or are empty."""
    matrix = sp.csr_matrix(matches, copy=True).tolil()
    matrix.setdiag(0.0)
    matrix = matrix.tocsr()
    matrix.eliminate_zeros()
    total = np.asarray(matrix.sum(1)).ravel()
    return sp.csr_matrix(sp.diags(np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)) @ matrix)


def calibrate(
    shares: Float[np.ndarray, "n l"], truth: Int[np.ndarray, " n"], base: Float[np.ndarray, " l"], *, rounds: int = 200
) -> Calibrated:
    r"""Fit how far votes can be believed, on cells whose label is known.

    The label of a cell is drawn from its votes :math:`v`, or with probability :math:`\lambda` from the base
    frequencies :math:`\pi`:

    .. math:: p_l = (1 - \lambda) \, v_l^{\beta} / \sum_m v_m^{\beta} + \lambda \pi_l .

    The likelihood is largest over :math:`\lambda` by expectation-maximisation, for each of a few powers
    :math:`\beta`. One cell's worth of silence is added, so that no confidence is ever exactly 1.

    Parameters
    ----------
    shares
        Votes, see :func:`votes`.
    truth
        Label of each cell; cells with -1 or without votes do not count.
    base
        Frequency of each label.
    rounds
        Rounds of expectation-maximisation.

    References
    ----------
    Dempster, Laird & Rubin (1977), J. R. Stat. Soc. B 39.
    """
    used = (truth >= 0) & (shares.sum(1) > 0)
    shares, truth = shares[used], truth[used]
    if len(truth) == 0:
        return Calibrated(1.0, 1.0, base, 0, float("nan"), float("nan"))
    chance = np.maximum(base[truth], 1e-12)
    best = (-np.inf, 1.0, 1.0)
    for power in POWERS:
        own = _sharpened(shares, power)[np.arange(len(truth)), truth]
        silent = 0.5
        for _ in range(rounds):
            odds = silent * chance / ((1 - silent) * own + silent * chance)
            silent = min(float((odds.sum() + 1.0) / (len(truth) + 1.0)), 1.0 - 1e-9)
        likelihood = float(np.log((1 - silent) * own + silent * chance).sum() + np.log(silent))
        best = max(best, (likelihood, silent, power))
    won = shares.argmax(1)
    frequency, wins = (np.bincount(v, minlength=len(base)) / len(truth) for v in (truth, won))
    return Calibrated(best[1], best[2], base, len(truth), float((won == truth).mean()), float(frequency @ wins))


def probabilities(
    shares: Float[np.ndarray, "n l"], found: Calibrated
) -> tuple[Float[np.ndarray, "n l"], Bool[np.ndarray, " n"]]:
    """Probability of each label for each cell, and which cells have any vote; rows of 0 where none.

    Parameters
    ----------
    shares
        Votes, see :func:`votes`.
    found
        See :func:`calibrate`.
    """
    matched = shares.sum(1) > 0
    mixed = (1 - found.silent) * _sharpened(shares, found.power) + found.silent * found.base
    return np.where(matched[:, None], mixed, 0.0), matched


def _sharpened(shares: np.ndarray, power: float) -> np.ndarray:
    raised = shares**power
    total = raised.sum(1, keepdims=True)
    return np.divide(raised, total, out=np.zeros_like(raised), where=total > 0)
