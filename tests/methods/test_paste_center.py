"""The centre slice of PASTE against its equations, and what it finds on a simulated stack."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from spatialjax.methods.card import run
from spatialjax.methods.integration.paste_center import CARD, paste_center
from spatialjax.simulate import simulate_tissue
from spatialjax.slices import make_slice
from spatialjax.transport import exact_center, factor_update, first_factors
from spatialjax.transport.exact_center import factor_loss, fitted_factors

ALPHA = 0.1


def tiny(seed: int = 0) -> tuple[Any, Any]:
    """Counts and points of three samplings of one small tissue."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.divmod(np.arange(36), 6), 1).astype(float)
    points = [grid[np.sort(rng.choice(36, size, replace=False))] for size in (24, 22, 20)]
    wave, phase = rng.normal(size=(2, 12)) * 0.5, rng.uniform(0, 6, 12)
    return [rng.poisson(5 * np.exp(np.sin(xy @ wave + phase))).astype(float) for xy in points], points


def reference(counts: Any, points: Any, factors: Any, *, weights: Any, rounds: int) -> tuple[float, Any, Any]:
    """The rounds of the paper, every sum written out, with POT's conditional gradient."""
    left, right = factors
    spots, plans = len(left), [None] * len(counts)
    masses = [np.full(len(xy), 1 / len(xy)) for xy in points]
    for _ in range(rounds):
        center = left @ right + 0.01
        center = center / center.sum(1, keepdims=True)
        total = 0.0
        for q, (x, xy) in enumerate(zip(counts, points, strict=True)):
            y = (x + 0.01) / (x + 0.01).sum(1, keepdims=True)
            cost = np.array([[np.sum(u * np.log(u / v)) for v in y] for u in center])
            plans[q], log = ot.gromov.fused_gromov_wasserstein(
                cost, cdist(points[0], points[0]), cdist(xy, xy), masses[0], masses[q], G0=plans[q],
                loss_fun="square_loss", alpha=ALPHA, log=True,
            )  # fmt: skip
            total += weights[q] * float(log["fgw_dist"])
        values = spots * sum(w * plan @ x for w, plan, x in zip(weights, plans, counts, strict=True))
        left, right = fitted_factors(values, left, right, kind="kl")
    return total, left @ right, plans


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("weights", [(1 / 3, 1 / 3, 1 / 3), (0.6, 0.3, 0.1)])
def test_the_rounds_are_those_of_the_paper(rounds: int, weights: Any) -> None:
    """From the same factors and the independent plans: objective, centre and plans of the written-out rounds."""
    counts, points = tiny()
    factors = first_factors(counts[0], rank=4)
    found = exact_center(
        counts,
        [cdist(xy, xy) for xy in points],
        factors,
        plans=[None] * 3,
        weights=weights,
        reference=0,
        alpha=ALPHA,
        max_rounds=rounds,
        tolerance=0.0,
    )
    total, center, _ = reference(counts, points, factors, weights=weights, rounds=rounds)
    assert found.rounds == rounds
    np.testing.assert_allclose(found.objective, total, rtol=1e-4)
    np.testing.assert_allclose(found.left @ found.right, center, rtol=1e-3, atol=1e-3 * center.max())


