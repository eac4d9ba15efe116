"""Exact transport and conditional gradient against POT."""

from __future__ import annotations

from typing import Any

import numpy as np
import ot
import pytest
from scipy.spatial.distance import cdist

from spatialjax.transport import conditional_gradient, exact_transport


def instance(seed: int, sizes: tuple[int, int], *, smooth: bool) -> dict[str, Any]:
    """A fused problem: noise as linear cost, or noisy smooth features of two overlapping clouds."""
    rng = np.random.default_rng(seed)
    x, y = (rng.uniform(0, 10, (size, 2)) for size in sizes)
    wave, phase = rng.normal(size=(2, 5)) * 0.4, rng.uniform(0, 6, 5)
    features = [np.sin(points @ wave + phase) + 0.5 * rng.normal(size=(len(points), 5)) for points in (x, y)]
    noise = 2 * rng.uniform(size=sizes)
    return {
        "linear": cdist(*features, "sqeuclidean") if smooth else noise,
        "source": cdist(x, x),
        "target": cdist(y, y),
        "a": np.full(sizes[0], 1 / sizes[0]),
        "b": np.full(sizes[1], 1 / sizes[1]),
    }


def pot(problem: dict[str, Any], alpha: float) -> float:
    """Objective of POT's conditional gradient from the independent coupling."""
    order = (problem[name] for name in ("linear", "source", "target", "a", "b"))
    log = ot.gromov.fused_gromov_wasserstein(*order, loss_fun="square_loss", alpha=alpha, symmetric=True, log=True)[1]
    return float(log["fgw_dist"])


@pytest.mark.parametrize("sizes", [(40, 40), (61, 50), (30, 80)])
@pytest.mark.parametrize("uniform", [True, False])
def test_the_linear_programme_is_solved_exactly(sizes: tuple[int, int], uniform: bool) -> None:
    """Cost of POT's network simplex, exact marginals, a vertex, and prices that prove it."""
    rng = np.random.default_rng(0)
    cost = rng.normal(size=sizes) * 7 - 3
    a, b = (np.ones(size) if uniform else rng.uniform(0.1, 2, size) for size in sizes)
    a, b = a / a.sum(), b / b.sum()
    found = exact_transport(cost, a, b)
    np.testing.assert_allclose(found.objective, ot.emd2(a, b, cost), rtol=1e-9)
    np.testing.assert_allclose(found.plan.sum(1), a, atol=1e-12)
    np.testing.assert_allclose(found.plan.sum(0), b, atol=1e-12)
    assert found.plan.nnz <= sum(sizes) - 1
    if found.duals is not None:
        f, g = found.duals
        assert (cost - f[:, None] - g[None, :]).min() > -1e-7
        np.testing.assert_allclose(f @ a + g @ b, found.objective, rtol=1e-9)


def test_the_result_of_another_problem_does_not_change_the_answer() -> None:
    """A start is a hint only: of a similar cost, of an unrelated one, of other masses; and it stays as it is."""
    rng = np.random.default_rng(1)
    cost, a, b = rng.uniform(size=(30, 20)), np.full(30, 1 / 30), np.full(20, 1 / 20)
    best = exact_transport(cost, a, b).objective
    others = [exact_transport(cost + 0.1 * rng.uniform(size=cost.shape), a, b)]
    others += [exact_transport(rng.uniform(size=cost.shape), a, b)]
    others += [exact_transport(cost, rng.dirichlet(np.full(30, 5.0)), b), exact_transport(np.eye(9), a[:9], a[:9])]
    for other in others:
        before = None if other.basis is None else other.basis.plan()
        np.testing.assert_allclose(exact_transport(cost, a, b, start=other).objective, best, rtol=1e-10)
        assert before is None or np.array_equal(before, other.basis.plan())


@pytest.mark.parametrize(("a", "b"), [([0.5, 0.5, 0.0], [0.5, 0.5]), ([0.5, 0.5, 1.0], [0.5, 0.5])])
def test_masses_that_allow_no_plan_are_told(a: list[float], b: list[float]) -> None:
    """Empty spots and unequal sums are refused before any work."""
    with pytest.raises(ValueError, match="positive masses with equal sums"):
        exact_transport(np.zeros((3, 2)), np.array(a), np.array(b))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_conditional_gradient_reaches_the_objective_of_pot(seed: int, smooth: bool, alpha: float) -> None:
    """From the same start, the same stationary value to 1e-6 (n = 40 to 120, equal and unequal sizes)."""
    sizes = [(40, 40), (60, 53), (80, 97), (120, 120)][seed]
    problem = instance(seed, sizes, smooth=smooth)
    found = conditional_gradient(**problem, alpha=alpha)
    assert found.converged
    np.testing.assert_allclose(found.objective, pot(problem, alpha), rtol=1e-6)
    np.testing.assert_allclose(found.plan.sum(1), problem["a"], atol=1e-12)


def test_a_convex_problem_takes_steps_inside() -> None:
    """Inner costs of opposite curvature make the parabola convex: the exact step is then below 1, as POT's."""
    problem = instance(5, (20, 16), smooth=True)
    problem["target"] = -problem["target"]
    found = conditional_gradient(**problem, alpha=0.5, tolerance=1e-7)
    assert found.plan.nnz > 20 + 16 - 1
    np.testing.assert_allclose(found.objective, pot(problem, 0.5), rtol=1e-4)


def test_a_budget_that_ends_is_told() -> None:
    """One linear programme does not converge here; more never raise the objective."""
    problem = instance(0, (60, 53), smooth=False)
    values = [conditional_gradient(**problem, alpha=0.5, max_iterations=count) for count in (1, 2, 3, 50)]
    assert [run.converged for run in values] == [False, False, False, True]
    assert all(np.diff([run.objective for run in values]) <= 1e-12)
