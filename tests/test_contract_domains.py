"""One contract for every method that finds domains: what holds for all of them, checked on shared compiled runs.

A new method is tested by being in the table. Runs are cut to a few steps: what a method finds when it is trained to
the end is tested in the file of the method.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import pytest
from test_contract import arrays, same_bits

from spatialjax.algorithm import fit
from spatialjax.methods import CARDS, METHODS
from spatialjax.methods.card import run
from spatialjax.metrics import ari
from spatialjax.preprocess import log_normalize
from spatialjax.results import Domains
from spatialjax.simulate import simulate_tissue
from spatialjax.slices import Neighbors, Slice, make_slice

NAMES = sorted(METHODS.get("domains", {}))
CAPACITY, LARGER = 256, 384
LAYERS, LABELLINGS = 4, 6
#: Steps of each phase at the most.
STEPS = 20
#: Options that make networks and tables small: what holds does not hang on their width.
OPTIONS: dict[str, dict[str, Any]] = {
    "stagate": {"hidden": 64, "latent": 12},
    "stamarker": {"hidden": 64, "members": 3},
    "neighbours": {"components": 6},
}
#: Number of ``info`` that has to fall, where it is not ``loss``; None where there is none that must.
MONITORS: dict[str, str | None] = {"spagcn": None}
#: Methods that need a regular lattice.
ON_LATTICE = {"hexcnn"}
#: Methods that compile long, with tables of neighbours as wide as the graph: where two sections have tables of one
#: width, the second one runs the programs of the first.
ALIKE = {"splane", "stagate", "stamarker", "stg3net"}
#: Methods that draw noise for each spot by its position in the slice, which a permutation moves: they agree less well.
NOISY = {"graphst", "sedr", "stg3net", "splane", "stamarker"}
#: Methods that cluster what a network embeds after a few steps: rounding moves spots between domains that are none yet,
#: and noise even more, so that beside the embedding their domains are held to little.
UNSETTLED = {"stamarker"}


@dataclass
class Section:
    """Arrays of one simulated section before they are padded."""

    counts: np.ndarray
    xy: np.ndarray
    domain: np.ndarray
    seed: int

    def features(self, expects: str) -> np.ndarray:
        """What a method with these expectations takes."""
        rng = np.random.default_rng(self.seed)
        if expects == "counts":
            return self.counts
        if expects == "log1p":
            return log_normalize(self.counts).toarray()
        if expects == "embedding":
            values = log_normalize(self.counts).toarray()
            left, size, _ = np.linalg.svd(values - values.mean(0), full_matrices=False)
            return left[:, :15] * size[:15]
        if expects == "proportions":
            alpha = 0.5 + 6.0 * np.eye(LAYERS)[self.domain]
            amount = rng.gamma(alpha)
            return amount / amount.sum(1, keepdims=True)
        if expects == "labels":
            noise = rng.integers(0, LAYERS, (len(self.xy), LABELLINGS))
            kept = rng.uniform(size=noise.shape) < 0.7
            return np.where(kept, self.domain[:, None], noise)
        return np.zeros((len(self.xy), 0))

    def slice(self, expects: str, *, capacity: int = CAPACITY, order: Any = slice(None), **extra: Any) -> Slice:
        """The section, or its spots in another order."""
        extra["label"] = np.where(np.arange(len(self.xy)) % 2, self.domain, -1).astype(np.int32)
        extra = {name: values[order] for name, values in extra.items()}
        return make_slice(self.features(expects)[order], self.xy[order], capacity=capacity, extra=extra)


@dataclass
class Case:
    """One method and the runs that its tests share."""

    name: str
    sections: list[Section]
    runs: dict[str, Any] = field(default_factory=dict)

    @property
    def card(self) -> Any:
        return CARDS["domains"][self.name]

    @property
    def method(self) -> Any:
        return METHODS["domains"][self.name](**OPTIONS.get(self.name, {}))

    @property
    def budget(self) -> Any:
        """A few steps of each phase."""
        steps = self.method.max_steps
        return tuple(min(each, STEPS) for each in steps) if isinstance(steps, tuple) else min(steps, STEPS)

    def members(self, **options: Any) -> list[tuple[Slice]]:
        return [(section.slice(self.card.expects, **options),) for section in self.sections]

    def run(self, members: list[tuple[Slice]], seed: int = 7) -> list[Any]:
        return run(self.method, jax.random.key(seed), members, how="map", max_steps=self.budget)

    def once(self) -> list[Any]:
        """The run that most properties are compared with: a list of two sections, one after the other."""
        if "once" not in self.runs:
            self.runs["once"] = self.run(self.members())
        return self.runs["once"]


def simulated(lattice: str, seeds: tuple[int, int] = (3, 12)) -> list[Section]:
    """Two sections of two tissues with four layers."""
    found = []
    for seed in seeds:
        stack = simulate_tissue(
            jax.random.key(seed), n_sections=1, spots=220, genes=48, layers=LAYERS, lattice=lattice, rotate=False
        )
        one = stack.sections[0]
        counts = one.counts.toarray().astype(np.float32)
        found.append(Section(counts, one.xy - one.xy.mean(0), one.domain, seed))
    return found


@pytest.fixture(scope="module")
def sections() -> dict[str, list[Section]]:
    """The sections of cells, those with tables of one width, and those on a lattice."""
    return {"cells": simulated("cells"), "alike": simulated("cells", (7, 5)), "hex": simulated("hex")}


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest, sections: Any) -> Case:
    """Each method of the table in turn."""
    group = "hex" if request.param in ON_LATTICE else "alike" if request.param in ALIKE else "cells"
    return Case(request.param, sections[group])


def same_result(found: Any, other: Any, *, loose: bool = False, floor: float | None = None) -> None:
    """Embeddings that differ by little of their spread, and partitions that agree."""
    if isinstance(found, Domains):
        floor = (0.6 if loose else 0.9) if floor is None else floor
        agreement = ari(found.probability.argmax(-1), other.probability.argmax(-1))
        assert agreement >= floor, f"partitions agree by an adjusted Rand index of {agreement:.3f}"
    tables = [each.embedding if isinstance(each, Domains) else each.values for each in (found, other)]
    if tables[0] is None:
        return
    a, b = (np.asarray(each, np.float64) for each in tables)
    gap, spread = np.linalg.norm(a - b), np.linalg.norm(a - a.mean(0))
    assert gap <= (0.5 if loose else 0.02) * spread, f"differ by {gap / spread:.3f} of the spread of the embedding"


def cropped(result: Any, rows: Any) -> Any:
    """The result of these rows."""
    if isinstance(result, Domains):
        embedding = None if result.embedding is None else np.asarray(result.embedding)[rows]
        return result.replace(probability=np.asarray(result.probability)[rows], embedding=embedding)
    return result.replace(values=np.asarray(result.values)[rows])


def real(section: Section) -> slice:
    return slice(0, len(section.xy))


def test_the_factory_takes_keywords_only_and_is_cached(case: Case) -> None:
    """Equal options give the same object, so that a second call finds its compiled program."""
    factory = METHODS["domains"][case.name]
    assert factory() is factory()
    with pytest.raises(TypeError):
        factory(1.0)


def test_the_card_tells_the_default_steps(case: Case) -> None:
    """What the table prints is what runs."""
    assert case.card.default_steps == METHODS["domains"][case.name]().max_steps


def test_values_are_finite_and_padding_is_empty(case: Case) -> None:
    """Results have the type on the card; real spots have values that vary, shares sum to 1, padding has zeros."""
    for member, section in zip(case.once(), case.sections, strict=True):
        result, n = member.result, len(section.xy)
        assert member.status in {"running", "done"}
        assert type(result).__name__ == case.card.returns
        assert np.asarray(result.converged).dtype == bool
        values = np.asarray(result.probability if isinstance(result, Domains) else result.values)
        assert values.shape[0] == CAPACITY and np.isfinite(values).all()
        assert not values[n:].any()
        assert values[:n].std(0).max() > 0
        if isinstance(result, Domains):
            assert values.min() >= 0
            np.testing.assert_allclose(values[:n].sum(1), 1.0, atol=1e-4)
            if result.embedding is not None:
                assert np.isfinite(result.embedding).all() and not np.asarray(result.embedding)[n:].any()
        assert all(np.isfinite(history).all() for history in arrays(member.history))


def test_the_loss_falls(case: Case) -> None:
    """Of methods that are trained, in each phase."""
    monitor = MONITORS.get(case.name, "loss")
    trained = 0
    for member in case.once():
        for history in member.history if isinstance(member.history, tuple) else (member.history,):
            if monitor in history and len(history[monitor]) >= 6:
                trained += 1
                assert np.mean(history[monitor][-3:]) < np.mean(history[monitor][:3])
    if not trained:
        pytest.skip(f"{case.name} is not trained")


def test_the_same_key_gives_the_same_bits_and_compiles_nothing(case: Case, count_compilations: Any) -> None:
    """A second call of the same shapes runs the programs of the first."""
    first = case.once()
    with count_compilations() as compiled:
        second = case.run(case.members())
    assert compiled() == 0, f"{compiled()} programs were compiled again"
    for a, b in zip(first, second, strict=True):
        assert same_bits(a.result, b.result)
        assert a.steps == b.steps and a.status == b.status
        assert same_bits(a.history, b.history)


def test_a_list_equals_a_loop(case: Case) -> None:
    """Members of a list run as each would alone with its own key."""
    method, key = case.method, jax.random.key(7)
    for position, (slices, listed) in enumerate(zip(case.members(), case.once(), strict=True)):
        data = method.prepare(*slices)
        alone = fit(method.algorithm, jax.random.fold_in(key, position), data, max_steps=case.budget)
        assert same_bits(method.finish(alone.result, *slices), listed.result)
        assert alone.steps == listed.steps


def test_padding_changes_nothing_on_real_spots(case: Case) -> None:
    """A larger capacity gives the same values, noise included."""
    larger = case.run(case.members(capacity=LARGER)[:1])[0].result
    rows = real(case.sections[0])
    same_result(cropped(case.once()[0].result, rows), cropped(larger, rows), loose=case.name in UNSETTLED)


def test_permuting_the_spots_permutes_the_result(case: Case) -> None:
    """The order of the spots carries no meaning."""
    section = case.sections[0]
    order = np.random.default_rng(5).permutation(len(section.xy))
    permuted = case.run([(section.slice(case.card.expects, order=order),)])[0].result
    floor = 0.3 if case.name in UNSETTLED else None
    found, other = cropped(case.once()[0].result, order), cropped(permuted, real(section))
    same_result(found, other, loose=case.name in NOISY, floor=floor)


def test_no_edge_joins_two_sections(case: Case) -> None:
    """Of two sections that lie on each other in one slice, every neighbour table that is built keeps to one."""
    first, second = case.sections
    width = min(first.features(case.card.expects).shape[1], second.features(case.card.expects).shape[1])
    features = np.concatenate([each.features(case.card.expects)[:, :width] for each in (first, second)])
    number = np.repeat(np.arange(2, dtype=np.int32), [len(first.xy), len(second.xy)])
    label = np.concatenate([first.domain, second.domain]).astype(np.int32)
    both = make_slice(
        features, np.concatenate([first.xy, second.xy]), capacity=512, extra={"section": number, "label": label}
    )
    number = np.asarray(both.extra["section"])
    data = case.method.prepare(both)
    tables = [
        node
        for node in jax.tree.leaves(data, is_leaf=lambda node: isinstance(node, Neighbors))
        if isinstance(node, Neighbors)
    ]
    for table in tables:
        index, weight = np.asarray(table.index), np.asarray(table.weight)
        used = weight != 0
        assert used.any()
        assert (number[index] == number[:, None])[used].all()


def test_an_interrupted_run_resumes_to_the_same_bits(case: Case, tmp_path: Any) -> None:
    """Stopped after its first chunk and taken up with chunks of another length, a run ends as if never stopped."""
    method, slices = case.method, case.members()[0]
    data, key = method.prepare(*slices), jax.random.key(9)
    options = {"max_steps": case.budget, "checkpoint": tmp_path / "run"}
    whole = fit(method.algorithm, key, data, max_steps=case.budget)
    reports: list[int] = []

    def stop(report: Any) -> None:
        if report.steps > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(method.algorithm, key, data, chunk=1, progress=stop, **options)
    resumed = fit(method.algorithm, key, data, chunk=3, progress=lambda report: reports.append(report.steps), **options)
    assert min(reports[:1], default=1) > 0, "the run began again instead of being taken up"
    assert resumed.steps == whole.steps and resumed.status == whole.status
    assert same_bits(resumed.result, whole.result)
    assert same_bits(resumed.history, whole.history)


def test_the_sections_suit_the_contract(sections: Any) -> None:
    """The sections of this test fill more than half of the capacity, leave a free place and show every layer."""
    for one in (section for group in sections.values() for section in group):
        assert CAPACITY // 2 < len(one.xy) < CAPACITY
        assert len(np.unique(one.domain)) == LAYERS
