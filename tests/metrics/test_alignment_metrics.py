"""Alignment scores on cases with an answer known by hand."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import scipy.sparse as sp

from spatialjax import metrics
from spatialjax.simulate import simulate_tissue
from spatialjax.transforms import identity, rigid

SQUARE = np.array([[0.0, 0], [10, 0], [0, 10], [10, 10]])


def test_pose_error_of_a_turn_a_shift_and_a_mirror():
    base = rigid(0.4, np.array([3.0, -2.0]))
    turned = rigid(np.radians(30), np.zeros(2), False, center=base(SQUARE).mean(0)).compose(base)
    found = metrics.pose_error(turned, base, SQUARE)
    assert found.angle == pytest.approx(30.0)
    assert found.displacement == pytest.approx(2 * np.sin(np.radians(15)) * np.sqrt(50))
    assert found.parity_right
    shifted = rigid(0.4, np.array([6.0, 2.0]))
    assert metrics.pose_error(shifted, base, SQUARE)[:2] == pytest.approx((0.0, 5.0), abs=1e-6)
    mirrored = metrics.pose_error(rigid(0.4, np.zeros(2), True), base, SQUARE)
    assert not mirrored.parity_right and np.isnan(mirrored.angle) and mirrored.displacement > 0
    both = metrics.pose_error(rigid(0.5, np.zeros(2), True), rigid(0.2, np.zeros(2), True), SQUARE)
    assert both.parity_right and both.angle == pytest.approx(np.degrees(0.3))
    on_device = jax.tree.map(jax.numpy.asarray, turned)
    assert metrics.pose_error(on_device, base, SQUARE).angle == pytest.approx(30.0, abs=1e-3)


def test_loop_error_of_a_closed_and_of_an_open_loop():
    a, b = rigid(0.3, np.array([4.0, 1.0])), rigid(-1.0, np.array([2.0, 2.0]), True)
    home = b.compose(a).inverse()
    assert metrics.loop_error([a, b, home], SQUARE)[:2] == pytest.approx((0.0, 0.0), abs=1e-5)
    assert metrics.loop_error([a, a.inverse(), rigid(0.2, np.zeros(2))], SQUARE).angle == pytest.approx(np.degrees(0.2))
    assert not metrics.loop_error([a, b], SQUARE).parity_right


def test_position_error_keeps_unplaced_spots_apart():
    found = metrics.position_error(np.array([[3.0, 4.0], [np.nan, 0]]), np.zeros((2, 2)))
    assert found[0] == 5.0 and np.isnan(found[1])


def test_label_accuracy_counts_labelled_spots_in_the_overlap():
    target, target_labels = np.array([[0.0, 0], [10, 0], [20, 0]]), ["a", "b", None]
    mapped = np.array([[1.0, 0], [9, 0], [11, 0], [20, 0], [500, 0]])
    labels = ["a", "a", "b", "b", "a"]
    assert metrics.label_accuracy(
        mapped, target, labels=labels, target_labels=target_labels, radius=2.0
    ) == pytest.approx(2 / 3)
    assert metrics.label_accuracy(
        mapped, target, labels=labels, target_labels=target_labels, radius=9.0
    ) == pytest.approx(3 / 3)
    everywhere = np.ones(5, bool)
    score = metrics.label_accuracy(
        mapped, target, labels=labels, target_labels=target_labels, radius=2.0, inside=everywhere
    )
    assert score == pytest.approx(2 / 5)
    unlabelled = [np.nan, None, "", "b", None]
    assert metrics.label_accuracy(mapped, target, labels=unlabelled, target_labels=target_labels, radius=10.0) == 1.0
    assert np.isnan(metrics.label_accuracy(mapped, target, labels=[None] * 5, target_labels=target_labels, radius=2.0))
    assert np.isnan(
        metrics.label_accuracy(mapped + 1e4, target, labels=labels, target_labels=target_labels, radius=2.0)
    )


def test_overlap_and_nearest_matches_include_the_radius_itself():
    mapped, target = np.array([[0.0, 0], [5, 0], [50, 0]]), np.array([[2.0, 0], [9, 0]])
    assert metrics.overlap(mapped, target, radius=3.0).tolist() == [True, True, False]
    assert metrics.nearest_matches(mapped, target, radius=3.0).toarray().tolist() == [[1, 0], [1, 0], [0, 0]]


def test_plan_accuracy_and_ltari_by_hand():
    plan = np.array([[0.4, 0.1, 0.0], [0.0, 0.2, 0.3], [0.0, 0.0, 7.0], [0.0, 0.0, 0.0]])
    labels, target_labels = ["a", "b", None, "a"], ["a", "b", "a"]
    expected = (0.4 + 0.2) / 1.0
    assert metrics.plan_accuracy(plan, labels, target_labels) == pytest.approx(expected)
    assert metrics.plan_accuracy(sp.csr_matrix(plan), labels, target_labels) == pytest.approx(expected)
    own = [0, 0, 1, 1, 2, 2]
    assert metrics.ltari(np.eye(6), own, own) == 1.0
    swapped = np.eye(6)[[0, 2, 1, 3, 4, 5]]
    assert metrics.ltari(swapped, own, own) == metrics.ari(own, [0, 1, 0, 1, 2, 2])
    assert metrics.ltari(swapped, own, own) < 0.5


def test_held_out_correlation_falls_under_permuted_matches(rng):
    field = np.sin(np.linspace(0, 6, 200))[:, None] * np.ones(5)
    values, target = field + 0.1 * rng.normal(size=(200, 5)), field + 0.1 * rng.normal(size=(200, 5))
    matches = sp.diags(np.where(np.arange(200) == 7, 0.0, 0.5)).tocsr()
    found = metrics.held_out_correlation(values, target, matches)
    assert found > 0.9
    assert metrics.held_out_correlation(sp.csr_matrix(values), sp.csr_matrix(target), matches) == pytest.approx(found)
    null = metrics.permuted_matches(jax.random.key(0), matches)
    assert abs(metrics.held_out_correlation(values, target, null)) < 0.2
    assert null[7].nnz == 0 and null.nnz == 199
    np.testing.assert_allclose(null.sum(0), matches.sum(0))
    assert np.isnan(metrics.held_out_correlation(values, target, sp.csr_matrix((200, 200))))


@pytest.mark.parametrize(("seed", "crop"), [(0, 1.0), (3, 0.6)])
def test_label_optimal_map_finds_the_simulated_pose(seed, crop):
    stack = simulate_tissue(jax.random.key(seed), n_sections=2, spots=500, genes=3, crop=crop, mirror_probability=1.0)
    a, b = stack.sections[1], stack.sections[0]
    found = metrics.label_optimal_rigid(
        a.xy, b.xy, labels=a.domain, target_labels=b.domain, pitch=100.0, angle_step=10.0
    )
    error = metrics.pose_error(found, stack.true_pose(1, 0), a.xy)
    assert error.parity_right and error.angle < 2.0 and error.displacement < 60.0


def test_label_optimal_map_of_one_parity_and_without_shared_labels():
    stack = simulate_tissue(jax.random.key(1), n_sections=2, spots=200, genes=3)
    a, b = stack.sections
    for parity in (False, True):
        found = metrics.label_optimal_rigid(
            a.xy,
            b.xy,
            labels=a.domain,
            target_labels=b.domain,
            pitch=100.0,
            mirrored=parity,
            angle_step=30.0,
            candidates=1,
        )
        assert bool(found.mirrored) is parity
    with pytest.raises(ValueError, match="none in common"):
        metrics.label_optimal_rigid(a.xy, b.xy, labels=a.domain, target_labels=b.domain + 100, pitch=100.0)


def test_identity_is_the_null_pose():
    assert metrics.pose_error(identity(), identity(), SQUARE) == (0.0, 0.0, True)
