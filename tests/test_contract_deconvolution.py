"""One contract for every method that finds the composition of spots, checked on shared compiled runs.

A new method is tested by being in the table; its recovery floor stands in ``FLOORS`` where the general one is too high.
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
from spatialjax.composition import summed_cells, tilewise
from spatialjax.methods import CARDS, METHODS
from spatialjax.methods.card import run
from spatialjax.metrics.composition import composition_scores
from spatialjax.results import Proportions
from spatialjax.tables import Reference, SpotTable

NAMES = sorted(METHODS["deconvolution"])
SPOTS, GENES, TYPES, CELLS = 80, 60, 4, 30
#: The spot without a count.
EMPTY = 17
#: Options that make a run short.
OPTIONS: dict[str, dict[str, Any]] = {
    "cell2location": {"groups": 6, "draws": 50},
    "celldart": {"genes": 15, "cells": 6, "pseudo_spots": 2000, "widths": (64, 32), "batch": 128},
    "destvi": {"genes": 60, "widths": (48,), "components": 4},
    "spike_slab": {"pseudo_spots": 80, "draws": 40, "warmup": 20},
    "spoint": {"genes": 15, "pseudo_spots": 1000, "latent": 12, "width": 48, "dropout": 0.2, "batch": 64},
    "tangram": {"genes": 15},
}
#: Steps of a phase at the most, where the method takes many.
STEPS = {
    "cell2location": 150,
    "celldart": (1, 300, 1000),
    "destvi": (1, 200, 300),
    "spoint": (1, 250, 250),
    "tangram": 300,
}
#: Methods that choose markers and compile long: the second of two tissues with as many runs the programs of the first.
ALIKE = {"celldart", "spoint"}
#: Steps of a phase of those methods where runs are compared bit by bit, which does not hang on their length.
SHORT = 30
#: Least correlation of all shares with the truth.
FLOOR = 0.93
FLOORS = {
    "cell2location": 0.9,
    "card": 0.85,
    "celldart": 0.75,
    "destvi": 0.88,
    "spoint": 0.83,
    "tangram": 0.8,
    "stdeconvolve": 0.8,
}
#: How much of a proportion may hang on the order of the spots or on the tile; samplers draw by place.
CLOSE, NOISY = 5e-3, {"cell2location": 0.1, "spike_slab": 0.25}


@dataclass
class Case:
    """One method, two tissues, and the runs that its tests share."""

    name: str
    tissues: list[tuple[SpotTable, Reference, np.ndarray]]
    runs: dict[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> Any:
        return METHODS["deconvolution"][self.name](**OPTIONS.get(self.name, {}))

    @property
    def budget(self) -> Any:
        return min(self.method.max_steps, STEPS[self.name]) if self.name in STEPS else self.method.max_steps

    @property
    def short_budget(self) -> Any:
        """Few steps where a method takes many, else the budget."""
        if self.name not in STEPS:
            return self.budget
        return tuple(min(each, SHORT) for each in self.budget) if isinstance(self.budget, tuple) else SHORT

    @property
    def close(self) -> float:
        return NOISY.get(self.name, CLOSE)

    def run(self, members: Any, *, budget: Any = None, seed: int = 7) -> list[Any]:
        steps = self.budget if budget is None else budget
        return run(self.method, jax.random.key(seed), members, how="map", max_steps=steps)

    def members(self) -> list[tuple[SpotTable, Reference]]:
        return [tissue[:2] for tissue in self.tissues]

    def once(self) -> list[Any]:
        """The run that most properties are compared with: a list of two tissues, one after the other."""
        if "once" not in self.runs:
            self.runs["once"] = self.run(self.members())
        return self.runs["once"]

    def short(self) -> list[Any]:
        """The same list, with few steps where a method takes many."""
        if self.short_budget == self.budget:
            return self.once()
        if "short" not in self.runs:
            self.runs["short"] = self.run(self.members(), budget=self.short_budget)
        return self.runs["short"]


def tissue(seed: int) -> tuple[SpotTable, Reference, np.ndarray]:
    """Sums of cells of four types in two overlapping halves, one spot without a count, other cells as reference."""
    rng = np.random.default_rng(seed)
    means = rng.gamma(0.5, 3.0, (TYPES, GENES)) + 0.05
    types = np.repeat(np.arange(TYPES), CELLS)
    own, other = (rng.poisson(means[types] * rng.gamma(6.0, 1 / 6.0, (len(types), 1))) for _ in range(2))
    xy = np.stack(np.divmod(np.arange(SPOTS), 10), 1) * 100.0
    left = 1.0 / (1.0 + np.exp((xy[:, :1] - xy[:, 0].mean()) / 100.0))
    share = left * np.array([0.6, 0.3, 0.05, 0.05]) + (1 - left) * np.array([0.05, 0.05, 0.4, 0.5])
    cells = np.stack([rng.multinomial(rng.integers(4, 11), p / p.sum()) for p in share])
    cells[EMPTY] = 0
    made = summed_cells(jax.random.key(seed), sp.csr_matrix(own), types, cells=cells)
    reference = Reference(sp.csr_matrix(other, dtype=np.float32), types, [f"type {k}" for k in range(TYPES)])
    return SpotTable(made.counts, xy), reference, cells / np.maximum(cells.sum(1, keepdims=True), 1)


def reordered(spots: SpotTable, order: np.ndarray) -> SpotTable:
    return SpotTable(spots.counts[order], spots.xy[order])


def gap(a: Any, b: Any) -> float:
    """Largest difference of a proportion."""
    return float(np.nanmax(np.abs(np.asarray(a) - np.asarray(b))))


@pytest.fixture(scope="module")
def tissues() -> dict[str, list[Any]]:
    """Two of any kind, and two of which as many markers are kept."""
    return {"any": [tissue(1), tissue(2)], "alike": [tissue(10), tissue(24)]}


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest, tissues: Any) -> Case:
    """Each method of the table in turn."""
    return Case(request.param, tissues["alike" if request.param in ALIKE else "any"])


def test_the_factory_takes_keywords_only_and_is_cached(case: Case) -> None:
    """Equal options give the same object, so that a second call finds its compiled program."""
    factory = METHODS["deconvolution"][case.name]
    assert factory() is factory()
    with pytest.raises(TypeError):
        factory(1.0)


def test_the_card_tells_the_default_steps(case: Case) -> None:
    """What the table prints is what runs."""
    card = CARDS["deconvolution"][case.name]
    assert card.default_steps == METHODS["deconvolution"][case.name]().max_steps
    assert card.returns == "Proportions" and card.expects == "counts"


def test_rows_are_compositions(case: Case) -> None:
    """Shares of at least 0 that sum to 1, NaN in the spot without counts alone, abundances of at least 0."""
    for member in case.once():
        result = member.result
        assert isinstance(result, Proportions) and member.status in {"running", "done"}
        values, abundance = np.asarray(result.values), np.asarray(result.abundance)
        assert values.shape == abundance.shape == (SPOTS, TYPES)
        assert np.array_equal(np.isnan(values).all(1), np.arange(SPOTS) == EMPTY)
        rest = np.delete(values, EMPTY, 0)
        assert rest.min() >= 0
        np.testing.assert_allclose(rest.sum(1), 1.0, atol=1e-4)
        assert np.isfinite(abundance).all() and abundance.min() >= 0 and not abundance[EMPTY].any()
        assert np.asarray(result.converged).dtype == bool
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(member.history))


def test_simulated_truth_is_recovered(case: Case) -> None:
    """Above the floor of the method, and better than one composition for all spots."""
    for member, (_, _, truth) in zip(case.once(), case.tissues, strict=True):
        keep = np.arange(SPOTS) != EMPTY
        found = composition_scores(np.asarray(member.result.values)[keep], truth[keep])
        null = composition_scores(np.broadcast_to(truth[keep].mean(0), truth[keep].shape), truth[keep])
        assert found.pearson_all > FLOORS.get(case.name, FLOOR), found
        assert found.rmse < null.rmse


def test_the_same_key_gives_the_same_bits_and_compiles_nothing(case: Case, count_compilations: Any) -> None:
    """A second call of the same shapes runs the programs of the first."""
    first = case.short()
    with count_compilations() as compiled:
        second = case.run(case.members(), budget=case.short_budget)
    assert compiled() == 0, f"{compiled()} programs were compiled again"
    for a, b in zip(first, second, strict=True):
        assert same_bits(a.result, b.result)
        assert a.steps == b.steps and a.status == b.status
        assert same_bits(a.history, b.history)


def test_a_list_equals_a_loop(case: Case) -> None:
    """Members of a list run as each would alone with its own key."""
    method, key = case.method, jax.random.key(7)
    for position, (members, listed) in enumerate(zip(case.members(), case.short(), strict=True)):
        data = method.prepare(*members)
        alone = fit(method.algorithm, jax.random.fold_in(key, position), data, max_steps=case.short_budget)
        assert same_bits(method.finish(alone.result, *members), listed.result)
        assert alone.steps == listed.steps


def test_tiles_change_nothing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Smaller tiles, the last one not full, give the same composition."""
    first = case.once()[0].result
    monkeypatch.setattr(tilewise, "ROWS", 32)
    other = case.run(case.members()[:1])[0].result
    assert gap(first.values, other.values) < case.close


