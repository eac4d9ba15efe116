"""The fast solver of fused Gromov–Wasserstein problems."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from scipy.spatial.distance import cdist

from spatialjax.algorithm import fit
from spatialjax.transport import (
    FusedProblem,
    conditional_gradient,
    euclidean,
    fused_gromov_wasserstein,
    fused_problem,
    gradient,
    marginal_error,
    objective,
    squared_euclidean,
)
from spatialjax.transport.costs import dense

SPOTS, PADDED = 60, 64


def _tissue(seed: int) -> tuple[Any, Any, Any, Any]:
    """Points, the same points turned and jittered, and noisy smooth features of both."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 10, (SPOTS, 2))
    turn = np.array([[np.cos(2.0), -np.sin(2.0)], [np.sin(2.0), np.cos(2.0)]])
    wave, phase = rng.normal(size=(2, 6)) * 0.5, rng.uniform(0, 6, 6)
    features = [np.sin(x @ wave + phase) + 0.3 * rng.normal(size=(SPOTS, 6)) for _ in range(2)]
    return x, x @ turn.T + 0.05 * rng.normal(size=x.shape), *features


def problem(seed: int = 0, *, factored: bool = True, size: int = PADDED, **options: Any) -> FusedProblem:
    """A padded problem whose spots match one to one in order."""
    x, y, fx, fy = _tissue(seed)
    pad = size - SPOTS
    linear = np.pad(cdist(fx, fy, "sqeuclidean"), ((0, pad), (0, pad)), constant_values=50.0)
    weights = jnp.asarray(np.arange(size) < SPOTS, jnp.float32)
    points = [jnp.asarray(np.pad(p, ((0, pad), (0, 0)), constant_values=3.0), jnp.float32) for p in (x, y)]
    inner = [squared_euclidean(p, weights) if factored else euclidean(p) for p in points]
    return fused_problem(jnp.asarray(linear, jnp.float32), *inner, a=weights, b=weights, **options)


@pytest.fixture(scope="module")
def solved() -> Any:
    """The default solver on the default problem."""
    return fit(fused_gromov_wasserstein(), jax.random.key(0), problem(), max_steps=100)


def test_objective_and_gradient_are_those_of_the_definition(strict_numerics: Any) -> None:
    """The value is POT's loss, the slope the derivative by the plan, for marginals of any kind, thin or dense costs."""
    thin = problem(alpha=0.3)
    full = thin.replace(source=dense(thin.source), target=dense(thin.target))
    plan = jnp.asarray(np.random.default_rng(0).uniform(size=(PADDED, PADDED)), jnp.float32) / PADDED**2
    plan = jnp.where((thin.a > 0)[:, None] & (thin.b > 0)[None, :], plan, 0)
    c, d = (np.asarray(m, float)[:SPOTS, :SPOTS] for m in (full.source, full.target))
    t = np.asarray(plan, float)[:SPOTS, :SPOTS]
    constant, h1, h2 = ot.gromov.init_matrix(c, d, t.sum(1), t.sum(0), "square_loss")
    expected = 0.7 * np.sum(t * np.asarray(thin.linear)[:SPOTS, :SPOTS]) + 0.3 * ot.gromov.gwloss(constant, h1, h2, t)
    for case in (thin, full):
        slope, value = jax.jit(gradient)(case, plan)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        numeric = jax.jit(jax.grad(objective, argnums=1))(case, plan)
        np.testing.assert_allclose(slope[:SPOTS, :SPOTS], numeric[:SPOTS, :SPOTS], rtol=1e-3, atol=1e-4)


def test_normalised_terms_are_one_on_the_independent_coupling() -> None:
    """Whatever the units: both terms, counted without padding."""
    for alpha in (0.0, 1.0):
        case = problem(alpha=alpha)
        np.testing.assert_allclose(objective(case, case.a[:, None] * case.b[None, :]), 1.0, rtol=1e-4)


def test_spots_find_their_partners(solved: Any) -> None:
    """Matched places lie near each other; the stopping rule fires; the plan has exact marginals and no padding."""
    data, plan = problem(), np.asarray(solved.result.plan)
    x = _tissue(0)[0]
    places = plan[:SPOTS, :SPOTS] @ x / plan[:SPOTS, :SPOTS].sum(1, keepdims=True)
    spacing = np.median(np.sort(cdist(x, x), axis=1)[:, 1])
    assert np.median(np.linalg.norm(places - x, axis=1)) < 0.5 * spacing
    assert solved.status == "done" and bool(solved.result.converged) and solved.steps < 60
    assert float(solved.result.error) < 1e-2
    assert float(marginal_error(solved.result.plan, data.a, data.b)) < 1e-5
    assert plan[SPOTS:].sum() + plan[:, SPOTS:].sum() == 0
    assert float(solved.result.objective) >= 0


def test_the_objective_falls(solved: Any) -> None:
    """Proximal steps go down from the independent coupling, but for the slack of unfinished marginals."""
    values = solved.history["objective"]
    assert values[-1] < 0.5 * values[0]
    assert np.diff(values).max() < 1e-2 * values[0]


def test_a_second_call_compiles_nothing(solved: Any, count_compilations: Any) -> None:
    """Another problem of the same capacity runs the programs of the first."""
    with count_compilations() as compiled:
        other = fit(fused_gromov_wasserstein(), jax.random.key(1), problem(1), max_steps=100)
    assert other.status == "done"
    assert compiled() == 0, f"{compiled()} programs were compiled again"


