"""Entropic transport against ott-jax, POT and its own limits."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from scipy.spatial.distance import cdist

from spatialjax.transport import exact_transport, marginal_error, rounded, sinkhorn
from spatialjax.transport.sinkhorn import log_kernel, scale


@pytest.fixture(scope="module")
def cloud() -> tuple[Any, Any, Any]:
    """A cost between 40 and 33 points, and unequal masses."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(33, 3)) + 0.4
    a, b = rng.uniform(0.5, 1.5, 40), rng.uniform(0.5, 1.5, 33)
    return tuple(jnp.asarray(v, jnp.float32) for v in (cdist(x, y, "sqeuclidean"), a / a.sum(), b / b.sum()))


@pytest.mark.parametrize("kernel_iterations", [0, 20])
@pytest.mark.parametrize("epsilon", [0.1, 0.01])
def test_the_plan_is_that_of_ott(cloud: Any, epsilon: float, kernel_iterations: int) -> None:
    """Same plan as ott-jax in its log domain, whichever domain ours works in."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ott.geometry.geometry import Geometry
        from ott.solvers import linear
    cost, a, b = cloud
    ours = sinkhorn(cost, a, b, epsilon=epsilon, tolerance=1e-5, rounds=2000, kernel_iterations=kernel_iterations)
    geometry = Geometry(cost_matrix=cost, epsilon=epsilon * float(a @ cost @ b))
    theirs = linear.solve(geometry, a, b, threshold=1e-5, max_iterations=5000)
    assert bool(ours.converged)
    assert float(jnp.abs(ours.plan - theirs.matrix).sum()) < 1e-3


def test_relaxed_marginals_are_those_of_pot(cloud: Any) -> None:
    """KL-relaxed transport with the entropy relative to a ⊗ b, as POT solves it."""
    cost, a, b = (np.asarray(v, float) for v in cloud)
    mean = a @ cost @ b
    theirs = ot.unbalanced.sinkhorn_unbalanced(
        a, b, cost, 0.05 * mean, 0.5 * mean, method="sinkhorn", reg_type="kl", numItermax=5000, stopThr=1e-10
    )
    ours = sinkhorn(*cloud, epsilon=0.05, rho=0.5, tolerance=1e-5, rounds=500)
    assert bool(ours.converged) and 0.3 < float(ours.plan.sum()) < 0.99
    np.testing.assert_allclose(ours.plan, theirs, atol=2e-6)


def test_relaxed_mass_does_not_grow_with_the_number_of_spots(cloud: Any) -> None:
    """Splitting every spot into two of half the mass changes neither the mass nor the objective."""
    cost, a, b = cloud
    once = sinkhorn(cost, a, b, epsilon=0.05, rho=0.1, tolerance=1e-5)
    twice = sinkhorn(
        jnp.tile(cost, (2, 2)), jnp.tile(a, 2) / 2, jnp.tile(b, 2) / 2, epsilon=0.05, rho=0.1, tolerance=1e-5
    )
    np.testing.assert_allclose(twice.plan.sum(), once.plan.sum(), rtol=1e-4)
    np.testing.assert_allclose(twice.objective, once.objective, rtol=1e-4)


@pytest.mark.parametrize("rho", [float("inf"), 0.5])
def test_padding_changes_nothing(cloud: Any, rho: float, strict_numerics: Any) -> None:
    """Places without mass get no plan, whatever their cost, and leave the others as they are."""
    cost, a, b = cloud
    padded = jnp.pad(cost, ((0, 7), (0, 4)), constant_values=1e6)
    large = sinkhorn(padded, jnp.pad(a, (0, 7)), jnp.pad(b, (0, 4)), epsilon=0.02, rho=rho)
    small = sinkhorn(cost, a, b, epsilon=0.02, rho=rho)
    np.testing.assert_allclose(large.plan[:40, :33], small.plan, atol=1e-6)
    assert float(large.plan[40:].sum() + large.plan[:, 33:].sum()) == 0
    np.testing.assert_allclose(large.objective, small.objective, rtol=1e-4)


def test_tiny_epsilon_is_solved_or_told(cloud: Any) -> None:
    """Where a plain kernel underflows to nothing, the plan is finite and ``converged`` tells the truth about it."""
    cost, a, b = cloud
    best = exact_transport(*(np.asarray(v, float) for v in cloud)).objective
    plain = jnp.exp(-cost / (1e-4 * a @ cost @ b))
    assert float(plain.max(axis=1).min()) == 0.0
    for rounds in (2, 3000):
        found = sinkhorn(cost, a, b, epsilon=1e-4, rounds=rounds)
        assert bool(jnp.isfinite(found.plan).all())
        np.testing.assert_allclose(found.error, marginal_error(found.plan, a, b), rtol=1e-2)
        assert bool(found.converged) == (float(found.error) <= 1e-3)
    assert bool(found.converged) and rounds == 3000
    np.testing.assert_allclose(found.objective, best, rtol=5e-3)


def test_scalings_out_of_range_are_dropped(cloud: Any) -> None:
    """Kernel iterations that leave float32 (here by far) are thrown away: the log-domain iterations stand alone."""
    cost, a, b = cloud
    kernel = log_kernel(cost, a, b, epsilon=1e-6)
    checked = scale(kernel, a, b, rounds=2, kernel_iterations=200)
    alone = scale(kernel, a, b, rounds=2, kernel_iterations=0)
    np.testing.assert_array_equal(checked.rows, alone.rows)
    np.testing.assert_array_equal(checked.columns, alone.columns)
    mild = log_kernel(cost, a, b, epsilon=1.0)
    used, alone = (scale(mild, a, b, rounds=2, kernel_iterations=count) for count in (200, 0))
    assert not np.array_equal(used.rows, alone.rows)


def test_a_fixed_budget_can_be_differentiated(cloud: Any) -> None:
    """With tolerance 0 the loop has a fixed length: gradients by the cost are right, and finite with padding."""
    cost, a, b = cloud
    padded = jnp.pad(cost[:12, :9], ((0, 2), (0, 3)))
    a, b = (jnp.pad(v / v.sum(), pad) for v, pad in ((a[:12], (0, 2)), (b[:9], (0, 3))))

    def value(cost: Any) -> Any:
        return sinkhorn(cost, a, b, epsilon=0.2, tolerance=0.0, rounds=3, kernel_iterations=10).objective

    slope = jax.grad(value)(padded)
    assert bool(jnp.isfinite(slope).all()) and float(jnp.abs(slope[12:]).sum() + jnp.abs(slope[:, 9:]).sum()) == 0
    direction = jnp.asarray(np.random.default_rng(0).normal(size=padded.shape), jnp.float32)
    numeric = (value(padded + 1e-2 * direction) - value(padded - 1e-2 * direction)) / 2e-2
    np.testing.assert_allclose(jnp.sum(slope * direction), numeric, rtol=2e-2)


def test_a_batch_equals_its_members(cloud: Any) -> None:
    """Under vmap a member that needs fewer rounds than another keeps its own plan."""
    cost, a, b = cloud
    batch = jnp.stack([cost, 5 * cost**2])
    together = jax.vmap(lambda c: sinkhorn(c, a, b, epsilon=0.02))(batch)
    for i in range(2):
        np.testing.assert_allclose(together.plan[i], sinkhorn(batch[i], a, b, epsilon=0.02).plan, atol=1e-6)


def test_rounding_gives_exact_marginals(cloud: Any) -> None:
    """An unfinished plan is moved onto the marginals by no more than twice its error; padding stays empty."""
    cost, a, b = (jnp.pad(v, [(0, 3)] * v.ndim) for v in cloud)
    raw = sinkhorn(cost, a, b, epsilon=0.01, rounds=1, kernel_iterations=1)
    plan = rounded(raw.plan, a, b)
    assert float(raw.error) > 1e-3 and float(marginal_error(plan, a, b)) < 1e-6
    assert float(plan.min()) >= 0 and float(plan[40:].sum() + plan[:, 33:].sum()) == 0
    assert float(jnp.abs(plan - raw.plan).sum()) <= 2 * float(raw.error) + 1e-6
