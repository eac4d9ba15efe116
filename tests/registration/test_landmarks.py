"""Landmarks: the map they ask for, how sure it is, and one message for those that cannot be used."""

from __future__ import annotations

import numpy as np
import pytest

from spatialjax.checks import InputError
from spatialjax.registration import landmarks
from spatialjax.transforms import rigid

POSE = rigid(np.float64(2.1), np.array([150.0, -80.0]), mirrored=True)
POINTS = np.array([[0.0, 0.0], [2000.0, 100.0], [300.0, 1500.0], [1700.0, 1600.0], [900.0, 700.0]])


def fit(target: np.ndarray, *, sd: float = 50.0, number: int = 5, **options: object) -> landmarks.LandmarkFit:
    return landmarks.fit_landmarks(POINTS[:number], target[:number], np.full(number, sd), **options)


def test_exact_points_give_the_map_and_its_parity() -> None:
    """Five points moved by a mirrored map: that map, no residual."""
    found = fit(POSE(POINTS))
    np.testing.assert_allclose(found.pose.matrix, POSE.matrix, atol=1e-9)
    np.testing.assert_allclose(found.pose.shift, POSE.shift, atol=1e-6)
    assert found.residual.max() < 1e-6


def test_the_precision_is_the_spread_of_the_fit(rng: np.random.Generator) -> None:
    """Over many draws of the noise, the fitted (angle, shift) scatters as the precision says, within a tenth."""
    errors = []
    for _ in range(600):
        found = fit(POSE(POINTS) + rng.normal(scale=50.0, size=(5, 2)), mirrored=True)
        at = POSE.inverse()(POSE(POINTS).mean(0)[None])
        errors.append([np.angle(np.exp(1j * (found.pose.angle - POSE.angle))), *(found.pose(at) - POSE(at))[0]])
    stated = np.linalg.inv(landmarks.landmark_precision(POSE(POINTS), POSE(POINTS).mean(0), np.full(5, 50.0)))
    ratio = np.array(errors).std(0) / np.sqrt(np.diag(stated))
    np.testing.assert_allclose(ratio, 1.0, atol=0.1)


def test_a_contradictory_point_is_named_with_all_residuals() -> None:
    """One of five points is 900 µm off: the message names it, and gives its residual and everybody else's."""
    target = POSE(POINTS)
    target[3] += [900.0, 0.0]
    with pytest.raises(InputError, match=r"line 5 900.*Correct or remove line 5,") as caught:
        fit(target, names=[f"line {i + 2}" for i in range(5)], what="'A' on 'B'")
    assert "'A' on 'B'" in str(caught.value) and "4 of 5" in str(caught.value) and "line 2 0" in str(caught.value)


def test_points_without_any_agreement_blame_nobody() -> None:
    """Three points with other distances: no one of them is called wrong."""
    target = POSE(POINTS)[:3] * [[1.0, 1.0], [3.0, 0.2], [0.1, 4.0]]
    with pytest.raises(InputError, match="No three of them agree"):
        fit(target, number=3)


@pytest.mark.parametrize(("number", "mirrored", "needed"), [(2, None, 3), (0, None, 3), (1, True, 2)])
def test_too_few_points_say_how_many_are_needed(number: int, mirrored: bool | None, needed: int) -> None:
    """Three, or two where the side is known."""
    with pytest.raises(InputError, match=f"at least {needed} landmarks.*found {number}"):
        fit(POSE(POINTS), number=number, mirrored=mirrored)


def test_two_points_are_enough_where_the_side_is_known() -> None:
    """The known parity makes two points a map."""
    found = fit(POSE(POINTS), number=2, mirrored=True)
    np.testing.assert_allclose(found.pose.matrix, POSE.matrix, atol=1e-9)


def test_points_on_a_line_do_not_tell_the_side() -> None:
    """Collinear points are refused, unless the side is known."""
    line = np.array([[0.0, 0.0], [500.0, 500.0], [2000.0, 2000.0]])
    with pytest.raises(InputError, match="turned over"):
        landmarks.fit_landmarks(line, POSE(line), np.full(3, 50.0))
    assert landmarks.fit_landmarks(line, POSE(line), np.full(3, 50.0), mirrored=True).residual.max() < 1e-6


def test_points_at_one_place_are_refused() -> None:
    """Points closer together than their precision give no angle."""
    with pytest.raises(InputError, match="stand apart"):
        landmarks.fit_landmarks(POINTS[:3] / 100, POSE(POINTS[:3] / 100), np.full(3, 50.0))


def test_the_combined_pose_lies_where_the_precisions_ask() -> None:
    """Equal precisions meet in the middle; a thousand times the precision keeps its own pose."""
    center = np.array([300.0, 200.0])
    other = rigid(np.float64(0.02), np.array([10.0, -6.0]), center=center).compose(POSE)
    even = landmarks.combined(POSE, np.eye(3), center, other=other, other_precision=np.eye(3))
    assert np.isclose(np.angle(np.exp(1j * (even.angle - POSE.angle))), 0.01)
    at = POSE.inverse()(center[None])
    np.testing.assert_allclose((even(at) - POSE(at))[0], [5.0, -3.0], atol=1e-6)
    firm = landmarks.combined(POSE, 1000 * np.eye(3), center, other=other, other_precision=np.eye(3))
    np.testing.assert_allclose(firm.matrix, POSE.matrix, atol=1e-4)


def test_evidence_grows_with_the_points_and_falls_with_their_distance() -> None:
    """A fitted map pays for its three coordinates; points farther off count less."""
    sd, near = np.full(4, 50.0), np.zeros(4)
    free = landmarks.landmark_evidence(near, sd, area=4e6, fitted=False)
    assert np.isclose(free, 4 * np.log(4e6 / (2 * np.pi * 2500)))
    assert np.isclose(landmarks.landmark_evidence(near, sd, area=4e6, fitted=True), free * 2.5 / 4)
    assert np.isclose(landmarks.landmark_evidence(near + 100, sd, area=4e6, fitted=False), free - 8.0)