def test_padding_changes_nothing(solved: Any) -> None:
    """More padding, other values on it: the same plan."""
    larger = fit(fused_gromov_wasserstein(), jax.random.key(0), problem(size=72), max_steps=100)
    np.testing.assert_allclose(larger.result.objective, solved.result.objective, rtol=1e-4)
    difference = np.asarray(larger.result.plan)[:SPOTS, :SPOTS] - np.asarray(solved.result.plan)[:SPOTS, :SPOTS]
    assert np.abs(difference).sum() < 1e-3


def test_a_list_equals_a_loop(solved: Any) -> None:
    """Mapped members have the bits of single runs; under vmap they agree to tolerance."""
    data = [problem(0), problem(1)]
    for how, tolerance in (("map", 0.0), ("vmap", 1e-3)):
        runs = fit(fused_gromov_wasserstein(), jax.random.key(0), data, max_steps=100, how=how)
        difference = np.abs(np.asarray(runs[0].result.plan) - np.asarray(solved.result.plan)).sum()
        assert difference <= tolerance and runs[0].steps == solved.steps


def test_entropic_steps_reach_the_plan_of_ott() -> None:
    """Same fixed point as ott-jax for the same costs: its gradient is half of ours, hence its smaller epsilon."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ott.geometry.geometry import Geometry
        from ott.problems.quadratic.quadratic_problem import QuadraticProblem
        from ott.solvers.linear.sinkhorn import Sinkhorn
        from ott.solvers.quadratic.gromov_wasserstein import GromovWasserstein
    data, alpha, epsilon = problem(factored=False, alpha=0.4), 0.4, 0.1
    geometries = [
        Geometry(cost_matrix=matrix[:SPOTS, :SPOTS], epsilon=1.0) for matrix in (data.source, data.target, data.linear)
    ]
    theirs = GromovWasserstein(
        Sinkhorn(threshold=1e-5, max_iterations=2000), epsilon=epsilon / (2 * alpha), max_iterations=60, threshold=1e-7
    )(QuadraticProblem(*geometries, fused_penalty=(1 - alpha) / (2 * alpha), a=data.a[:SPOTS], b=data.b[:SPOTS]))
    solver = fused_gromov_wasserstein(epsilon=epsilon, proximal=False, rounds=4, tolerance=1e-6)
    ours = fit(solver, jax.random.key(0), data, max_steps=100)
    assert ours.status == "done"
    assert float(jnp.abs(ours.result.plan[:SPOTS, :SPOTS] - theirs.matrix).sum()) < 5e-3


def test_relaxed_plans_are_stationary() -> None:
    """With KL-relaxed marginals the derivative of the stated objective, entropy included, vanishes on the plan."""
    epsilon, rho = 0.1, 0.3
    data = problem(alpha=0.4)
    solver = fused_gromov_wasserstein(epsilon=epsilon, rho=rho, proximal=False, rounds=3, tolerance=1e-7)
    found = fit(solver, jax.random.key(0), data, max_steps=200)
    plan, a = found.result.plan[:SPOTS, :SPOTS], data.a[:SPOTS]
    slope = gradient(data, found.result.plan)[0][:SPOTS, :SPOTS]
    ratio = [jnp.log(plan.sum(axis) / a) for axis in (1, 0)]
    entropy = epsilon * jnp.log(plan / (a[:, None] * a[None, :]))
    derivative = slope + entropy + rho * (ratio[0][:, None] + ratio[1][None, :])
    assert 0.5 < float(plan.sum()) < 0.999
    assert float(jnp.sum(plan * jnp.abs(derivative))) < 5e-3


def test_strongly_held_marginals_are_exact_ones(solved: Any) -> None:
    """A large rho gives the balanced plan."""
    found = fit(fused_gromov_wasserstein(rho=100.0), jax.random.key(0), problem(), max_steps=100)
    np.testing.assert_allclose(found.result.objective, solved.result.objective, rtol=2e-2)
    assert float(marginal_error(found.result.plan, problem().a, problem().b)) < 1e-2


def test_a_start_is_used(solved: Any) -> None:
    """From its own solution the solver needs a few steps only, and stays there."""
    again = fit(fused_gromov_wasserstein(), jax.random.key(0), problem(), max_steps=100, start=solved.result.plan)
    assert again.steps < solved.steps
    np.testing.assert_allclose(again.result.objective, solved.result.objective, rtol=2e-2)


@pytest.mark.parametrize("seed", range(3))
def test_annealed_plans_are_near_a_vertex(seed: int) -> None:
    """With unsquared distances the annealed plan, polished exactly, is as good as POT's or better."""
    data = problem(seed, factored=False, alpha=0.5)
    solver = fused_gromov_wasserstein(epsilon=0.02, epsilon_start=0.2)
    found = fit(solver, jax.random.key(0), data, max_steps=100)
    real = np.s_[:SPOTS, :SPOTS]
    linear, source, target = (np.asarray(m, float)[real] for m in (data.linear, data.source, data.target))
    masses = {name: np.full(SPOTS, 1 / SPOTS) for name in ("a", "b")}
    plan = np.asarray(found.result.plan, float)[real]
    polished = conditional_gradient(linear, source, target, **masses, alpha=0.5, start=plan)
    log = ot.gromov.fused_gromov_wasserstein(
        linear, source, target, **dict(zip("pq", masses.values(), strict=True)), alpha=0.5, log=True
    )[1]
    assert polished.objective <= float(log["fgw_dist"]) * (1 + 1e-4)
    assert float(found.result.objective) <= 1.1 * polished.objective
