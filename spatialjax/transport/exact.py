"""Exact transport on the host, in float64: all of the mass, or a share of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from spatialjax.transport.simplex import Basis

_CANDIDATES = 6
#: Reduced cost below which a pair would help, in units of the spread of the costs.
_TOLERANCE = 1e-11
#: Share of the pairs that may help before a basis counts as that of another problem.
_STALE = 0.05
#: Strengths of the entropy for the first prices, in units of the spread of the costs, and scalings at each.
_STRENGTHS = tuple(0.1 * 0.5**level for level in range(9))
_SCALINGS = 10
#: A share this close to the whole is solved with exact marginals.
_WHOLE = 1e-9


class ExactPlan(NamedTuple):
    """A vertex of the transport polytope.

    Attributes
    ----------
    plan
        Mass moved between the spots, at most n + m - 1 entries.
    objective
        Its cost.
    duals
        Prices of the rows and of the columns; None where an assignment was solved.
    basis
        Where a similar problem may begin; None where an assignment was solved.
    """

    plan: sp.csr_array
    objective: float
    duals: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]] | None
    basis: Basis | None


def exact_transport(
    cost: Float[np.ndarray, "n m"],
    a: Float[np.ndarray, " n"],
    b: Float[np.ndarray, " m"],
    *,
    start: ExactPlan | None = None,
) -> ExactPlan:
    """A plan of least cost with marginals ``a`` and ``b``.

    Equal masses on sections of equal size are an assignment problem. Otherwise it is the network simplex method with
    column generation: only pairs of small reduced cost enter, until the prices prove that no other pair would help.
    The first prices are those of a few entropic scalings.

    Parameters
    ----------
    cost
        Cost between the spots.
    a, b
        Positive masses with equal sums.
    start
        Result of a problem with the same masses and a similar cost, whose basis is taken up.

    Raises
    ------
    ValueError
        If a cost is not finite, a mass is not positive or the sums differ.

    References
    ----------
    Dantzig (1951), "Application of the simplex method to a transportation problem"; Cuturi (2013), NeurIPS, for the
    first prices.
    """
    cost, a, b = (np.asarray(values, np.float64) for values in (cost, a, b))
    if a.min() <= 0 or b.min() <= 0 or not np.isclose(a.sum(), b.sum(), rtol=1e-5):
        raise ValueError(
            f"Expected positive masses with equal sums, found minima {a.min():.3g}, {b.min():.3g} and sums "
            f"{a.sum():.6g}, {b.sum():.6g}: drop spots without mass and normalise both."
        )
    unit = float(np.ptp(cost))
    if not np.isfinite(unit):
        raise ValueError("Expected finite costs, found NaN or infinity: look for empty spots or broken features.")
    if len(a) == len(b) and np.ptp(a) <= 1e-12 * a[0] and np.ptp(b) <= 1e-12 * b[0]:
        rows, columns = linear_sum_assignment(cost)
        plan = sp.csr_array((a[rows], (rows, columns)), shape=cost.shape)
        return ExactPlan(plan, float(cost[rows, columns] @ a), None, None)
    b = b * (a.sum() / b.sum())
    basis, pairs = _begin(cost, (a, b), unit=unit, start=start)
    basis.reprice(cost)
    while True:
        basis.improve(pairs, cost[pairs], tolerance=_TOLERANCE * unit)
        reduced = cost - basis.duals[0][:, None] - basis.duals[1][None, :]
        if not (reduced < -_TOLERANCE * unit).any():
            break
        more = np.nonzero(_smallest(reduced) & (reduced < -_TOLERANCE * unit))
        pairs = tuple(np.concatenate(both) for both in zip(pairs, more, strict=True))
    masses, (rows, columns) = basis.plan(), basis.pairs()
    plan = sp.csr_array((masses, (rows, columns)), shape=cost.shape)
    plan.eliminate_zeros()
    return ExactPlan(plan, float(masses @ cost[rows, columns]), basis.duals, basis)


def exact_partial_transport(
    cost: Float[np.ndarray, "n m"],
    a: Float[np.ndarray, " n"],
    b: Float[np.ndarray, " m"],
    *,
    share: float,
    start: ExactPlan | None = None,
) -> ExactPlan:
    r"""A plan of least cost among those of mass ``share`` with marginals within ``a`` and ``b``.

    One more row and one more column of cost 0 take what stays unmatched; they may not be matched with each other.

    Parameters
    ----------
    cost
        Cost between the spots, of any sign.
    a, b
        Positive masses, each with sum 1.
    share
        Mass that is matched, in (0, 1].
    start
        Result of a problem with the same masses and share and a similar cost.

    Returns
    -------
    ExactPlan
        The plan between the spots; ``duals`` and ``basis`` belong to the larger problem.

    Raises
    ------
    ValueError
        If the share is outside (0, 1], a mass is not positive or a sum is not 1.

    References
    ----------
    Chapel, Alaya, Gasso (2020), NeurIPS, proposition 1.
    """
    cost, a, b = (np.asarray(values, np.float64) for values in (cost, a, b))
    if not 0 < share <= 1:
        raise ValueError(f"Expected a share of the mass in (0, 1], found {share}.")
    if not (np.isclose(a.sum(), 1, rtol=1e-5) and np.isclose(b.sum(), 1, rtol=1e-5)):
        raise ValueError(f"Expected masses that sum to 1, found {a.sum():.6g} and {b.sum():.6g}: normalise both.")
    if share >= 1 - _WHOLE:
        return exact_transport(cost, a, b, start=start)
    larger = np.zeros((len(a) + 1, len(b) + 1))
    larger[:-1, :-1] = cost
    # Any price above -min(cost) empties the corner: the mass could be moved to a pair for less.
    larger[-1, -1] = 2 * max(cost.max(), -cost.min()) + 1e-12
    found = exact_transport(larger, np.append(a / a.sum(), 1 - share), np.append(b / b.sum(), 1 - share), start=start)
    plan = sp.csr_array(found.plan[:-1, :-1])
    return found._replace(plan=plan, objective=float(plan.multiply(cost).sum()))


def _begin(
    cost: np.ndarray, masses: tuple[np.ndarray, np.ndarray], *, unit: float, start: ExactPlan | None
) -> tuple[Basis, tuple[np.ndarray, np.ndarray]]:
    """A first basis, and the pairs that may improve it."""
    if start is not None and start.basis is not None and start.basis.fits(*masses):
        reduced = cost - start.duals[0][:, None] - start.duals[1][None, :]
        if np.count_nonzero(reduced < -_TOLERANCE * unit) <= _STALE * reduced.size:
            return start.basis.copy(), np.nonzero(_smallest(reduced))
    rows, columns = _entropic_prices(cost, masses, unit=unit)
    reduced = cost - rows[:, None] - columns[None, :]
    pairs = np.nonzero(_smallest(reduced))
    order = np.argsort(reduced[pairs], kind="stable")
    return Basis(*masses, pairs=tuple(index[order] for index in pairs)), pairs


def _entropic_prices(
    cost: np.ndarray, masses: tuple[np.ndarray, np.ndarray], *, unit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Prices of a few scalings while the entropy falls: good enough to say which pairs matter."""
    a, b = (mass.astype(np.float32) for mass in masses)
    scaled = ((cost - cost.min()) / max(unit, 1e-300)).astype(np.float32)
    columns, tiny = scaled.min(0), np.float32(1e-30)
    for epsilon in _STRENGTHS:
        rows = (scaled - columns[None, :]).min(1)
        kernel = np.exp((rows[:, None] + columns[None, :] - scaled) / np.float32(epsilon))
        v = np.ones_like(b)
        for _ in range(_SCALINGS):
            # Not by BLAS: its threads cost more than these products, much more on a busy machine.
            u = a / np.maximum(np.einsum("ij,j->i", kernel, v), tiny)
            v = b / np.maximum(np.einsum("ij,i->j", kernel, u), tiny)
        columns = columns + np.float32(epsilon) * np.log(np.maximum(v, tiny))
    rows = (scaled - columns[None, :]).min(1)
    return rows * unit + cost.min(), columns.astype(np.float64) * unit


def _smallest(values: np.ndarray) -> np.ndarray:
    """True at the smallest entries of each row and of each column."""
    chosen = np.zeros(values.shape, bool)
    for axis in (0, 1):
        places = min(_CANDIDATES, values.shape[axis]) - 1
        index = np.argpartition(values, places, axis=axis).take(range(places + 1), axis=axis)
        np.put_along_axis(chosen, index, True, axis)
    return chosen
