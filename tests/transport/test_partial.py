"""Partial fused Gromov–Wasserstein, its guard and the estimate of the overlap."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from scipy.spatial.distance import cdist

from spatialjax.algorithm import fit
from spatialjax.graphs import knn
from spatialjax.transport import (
    EDGES,
    FusedProblem,
    OverlapProblem,
    PartialProblem,
    conditional_gradient,
    edge_inconsistency,
    exact_partial_transport,
    exact_transport,
    fused_problem,
    host_collapsed,
    information,
    is_collapsed,
    objective,
    partial_fused_gromov_wasserstein,
    partial_with_overlap,
    plan_collapsed,
)
from spatialjax.transport.overlap import estimate
from spatialjax.transport.partial import within

CAPACITY = 72


def sections(seed: int, *, spots: int = 60, kept: float = 0.6) -> tuple[Any, ...]:
    """Points, one side of them turned and jittered, noisy smooth features of both, and which points were kept."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 10, (spots, 2))
    keep = np.flatnonzero(x[:, 0] <= np.quantile(x[:, 0], kept))
    turn = np.array([[np.cos(2.0), -np.sin(2.0)], [np.sin(2.0), np.cos(2.0)]])
    wave, phase = rng.normal(size=(2, 6)) * 0.5, rng.uniform(0, 6, 6)
    y = x[keep] @ turn.T + 0.05 * rng.normal(size=(len(keep), 2))
    features = [np.sin(p @ wave + phase) + 0.3 * rng.normal(size=(len(p), 6)) for p in (x, x[keep])]
    return x, y, features, keep


def dense(seed: int, **options: Any) -> dict[str, Any]:
    """The problem of ``sections`` with unsquared distances, float64."""
    x, y, features, _ = sections(seed, **options)
    return {
        "linear": cdist(*features, "sqeuclidean"),
        "source": cdist(x, x),
        "target": cdist(y, y),
        "a": np.full(len(x), 1 / len(x)),
        "b": np.full(len(y), 1 / len(y)),
    }


def padded(problem: dict[str, Any], *, alpha: float, share: float, capacity: int = CAPACITY) -> PartialProblem:
    """The same on the device, with padding of another cost."""
    pads = {name: [(0, capacity - size) for size in values.shape] for name, values in problem.items()}
    arrays = {name: jnp.asarray(np.pad(values, pads[name]), jnp.float32) for name, values in problem.items()}
    fused = fused_problem(**arrays, alpha=alpha, normalise=False)
    return PartialProblem(fused, jnp.float32(share))


def reference(problem: dict[str, Any], *, alpha: float, share: float) -> float:
    """Conditional gradient as published: POT's linear programmes, every sum of the objective written out."""
    linear, source, target, a, b = (problem[name] for name in ("linear", "source", "target", "a", "b"))
    squares = (source[:, None, :, None] - target[None, :, None, :]) ** 2

    def half(plan: Any) -> Any:
        return np.einsum("ijkl,kl->ij", squares, plan)

    plan, value = share * np.outer(a, b), np.inf
    for _ in range(100):
        slope = (1 - alpha) * linear + 2 * alpha * half(plan)
        towards = ot.partial.partial_wasserstein(a, b, slope, m=share) if share < 1 else ot.emd(a, b, slope)
        change = towards - plan
        curvature = alpha * np.sum(half(change) * change)
        gain = np.sum(slope * change)
        step = min(1.0, -gain / (2 * curvature)) if curvature > 0 else float(gain + curvature < 0)
        plan = plan + max(step, 0.0) * change
        before, value = value, np.sum(plan * ((1 - alpha) * linear + alpha * half(plan)))
        if before - value <= 1e-9 * abs(value):
            break
    return float(value)


