"""PASTE2 against its equations, and what it finds on parts of sections."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import numpy as np
import ot
import pytest
from scipy.spatial.distance import cdist

from spatialjax.methods.alignment.paste2 import CARD, _told, paste2
from spatialjax.methods.card import run
from spatialjax.slices import Slice, make_slice
from spatialjax.transforms import rigid
from spatialjax.transport import deviance_components

CAPACITY = 96


def parts(seed: int, *, kept: float = 0.6, mirrored: bool = False) -> tuple[Any, Any, Any]:
    """Counts and points (unit spacing) of a tissue of 80 spots and of one side of it, turned; the true map."""
    rng = np.random.default_rng(seed)
    pose = rigid(2.0, np.array([3.0, -1.0]), mirrored=mirrored)
    grid = np.stack(np.divmod(np.arange(80), 10), 1).astype(float)
    keep = grid[:, 1] <= np.quantile(grid[:, 1], kept)
    points = [xy + 0.05 * rng.normal(size=xy.shape) for xy in (grid, grid[keep])]
    wave, phase = rng.normal(size=(2, 40)) * 0.35, rng.uniform(0, 6, 40)
    counts = [rng.poisson(6 * np.exp(np.sin(xy @ wave + phase))).astype(float) for xy in points]
    return counts, [points[0], pose(points[1])], pose


def pair(counts: Any, points: Any, *, capacity: int = CAPACITY) -> tuple[Slice, Slice]:
    return tuple(make_slice(x, xy, capacity=capacity) for x, xy in zip(counts, points, strict=True))


def align(counts: Any, points: Any, *, capacity: int = CAPACITY, **options: Any) -> Any:
    return run(paste2(**options), jax.random.key(0), [pair(counts, points, capacity=capacity)])[0].result


def published(counts: Any, points: Any, *, share: float, alpha: float = 0.1) -> float:
    """The authors' problem (kl, each section scaled by itself) by conditional gradient with POT's programmes."""
    p, q = ((x + 0.01) / (x + 0.01).sum(1, keepdims=True) for x in counts)
    linear = np.array([[np.sum(u * np.log(u / v)) for v in q] for u in p])
    inner = [cdist(xy, xy) * (linear.max() / cdist(xy, xy).max()) for xy in points]
    a, b = (np.full(len(xy), 1 / len(xy)) for xy in points)
    squares = [matrix**2 for matrix in inner]

    def half(plan: Any) -> Any:
        constant = (squares[0] @ plan.sum(1))[:, None] + (squares[1] @ plan.sum(0))[None, :]
        return constant - 2 * inner[0] @ plan @ inner[1]

    plan, value = share * np.outer(a, b), np.inf
    for _ in range(200):
        slope = (1 - alpha) * linear + 2 * alpha * half(plan)
        change = ot.partial.partial_wasserstein(a, b, slope - slope.min() + 1, m=share) - plan
        gain, curvature = np.sum(slope * change), alpha * np.sum(half(change) * change)
        step = np.clip(-gain / (2 * curvature), 0, 1) if curvature > 0 else float(gain + curvature < 0)
        plan = plan + step * change
        before, value = value, np.sum(plan * ((1 - alpha) * linear + alpha * half(plan)))
        if before - value <= 1e-9 * abs(value):
            break
    return float(value)


@pytest.mark.parametrize("share", [0.4, 0.75])
def test_the_objective_is_the_published_one_or_lower(share: float) -> None:
    """The authors' costs and scaling: never above their algorithm with POT's linear programmes by more than 1e-4."""
    counts, points, _ = parts(0)
    found = align(counts, points, overlap=share, dissimilarity="kl", scaling="each")
    assert bool(found.converged) and float(found.error) < 1e-6
    np.testing.assert_allclose(np.asarray(found.plan).sum(), share, rtol=1e-5)
    expected = published(counts, points, share=share)
    assert 0.9 * expected < float(found.objective) <= expected * (1 + 1e-4)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_part_finds_its_place_in_the_whole(mirrored: bool) -> None:
    """Given the overlap: the pose, and the spots of the whole that the part shows."""
    counts, points, truth = parts(1, mirrored=mirrored)
    for exact in (True, False):
        found = align(counts, points, overlap=0.6, exact=exact)
        assert [bool(found.poses[i].mirrored) for i in range(2)] == [mirrored, not mirrored]
        moved = np.asarray(found.transform(points[0].astype(np.float32)))
        assert np.median(np.linalg.norm(moved - truth(points[0]), axis=1)) < 0.75
        shown = np.asarray(found.overlap)[:80]
        inside = np.arange(80) % 10 < 6
        assert shown[inside].mean() > 0.8 > 0.3 > shown[~inside].mean()


def test_the_overlap_is_estimated_where_it_is_not_given() -> None:
    """Whole sections: more than half of the mass is matched, and the pose is right."""
    counts, points, truth = parts(2, kept=1.0)
    found = align(counts, points)
    share = float(np.asarray(found.plan).sum())
    assert 0.5 < share <= 1 + 1e-6 and bool(found.converged)
    moved = np.asarray(found.transform(points[0].astype(np.float32)))
    assert np.median(np.linalg.norm(moved - truth(points[0]), axis=1)) < 0.75


def test_the_pose_rule_tells_parts_from_wholes() -> None:
    """Two opposite parts of a tissue share less than the whole does; both estimates are near what is true."""
    counts, points, _ = parts(2, kept=1.0)
    grid, shares = np.stack(np.divmod(np.arange(80), 10), 1)[:, 1], []
    for low, high in ((0, 10), (3, 7)):
        keep = grid < high, grid >= low
        found = align(*([each[where] for each, where in zip(both, keep, strict=True)] for both in (counts, points)))
        shares.append(float(np.asarray(found.plan).sum()))
        assert bool(found.converged) and not bool(found.collapsed)
    assert shares[0] > 0.9 and 0.4 < shares[1] < 0.8, "truth: 1 and 4 columns of 7"


def test_a_small_estimate_is_warned_of() -> None:
    """Below a quarter a warning comes with the share that was found; above it none."""
    with pytest.warns(RuntimeWarning, match="estimated at 12% only"):
        assert _told(0.12) == 0.12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _told(0.6) == 0.6


def test_one_unit_of_length_for_both_sections() -> None:
    """Scaled by one extent, a part and the whole agree better than scaled each by its own, whatever the units."""
    counts, points, _ = parts(3)
    common, each, micrometres = (
        align(counts, [factor * xy for xy in points], overlap=0.6, scaling=scaling, dissimilarity="kl")
        for factor, scaling in ((1.0, "common"), (1.0, "each"), (128.0, "common"))
    )
    np.testing.assert_allclose(common.objective, micrometres.objective, rtol=1e-5)
    assert float(common.evidence[0]) > float(each.evidence[0])


def test_a_plan_that_says_nothing_is_told() -> None:
    """Spots that are all alike, weighed by expression alone: warned, and not converged."""
    counts, points, _ = parts(0)
    alike = [np.ones_like(x) for x in counts]
    with pytest.warns(RuntimeWarning, match="no better than the product"):
        found = align(alike, points, overlap=0.6, alpha=0.0, dissimilarity="kl")
    assert not bool(found.converged) and bool(found.collapsed)


def test_padding_changes_nothing() -> None:
    """More capacity: the same objective and the same plan in its place."""
    counts, points, _ = parts(1)
    plain, larger = (align(counts, points, overlap=0.6, capacity=capacity) for capacity in (CAPACITY, 128))
    np.testing.assert_allclose(larger.objective, plain.objective, rtol=1e-6)
    assert np.abs(larger.plan[:CAPACITY, :CAPACITY] - plain.plan).sum() < 1e-4
    assert larger.plan[80:].sum() == 0 and not larger.overlap[80:].any()


def test_deviance_components_are_those_of_the_definition() -> None:
    """Distances in all components are those of the residuals; sections come back apart; empty rows stay finite."""
    rng = np.random.default_rng(0)
    x = [rng.poisson(2.0, (12, 6)).astype(float), rng.poisson(3.0, (9, 6)).astype(float)]
    x[0][3] = 0
    together = np.concatenate(x)
    mean = together.sum(1, keepdims=True) * together.sum(0) / together.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        term = np.where(together > 0, together * np.log(together / mean), 0)
    residuals = np.sign(together - mean) * np.sqrt(np.maximum(2 * (term - together + mean), 0))
    found = deviance_components(*x)
    assert [len(section) for section in found] == [12, 9]
    np.testing.assert_allclose(cdist(*found), cdist(residuals[:12], residuals[12:]), rtol=1e-6, atol=1e-6)
    assert deviance_components(*x, components=2)[0].shape == (12, 2)


def test_options_and_input_are_checked() -> None:
    """One message each: the options, genes that differ, negative values."""
    counts, points, _ = parts(0)
    for options in (
        {"alpha": 1.5},
        {"dissimilarity": "cosine"},
        {"scaling": "none"},
        {"estimate": "guess"},
        {"overlap": 0.0},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            paste2(**options)
    with pytest.raises(ValueError, match="same genes"):
        align([counts[0], counts[1][:, :5]], points, overlap=0.6)
    with pytest.raises(ValueError, match="negative values"):
        align([x - 1 for x in counts], points, overlap=0.6)
    features = [np.log1p(x) - 1 for x in counts]
    assert np.isfinite(float(align(features, points, overlap=0.6, dissimilarity="euclidean").objective))
    assert paste2().max_steps == CARD.default_steps and paste2() is paste2()
