"""One contract for every method that aligns sections: what holds for all of them, checked on shared compiled runs.

A new method is tested by being in the table. Its recovery floor stands in ``FLOORS`` below; where it has none, the
general one holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialjax.algorithm import fit
from spatialjax.methods import CARDS, METHODS
from spatialjax.methods.card import run
from spatialjax.preprocess import shared_embedding
from spatialjax.results import Alignment
from spatialjax.simulate import simulate_tissue
from spatialjax.slices import Slice, make_slice
from spatialjax.transforms import Affine, rigid

#: Tasks whose results are poses; others have a contract of their own.
TASKS = ("alignment", "integration")
NAMES = [(task, name) for task in TASKS for name in METHODS[task]]
CAPACITY, LARGER = 384, 512
TURN = np.deg2rad(25.0)
#: Poses are the same when no spot moves by more, µm: a hundredth of the pitch, far below any evidence.
SAME = 1.0
#: Largest error of the angle (degrees) and of the median spot (pitches): whole sections, 25 degrees.
FLOORS = {
    ("alignment", "fields"): (3.0, 0.5),
    ("alignment", "paste"): (6.0, 1.0),
    ("alignment", "paste2"): (6.0, 1.0),
    ("alignment", "icp"): (10.0, 1.0),
    ("alignment", "moments"): (12.0, 1.5),
    ("integration", "paste_center"): (6.0, 1.0),
}
GENERAL_FLOOR = (10.0, 1.0)


@dataclass
class Section:
    """Arrays of one simulated section before they are padded."""

    counts: np.ndarray
    embedding: np.ndarray
    xy: np.ndarray

    def slice(self, expects: str, *, capacity: int = CAPACITY, order: Any = slice(None)) -> Slice:
        """The section as a method with these expectations takes it."""
        features = {
            "counts": self.counts,
            "log1p": np.log1p(self.counts),
            "embedding": self.embedding,
            "none": np.zeros((len(self.xy), 0)),
        }[expects]
        return make_slice(features[order], self.xy[order], capacity=capacity)


@dataclass
class Case:
    """One method and the runs that its tests share."""

    task: str
    name: str
    pairs: list[tuple[Section, Section]]
    truths: list[Affine]
    runs: dict[str, Any] = field(default_factory=dict)

    @property
    def card(self) -> Any:
        return CARDS[self.task][self.name]

    @property
    def method(self) -> Any:
        return METHODS[self.task][self.name]()

    def members(self, **options: Any) -> list[tuple[Slice, ...]]:
        return [tuple(section.slice(self.card.expects, **options) for section in pair) for pair in self.pairs]

    def once(self) -> list[Any]:
        """The run that most properties are compared with: a list of two pairs, mapped one after the other."""
        if "once" not in self.runs:
            self.runs["once"] = run(self.method, jax.random.key(7), self.members(), how="map")
        return self.runs["once"]


@pytest.fixture(scope="module")
def pairs() -> tuple[list[tuple[Section, Section]], list[Affine]]:
    """Two pairs of sections of a tissue without symmetry, the second one turned by 25 degrees; the true maps."""
    members, truths = [], []
    for seed in (3, 11):
        stack = simulate_tissue(
            jax.random.key(seed),
            n_sections=2,
            spots=480,
            genes=80,
            lattice="cells",
            rotate=False,
            mirror_probability=0.0,
        )
        keep = [asymmetric(section.xyz) for section in stack.sections]
        counts = [section.counts[k].astype(np.float32) for section, k in zip(stack.sections, keep, strict=True)]
        source, target = (section.xyz[k, :2] for section, k in zip(stack.sections, keep, strict=True))
        turn = rigid(TURN, np.zeros(2))
        places = [source - source.mean(0), turn(target) - turn(target).mean(0)]
        truths.append(Affine(turn.matrix, turn(source.mean(0)[None])[0] - turn(target).mean(0)))
        embeddings = shared_embedding(counts, places, kind="counts")
        dense = [values.toarray() for values in counts]
        members.append(tuple(map(Section, dense, embeddings, places)))
    return members, truths


def asymmetric(xyz: np.ndarray) -> np.ndarray:
    """Spots of a part of the simulated tissue whose outline is like none of its turned or mirrored images."""
    x, y = xyz[:, 0] / 1100.0, xyz[:, 1] / 1100.0
    return (x < 0.6 * y + 0.3) & (y > -0.6)


@pytest.fixture(scope="module", params=NAMES, ids="-".join)
def case(request: pytest.FixtureRequest, pairs: Any) -> Case:
    """Each method of the table in turn."""
    return Case(*request.param, *pairs)


def arrays(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def same_bits(a: Any, b: Any) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.dtype == y.dtype and np.array_equal(x, y, equal_nan=x.dtype.kind == "f")
        for x, y in zip(arrays(a), arrays(b), strict=True)
    )


def pose_of(result: Any) -> Affine:
    """Map from the first section to the second one; a centre has the spots of the first one."""
    return result.transform if isinstance(result, Alignment) else result.poses[1].inverse()


def plan_of(result: Any) -> Any:
    """Plan from the first section, or from the centre in its place, to the second one."""
    return result.plan if isinstance(result, Alignment) else result.plans[1]


def per_spot_of(result: Any) -> np.ndarray:
    """One value a spot of the first section: its overlap, or its expression in the centre, at most 1."""
    if isinstance(result, Alignment):
        return np.asarray(result.overlap)
    features = np.asarray(result.features)
    return features.sum(1) / features.sum(1).max()


def size(section: Section) -> int:
    return len(section.xy)


def displacement(a: Affine, b: Affine, xy: np.ndarray) -> np.ndarray:
    """Distance between the images of the spots under two maps, in µm."""
    a, b = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (a, b))
    return np.linalg.norm(a(xy) - b(xy), axis=1)


def test_the_factory_takes_keywords_only_and_is_cached(case: Case) -> None:
    """Equal options give the same object, so that a second call finds its compiled program."""
    factory = METHODS[case.task][case.name]
    assert factory() is factory()
    with pytest.raises(TypeError):
        factory(1.0)


def test_the_card_tells_the_default_steps(case: Case) -> None:
    """What the table prints is what runs."""
    assert case.card.default_steps == case.method.max_steps


def test_values_are_finite_and_padding_is_empty(case: Case) -> None:
    """Poses are maps of the plane, overlaps are probabilities, padding has none (and a centre no expression there)."""
    for member, (source, _) in zip(case.once(), case.pairs, strict=True):
        result = member.result
        assert member.status in {"running", "done"}
        assert type(result).__name__ == case.card.returns
        used = np.ones(len(result.poses.shift), bool)
        if isinstance(result, Alignment):
            evidence = np.asarray(result.evidence)
            used = evidence > -np.inf
            assert used[0] and np.isfinite(evidence[used]).all()
            assert (evidence[:-1] >= evidence[1:]).all(), "the best pose comes first"
        assert all(np.isfinite(leaf[used]).all() for leaf in arrays(result.poses))
        determinant = np.linalg.det(np.asarray(result.poses.matrix, float)[used])
        np.testing.assert_allclose(np.abs(determinant), 1.0, atol=1e-4)
        values = per_spot_of(result)
        assert values.min() >= 0.0 and values.max() <= 1.0 + 1e-6 and values.max() > 0.0
        assert not values[size(source) :].any()
        assert np.asarray(result.converged).dtype == bool
        assert np.isfinite(np.asarray(result.error)) and np.asarray(result.error) < 0.02
        assert all(np.isfinite(values).all() for values in member.history.values())


def test_the_same_key_gives_the_same_bits_and_compiles_nothing(case: Case, count_compilations: Any) -> None:
    """A second call of the same shapes runs the programs of the first."""
    first = case.once()
    with count_compilations() as compiled:
        second = run(case.method, jax.random.key(7), case.members(), how="map")
    assert compiled() == 0, f"{compiled()} programs were compiled again"
    for a, b in zip(first, second, strict=True):
        assert same_bits(a.result, b.result)
        assert a.steps == b.steps and a.status == b.status
        assert same_bits(a.history, b.history)


def test_a_list_equals_a_loop(case: Case) -> None:
    """Members of a list run as each would alone with its own key."""
    method, members = case.method, case.members()
    key = jax.random.key(7)
    for position, (slices, listed) in enumerate(zip(members, case.once(), strict=True)):
        data = method.prepare(*slices)
        alone = fit(method.algorithm, jax.random.fold_in(key, position), data, max_steps=method.max_steps)
        assert same_bits(method.finish(alone.result, *slices), listed.result)
        assert alone.steps == listed.steps


def test_padding_changes_nothing_on_real_spots(case: Case) -> None:
    """A larger capacity gives the same poses, the same overlap and the same objective."""
    larger = run(case.method, jax.random.key(7), case.members(capacity=LARGER)[:1], how="map")[0].result
    result, (source, target) = case.once()[0].result, case.pairs[0]
    values = per_spot_of(larger)
    np.testing.assert_allclose(values[: size(source)], per_spot_of(result)[: size(source)], atol=2e-3)
    assert not values[size(source) :].any()
    assert displacement(pose_of(larger), pose_of(result), source.xy).max() < SAME
    np.testing.assert_allclose(larger.objective, result.objective, rtol=1e-3)
    if plan_of(result) is not None:
        real = np.s_[: size(source), : size(target)]
        assert np.abs(np.asarray(plan_of(larger))[real] - np.asarray(plan_of(result))[real]).sum() < 0.02


def test_permuting_the_spots_permutes_the_result(case: Case) -> None:
    """The order of the spots carries no meaning."""
    source, target = case.pairs[0]
    rng = np.random.default_rng(5)
    orders = rng.permutation(size(source)), rng.permutation(size(target))
    member = tuple(s.slice(case.card.expects, order=o) for s, o in zip((source, target), orders, strict=True))
    permuted = run(case.method, jax.random.key(7), [member], how="map")[0].result
    result = case.once()[0].result
    assert displacement(pose_of(permuted), pose_of(result), source.xy).max() < SAME
    np.testing.assert_allclose(per_spot_of(permuted)[: size(source)], per_spot_of(result)[orders[0]], atol=0.01)


def test_an_interrupted_run_resumes_to_the_same_bits(case: Case, tmp_path: Any) -> None:
    """Stopped after its first chunk and taken up with chunks of another length, a run ends as if never stopped."""
    method, slices = case.method, case.members()[0]
    data, key = method.prepare(*slices), jax.random.key(9)
    options = {"max_steps": method.max_steps, "checkpoint": tmp_path / "run"}
    whole = fit(method.algorithm, key, data, max_steps=method.max_steps)
    reports: list[int] = []

    def stop(report: Any) -> None:
        if report.steps > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(method.algorithm, key, data, chunk=1, progress=stop, **options)
    resumed = fit(method.algorithm, key, data, chunk=3, progress=lambda report: reports.append(report.steps), **options)
    assert min(reports, default=1) > 0, "the run began again instead of being taken up"
    assert resumed.steps == whole.steps and resumed.status == whole.status
    assert same_bits(resumed.result, whole.result)
    assert same_bits(resumed.history, whole.history)


def test_a_known_rotation_is_found(case: Case) -> None:
    """Two whole sections at 25 degrees: the first pose is right within the floor of the method."""
    angle_floor, pitch_floor = FLOORS.get((case.task, case.name), GENERAL_FLOOR)
    for member, truth, (source, _) in zip(case.once(), case.truths, case.pairs, strict=True):
        found = jax.tree.map(lambda leaf: np.asarray(leaf, float), pose_of(member.result))
        turn = found.compose(truth.inverse())
        angle = np.rad2deg(abs(turn.angle))
        moved = np.median(displacement(found, truth, source.xy)) / 100.0
        print(f"{case.name}: {angle:.2f} degrees, {moved:.3f} pitches, converged {bool(member.result.converged)}")
        assert not turn.mirrored
        assert angle <= angle_floor
        assert moved <= pitch_floor


def test_the_sections_suit_the_contract(pairs: Any) -> None:
    """The sections of this test fill more than half of the capacity and leave a free place."""
    for source, target in pairs[0]:
        for section in (source, target):
            assert CAPACITY // 2 < size(section) < CAPACITY
            assert jnp.isfinite(section.slice("embedding").features).all()
