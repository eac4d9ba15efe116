"""The pose graph: joint choice of hypotheses and parities, drift, outliers, components, anchors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from spatialjax.registration import pose_search
from spatialjax.registration.pose_graph import PoseEdge, solve_pose_graph
from spatialjax.transforms import Affine, rigid

ANGLE_SD, SHIFT_SD = 0.01, 50.0
POINTS = np.random.default_rng(7).uniform(0, 3000, (50, 2))


def truth(rng: np.random.Generator, n: int, mirrored=()) -> list[Affine]:
    """Maps of ``n`` sections to the tissue."""
    return [
        rigid(
            rng.uniform(-np.pi, np.pi), rng.uniform(-300, 300, 2), number in mirrored, center=np.array([1500.0, 1500.0])
        )
        for number in range(n)
    ]


def true_pair(poses: list[Affine], i: int, j: int) -> Affine:
    return poses[j].inverse().compose(poses[i])


def edge(i, j, pose, *, evidence=100.0, decoys=(), decoy_evidence=(), precision=None, threshold=10.0) -> PoseEdge:
    """An edge with the given pose (and decoys) in order of evidence."""
    poses, evidence = [pose, *decoys], np.array([evidence, *decoy_evidence])
    order = np.argsort(-evidence)
    poses = Affine(np.stack([p.matrix for p in poses])[order], np.stack([p.shift for p in poses])[order])
    precision = np.diag([1 / ANGLE_SD**2, 1 / SHIFT_SD**2, 1 / SHIFT_SD**2]) if precision is None else precision
    center = poses(np.broadcast_to(POINTS, (len(order), *POINTS.shape))).mean(1)
    stacked = np.broadcast_to(precision, (len(order), 3, 3))
    return PoseEdge(i, j, poses, evidence[order], stacked, center, threshold)


def noisy(rng: np.random.Generator, pose: Affine, scale: float = 1.0) -> Affine:
    """A pair pose with the error that ``edge`` states, about the centre of the section."""
    center = pose(POINTS).mean(0)
    angle, shift = scale * ANGLE_SD * rng.normal(), scale * SHIFT_SD * rng.normal(size=2)
    return rigid(angle, shift, False, center=center).compose(pose)


def error(graph, poses: list[Affine], section: int) -> float:
    """Root mean square displacement of a section from the truth, in the frame of the anchor, µm."""
    expected = true_pair(poses, section, graph.anchors[graph.component[section]])
    moved = graph.poses[section](POINTS) - expected(POINTS)
    return float(np.sqrt((moved**2).sum(1).mean()))


def chain(poses, lags=(1, 2), rng=None, scale=0.0) -> list[PoseEdge]:
    pairs = [(i, i + lag) for lag in lags for i in range(len(poses) - lag)]
    return [
        edge(i, j, true_pair(poses, i, j) if rng is None else noisy(rng, true_pair(poses, i, j), scale))
        for i, j in pairs
    ]


def test_exact_pairs_are_reproduced_and_loops_close(rng):
    poses = truth(rng, 6, mirrored=(1, 4))
    graph = solve_pose_graph(chain(poses), n_sections=6)
    assert graph.placed.all() and graph.converged and (graph.chosen == 0).all()
    assert max(error(graph, poses, s) for s in range(6)) < 1e-4
    np.testing.assert_array_equal(graph.poses.matrix[0], np.eye(2))
    np.testing.assert_array_equal(graph.poses.shift[0], 0.0)
    assert len(graph.loops) == 4
    assert all(l.angle < 1e-6 and l.displacement < 1e-4 and l.kept and l.parity_agrees for l in graph.loops)
    assert np.abs(graph.residuals).max() < 1e-4


def test_a_chain_of_twelve_does_not_drift():
    """Root mean square over seeds: the last of 12 sections is off by less than twice the error of one pair."""
    last, single, worse = [], [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        poses = truth(rng, 12, mirrored=(3, 7, 8))
        edges = chain(poses, rng=rng, scale=1.0)
        graph = solve_pose_graph(edges, n_sections=12, angle_sd=0.0, shift_sd=0.0)
        assert graph.placed.all() and graph.converged
        last.append(error(graph, poses, 11))
        neighbours = solve_pose_graph(edges[:11], n_sections=12)
        worse.append(error(neighbours, poses, 11))
        single += [
            np.sqrt(((e.poses[0](POINTS) - true_pair(poses, e.source, e.target)(POINTS)) ** 2).sum(1).mean())
            for e in edges
        ]
    rms = [np.sqrt(np.mean(np.square(values))) for values in (last, single, worse)]
    assert rms[0] < 2 * rms[1]
    assert rms[2] > 2 * rms[1], "without next neighbours the chain drifts, so the bound above says something"


def test_a_wrong_parity_is_outvoted_by_the_other_edges(rng):
    poses = truth(rng, 5, mirrored=(2,))
    edges = chain(poses, rng=rng, scale=0.5)
    wrong = true_pair(poses, 1, 2).compose(rigid(0.3, np.zeros(2), True, center=POINTS.mean(0)))
    edges[1] = edge(1, 2, true_pair(poses, 1, 2), evidence=80.0, decoys=[wrong], decoy_evidence=[95.0])
    graph = solve_pose_graph(edges, n_sections=5, reflection="allow")
    assert graph.chosen[1] == 1 and (np.delete(graph.chosen, 1) == 0).all()
    assert max(error(graph, poses, s) for s in range(5)) < 150


def test_an_outlier_edge_is_rejected_and_bends_nothing(rng):
    poses = truth(rng, 6)
    edges = chain(poses, rng=rng, scale=0.5)
    outlier = rigid(1.0, np.array([900.0, 0]), False, center=POINTS.mean(0)).compose(true_pair(poses, 2, 3))
    edges[2] = edge(2, 3, outlier, evidence=200.0)
    graph = solve_pose_graph(edges, n_sections=6)
    assert graph.chosen[2] == -1 and np.isnan(graph.residuals[2]).all()
    assert graph.placed.all() and max(error(graph, poses, s) for s in range(6)) < 150
    broken = [loop for loop in graph.loops if not loop.kept]
    assert {loop.sections for loop in broken} == {(1, 2, 3), (2, 3, 4)}
    assert all(loop.angle > 40 for loop in broken)


def test_the_first_edges_of_the_chain_may_be_the_wrong_ones(rng):
    """Greedy placement from the anchor would follow the wrong best hypotheses of two neighbouring edges."""
    poses = truth(rng, 5)
    edges = chain(poses, rng=rng, scale=0.3)
    for place in (0, 1):
        i = edges[place].source
        wrong = rigid(2.0 + place, np.zeros(2), False, center=POINTS.mean(0)).compose(true_pair(poses, i, i + 1))
        edges[place] = edge(
            i, i + 1, true_pair(poses, i, i + 1), evidence=60.0, decoys=[wrong], decoy_evidence=[75.0 + place]
        )
    graph = solve_pose_graph(edges, n_sections=5)
    assert graph.chosen[:2].tolist() == [1, 1]
    assert max(error(graph, poses, s) for s in range(5)) < 150


def test_an_isolated_section_is_not_placed(rng):
    poses = truth(rng, 4)
    edges = [edge(0, 1, true_pair(poses, 0, 1)), edge(1, 3, true_pair(poses, 1, 3))]
    edges.append(edge(1, 2, true_pair(poses, 1, 2), evidence=9.0, threshold=10.0))
    graph = solve_pose_graph(edges, n_sections=4)
    assert graph.placed.tolist() == [True, True, False, True]
    assert graph.component.tolist() == [0, 0, -1, 0] and graph.chosen.tolist() == [0, 0, -1]
    assert np.isnan(graph.poses.matrix[2]).all() and np.isnan(graph.poses.shift[2]).all()
    nothing = solve_pose_graph([], n_sections=2)
    assert not nothing.placed.any() and nothing.anchors == () and nothing.residuals.shape == (0, 3)


def test_two_components_keep_their_own_frames(rng):
    poses = truth(rng, 7)
    edges = [edge(i, j, true_pair(poses, i, j)) for i, j in ((0, 1), (2, 3), (3, 4), (2, 4), (5, 6))]
    graph = solve_pose_graph(edges, n_sections=7)
    assert graph.component.tolist() == [1, 1, 0, 0, 0, 2, 2]
    assert graph.anchors == (2, 0, 5)
    assert max(error(graph, poses, s) for s in range(7)) < 1e-4
    assert solve_pose_graph(edges, n_sections=7, anchor=6).component.tolist() == [2, 2, 1, 1, 1, 0, 0]


def test_an_anchor_in_the_middle_keeps_its_coordinates_exactly(rng):
    poses = truth(rng, 5, mirrored=(2,))
    graph = solve_pose_graph(chain(poses, rng=rng, scale=1.0), n_sections=5, anchor=2)
    assert graph.anchors == (2,)
    np.testing.assert_array_equal(graph.poses[2](POINTS), POINTS)
    assert graph.poses.mirrored.tolist() == [True, True, False, True, True]
    assert max(error(graph, poses, s) for s in range(5)) < 300


def test_reflection_modes(rng):
    """A mirrored pose ahead by 5 nats wins under "allow" only; ahead by 40 also under "auto"; never under "never"."""
    plain = rigid(0.2, np.zeros(2))
    turned = rigid(0.5, np.zeros(2), True)
    chosen = {}
    for lead in (5.0, 40.0):
        pair = edge(0, 1, plain, evidence=50.0, decoys=[turned], decoy_evidence=[50.0 + lead])
        for mode in ("auto", "never", "allow"):
            chosen[mode, lead] = bool(solve_pose_graph([pair], n_sections=2, reflection=mode).poses[1].mirrored)
    assert chosen == {
        ("auto", 5.0): False,
        ("never", 5.0): False,
        ("allow", 5.0): True,
        ("auto", 40.0): True,
        ("never", 40.0): False,
        ("allow", 40.0): True,
    }
    only = edge(0, 1, turned, evidence=15.0)
    assert solve_pose_graph([only], n_sections=2, reflection="auto").placed.all()
    assert not solve_pose_graph([only], n_sections=2, reflection="never").placed.any()


def test_over_confident_precisions_do_not_reject_honest_edges(rng):
    poses = truth(rng, 6)
    confident = np.diag([1e8, 1e2, 1e2])
    pairs = [(i, i + lag) for lag in (1, 2) for i in range(6 - lag)]
    edges = [edge(i, j, noisy(rng, true_pair(poses, i, j), 0.7), precision=confident) for i, j in pairs]
    assert (solve_pose_graph(edges, n_sections=6).chosen == 0).all()
    assert (solve_pose_graph(edges, n_sections=6, angle_sd=0.0, shift_sd=0.0).chosen == -1).any()


def test_copies_of_a_hypothesis_count_once(rng):
    """Peaks that collapsed to one pose: the first of them is chosen, its copies never."""
    poses = truth(rng, 4)
    edges = []
    for i, j in ((0, 1), (1, 2), (2, 3), (0, 2), (1, 3)):
        pose = noisy(rng, true_pair(poses, i, j), 0.5)
        copies = [rigid(1e-3, rng.normal(size=2), False, center=pose(POINTS).mean(0)).compose(pose) for _ in range(3)]
        edges.append(edge(i, j, pose, decoys=copies, decoy_evidence=[99.99, 99.98, 99.97]))
    assert (solve_pose_graph(edges, n_sections=4).chosen == 0).all()


def test_a_direction_without_information_is_left_to_the_other_edges(rng):
    poses = truth(rng, 3)
    blind = np.diag([1 / ANGLE_SD**2, 1 / SHIFT_SD**2, 0.0])
    exact = true_pair(poses, 0, 2)
    slipped = Affine(exact.matrix, exact.shift + np.array([0.0, 700.0]))
    edges = [
        edge(0, 1, true_pair(poses, 0, 1)),
        edge(1, 2, true_pair(poses, 1, 2)),
        edge(0, 2, slipped, precision=blind),
    ]
    graph = solve_pose_graph(edges, n_sections=3)
    assert (graph.chosen == 0).all() and error(graph, poses, 2) < 1.0
    alone = solve_pose_graph([edge(0, 1, exact, precision=np.zeros((3, 3)))], n_sections=2)
    assert np.isfinite(alone.poses.shift).all() and alone.placed.all()


def test_the_beam_finds_what_enumeration_finds():
    """Against every combination of hypotheses of a triangle with an extra edge, on random conflicting evidence."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        poses = truth(rng, 4)
        edges = []
        for i, j in ((0, 1), (1, 2), (0, 2), (2, 3)):
            decoys = [rigid(rng.uniform(-3, 3), rng.normal(size=2) * 500, rng.uniform() < 0.5) for _ in range(2)]
            evidence = rng.uniform(20, 60, 3)
            edges.append(
                edge(i, j, true_pair(poses, i, j), evidence=evidence[0], decoys=decoys, decoy_evidence=evidence[1:])
            )
        graph = solve_pose_graph(edges, n_sections=4, reflection="allow")
        best = -np.inf
        for picks in itertools.product(range(-1, 3), repeat=4):
            agreed = _consistent(edges, picks)
            best = max(best, agreed)
        gained = sum(e.evidence[k] - e.threshold for e, k in zip(edges, graph.chosen, strict=True) if k >= 0)
        assert gained >= best - 1e-6


