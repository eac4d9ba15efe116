"""The centre of several sections on the host, in float64, by the rounds of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from spatialjax.transport.center import Kind, factor_update, mapped_values
from spatialjax.transport.collapse import host_collapsed
from spatialjax.transport.exact_fused import conditional_gradient
from spatialjax.transport.gromov import FusedProblem
from spatialjax.transport.sections import expression_cost

_UPDATES = 200
_SETTLED = 1e-4


class ExactCenter(NamedTuple):
    """A centre and its un-regularised plans.

    Attributes
    ----------
    plans
        From the centre to each section.
    left, right
        Factors of its expression, fitted to the plans.
    objective
        Weighted objective of the plans, at the centre that they were found for.
    rounds
        Rounds taken.
    converged
        Whether the objective settled before the budget ended.
    collapsed
        Whether each plan is no more than the product of its marginals.
    """

    plans: list[Float[np.ndarray, "n m"]]
    left: Float[np.ndarray, "n r"]
    right: Float[np.ndarray, "r g"]
    objective: float
    rounds: int
    converged: bool
    collapsed: tuple[bool, ...]


def exact_center(
    values: Sequence[Float[np.ndarray, "m g"]],
    costs: Sequence[Float[np.ndarray, "m m"]],
    factors: tuple[Float[np.ndarray, "n r"], Float[np.ndarray, "r g"]],
    *,
    plans: Sequence[Float[np.ndarray, "n m"] | None],
    weights: Sequence[float],
    reference: int,
    alpha: float,
    kind: Kind = "kl",
    max_rounds: int = 10,
    tolerance: float = 1e-3,
) -> ExactCenter:
    """Plans by conditional gradient and factors by multiplicative updates, in turns.

    Parameters
    ----------
    values
        Expression of the spots of each section, not negative.
    costs
        Distances within each section.
    factors
        First factors of the expression of the centre.
    plans
        Where the plan to each section starts; None for the independent coupling.
    weights
        Weight of each section, with sum 1.
    reference
        Position of the section whose spots the centre has.
    alpha, kind
        See ``CenterProblem`` and ``center_of_sections``.
    max_rounds
        Largest number of rounds, at least 1.
    tolerance
        Change of the objective in a round at which to stop.

    References
    ----------
    Zeira, Land, Strzalkowski, Raphael (2022), Nature Methods 19, "Center slice integration".
    """
    left, right = factors
    masses = [np.full(len(x), 1 / len(x)) for x in values]
    found, objective, rounds, converged = list(plans), np.inf, 0, False
    while rounds < max_rounds and not converged:
        rounds += 1
        linears = [expression_cost(left @ right, x, kind=kind) for x in values]
        problems = [
            FusedProblem(linear, costs[reference], inner, masses[reference], b, alpha)
            for linear, inner, b in zip(linears, costs, masses, strict=True)
        ]
        runs = [conditional_gradient(**vars(each), start=start) for each, start in zip(problems, found, strict=True)]
        found = [run.plan.toarray() for run in runs]
        left, right = fitted_factors(mapped_values(found, values, weights), left, right, kind=kind)
        before, objective = objective, float(np.dot(weights, [run.objective for run in runs]))
        converged = abs(before - objective) <= tolerance
    collapsed = tuple(
        bool(host_collapsed(plan, problem, objective=run.objective))
        for plan, problem, run in zip(found, problems, runs, strict=True)
    )
    return ExactCenter(found, left, right, objective, rounds, converged, collapsed)


def fitted_factors(
    values: Float[np.ndarray, "n g"], left: Float[np.ndarray, "n r"], right: Float[np.ndarray, "r g"], *, kind: Kind
) -> tuple[Float[np.ndarray, "n r"], Float[np.ndarray, "r g"]]:
    """Factors of ``values``, updated from the given ones until the loss settles or 200 updates are spent."""
    first = before = factor_loss(values, left, right, kind=kind)
    for number in range(1, _UPDATES + 1):
        left, right = factor_update(values, left, right, kind=kind)
        if number % 10 == 0:
            loss = factor_loss(values, left, right, kind=kind)
            if before - loss <= _SETTLED * max(first, 1e-300):
                break
            before = loss
    return left, right


def factor_loss(
    values: Float[np.ndarray, "n g"], left: Float[np.ndarray, "n r"], right: Float[np.ndarray, "r g"], *, kind: Kind
) -> float:
    """Generalised Kullback–Leibler divergence (``"kl"``) or half the squared difference of ``values`` and factors."""
    model = left @ right
    if kind == "euclidean":
        return float(0.5 * np.sum((values - model) ** 2))
    positive = values > 0
    ratio = np.where(positive, values, 1) / np.where(positive, np.maximum(model, 1e-300), 1)
    return float(np.sum(values * np.log(ratio)) - values.sum() + model.sum())