@pytest.mark.parametrize("share", [0.05, 0.4, 0.85, 1.0])
@pytest.mark.parametrize("uniform", [True, False])
def test_the_partial_linear_programme_is_solved_exactly(share: float, uniform: bool) -> None:
    """Cost of POT's partial transport, also where costs are negative; the mass asked for, within the masses."""
    rng = np.random.default_rng(0)
    a, b = (np.ones(size) if uniform else rng.uniform(0.1, 2, size) for size in (30, 24))
    a, b = a / a.sum(), b / b.sum()
    cost = rng.normal(size=(30, 24)) * 7 - 3
    found = exact_partial_transport(cost, a, b, share=share)
    # POT's solver drops pairs of negative cost: a constant on all pairs changes no plan of a given mass.
    positive = cost - cost.min() + 1
    expected = ot.partial.partial_wasserstein(a, b, positive, m=share) if share < 1 else ot.emd(a, b, cost)
    np.testing.assert_allclose(found.objective, np.sum(expected * cost), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.plan.sum(), share, rtol=1e-12)
    assert (found.plan.sum(1) <= a + 1e-12).all() and (found.plan.sum(0) <= b + 1e-12).all()


def test_a_whole_share_is_ordinary_transport() -> None:
    """Share 1 gives the balanced plan; shares outside (0, 1] and masses of another sum are told."""
    cost, a, b = np.random.default_rng(1).uniform(size=(9, 7)), np.full(9, 1 / 9), np.full(7, 1 / 7)
    np.testing.assert_allclose(
        exact_partial_transport(cost, a, b, share=1.0).objective, exact_transport(cost, a, b).objective, rtol=1e-12
    )
    for share in (0.0, 1.2):
        with pytest.raises(ValueError, match="share"):
            exact_partial_transport(cost, a, b, share=share)
    with pytest.raises(ValueError, match="sum to 1"):
        exact_partial_transport(cost, 2 * a, b, share=0.5)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_conditional_gradient_reaches_the_published_objective(share: float, alpha: float) -> None:
    """From the same start, the value of the algorithm as published with POT's linear programmes, to 1e-6."""
    problem = dense(3, spots=26)
    found = conditional_gradient(**problem, alpha=alpha, share=share)
    assert found.converged
    np.testing.assert_allclose(found.objective, reference(problem, alpha=alpha, share=share), rtol=1e-6)


def test_without_features_it_is_the_partial_gromov_wasserstein_of_pot() -> None:
    """alpha 1: POT's own solver from the same start ends at the same value, to 1e-4."""
    problem = dense(0, spots=30)
    start = 0.5 * np.outer(problem["a"], problem["b"])
    ours = conditional_gradient(**problem, alpha=1.0, share=0.5, start=start)
    theirs = ot.partial.partial_gromov_wasserstein(
        problem["source"], problem["target"], problem["a"], problem["b"], m=0.5, G0=start, tol=1e-12
    )
    squares = (problem["source"][:, None, :, None] - problem["target"][None, :, None, :]) ** 2
    expected = np.einsum("ijkl,ij,kl->", squares, theirs, theirs)
    assert ours.objective <= expected * (1 + 1e-4) + 1e-12


@pytest.mark.parametrize("share", [0.5, 0.85, 1.0])
def test_the_annealed_plan_is_near_the_exact_one(share: float) -> None:
    """Mass and bounds hold; polished, the plan is as good as conditional gradient from the product, to 1e-4."""
    problem = dense(1)
    data = padded(problem, alpha=0.1, share=share)
    found = fit(partial_fused_gromov_wasserstein(), jax.random.key(0), data, max_steps=150)
    plan = np.asarray(found.result.plan, np.float64)
    n, m = problem["linear"].shape
    assert found.status == "done" and bool(found.result.converged) and not bool(found.result.collapsed)
    np.testing.assert_allclose(plan.sum(), share, rtol=1e-5)
    assert plan[n:].sum() + plan[:, m:].sum() == 0
    assert (plan.sum(1)[:n] <= problem["a"] * (1 + 1e-4)).all() and (plan.sum(0)[:m] <= problem["b"] * (1 + 1e-4)).all()
    start = plan[:n, :m] * (share / plan.sum())
    polished = conditional_gradient(**problem, alpha=0.1, share=share, start=start)
    plain = conditional_gradient(**problem, alpha=0.1, share=share)
    assert polished.objective <= plain.objective * (1 + 1e-4)
    assert polished.objective <= float(found.result.objective) * (1 + 1e-5) <= 1.1 * polished.objective