def _consistent(edges, picks) -> float:
    """Summed gain of a choice whose loop closes exactly (decoys never close one), else -inf."""
    if -1 not in picks[:3]:
        a, b, c = (edges[e].poses[picks[e]] for e in range(3))
        around = b.compose(a)
        if not np.allclose(around.matrix, c.matrix, atol=0.02) or not np.allclose(around.shift, c.shift, atol=100):
            return -np.inf
    return sum(e.evidence[k] - e.threshold for e, k in zip(edges, picks, strict=True) if k >= 0)


def test_derivatives_of_the_residual(rng):
    """Analytic derivatives of the least squares against finite differences, all four parities."""
    for parity in itertools.product((False, True), repeat=2):
        poses = {
            n: pose_search.Rigid(rng.uniform(-3, 3), parity[n], complex(*rng.normal(size=2) * 100)) for n in (0, 1)
        }
        relative = pose_search.then(poses[0], pose_search.invert(poses[1]))
        link = pose_search.Link(
            source=0,
            target=1,
            rows=np.arange(1),
            angle=np.array([relative.angle + 0.2]),
            mirrored=np.array([relative.mirrored]),
            shift=np.array([relative.shift + 5]),
            center=np.array([30 - 20j]),
            gain=np.ones(1),
            precision=np.eye(3)[None],
        )
        value, *analytic = pose_search._linearised(link, 0, poses)
        for section in (0, 1):
            for axis, (turn, move) in enumerate([(1e-6, 0), (0, 1e-6), (0, 1e-6j)]):
                old = poses[section]
                moved = {**poses, section: old._replace(angle=old.angle + turn, shift=old.shift + move)}
                change = (pose_search._linearised(link, 0, moved)[0] - value) / 1e-6
                np.testing.assert_allclose(analytic[section][:, axis], change, atol=1e-3)


