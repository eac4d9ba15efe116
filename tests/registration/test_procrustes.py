"""Weighted Procrustes against the closed form of the plane and against its own optimality."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialjax.registration.procrustes import both_parities, procrustes, residual
from spatialjax.transforms import rigid


def _turned(rng: np.random.Generator, *, mirrored: bool, angle: float = 2.3) -> tuple[Any, Any, Any]:
    x = rng.normal(size=(30, 2)) * 400 + 900
    pose = rigid(angle, np.array([120.0, -45.0]), mirrored=mirrored)
    return x, pose(x), pose


@pytest.mark.parametrize("mirrored", [False, True])
def test_an_exact_motion_is_found(rng: np.random.Generator, mirrored: bool) -> None:
    """Pairs related by a rigid map of either parity give that map, with no residual."""
    x, y, pose = _turned(rng, mirrored=mirrored)
    found = procrustes(x, y, rng.uniform(0.5, 1.5, 30), mirrored=mirrored)
    np.testing.assert_allclose(found.matrix, pose.matrix, atol=1e-10)
    np.testing.assert_allclose(found.shift, pose.shift, atol=1e-7)


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_angle_is_the_closed_form_of_the_plane(rng: np.random.Generator, mirrored: bool) -> None:
    """tan(angle) = sum w (x × y) / sum w (x · y) for centred points, after y -> -y of x where mirrored."""
    x, y, plan = rng.normal(size=(12, 2)), rng.normal(size=(9, 2)), rng.uniform(size=(12, 9))
    cx = x - plan.sum(1) @ x / plan.sum()
    cy = y - plan.sum(0) @ y / plan.sum()
    cx = cx * np.array([1.0, -1.0]) if mirrored else cx
    cross = np.einsum("ij,i,j", plan, cx[:, 0], cy[:, 1]) - np.einsum("ij,i,j", plan, cx[:, 1], cy[:, 0])
    dot = np.einsum("ij,ia,ja", plan, cx, cy)
    found = procrustes(x, y, plan, mirrored=mirrored)
    np.testing.assert_allclose(found.angle, np.arctan2(cross, dot), atol=1e-10)
    assert bool(found.mirrored) is mirrored


def test_no_nearby_motion_fits_better(rng: np.random.Generator) -> None:
    """In three dimensions too, turning or shifting the fit a little raises the residual."""
    x, y, plan = rng.normal(size=(15, 3)), rng.normal(size=(11, 3)), rng.uniform(size=(15, 11))
    for mirrored in (False, True):
        found = procrustes(x, y, plan, mirrored=mirrored)
        np.testing.assert_allclose(np.linalg.det(found.matrix), -1.0 if mirrored else 1.0, atol=1e-10)
        best = residual(x, y, plan, pose=found)
        for axis in range(3):
            turn = np.eye(3)
            i, j = {0: (0, 1), 1: (0, 2), 2: (1, 2)}[axis]
            turn[[i, j, i, j], [i, j, j, i]] = np.cos(1e-2), np.cos(1e-2), -np.sin(1e-2), np.sin(1e-2)
            assert residual(x, y, plan, pose=found.replace(matrix=found.matrix @ turn)) > best
            assert residual(x, y, plan, pose=found.replace(shift=found.shift + 0.05 * np.eye(3)[axis])) > best


def test_weights_are_a_diagonal_plan(rng: np.random.Generator) -> None:
    """Weights of pairs and the plan with them on its diagonal give the same map and residual."""
    x, y, weights = rng.normal(size=(10, 2)), rng.normal(size=(10, 2)), rng.uniform(size=10)
    pairs, plan = procrustes(x, y, weights), procrustes(x, y, np.diag(weights))
    np.testing.assert_allclose(pairs.matrix, plan.matrix, atol=1e-12)
    one, other = residual(x, y, weights, pose=pairs), residual(x, y, np.diag(weights), pose=plan)
    np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_better_parity_comes_first(rng: np.random.Generator, mirrored: bool) -> None:
    """Both parities are returned, sorted by residual; on the device in float32, under jit."""
    x, y, _ = _turned(rng, mirrored=mirrored)
    poses, residuals = jax.jit(both_parities)(*(jnp.asarray(v, jnp.float32) for v in (x, y, np.eye(30))))
    assert [bool(poses[i].mirrored) for i in range(2)] == [mirrored, not mirrored]
    assert residuals[0] < 0.1 < 100 < residuals[1]


def test_padding_with_weight_zero_changes_nothing(rng: np.random.Generator, strict_numerics: Any) -> None:
    """Places without mass may hold anything finite."""
    x, y, pose = _turned(rng, mirrored=False)
    padded_x, padded_y = np.vstack([x, np.full((5, 2), 1e4)]), np.vstack([y, np.zeros((3, 2))])
    plan = np.zeros((35, 33))
    plan[:30, :30] = np.eye(30)
    found = procrustes(*(jnp.asarray(v, jnp.float32) for v in (padded_x, padded_y, plan)))
    np.testing.assert_allclose(x @ np.asarray(found.matrix).T + np.asarray(found.shift), pose(x), atol=5e-2)


def test_wrong_shapes_are_told() -> None:
    """Weights for sections of different sizes are refused."""
    with pytest.raises(ValueError, match="Expected x"):
        procrustes(np.zeros((4, 2)), np.zeros((5, 2)), np.ones(4))
