"""A pose that a person fixed holds against any number of pairs that disagree."""

from __future__ import annotations

import numpy as np
import pytest

from spatialjax.registration.held import hold
from spatialjax.registration.pose_graph import PoseEdge, solve_pose_graph
from spatialjax.transforms import Affine, rigid


def edge(
    source: int, target: int, pose: Affine, *, evidence: float = 200.0, turn: float = 0.02, sd: float = 20.0
) -> PoseEdge:
    return PoseEdge(
        source=source,
        target=target,
        poses=Affine(pose.matrix[None], pose.shift[None]),
        evidence=np.array([evidence]),
        precision=np.linalg.inv(np.diag([turn, sd, sd]) ** 2)[None],
        center=np.array([[500.0, 500.0]]),
        threshold=5.0,
    )


@pytest.mark.parametrize("angle", [0.03, 2.0])
def test_a_held_pair_is_kept_whatever_the_others_say(angle: float) -> None:
    """Five sections that all agree on no motion, and one pair held at another pose, near or far: exactly that one."""
    still = rigid(np.float64(0.0), np.zeros(2))
    stated = rigid(np.float64(angle), np.array([60.0, -40.0]), center=np.array([500.0, 500.0]))
    edges = [edge(i, i + lag, still) for lag in (1, 2) for i in range(5 - lag) if (i, lag) != (1, 1)]
    own = edge(1, 2, stated, evidence=105.0, turn=1e-3, sd=2.0)
    held = [False] * len(edges) + [True]
    graph = solve_pose_graph(
        hold([*edges, own], held, angle_sd=0.01, shift_sd=50.0), n_sections=5, anchor=0, angle_sd=0.0, shift_sd=0.0
    )
    relative = graph.poses[2].inverse().compose(graph.poses[1])
    assert graph.placed.all() and graph.chosen[-1] == 0
    corners = np.array([[0.0, 0.0], [1000.0, 0.0], [0.0, 1000.0]])
    assert np.abs(relative(corners) - stated(corners)).max() < 5.0


def test_without_holding_the_others_win() -> None:
    """The same stack solved as usual gives the pair up: what the test above stands on."""
    still = rigid(np.float64(0.0), np.zeros(2))
    stated = rigid(np.float64(2.0), np.array([60.0, -40.0]))
    edges = [edge(i, i + lag, still) for lag in (1, 2) for i in range(5 - lag) if (i, lag) != (1, 1)]
    graph = solve_pose_graph([*edges, edge(1, 2, stated, evidence=105.0)], n_sections=5, anchor=0)
    assert graph.chosen[-1] == -1