def test_an_edge_given_backwards_says_the_same(rng):
    poses = truth(rng, 4, mirrored=(1,))
    forward = chain(poses)
    backward = [edge(e.target, e.source, true_pair(poses, e.target, e.source)) for e in forward]
    a, b = (solve_pose_graph(edges, n_sections=4) for edges in (forward, backward))
    np.testing.assert_allclose(a.poses.shift, b.poses.shift, atol=1e-4)
    assert [loop.sections for loop in a.loops] == [loop.sections for loop in b.loops]
    assert all(loop.displacement < 1e-4 for loop in b.loops)


@pytest.mark.parametrize("change", ["section", "shape", "scale", "nan", "mode", "anchor"])
def test_bad_input_is_refused_with_one_message(change):
    good = edge(0, 1, rigid(0.1, np.zeros(2)))
    options = {"n_sections": 2}
    if change == "section":
        good = edge(0, 5, rigid(0.1, np.zeros(2)))
    elif change == "shape":
        good = PoseEdge(0, 1, good.poses, good.evidence, good.precision[0], good.center, 0.0)
    elif change == "scale":
        good = edge(0, 1, Affine(2 * np.eye(2), np.zeros(2)))
    elif change == "nan":
        good = edge(0, 1, rigid(0.1, np.zeros(2)), precision=np.full((3, 3), np.nan))
    elif change == "mode":
        options["reflection"] = "maybe"
    else:
        options["anchor"] = 2
    with pytest.raises(ValueError, match="Expected"):
        solve_pose_graph([good], **options)