def test_permuting_the_spots_permutes_the_result(case: Case) -> None:
    """The order of the spots carries no meaning."""
    spots, reference, _ = case.tissues[0]
    order = np.random.default_rng(5).permutation(SPOTS)
    permuted = case.run([(reordered(spots, order), reference)])[0].result
    assert gap(np.asarray(case.once()[0].result.values)[order], permuted.values) < case.close


def test_an_interrupted_run_resumes_to_the_same_bits(case: Case, tmp_path: Any) -> None:
    """Stopped after its first chunk and taken up again, a run ends as if never stopped."""
    method, members = case.method, case.members()[0]
    data, key = method.prepare(*members), jax.random.fold_in(jax.random.key(7), 0)
    options = {"max_steps": case.short_budget, "checkpoint": tmp_path / "run"}
    reports: list[int] = []

    def stop(report: Any) -> None:
        reports.append(report.steps)
        if report.steps > 0 or len(reports) > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(method.algorithm, key, data, chunk=1, progress=stop, **options)
    resumed = fit(method.algorithm, key, data, chunk=200, **options)
    whole = case.short()[0]
    assert resumed.steps == whole.steps and resumed.status == whole.status
    assert same_bits(method.finish(resumed.result, *members), whole.result)
    assert same_bits(resumed.history, whole.history)


def test_the_tissues_suit_the_contract(tissues: Any) -> None:
    """Every type is somewhere and absent elsewhere, and spots differ."""
    for spots, reference, truth in (one for pair in tissues.values() for one in pair):
        assert spots.shape == (SPOTS, GENES) and reference.counts.shape == (TYPES * CELLS, GENES)
        assert ((truth > 0).any(0) & (truth == 0).any(0)).all()
        assert truth.std(0).min() > 0.1
