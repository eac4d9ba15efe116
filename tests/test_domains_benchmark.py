"""The benchmark of domains: a table that is measured in parts keeps what was measured before, and nothing twice."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The benchmark as a module, writing to an empty folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("domains_benchmark", BENCHMARKS / "domains.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.record, "RESULTS", tmp_path)
    return module


def test_measuring_in_parts_replaces_only_the_rows_measured_again(benchmark: Any) -> None:
    """Summaries are left out, for they are made anew; the commands of all parts stand beside the rows."""
    old = [
        {"set": "BZ5", "method": "auto", "ari": 0.1},
        {"set": "BZ5", "method": "kmeans", "ari": 0.2},
        {"set": "BZ9", "method": "auto", "ari": 0.3},
        {"summary": "mPFC", "method": "auto", "ari": 0.2},
    ]
    benchmark.record.write("parts", old, command="first && second", targets={})
    commands, kept = benchmark.earlier("parts", [{"set": "BZ5", "method": "auto", "ari": 0.9}])
    assert commands == ["first", "second"]
    assert kept == [old[1], old[2]]


def test_a_first_part_has_nothing_to_keep(benchmark: Any) -> None:
    """No results file, no rows, no commands."""
    assert benchmark.earlier("parts", []) == ([], [])


def test_confidence_is_scored_by_quartile_against_the_best_matching(benchmark: Any) -> None:
    """A partition with other names scores 1; where the least sure quarter of the spots is wrong, it alone scores 0."""
    from domain_sets import Labelled

    truth = np.repeat(["a", "b"], 8)
    data = Labelled("made", "made", None, truth, None, np.full(16, "made"))
    labels, confidence = np.repeat([1, 0], 8), np.ones(16)
    perfect = benchmark.score(data, labels, confidence)
    assert np.isnan(perfect.pop("right is surer"))
    assert perfect == {"ari": 1.0, "accuracy by confidence": [1.0] * 4}
    labels[[0, 1, 8, 9]] = 1 - labels[[0, 1, 8, 9]]
    confidence[[0, 1, 8, 9]] = 0.1
    scores = benchmark.score(data, labels, confidence)
    assert scores["accuracy by confidence"] == [0.0, 1.0, 1.0, 1.0] and scores["right is surer"] == 1.0
    assert benchmark.score(data, labels, np.ones(16))["right is surer"] == 0.5
