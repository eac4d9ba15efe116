"""Rasters, global search, evidence and refinement, on fields whose true pose is known."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialjax.methods.alignment.fields import fields
from spatialjax.methods.card import run
from spatialjax.registration import null_evidence, pairs, score_poses
from spatialjax.registration.evidence import look, score
from spatialjax.registration.raster import rasterize, sample
from spatialjax.registration.search import FREE, best_unrelated, search
from spatialjax.slices import Slice, make_slice
from spatialjax.transforms import Affine, rigid

PITCH = 50.0


def pattern(xy: np.ndarray) -> np.ndarray:
    """Four smooth fields with no symmetry, over about 1,500 µm."""
    x, y = xy[:, 0] / 300, xy[:, 1] / 300
    return np.stack([np.sin(x + 0.3 * y), np.cos(1.7 * y - 0.4 * x), np.sin(x * y / 4), np.cos(0.9 * x) * y / 2], 1)


def section(rng: np.random.Generator, n: int = 500, *, moved: Affine | None = None, low: float = 0.0) -> Slice:
    """A section of scattered cells with noisy features; ``moved`` takes its coordinates to another frame."""
    xy = np.stack([rng.uniform(low, 1600, n), rng.uniform(0, 1100, n)], 1)
    values = pattern(xy) + 0.3 * rng.normal(size=(n, 4))
    values -= values.mean(0)
    return make_slice(values, xy if moved is None else moved(xy))


def test_sample_returns_the_field_its_gradient_and_no_cover_outside(rng: np.random.Generator) -> None:
    """A linear field is reproduced by the spline, with its slope; far points have no cover."""
    xy = np.stack(np.meshgrid(np.arange(40.0), np.arange(40.0), indexing="ij"), -1).reshape(-1, 2)
    field = jax.tree.map(jnp.asarray, rasterize(xy, (2 * xy[:, :1] - 3 * xy[:, 1:]), pixel=1.0, blur=0.7))
    inner = rng.uniform(10, 30, (50, 2))
    value, slope, cover = sample(field, jnp.asarray(inner, jnp.float32))
    np.testing.assert_allclose(value[:, 0], 2 * inner[:, 0] - 3 * inner[:, 1], atol=1e-2)
    np.testing.assert_allclose(slope[:, 0], np.broadcast_to([2.0, -3.0], (50, 2)), atol=1e-2)
    np.testing.assert_allclose(cover, 1.0, atol=1e-3)
    assert float(sample(field, jnp.array([[500.0, 500.0]]))[2][0]) == 0.0


def test_rasterize_refuses_a_grid_that_is_too_small() -> None:
    with pytest.raises(ValueError, match="at least 108 nodes"):
        rasterize(np.array([[0.0, 0.0], [99.0, 0.0]]), np.ones((2, 1)), pixel=1.0, blur=1.0, side=32)


def test_gradient_of_the_evidence_equals_its_finite_differences(rng: np.random.Generator) -> None:
    """With the overlap held, the slope along angle and shift is that of the evidence itself."""
    pair = pairs.field_pair(section(rng), section(rng))
    pose = (0.05, jnp.array([0.4, -0.3]), jnp.float32(0.0))

    def evidence(motion: Any) -> Any:
        seen = look(pair.field, pairs.place(pair.points, pose))
        turn = rigid(motion[0], motion[1:], center=here.center)
        return score(look(pair.field, turn(seen.placed)), pair.features, held, samples=pair.mixed).evidence

    seen = look(pair.field, pairs.place(pair.points, pose))
    held = pair.weights * seen.cover
    here = score(seen, pair.features, held, samples=pair.mixed)
    for axis, step in enumerate((2e-3, 2e-2, 2e-2)):
        ahead, behind = (evidence(jnp.zeros(3).at[axis].set(s)) for s in (step, -step))
        np.testing.assert_allclose(here.gradient[axis], (ahead - behind) / (2 * step), rtol=0.05, atol=0.5)


@pytest.fixture(scope="module")
def members() -> list[tuple[Any, Affine]]:
    """Three pairs: turned, turned and mirrored, and half of the tissue turned; with the true maps."""
    rng = np.random.default_rng(5)
    cases = []
    for angle, mirrored, low in ((2.1, False, 0.0), (-0.7, True, 0.0), (3.0, True, 700.0)):
        there = rigid(angle, np.array([900.0, -400.0]), mirrored)
        moved = section(rng, 500 if low == 0 else 300, moved=there, low=low)
        cases.append(((moved, section(rng)), there.inverse()))
    return cases


@pytest.fixture(scope="module")
def found(members: list) -> list[Any]:
    """The default method on the three pairs."""
    return run(fields(), jax.random.key(0), [pair for pair, _ in members])


def test_fields_recovers_angle_parity_and_place_with_partial_overlap(members: list, found: list) -> None:
    """Within a third of the spacing and one degree, also where 44 % of the tissue is gone."""
    for (pair, truth), fit in zip(members, found, strict=True):
        pose = fit.result.transform
        xy = np.asarray(pair[0].xy)[np.asarray(pair[0].mask)]
        assert bool(pose.mirrored) == bool(truth.mirrored)
        turn = np.degrees(float(pose.angle) - truth.angle)
        assert abs((turn + 180) % 360 - 180) < 1.0
        assert np.median(np.linalg.norm(np.asarray(pose(xy)) - truth(xy), axis=1)) < PITCH / 3
        assert fit.status == "done"
        assert bool(fit.result.converged)


def test_true_pose_beats_the_null_and_the_wrong_parity(members: list, found: list) -> None:
    for (pair, truth), fit in zip(members, found, strict=True):
        evidence = np.asarray(fit.result.evidence)
        wrong = np.asarray(fit.result.poses.mirrored) != bool(truth.mirrored)
        assert evidence[0] > 1.5 * evidence[wrong & np.isfinite(evidence)].max()
        assert evidence[0] > null_evidence(jax.random.key(3), pairs.field_pair(*pair))


def test_chance_is_searched_as_one_exchange_after_another_would_be(members: list) -> None:
    """What the exchanges share is computed once: against a search of each exchanged field by itself."""
    pair = pairs.field_pair(*members[2][0])
    source, target = pair.coarse
    number = target.values.shape[-1]
    area = jnp.full(number, pair.area)
    rng = np.random.default_rng(0)
    partners = np.stack([rng.permutation(number) for _ in range(3)])
    signs = rng.choice(np.float32([-1, 1]), (3, number))
    together = best_unrelated(source, target, area, partners=partners, signs=signs, angles=12)
    for partner, sign, best in zip(partners, signs, together, strict=True):
        exchanged = target.replace(values=target.values[..., partner] * sign)
        alone = search(source, exchanged, area, angles=12, keep=2).evidence
        np.testing.assert_allclose(best, alone.max(), rtol=1e-3)
    assert np.ptp(np.asarray(together)) > 0.1


def test_no_shift_meets_the_other_end_of_the_grid(members: list) -> None:
    """The transforms are as long as the tissue on both grids, not as the grids: twice as long they say the same."""
    pair = pairs.field_pair(*members[0][0])
    for field in pair.coarse:
        edge = np.ones(field.cover.shape, bool)
        edge[FREE:-FREE, FREE:-FREE] = False
        assert not np.asarray(field.cover)[edge].any()
    area = jnp.full(pair.features.shape[1], pair.area)
    wide = [jax.tree.map(jnp.asarray, _padded_field(field)) for field in pair.coarse]
    found, same = search(*pair.coarse, area, angles=12), search(*wide, area, angles=12)
    np.testing.assert_allclose(found.evidence[0], same.evidence[0], rtol=1e-3)
    np.testing.assert_allclose(found.shift[0], same.shift[0], atol=1e-3)
    assert found.angle[0] == same.angle[0] and found.mirrored[0] == same.mirrored[0]


def _padded_field(field: Any) -> Any:
    """The field on a grid with twice as many nodes a side."""
    side = field.cover.shape[0]
    free = side // 2
    return field.replace(
        values=np.pad(field.values, ((free, free), (free, free), (0, 0))),
        cover=np.pad(field.cover, free),
        origin=field.origin - free * field.pixel,
    )


def test_unrelated_sections_stay_near_the_null(rng: np.random.Generator) -> None:
    """Fields of equal smoothness that have nothing to do with each other do not pass for a match."""
    one, other = section(rng), section(rng)
    wave = np.random.default_rng(9).normal(size=(4, 2, 2)) / 250
    xy = np.asarray(other.xy)
    strange = np.stack([np.sin(xy @ w[0] + 1) * np.cos(xy @ w[1]) for w in wave], 1)
    strange = make_slice((strange - strange.mean(0))[np.asarray(other.mask)], xy[np.asarray(other.mask)])
    best = float(run(fields(), jax.random.key(0), [(one, strange)])[0].result.evidence[0])
    related = float(run(fields(), jax.random.key(0), [(one, other)])[0].result.evidence[0])
    assert best < 0.5 * related


def test_overlap_is_high_inside_and_zero_outside(members: list, found: list) -> None:
    """Spots of a whole section laid on its half: those off the half have no counterpart."""
    (half, whole), truth = members[2]
    back = truth.inverse()
    pose = Affine(np.asarray(back.matrix, np.float32)[None], np.asarray(back.shift, np.float32)[None])
    overlap = np.asarray(score_poses(pose, whole, half).overlap[0])
    x, mask = np.asarray(whole.xy)[:, 0], np.asarray(whole.mask)
    assert overlap[mask & (x > 800)].mean() > 0.8
    assert overlap[mask & (x < 550)].max() < 0.05
    assert (overlap[~mask] == 0).all()


def test_score_poses_agrees_with_the_method_and_survives_the_conversion(members: list, found: list) -> None:
    """One judge: the evidence of the method's own best pose, from µm and back."""
    (pair, _), fit = members[0], found[0]
    scores = score_poses(fit.result.poses[np.arange(1)], *pair)
    np.testing.assert_allclose(scores.evidence[0], fit.result.evidence[0], rtol=1e-3)
    assert np.linalg.eigvalsh(np.asarray(scores.precision[0], float)).min() > 0


def test_different_features_and_too_few_spots_are_refused(rng: np.random.Generator) -> None:
    whole = section(rng)
    with pytest.raises(ValueError, match="same features, found 4 and 2"):
        pairs.field_pair(whole, whole.replace(features=whole.features[:, :2]))
    with pytest.raises(ValueError, match="at least three spots"):
        pairs.field_pair(make_slice(np.ones((2, 4)), np.zeros((2, 2))), whole)