def test_padding_and_a_second_share_compile_nothing_and_change_nothing(count_compilations: Any) -> None:
    """The share is data: another one runs the same program; more padding gives the same plan."""
    solver, problem = partial_fused_gromov_wasserstein(), dense(1)
    plain = fit(solver, jax.random.key(0), padded(problem, alpha=0.1, share=0.5), max_steps=150)
    with count_compilations() as compiled:
        fit(solver, jax.random.key(0), padded(problem, alpha=0.1, share=0.7), max_steps=150)
    assert compiled() == 0
    larger = fit(solver, jax.random.key(0), padded(problem, alpha=0.1, share=0.5, capacity=80), max_steps=150)
    difference = np.asarray(larger.result.plan)[:CAPACITY, :CAPACITY] - np.asarray(plain.result.plan)
    assert np.abs(difference).sum() < 1e-3


def test_any_plan_is_moved_into_the_polytope() -> None:
    """Too much and too little mass: rows and columns within the masses, the total equal to the share."""
    data = padded(dense(2), alpha=0.1, share=0.4)
    rng = np.random.default_rng(0)
    for scale in (0.1, 1.0, 5.0):
        noise = jnp.asarray(rng.exponential(size=(CAPACITY, CAPACITY)), jnp.float32) ** 3
        noise = jnp.where((data.fused.a > 0)[:, None] & (data.fused.b > 0)[None, :], noise, 0)
        plan = within(scale * noise / noise.sum(), data)
        np.testing.assert_allclose(plan.sum(), 0.4, rtol=1e-5)
        assert (plan >= 0).all()
        assert (plan.sum(1) <= data.fused.a + 1e-7).all() and (plan.sum(0) <= data.fused.b + 1e-7).all()


def test_information_is_that_of_the_definition() -> None:
    """0 for a product, log n for a permutation, whatever the mass; empty rows do no harm."""
    a, b = np.random.default_rng(0).uniform(size=(2, 12)).astype(np.float32)
    assert float(information(jnp.asarray(np.outer(a, b)))) < 1e-5
    np.testing.assert_allclose(information(0.3 * jnp.eye(9)), np.log(9), rtol=1e-5)
    np.testing.assert_allclose(information(jnp.pad(jnp.eye(9), (0, 4))), np.log(9), rtol=1e-5)


def test_the_guard_is_the_same_on_the_host_and_on_the_device() -> None:
    """The product is collapsed and warned of, an exact plan is not; padding and whole or partial mass do not matter."""
    problem = dense(1)
    data = padded(problem, alpha=0.1, share=0.7)
    best = conditional_gradient(**problem, alpha=0.1, share=0.7)
    product = 0.7 * np.outer(problem["a"], problem["b"])
    host = FusedProblem(**problem, alpha=0.1)
    for plan, expected in ((best.plan.toarray(), False), (product, True)):
        spare = [(0, CAPACITY - size) for size in plan.shape]
        there = jnp.asarray(np.pad(plan, spare), jnp.float32)
        value = float(objective(data.fused, there))
        assert bool(plan_collapsed(there, data.fused, objective=value, share=0.7)) == expected
        with pytest.warns(RuntimeWarning, match="no better than the product") if expected else nullcontext():
            assert bool(host_collapsed(plan, host, objective=value, share=0.7)) == expected


def test_a_collapsed_plan_is_told() -> None:
    """Steps too short to leave the product: the stopping rule fires, the error is small, but the guard says so.

    It looks at both signs: no information, or no gain over the product.
    """
    solver = partial_fused_gromov_wasserstein(epsilon=1e4, epsilon_start=1e4)
    found = fit(solver, jax.random.key(0), padded(dense(1), alpha=0.1, share=0.8), max_steps=80)
    assert found.status == "done" and float(found.result.error) < 1e-2
    assert bool(found.result.collapsed) and not bool(found.result.converged)
    one = jnp.float32(1)
    assert bool(is_collapsed(0.001 * one, most=3.0, objective=0.1 * one, product=one))
    assert bool(is_collapsed(2 * one, most=3.0, objective=one, product=one))
    assert not bool(is_collapsed(2 * one, most=3.0, objective=0.9 * one, product=one))