@pytest.mark.parametrize("kind", ["kl", "euclidean"])
def test_updates_lower_the_loss_and_end_where_its_slope_vanishes(kind: Any) -> None:
    """Multiplicative updates: never up, numpy and jax alike, and the loss is that of the definition."""
    rng = np.random.default_rng(0)
    values = rng.poisson(4.0, (15, 9)).astype(float)
    pair = first_factors(values, rank=3)
    model = pair[0] @ pair[1]
    positive = values > 0
    expected = {
        "kl": np.sum(values[positive] * np.log(values[positive] / model[positive])) - values.sum() + model.sum(),
        "euclidean": 0.5 * np.sum((values - model) ** 2),
    }[kind]
    np.testing.assert_allclose(factor_loss(values, *pair, kind=kind), expected, rtol=1e-10)
    on_device = factor_update(*(jnp.asarray(v, jnp.float32) for v in (values, *pair)), kind=kind)
    for ours, theirs in zip(on_device, factor_update(values, *pair, kind=kind), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    losses = [expected]
    for _ in range(2000):
        pair = factor_update(values, *pair, kind=kind)
        losses.append(factor_loss(values, *pair, kind=kind))
    assert np.diff(losses).max() < 1e-9 * losses[0] and losses[-1] < 0.9 * losses[0]
    left, right = pair
    weight = values / (left @ right) - 1 if kind == "kl" else values - left @ right
    assert np.abs(left * (weight @ right.T)).max() < 1e-2 * values.sum() / len(values)


def test_first_factors_follow_the_order_of_the_spots() -> None:
    """Positive, a fair model of the values, and permuted with their rows; full rank works too."""
    values = tiny()[0][0]
    left, right = first_factors(values, rank=4)
    assert (left > 0).all() and (right > 0).all()
    assert np.corrcoef((left @ right).ravel(), values.ravel())[0, 1] > 0.5
    order = np.random.default_rng(0).permutation(len(values))
    np.testing.assert_allclose(first_factors(values[order], rank=4)[0], left[order], atol=1e-6)
    assert first_factors(values, rank=12)[0].shape == (24, 12)


@pytest.fixture(scope="module")
def stack() -> Any:
    """Four sections of one tissue, turned, and the slices of the first three."""
    made = simulate_tissue(jax.random.key(0), n_sections=4, spots=150, genes=60, mirror_probability=0.0)
    return made, tuple(make_slice(s.counts.toarray(), s.xy, capacity=192) for s in made.sections[:3])


@pytest.mark.parametrize("exact", [False, True])
def test_the_sections_of_a_stack_find_the_centre(stack: Any, exact: bool) -> None:
    """Every section lies on the reference within half a pitch; the plans have their marginals; nothing on padding."""
    made, slices = stack
    found = run(paste_center(exact=exact, reference=1), jax.random.key(0), [slices])[0].result
    assert bool(found.converged) and float(found.error) < 1e-2
    for number, section in enumerate(made.sections[:3]):
        pose, truth = found.poses[number], made.true_pose(number, 1)
        moved = section.xy @ np.asarray(pose.matrix, float).T + np.asarray(pose.shift, float)
        assert np.median(np.linalg.norm(moved - truth(section.xy), axis=1)) < 0.5 * made.pitch
        np.testing.assert_allclose(np.asarray(found.plans[number]).sum(), 1.0, rtol=1e-4)
    spots = len(made.sections[1].xy)
    features = np.asarray(found.features)
    assert (features >= 0).all() and not features[spots:].any() and np.asarray(found.left).shape == (192, 15)
    np.testing.assert_allclose(features, np.asarray(found.left) @ np.asarray(found.right), rtol=1e-4, atol=1e-5)


def test_the_centre_has_less_noise_than_a_section(stack: Any) -> None:
    """At the same true places it tells the counts of a section that was left out better than its reference does."""
    made, slices = stack
    center = run(paste_center(exact=False), jax.random.key(0), [slices])[0].result
    first, left_out = made.sections[0], made.sections[3]
    nearest = cKDTree(left_out.xyz[:, :2]).query(first.xyz[:, :2])[1]

    def log_shares(counts: Any) -> Any:
        return np.log1p(500 * counts / counts.sum(1, keepdims=True))

    expected = log_shares(left_out.counts.toarray()[nearest])

    def agreement(counts: Any) -> float:
        values = log_shares(counts)
        return float(np.mean([np.corrcoef(values[:, g], expected[:, g])[0, 1] for g in range(expected.shape[1])]))

    own = agreement(first.counts.toarray())
    assert agreement(np.asarray(center.features)[: len(first.xy)]) > own + 0.1


def test_options_and_input_are_checked(stack: Any) -> None:
    """One message each: options, one section, weights or a reference that do not fit, genes, negative values."""
    for options, match in (
        ({"alpha": 2.0}, "alpha"),
        ({"dissimilarity": "cosine"}, "dissimilarity"),
        ({"components": 0}, "components"),
        ({"weights": (1.0, -1.0)}, "weights"),
    ):
        with pytest.raises(ValueError, match=match):
            paste_center(**options)
    one, two, _ = stack[1]
    for options, sections, match in (
        ({}, (one,), "two or more sections"),
        ({"reference": 5}, (one, two), "reference"),
        ({"weights": (1.0,)}, (one, two), "one weight for each"),
        ({}, (one, two.replace(features=two.features[:, :9])), "same genes"),
        ({}, (one, two.replace(features=two.features - 1)), "negative"),
    ):
        with pytest.raises(ValueError, match=match):
            paste_center(**options).prepare(*sections)
    assert paste_center().max_steps == CARD.default_steps and paste_center() is paste_center()
