"""The edges of two sections as evidence of their pose."""

import numpy as np
import pytest

from spatialjax.registration.outline import outline, with_outlines

UNIT = 50.0


def tissue(rng, *, keep=lambda xy: np.ones(len(xy), bool), jitter=0.15):
    """Spots (pitches) of a lobed tissue without a straight side."""
    grid = np.stack(np.meshgrid(np.arange(-14, 15), np.arange(-14, 15)), -1).reshape(-1, 2).astype(float)
    xy = grid + jitter * rng.normal(size=grid.shape)
    angle = np.arctan2(xy[:, 1], xy[:, 0])
    inside = np.hypot(*xy.T) < 9.0 * (1.0 + 0.25 * np.cos(2 * angle) + 0.12 * np.sin(3 * angle))
    return xy[inside & keep(xy)]


def turn(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s], [s, c]])


def spread(pitches):
    """A covariance of so many pitches, and as much at the rim by the angle."""
    return np.diag([pitches / 9.0, pitches * UNIT, pitches * UNIT]) ** 2


def solved(source, target, pose, *, sd, center=(0.0, 0.0)):
    return with_outlines(
        outline(source), outline(target), pose, covariance=spread(sd), center=np.asarray(center), unit=UNIT
    )


def error(found, truth, source):
    """Median distance from the true place, pitches."""
    here, there = (source * UNIT @ np.asarray(m).T + np.asarray(s) for m, s in (found, truth))
    return float(np.median(np.hypot(*(here - there).T)) / UNIT)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_loose_pose_is_pulled_to_where_the_edges_agree(mirrored):
    rng = np.random.default_rng(0)
    target = tissue(rng)
    matrix = turn(70.0) @ np.diag([1.0, -1.0 if mirrored else 1.0])
    shift = np.array([3.0, -2.0])
    source = (tissue(rng) - shift) @ matrix
    truth = (matrix, shift * UNIT)
    start = (turn(4.0) @ matrix, (shift + [0.9, -0.6]) * UNIT)
    found = solved(source, target, start, sd=1.0)
    assert found.used and min(found.shared) > 0.9
    assert error((found.matrix, found.shift), truth, source) < 0.4 < 1.0 < error(start, truth, source)
    np.testing.assert_allclose(np.linalg.det(found.matrix), np.linalg.det(matrix), rtol=1e-9)


def test_a_sure_pose_hardly_moves_and_the_covariance_only_shrinks():
    rng = np.random.default_rng(1)
    section = tissue(rng)
    start = (turn(0.5), np.array([0.1, 0.1]) * UNIT)
    sure, loose = (solved(tissue(rng), section, start, sd=sd) for sd in (0.01, 1.0))
    assert np.hypot(*(sure.shift - start[1])) < 0.02 * UNIT
    for found, sd in ((sure, 0.01), (loose, 1.0)):
        assert np.linalg.eigvalsh(spread(sd) - found.covariance).min() > -1e-9
    assert loose.covariance[1, 1] < 0.3 * spread(1.0)[1, 1]


def test_the_move_is_the_mode_of_the_sum_of_both_terms():
    """At the found pose the slope of the edges is balanced by that of the prior: checked by differences."""
    from spatialjax.registration import outline as module

    rng = np.random.default_rng(2)
    source, target = outline(tissue(rng)), outline(tissue(rng))
    start, prior = (
        (turn(3.0), np.array([0.5, 0.4])),
        np.linalg.inv(spread(0.4) / np.outer([1, UNIT, UNIT], [1, UNIT, UNIT])),
    )
    found = with_outlines(
        source, target, (start[0], start[1] * UNIT), covariance=spread(0.4), center=np.zeros(2), unit=UNIT
    )
    angle = np.arctan2(found.matrix[1, 0], found.matrix[0, 0]) - np.radians(3.0)
    move = np.array([angle, *(found.shift / UNIT - turn(np.degrees(angle)) @ start[1])])
    slope, _, _ = module._edges(source, target, start, center=np.zeros(2), move=move)
    balance = np.abs(slope + prior @ move) / np.abs(prior @ move).max()
    assert balance.max() < 0.02


def test_the_edge_of_a_crop_does_not_pull():
    rng = np.random.default_rng(3)
    target = tissue(rng)
    cropped = tissue(rng, keep=lambda xy: np.hypot(xy[:, 0] - 6.0, xy[:, 1]) < 6.5)
    found = solved(cropped, target, (np.eye(2), np.zeros(2)), sd=0.3)
    assert not found.used and min(found.shared) < 0.8
    np.testing.assert_array_equal(found.matrix, np.eye(2))
    np.testing.assert_array_equal(found.covariance, spread(0.3))


def test_the_border_of_a_field_of_view_is_no_edge_of_tissue():
    """Two windows on one tissue, the second one moved: their straight sides would pull the pose to no move."""
    rng = np.random.default_rng(4)
    grid = np.stack(np.meshgrid(np.arange(30), np.arange(30)), -1).reshape(-1, 2).astype(float)
    window = (grid + 0.02 * rng.normal(size=grid.shape)) @ turn(20.0).T
    found = solved(window, window, (np.eye(2), np.array([1.5, 0.0]) * UNIT), sd=0.5)
    assert len(outline(window).spots) == 0
    assert not found.used
    np.testing.assert_array_equal(found.shift, [1.5 * UNIT, 0.0])
    assert len(outline(tissue(rng)).spots) > 40


def test_sections_on_a_line_have_no_edge():
    line = np.stack([np.arange(20.0), np.zeros(20)], 1)
    found = solved(line, line, (np.eye(2), np.zeros(2)), sd=1.0)
    assert not found.used and np.isfinite(found.covariance).all()