def overlap_problem(seed: int, *, kept: float) -> tuple[OverlapProblem, np.ndarray]:
    """A partial pair with neighbour tables."""
    x, y, _, keep = sections(seed, spots=160, kept=kept)
    capacity = 192
    problem = dense(seed, spots=160, kept=kept)
    fused = padded(problem, alpha=0.1, share=1.0, capacity=capacity).fused
    tables = []
    for points in (x, y):
        table, spare = knn(points, 4), capacity - len(points)
        index = np.concatenate([table.index, np.tile(np.arange(len(points), capacity)[:, None], (1, 4))])
        tables.append(
            table.replace(index=jnp.asarray(index), weight=jnp.asarray(np.pad(table.weight, ((0, spare), (0, 0)))))
        )
    places = [jnp.asarray(np.pad(p, ((0, capacity - len(p)), (0, 0))), jnp.float32) for p in (x, y)]
    return OverlapProblem(fused, *places, *tables, pitch=jnp.float32(1)), keep


def test_the_overlap_is_estimated_by_the_published_rule() -> None:
    """Every share is tried once, the estimate is twice the share of the largest score, and its problem is solved."""
    data, _ = overlap_problem(0, kept=1.0)
    shares = (0.9, 0.7, 0.5, 0.3, 0.1)
    rule = EDGES._replace(shares=shares)
    found = fit(partial_with_overlap(rule=rule), jax.random.key(0), data, max_steps=400)
    assert found.status == "done" and bool(found.result.converged)
    np.testing.assert_allclose(np.unique(found.history["share"][found.history["trial"] < 5])[::-1], shares, rtol=1e-6)
    scores = np.asarray(found.state.scores)
    assert np.isfinite(scores).all() and scores.min() >= 0 and scores.max() <= 1
    expected = min(2 * min(shares[i] for i in scores.argmax(1)), 1)
    np.testing.assert_allclose(float(found.state.share), expected, rtol=1e-6)
    np.testing.assert_allclose(float(found.result.plan.sum()), expected, rtol=1e-5)
    assert expected >= 0.6, "whole sections overlap by more than a half"
    short = fit(partial_with_overlap(rule=rule), jax.random.key(0), data, max_steps=3)
    assert short.status == "running" and not bool(short.result.converged)


def test_a_given_overlap_is_not_searched() -> None:
    """One problem only; the matched spots of the source are those that the target shows."""
    data, keep = overlap_problem(1, kept=0.6)
    found = fit(partial_with_overlap(overlap=0.6), jax.random.key(0), data, max_steps=200)
    assert found.status == "done" and found.steps < 60
    mass = np.asarray(found.result.plan).sum(1)[:160] * 160
    assert mass[keep].mean() > 0.7 > 0.3 > np.delete(mass, keep).mean()
    for overlap in (0.0, 1.5):
        with pytest.raises(ValueError, match="overlap"):
            partial_with_overlap(overlap=overlap)
    with pytest.raises(ValueError, match="shares"):
        partial_with_overlap(rule=EDGES._replace(shares=(1.0, 0.5)))


def test_edge_inconsistency_counts_edges_inside_the_hull() -> None:
    """A 4 × 4 grid by hand: the hull leaves the last column out; edges of weight 0 do not count."""
    grid = np.stack(np.divmod(np.arange(16), 4), 1)[:, ::-1].astype(np.float32)
    table = knn(grid, 4)
    distance = np.linalg.norm(grid[table.index] - grid[:, None], axis=2)
    table = table.replace(weight=(table.weight * (distance < 1.1)).astype(np.float32))
    matched = (grid[:, 0] < 3) & ~((grid[:, 0] == 1) & (grid[:, 1] == 1))
    inside = grid[:, 0] < 3
    both = inside[:, None] & inside[table.index] & (table.weight > 0)
    differ = matched[:, None] != matched[table.index]
    expected = (both & differ).sum() / both.sum()
    table = jax.tree.map(jnp.asarray, table)
    found = edge_inconsistency(jnp.asarray(matched), jnp.ones(16, bool), xy=jnp.asarray(grid), edges=table)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    none = edge_inconsistency(jnp.zeros(16, bool), jnp.ones(16, bool), xy=jnp.asarray(grid), edges=table)
    assert float(none) == -np.inf
    np.testing.assert_allclose(
        estimate(jnp.asarray([0.9, 0.4, 0.2]), jnp.asarray([[0.1, 0.5, 0.2], [0.6, 0.6, 0.1]])), 0.8, rtol=1e-6
    )
