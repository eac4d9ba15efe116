"""A person's decisions: how they are read and refused, and what they make of the pairs of a run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from spatialjax.atlas import decided, stated
from spatialjax.atlas.decisions_file import read, read_landmarks
from spatialjax.atlas.hand import Decisions, Fix, Forbid, Landmark, Redo, in_words
from spatialjax.atlas.pairs import PairPosterior, PairResult
from spatialjax.checks import InputError
from spatialjax.transforms import Affine, rigid

NAMES = ["A", "B", "C"]
GRID = np.stack(np.meshgrid(np.arange(12.0), np.arange(9.0)), -1).reshape(-1, 2) * 100.0


def stack_of(names: list[str] = NAMES, *, um_per_unit: float = 2.0) -> Any:
    """Sections as the decisions see them: names, places in µm, spacing, length of a unit."""
    sections = [
        SimpleNamespace(name=name, xy=GRID, pitch=100.0, um_per_unit=um_per_unit, z=10.0 * i)
        for i, name in enumerate(names)
    ]
    return SimpleNamespace(sections=tuple(sections), names=list(names))


def pair_of(
    angles: list[float], evidence: list[float], *, mirrored: list[bool] | None = None, ends: tuple[int, int] = (0, 1)
) -> PairResult:
    """A pair with hypotheses turned about the middle of the grid, 5° and 20 µm sure."""
    k = len(angles)
    sides = [False] * k if mirrored is None else mirrored
    center = GRID.mean(0)
    poses = [rigid(np.radians(a), np.zeros(2), m, center=center) for a, m in zip(angles, sides, strict=True)]
    covariance = np.tile(np.diag([np.radians(5.0), 20.0, 20.0]) ** 2, (k, 1, 1))
    weight = np.exp(np.array(evidence) - evidence[0])
    return PairResult(
        source=ends[0],
        target=ends[1],
        poses=Affine(np.stack([p.matrix for p in poses]), np.stack([p.shift for p in poses])),
        evidence=np.array(evidence),
        precision=np.linalg.inv(covariance),
        center=np.tile(center, (k, 1)),
        threshold=8.0,
        similarity=0.5,
        status="done",
        posterior=PairPosterior(
            probability=weight / weight.sum(),
            covariance=covariance,
            warp=100.0,
            mirrored=float((weight / weight.sum())[np.array(sides)].sum()),
            determined=True,
            ambiguous=False,
            overlap=(0.8, 0.7, 0.9),
        ),
    )


def marks(
    pose: Affine, *, unit: float = 2.0, number: int = 4, off: float = 0.0, sd: float | None = None
) -> tuple[Landmark, ...]:
    """Points of section A and their places on B under ``pose`` (µm), in units of the files; the last one is off."""
    source = GRID[[0, 11, 96, 107, 50]][:number]
    target = pose(source)
    target[-1] += [off, 0.0]
    rows = zip(source / unit, target / unit, strict=True)
    return tuple(Landmark("A", "B", *s, *t, sd=sd, name=f"line {i}") for i, (s, t) in enumerate(rows, 2))


def test_decisions_are_read_alike_from_every_form(tmp_path: Path) -> None:
    """JSON, TOML and a mapping give the same; landmarks come from a list or from a CSV file beside the decisions."""
    table = {
        "exclude": ["C"],
        "fix": [{"source": "A", "target": "B", "angle_deg": 12, "shift": [350, -40]}],
        "forbid": [{"section": "B", "mirrored": True}],
        "landmarks": "points.csv",
        "redo": [{"source": "A", "target": "B", "seed": 3}],
    }
    (tmp_path / "points.csv").write_text(
        "\ufeffsource, target, x1, y1, x2, y2, sd\nA, B, 1, 2, 3, 4.5, 30\nB,A,0,0,1,1\n"
    )
    (tmp_path / "d.json").write_text(json.dumps(table))
    (tmp_path / "d.toml").write_text(
        'exclude = ["C"]\nlandmarks = "points.csv"\n[[fix]]\nsource = "A"\ntarget = "B"\nangle_deg = 12\n'
        'shift = [350, -40]\n[[forbid]]\nsection = "B"\nmirrored = true\n'
        '[[redo]]\nsource = "A"\ntarget = "B"\nseed = 3\n'
    )
    expected = Decisions(
        exclude=("C",),
        fix=(Fix("A", "B", 12.0, (350.0, -40.0)),),
        forbid=(Forbid("B", mirrored=True),),
        landmarks=(
            Landmark("A", "B", 1, 2, 3, 4.5, sd=30, name="line 2"),
            Landmark("B", "A", 0, 0, 1, 1, name="line 3"),
        ),
        redo=(Redo("A", "B", seed=3),),
    )
    assert read(tmp_path / "d.json") == read(tmp_path / "d.toml") == expected
    assert read({**table, "landmarks": str(tmp_path / "points.csv")}) == expected
    listed = [{"source": "A", "target": "B", "x1": 1, "y1": 2, "x2": 3, "y2": 4.5}]
    assert read({"landmarks": listed}).landmarks == (Landmark("A", "B", 1, 2, 3, 4.5, name="point 1"),)
    assert read(None) == Decisions() and not read(None) and read(expected) is expected
    assert json.loads(json.dumps(asdict(expected)))["fix"][0]["angle_deg"] == 12


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"exlude": ["A"]}, "Did you mean 'exclude'"),
        ({"exclude": "A"}, "list of names"),
        ({"fix": [{"source": "A"}]}, "both source and target"),
        ({"fix": [{"section": "A", "target": "B"}]}, "found both"),
        ({"fix": [{"section": "A", "angle": 3}]}, "Did you mean 'angle_deg'"),
        ({"fix": [{"section": "A", "angle_deg": "x"}]}, "angle_deg .* finite number"),
        ({"fix": [{"section": "A", "shift": [1]}]}, "two numbers"),
        ({"forbid": [{"section": "A", "mirrored": "yes"}]}, "true or false"),
        ({"landmarks": [{"source": "A", "target": "B", "x1": 0, "y1": 0, "x2": 0, "y2": 0, "sd": -1}]}, "above 0"),
        ({"redo": [{"source": "A"}]}, "'target'"),
        ({"redo": 3}, "list of tables"),
    ],
)
def test_what_is_no_decision_is_refused(given: dict[str, Any], message: str) -> None:
    """One message that names the entry, with the nearest name that there is."""
    with pytest.raises(InputError, match=message):
        read(given)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source,target,x1,y1,x2\nA,B,1,2,3\n", "columns source,target,x1,y1,x2,y2"),
        ("source,target,x1,y1,x2,y2\n", "0 points"),
        ("source,target,x1,y1,x2,y2\nA,B,1,2,3,4\nA,B,1,,3,4\n", "'y1' in line 3"),
        ("source,target,x1,y1,x2,y2\nA,B,1,2,3,nan\n", "line 2 .* finite number"),
    ],
)
def test_a_bad_table_of_landmarks_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """The message names the line or the columns."""
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_landmarks(tmp_path / "p.csv")


def test_missing_and_broken_files_are_refused(tmp_path: Path) -> None:
    """No file, another ending, no JSON: one message each."""
    (tmp_path / "d.json").write_text("{")
    (tmp_path / "d.yaml").write_text("")
    for name, message in (("none.json", "no readable file"), ("d.json", "no readable file"), ("d.yaml", "ending")):
        with pytest.raises(InputError, match=message):
            read(tmp_path / name)
    with pytest.raises(InputError, match="no readable CSV"):
        read_landmarks(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("decisions", "message"),
    [
        (Decisions(exclude=("D",)), "section to exclude 'D'"),
        (Decisions(exclude=("A", "B")), "at least two sections"),
        (Decisions(exclude=("A",)), "another anchor"),
        (Decisions(exclude=("B",), redo=(Redo("B", "C", seed=1),)), "excluded as well"),
        (Decisions(redo=(Redo("C", "C", seed=1),)), "two different sections"),
        (Decisions(redo=(Redo("B", "C"),)), "neither"),
        (Decisions(redo=(Redo("B", "C", method="best"),)), "method in 'redo'"),
        (Decisions(fix=(Fix("A"),)), "keeps its coordinates"),
        (Decisions(fix=(Fix("B"), Fix("A", "B"))), "fixed twice"),
        (Decisions(fix=(Fix("B", "C", mirrored=True),)), "reflection is 'never'"),
        (Decisions(fix=(Fix("B", "C", units="px"),)), "units in 'fix'"),
        (Decisions(fix=(Fix("B", "C"),), redo=(Redo("C", "B", seed=1),)), "has a fixed pose"),
        (Decisions(forbid=(Forbid("B"),)), "found neither"),
        (Decisions(forbid=(Forbid("B", angle_deg=3.0),)), "source and target"),
        (Decisions(forbid=(Forbid("B", "C", angle_deg=3.0, shift=(0.0, 0.0)),)), "shift_tolerance together"),
    ],
)
def test_decisions_that_cannot_be_followed_are_refused(decisions: Decisions, message: str) -> None:
    """Unknown names and decisions that contradict the options or each other, before any work."""
    with pytest.raises(InputError, match=message):
        decisions.check_with(NAMES, anchor="A", reflection="never")


def test_a_fixed_section_needs_an_anchor() -> None:
    """The frame of the pose must be known."""
    with pytest.raises(InputError, match="anchor="):
        Decisions(fix=(Fix("B"),)).check_with(NAMES, anchor=None, reflection="auto")


def test_a_forbidden_side_is_gone_and_the_probabilities_are_dealt_anew() -> None:
    """The mirrored hypotheses of every pair of the section are dropped; other pairs are the same objects."""
    pair = pair_of([10.0, 40.0, 90.0], [40.0, 39.0, 20.0], mirrored=[True, False, False])
    other = pair_of([0.0], [30.0], mirrored=[True], ends=(0, 2))
    found, same = decided.decide([pair, other], Decisions(forbid=(Forbid("B", mirrored=True),)), stack_of())
    assert same is other
    np.testing.assert_array_equal(found.evidence, [39.0, 20.0])
    assert not found.poses.mirrored.any() and found.posterior.mirrored == 0.0
    assert np.isclose(found.posterior.probability.sum(), 1.0)
    assert found.status == decided.FORBIDDEN and np.isnan(found.similarity)
    assert pair.status == "done" and len(pair.evidence) == 3


def test_a_pair_with_nothing_left_says_nothing() -> None:
    """All hypotheses forbidden: no evidence, so that the pose graph leaves the pair out."""
    pair = pair_of([10.0], [40.0], mirrored=[True])
    (found,) = decided.decide([pair], Decisions(forbid=(Forbid("A", "B", mirrored=True),)), stack_of())
    assert not np.isfinite(found.evidence[0]) and not found.supported and found.posterior is None


@pytest.mark.parametrize("swapped", [False, True])
def test_poses_near_a_given_one_are_forbidden(swapped: bool) -> None:
    """Angle and shift within the tolerances, whichever section is called the source; angles count around the circle."""
    pair = pair_of([179.0, 170.0, 60.0], [40.0, 39.0, 20.0])
    pose = pair.poses[0].inverse() if swapped else pair.poses[0]
    ends = ("B", "A") if swapped else ("A", "B")
    angle = float(np.degrees(pose.angle)) - 358.0
    wide = Forbid(*ends, angle_deg=angle, angle_tolerance_deg=20.0)
    (found,) = decided.decide([pair], Decisions(forbid=(wide,)), stack_of())
    np.testing.assert_array_equal(found.evidence, [20.0])
    here = Forbid(
        *ends, angle_deg=angle, angle_tolerance_deg=20.0, shift=tuple(pose.shift / 2), shift_tolerance=5.0, units="file"
    )
    (found,) = decided.decide([pair], Decisions(forbid=(here,)), stack_of())
    np.testing.assert_array_equal(found.evidence, [39.0, 20.0])


@pytest.mark.parametrize("swapped", [False, True])
def test_a_fixed_pose_replaces_all_others(swapped: bool) -> None:
    """The map is the stated one, in the units of the target, and inverted where the pair stands the other way."""
    pair = pair_of([10.0, 40.0], [40.0, 39.0])
    ends = ("B", "A") if swapped else ("A", "B")
    fix = Fix(*ends, angle_deg=75.0, shift=(100.0, -20.0), mirrored=True, units="file")
    (found,) = decided.decide([pair], Decisions(fix=(fix,)), stack_of())
    stated = rigid(np.radians(75.0), np.array([200.0, -40.0]), True)
    expected = stated.inverse() if swapped else stated
    np.testing.assert_allclose(found.poses[0](GRID), expected(GRID))
    assert found.supported and found.status == decided.FIXED and found.posterior.mirrored == 1.0
    assert np.isfinite(found.precision).all() and found.posterior.warp == 100.0


def test_a_section_is_fixed_in_the_frame_of_the_anchor() -> None:
    """A pair of section and anchor is added where the run has none."""
    (pair, added) = decided.decide(
        [pair_of([0.0], [30.0])], Decisions(fix=(Fix("C", angle_deg=30.0),)), stack_of(), anchor="A"
    )
    assert (added.source, added.target) == (0, 2) and pair.status == "done"
    np.testing.assert_allclose(added.poses[0].inverse().angle, np.radians(30.0))


def test_landmarks_choose_among_the_hypotheses_and_sharpen_the_one_that_agrees() -> None:
    """The wrong best hypothesis goes; the right one moves towards the points and becomes surer."""
    pair = pair_of([180.0, 8.0], [60.0, 30.0])
    truth = rigid(np.radians(5.0), np.array([30.0, 10.0]), center=GRID.mean(0))
    (found,) = decided.decide([pair], Decisions(landmarks=marks(truth, sd=15.0)), stack_of())
    assert len(found.evidence) == 1 and found.status == decided.LANDMARKS
    before = np.abs(pair.poses[1](GRID) - truth(GRID)).mean()
    assert np.abs(found.poses[0](GRID) - truth(GRID)).mean() < 0.4 * before
    assert found.evidence[0] > 30.0
    assert (np.diag(found.posterior.covariance[0]) < np.diag(pair.posterior.covariance[1])).all()


@pytest.mark.parametrize("pairs", [[], [pair_of([180.0, 90.0], [60.0, 30.0])]])
def test_landmarks_bring_a_pose_of_their_own(pairs: list[PairResult]) -> None:
    """Where no hypothesis agrees, or the pair was never aligned, the fitted map is the pose, in µm."""
    truth = rigid(np.radians(5.0), np.array([300.0, 10.0]), True)
    (found,) = decided.decide(pairs, Decisions(landmarks=marks(truth)), stack_of())
    np.testing.assert_allclose(found.poses[0](GRID), truth(GRID), atol=1e-6)
    assert found.supported and found.posterior.mirrored == 1.0


def test_landmarks_may_be_written_either_way_round() -> None:
    """Source and target swapped in the table: the same pose."""
    truth = rigid(np.radians(5.0), np.array([300.0, 10.0]))
    plain = marks(truth)
    turned = tuple(Landmark("B", "A", m.x2, m.y2, m.x1, m.y1, name=m.name) for m in plain)
    (one,), (other,) = (decided.decide([], Decisions(landmarks=m), stack_of()) for m in (plain, turned))
    np.testing.assert_allclose(one.poses.shift, other.poses.shift)


def test_contradictory_landmarks_are_refused_by_name_in_um() -> None:
    """One point 800 units (µm here) off: the message names sections, points and residuals."""
    wrong = marks(rigid(np.float64(0.4), np.array([300.0, 10.0])), number=5, off=1600.0)
    with pytest.raises(InputError, match=r"'A' on 'B' contradict.*line 6 1600\. Correct or remove line 6"):
        decided.decide((), Decisions(landmarks=wrong), stack_of(), reflection="auto")


def test_too_few_landmarks_say_how_many_are_needed() -> None:
    """Two points are one too few, but enough where one side is forbidden or never allowed."""
    two = marks(rigid(np.float64(0.4), np.array([300.0, 10.0])), number=2)
    with pytest.raises(InputError, match=r"at least 3 landmarks of 'A' on 'B'.*Add 1 more"):
        decided.decide((), Decisions(landmarks=two), stack_of(), reflection="auto")
    one_side = Decisions(landmarks=two, forbid=(Forbid("A", mirrored=True),))
    decided.decide((), one_side, stack_of(), reflection="auto")
    decided.decide((), Decisions(landmarks=two), stack_of(), reflection="never")


def loop_of(*, off: float = 0.0, turned: float = 0.0, mirrored: bool = False) -> Decisions:
    """Three fixed pairs of which the last, stated the other way round, is off by so much (units of 2 µm, degrees)."""
    one = rigid(np.radians(20.0), np.array([100.0, -30.0]))
    two = rigid(np.radians(-65.0), np.array([40.0, 300.0]), True)
    both = two.compose(one).inverse()
    return Decisions(
        fix=(
            Fix("A", "B", 20.0, (50.0, -15.0), units="file"),
            Fix("B", "C", -65.0, (40.0, 300.0), mirrored=True),
            Fix(
                *("C", "A", float(np.degrees(both.angle)) + turned, tuple(both.shift / 2 + [off, 0.0])),
                mirrored=bool(both.mirrored) != mirrored,
                units="file",
            ),
        )
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"off": 150.0},
            r"'C' on 'A', 'A' on 'B', 'B' on 'C'.*rotated by 0\.0° and its cells 300 µm off \(at most 200",
        ),
        ({"turned": 90.0}, r"'C' on 'A'.*rotated by 90\.0°"),
        ({"mirrored": True}, r"'C' on 'A'.*comes back turned over"),
    ],
)
def test_three_fixed_poses_that_do_not_close_are_refused(wrong: dict[str, Any], message: str) -> None:
    """The three pairs are named, with the angle and the distance by which they miss; a small error passes."""
    stated.refuse_contradictions(loop_of(), stack_of())
    stated.refuse_contradictions(loop_of(off=60.0), stack_of())
    with pytest.raises(InputError, match=message):
        stated.refuse_contradictions(loop_of(**wrong), stack_of())


def test_longer_loops_and_loops_over_the_anchor_must_close_too() -> None:
    """Four sections in a ring; a section fixed in the frame of the anchor; a chain or two groups close nothing."""
    ring = [Fix("A", "B"), Fix("B", "C"), Fix("C", "D"), Fix("D", "A", shift=(900.0, 0.0))]
    four = stack_of(["A", "B", "C", "D"])
    stated.refuse_contradictions(Decisions(fix=tuple(ring[:3])), four)
    with pytest.raises(InputError, match=r"'D' on 'A', 'A' on 'B', 'B' on 'C', 'C' on 'D'.*900 µm off"):
        stated.refuse_contradictions(Decisions(fix=tuple(ring)), four)
    over_anchor = Decisions(fix=(Fix("B"), Fix("C"), Fix("B", "C", angle_deg=180.0)))
    with pytest.raises(InputError, match=r"'B' on 'C', 'C' on 'A', 'A' on 'B'.*rotated by 180\.0°"):
        stated.refuse_contradictions(over_anchor, stack_of(), anchor="A")


@pytest.mark.parametrize(
    ("forbid", "refused"),
    [
        (Forbid("B", mirrored=True), True),
        (Forbid("B", mirrored=False), False),
        (Forbid("C", mirrored=True), False),
        (Forbid("A", "B", angle_deg=25.0), True),
        (Forbid("A", "B", angle_deg=60.0), False),
        (Forbid("A", "B", angle_deg=25.0, shift=(105.0, -40.0), shift_tolerance=20.0), True),
        (Forbid("A", "B", angle_deg=25.0, shift=(105.0, -40.0), shift_tolerance=5.0), False),
        (Forbid("B", "A", mirrored=True, angle_deg=20.0), True),
    ],
)
def test_a_pose_that_is_fixed_and_forbidden_is_refused(forbid: Forbid, refused: bool) -> None:
    """Whichever way round the pair is written; a forbidden pose elsewhere does not matter."""
    decisions = Decisions(fix=(Fix("A", "B", 20.0, (100.0, -30.0), mirrored=True),), forbid=(forbid,))
    if not refused:
        stated.refuse_contradictions(decisions, stack_of())
        return
    with pytest.raises(InputError, match="'A' on 'B' is one of those forbidden for"):
        stated.refuse_contradictions(decisions, stack_of())


def test_decisions_are_told_in_words() -> None:
    """One sentence each, with names, numbers and units; the record that a run keeps gives the same."""
    decisions = Decisions(
        exclude=("E",),
        fix=(Fix("A", "B", 12.0, (350.0, -40.5), mirrored=True), Fix("C", units="file")),
        forbid=(
            Forbid("B", mirrored=True),
            Forbid("A", "C", mirrored=False, angle_deg=180.0, shift=(1.0, 2.0), shift_tolerance=30.0),
        ),
        landmarks=(*marks(rigid(np.float64(0.0), np.zeros(2))), Landmark("C", "A", 0, 0, 0, 0)),
        redo=(Redo("B", "C", method="paste", seed=3),),
    )
    expected = [
        "Section 'E' is left out.",
        "Poses that turn over are forbidden for every pair of 'B'.",
        "Poses not turned over and rotated by 180° ± 15°, shifted by (1, 2) ± 30 µm are forbidden for 'A' on 'C'.",
        "4 landmarks between 'A' and 'B'.",
        "1 landmark between 'A' and 'C'.",
        "'B' on 'C' is aligned anew by method 'paste' with seed 3.",
        "The pose of 'A' on 'B' is fixed: turned over, then rotated by 12°, shifted by (350, -40.5) µm.",
        "The pose of 'C' in the frame of the anchor is fixed: rotated by 0°, shifted by (0, 0) units of the target's "
        "file.",
    ]
    assert in_words(decisions) == expected
    assert in_words(read(json.loads(json.dumps(asdict(decisions))))) == expected
    assert in_words(Decisions()) == []
