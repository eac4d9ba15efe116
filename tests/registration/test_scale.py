"""Scale of a section beside its pose, the weights of modes, and the Laplace spread against draws of NUTS."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialjax.preprocess import smoothing_operator
from spatialjax.registration import pairs
from spatialjax.registration.calibration import CALIBRATION, mode_weights, widening
from spatialjax.registration.curvature import inverse, pull, pull_placed
from spatialjax.registration.evidence import look, score
from spatialjax.registration.posterior import pose_posterior
from spatialjax.slices import Slice, make_slice
from spatialjax.transforms import Affine, rigid

CAPACITY = 512


def section(seed: int, *, cells: int = 400, shrunk: float = 1.0) -> Slice:
    """Scattered cells over four smooth fields without a symmetry; ``shrunk`` multiplies the places, not the tissue."""
    rng = np.random.default_rng(seed)
    xy = np.stack([rng.uniform(0, 1600, cells), rng.uniform(0, 1100, cells)], 1)
    x, y = xy[:, 0] / 300, xy[:, 1] / 300
    values = np.stack([np.sin(x + 0.3 * y), np.cos(1.7 * y - 0.4 * x), np.sin(x * y / 4), np.cos(0.9 * x) * y / 2], 1)
    values = smoothing_operator(xy) @ (values + 0.5 * rng.normal(size=values.shape))
    return make_slice(values - values.mean(0), shrunk * xy, capacity=CAPACITY)


def start(shrunk: float) -> Affine:
    """The best rigid guess for a shrunk section, and an unused place."""
    middle = np.array([800.0, 550.0])
    matrix, shift = np.stack([np.eye(2), np.full((2, 2), np.nan)]), np.stack([middle - shrunk * middle, [np.nan] * 2])
    return Affine(jnp.asarray(matrix, jnp.float32), jnp.asarray(shift, jnp.float32))


@pytest.fixture(scope="module")
def pair() -> pairs.FieldPair:
    return pairs.field_pair(section(1), section(2))


@pytest.fixture(scope="module")
def settled(pair: pairs.FieldPair) -> Any:
    """The pose of the pair after refinement."""
    step = lambda _, state: pairs.refine_step(pair, state[0], state[1])[:2]
    begin = (pairs.from_affine(pair, rigid(0.0, np.zeros(2))), jnp.float32(0.1))
    return jax.jit(lambda: jax.lax.fori_loop(0, 15, step, begin)[0])()


@pytest.mark.parametrize("shrunk", [0.95, 1.0, 1.05])
def test_the_scale_of_a_shrunk_section_lies_in_its_interval(shrunk: float) -> None:
    """Different cells, places multiplied by .95 to 1.05: the truth within 90 %, which excludes a wrong side."""
    made = pairs.field_pair(section(3, shrunk=shrunk), section(4))
    found = pose_posterior(made, start(shrunk), 4.0, scale=True).scale
    low, high = (float(end[0]) for end in found.interval(level=0.9))
    assert low <= 1 / shrunk <= high
    assert shrunk == 1.0 or not low <= shrunk <= high
    assert float(found.scale[0]) == pytest.approx(1 / shrunk, abs=0.03) and high - low < 0.14
    matrix = np.asarray(found.poses.matrix[0])
    assert np.sqrt(np.linalg.det(matrix)) == pytest.approx(float(found.scale[0]), rel=1e-4)
    corner = np.array([[200.0, 900.0]])
    np.testing.assert_allclose(found.poses[0](shrunk * corner), corner, atol=60.0)
    assert np.all(np.linalg.eigvalsh(np.asarray(found.covariance[0], float)) > 0)


def test_asking_for_the_scale_changes_nothing_else(pair: pairs.FieldPair) -> None:
    plain, asked = (pose_posterior(pair, start(1.0), 4.0, scale=wanted) for wanted in (False, True))
    assert plain.scale is None and asked.scale is not None
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(asked.replace(scale=None)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_fourth_score_is_the_slope_of_the_evidence_along_the_scale(pair: pairs.FieldPair, settled: Any) -> None:
    """Against differences of the evidence with the weights held, of places swollen about the center."""
    placed = pairs.place(pair.points, settled)
    found = jax.jit(lambda: pull_placed(pair, placed, scale=True))()
    three = jax.jit(lambda: pull(pair, settled))()
    np.testing.assert_allclose(found.scores[:, :3], three.scores, rtol=1e-3, atol=1e-4)

    def evidence(size: float) -> float:
        there = found.center + jnp.exp(size / found.arm) * (placed - found.center)
        return float(score(look(pair.field, there), pair.features, found.weights, samples=pair.mixed).evidence)

    slope = (evidence(0.2) - evidence(-0.2)) / 0.4
    curvature = -(evidence(0.5) - 2 * evidence(0.0) + evidence(-0.5)) / 0.25
    total = np.asarray(found.information.sum(0))
    assert float(found.scores[:, 3].sum()) == pytest.approx(slope, abs=0.1 * float(np.sqrt(total[3, 3])))
    assert float(total[3, 3]) == pytest.approx(float(curvature), rel=0.2)


def test_quadrature_finds_the_spread_that_the_curvature_says(pair: pairs.FieldPair, settled: Any) -> None:
    """The evidence itself, weights held, on a grid: mean and sd of angle and shifts beside the inverse curvature.

    Independent of every difference and inverse of ``curvature``; the calibration is left out on both sides.
    """
    found = jax.jit(lambda: pull(pair, settled))()
    said = np.sqrt(np.diagonal(np.asarray(inverse(found.information.sum(0)))))
    line = np.linspace(-4.5, 4.5, 13)
    motions = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3) * said

    def evidence(motion: Any) -> Any:
        there = rigid(motion[0] / found.arm, motion[1:], center=found.center)(found.placed)
        return score(look(pair.field, there), pair.features, found.weights, samples=pair.mixed).evidence

    height = np.asarray(jax.lax.map(evidence, jnp.asarray(motions, jnp.float32), batch_size=64), np.float64)
    weight = np.exp(height - height.max())
    weight /= weight.sum()
    mean = weight @ motions
    sd = np.sqrt(weight @ (motions - mean) ** 2)
    assert weight.reshape(13, 13, 13)[[0, -1]].sum() < 0.01, "the grid holds the whole density"
    np.testing.assert_allclose(sd / said, 1.0, atol=0.25)
    assert (np.abs(mean) < said).all()


def test_evidence_that_halves_contradict_chooses_less() -> None:
    """The log-odds of two modes are divided by the factor that widens the covariance; within the clip."""
    heats = jnp.array([0.001, CALIBRATION.coolest, 1.0, 20.0, CALIBRATION.hottest, 1e9])
    odds = []
    for heat in heats:
        found = np.asarray(mode_weights(jnp.array([30.0, 26.0, -np.inf]), heat, 18.0, constants=CALIBRATION))
        odds.append(np.log(found[0] / found[1]))
        assert found.sum() == pytest.approx(1.0, rel=1e-5) and found[2] == 0.0
    known = widening(heats, 200.0, CALIBRATION) / widening(jnp.float32(1.0), 200.0, CALIBRATION)
    np.testing.assert_allclose(odds, 4.0 * CALIBRATION.chance / 18.0 / known, rtol=1e-3)
    assert odds[0] == odds[1] > odds[2] > odds[3] > odds[4] == odds[5]


def test_more_evidence_by_chance_or_no_mode_leaves_less_to_choose_by() -> None:
    modes = jnp.array([30.0, 26.0])
    found = [mode_weights(modes, jnp.float32(1.0), threshold, constants=CALIBRATION) for threshold in (0.0, 6.0, 60.0)]
    assert found[0][0] > found[1][0] > found[2][0] > 0.5
    nothing = mode_weights(jnp.full(3, -jnp.inf), jnp.float32(1.0), 6.0, constants=CALIBRATION)
    assert (nothing == 0.0).all()
