"""One contract for every method that finds the places of single cells, checked on shared compiled runs.

A new method is tested by being in the table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import pytest
import scipy.sparse as sp
from test_contract import same_bits

from spatialjax.algorithm import fit
from spatialjax.methods import CARDS, METHODS
from spatialjax.methods.card import run
from spatialjax.results import CellMap
from spatialjax.tables import Reference, SpotTable

NAMES = sorted(METHODS["mapping"])
#: Spots along each side, types, genes, cells of each type in the spots and in the reference.
SIDE, TYPES, GENES, CELLS = 8, 3, 80, 160
PITCH = 100.0
#: The spot without a count.
EMPTY = 17
#: Options that make a run short, and steps of it at the most.
OPTIONS: dict[str, dict[str, Any]] = {"tangram": {"genes": 25}}
STEPS = {"tangram": 200}
#: Distance to the truth in units of that of the type's mean place, at the most.
FLOOR, FLOORS = 0.6, {"tangram": 0.9}
CLOSE = 2e-2


@dataclass
class Case:
    """One method, two tissues, and the runs that its tests share."""

    name: str
    tissues: list[tuple[SpotTable, Reference, np.ndarray]]
    runs: dict[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> Any:
        return METHODS["mapping"][self.name](**OPTIONS.get(self.name, {}))

    @property
    def budget(self) -> Any:
        return STEPS.get(self.name, self.method.max_steps)

    def run(self, members: Any, seed: int = 7) -> list[Any]:
        return run(self.method, jax.random.key(seed), members, how="map", max_steps=self.budget)

    def members(self) -> list[tuple[SpotTable, Reference]]:
        return [tissue[:2] for tissue in self.tissues]

    def once(self) -> list[Any]:
        """The run that most properties are compared with: a list of two tissues, one after the other."""
        if "once" not in self.runs:
            self.runs["once"] = self.run(self.members())
        return self.runs["once"]


def tissue(seed: int) -> tuple[SpotTable, Reference, np.ndarray]:
    """Sums of cells whose genes rise and fall over the tissue within their type; other cells, and their places."""
    rng = np.random.default_rng(seed)
    means = rng.gamma(0.5, 3.0, (TYPES, GENES)) + 0.2
    slope = rng.normal(size=(2, GENES)) * (rng.uniform(size=GENES) < 0.5)
    types = np.repeat(np.arange(TYPES), CELLS)

    def cells() -> tuple[np.ndarray, np.ndarray]:
        # The last type is in one half alone.
        low = np.where(types == TYPES - 1, 0.5, 0.0)[:, None] * np.array([1.0, 0.0])
        place = low + rng.uniform(size=(len(types), 2)) * (1.0 - low)
        return place, rng.poisson(3.0 * means[types] * np.exp(2.0 * (place - 0.5) @ slope))

    (place, counts), (truth, own) = cells(), cells()
    spot = (np.minimum(place * SIDE, SIDE - 1).astype(int) @ np.array([SIDE, 1])).astype(int)
    member = sp.csr_matrix((np.ones(len(spot)), (spot, np.arange(len(spot)))), shape=(SIDE**2, len(spot)))
    made = np.asarray(member @ counts)
    made[EMPTY] = 0
    xy = (np.stack(np.divmod(np.arange(SIDE**2), SIDE), 1) + 0.5) * PITCH
    reference = Reference(sp.csr_matrix(own, dtype=np.float32), types, [f"type {k}" for k in range(TYPES)])
    return SpotTable(sp.csr_matrix(made, dtype=np.float32), xy), reference, truth * SIDE * PITCH


def misses(result: CellMap, truth: np.ndarray) -> float:
    """Median distance of the expected place to the true one, µm."""
    return float(np.median(np.linalg.norm(np.asarray(result.position) - truth, axis=1)))


@pytest.fixture(scope="module")
def tissues() -> list[Any]:
    return [tissue(1), tissue(2)]


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest, tissues: Any) -> Case:
    """Each method of the table in turn."""
    return Case(request.param, tissues)


def test_the_factory_takes_keywords_only_and_is_cached(case: Case) -> None:
    """Equal options give the same object, so that a second call finds its compiled program."""
    factory = METHODS["mapping"][case.name]
    assert factory() is factory()
    with pytest.raises(TypeError):
        factory(1.0)


def test_the_card_tells_the_default_steps(case: Case) -> None:
    """What the table prints is what runs."""
    card = CARDS["mapping"][case.name]
    assert card.default_steps == METHODS["mapping"][case.name]().max_steps
    assert card.returns == "CellMap" and card.expects == "counts"


def test_rows_are_probabilities_of_different_spots(case: Case) -> None:
    """Ordered, of at most 1 in sum, none in the spot without counts; places inside the tissue."""
    for member in case.once():
        result = jax.tree.map(np.asarray, member.result)
        assert isinstance(result, CellMap) and member.status in {"running", "done"}
        cells = TYPES * CELLS
        assert result.spots.shape == result.probabilities.shape and len(result.spots) == cells
        assert (np.diff(result.probabilities, axis=1) <= 1e-6).all() and result.probabilities.min() >= 0
        assert result.probabilities.sum(1).max() <= 1 + 1e-4
        assert all(len(set(row)) == len(row) for row in result.spots.tolist())
        assert result.spots.min() >= 0 and result.spots.max() < SIDE**2
        assert result.probabilities[result.spots == EMPTY].max(initial=0.0) < 1e-6
        assert result.position.min() > 0 and result.position.max() < SIDE * PITCH
        assert (result.sd >= 0).all() and result.sd.max() < SIDE * PITCH
        assert (result.confidence >= 0).all() and (result.confidence <= 1).all()
        assert not result.section.any() and result.converged.dtype == bool
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((result, member.history)))


def test_cells_lie_nearer_to_their_places_than_their_types_do(case: Case) -> None:
    """Against the mean place of the cells of the type, an oracle of what the type alone says."""
    for member, (_, reference, truth) in zip(case.once(), case.tissues, strict=True):
        mean = np.stack([truth[reference.types == kind].mean(0) for kind in range(TYPES)])[reference.types]
        null = float(np.median(np.linalg.norm(mean - truth, axis=1)))
        assert misses(member.result, truth) < FLOORS.get(case.name, FLOOR) * null


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
    for position, (members, listed) in enumerate(zip(case.members(), case.once(), strict=True)):
        alone = fit(
            method.algorithm, jax.random.fold_in(key, position), method.prepare(*members), max_steps=case.budget
        )
        assert same_bits(method.finish(alone.result, *members), listed.result)
        assert alone.steps == listed.steps


def test_permuting_the_spots_permutes_the_result(case: Case) -> None:
    """The order of the spots carries no meaning."""
    spots, reference, _ = case.tissues[0]
    order = np.random.default_rng(5).permutation(SIDE**2)
    permuted = case.run([(SpotTable(spots.counts[order], spots.xy[order]), reference)])[0].result
    first = case.once()[0].result
    np.testing.assert_allclose(permuted.position, first.position, atol=CLOSE * PITCH)
    np.testing.assert_allclose(permuted.probabilities, first.probabilities, atol=CLOSE)
    clear = np.asarray(first.probabilities)[:, 0] - np.asarray(first.probabilities)[:, 1] > 2 * CLOSE
    assert clear.any()
    assert np.array_equal(order[np.asarray(permuted.spots)[clear, 0]], np.asarray(first.spots)[clear, 0])


def test_an_interrupted_run_resumes_to_the_same_bits(case: Case, tmp_path: Any) -> None:
    """Stopped after its first chunk and taken up again, a run ends as if never stopped."""
    method, members = case.method, case.members()[0]
    data, key = method.prepare(*members), jax.random.fold_in(jax.random.key(7), 0)
    options = {"max_steps": case.budget, "checkpoint": tmp_path / "run"}
    reports: list[int] = []

    def stop(report: Any) -> None:
        reports.append(report.steps)
        if report.steps > 0 or len(reports) > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(method.algorithm, key, data, chunk=1, progress=stop, **options)
    resumed = fit(method.algorithm, key, data, chunk=200, **options)
    whole = case.once()[0]
    assert resumed.steps == whole.steps and resumed.status == whole.status
    assert same_bits(method.finish(resumed.result, *members), whole.result)


def test_the_tissues_suit_the_contract(tissues: Any) -> None:
    """Every type is there, and the places of the reference fill the tissue."""
    for spots, reference, truth in tissues:
        assert spots.shape == (SIDE**2, GENES) and reference.counts.shape == (TYPES * CELLS, GENES)
        assert np.ptp(truth, axis=0).min() > 0.9 * SIDE * PITCH
        assert not spots.counts[EMPTY].count_nonzero()
