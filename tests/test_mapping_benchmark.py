"""The benchmark of the places of cells: no cell is on both sides, places belong to their cells, what scores say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    """The benchmark as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location("mapping_benchmark", BENCHMARKS / "mapping.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["mapping_benchmark"] = module
        spec.loader.exec_module(module)
        yield module
        del sys.modules["mapping_benchmark"]


@pytest.fixture(scope="module")
def made(benchmark: Any) -> Any:
    """100 cells with one count of a gene of their own, in two types and one that is too rare."""
    rng = np.random.default_rng(0)
    adata = anndata.AnnData(sp.eye(100, format="csr", dtype=np.float32))
    adata.obsm["spatial"] = rng.uniform(0, 1000, (100, 2))
    types = np.array(["a", "b"])[np.arange(100) % 2]
    types[:3] = "rare"
    return adata, types, benchmark.halved("traced", adata, types=types, side=250.0)


def test_halves_share_no_cell_and_places_belong_to_their_cells(made: Any) -> None:
    """Each cell is one gene: its row in the reference, or its count in the spot that it lies in."""
    adata, types, placed = made
    own = np.asarray(placed.reference.X.argmax(1)).ravel()
    np.testing.assert_allclose(placed.truth, adata.obsm["spatial"][own])
    assert list(placed.reference.obs["cell_type"]) == list(types[own]) and "rare" not in types[own]
    seen = placed.spots.X.tocoo()
    assert not set(seen.col) & set(own) and len(set(seen.col)) + len(own) == 97
    off = adata.obsm["spatial"][seen.col] - placed.spots.obsm["spatial"][seen.row]
    assert np.abs(off).max() <= 125.0 + 1e-6


def test_scores_of_a_perfect_map_and_of_none(benchmark: Any, made: Any) -> None:
    """The nearest spot with certainty, and all spots alike."""
    placed = made[2]
    places = placed.spots.obsm["spatial"]
    near = np.linalg.norm(places[None] - placed.truth[:, None], axis=2).argmin(1)
    best = np.eye(len(places))[near]
    sure = benchmark.scores(placed, best, best @ places, np.ones(len(near)))
    assert sure["true first"] == sure["90 % set"] == 1.0 and sure["log p"] == 0.0
    assert sure["expected"] == sure["top"] < 0.71 and sure["share of spots"] == pytest.approx(1 / len(places))
    shares, position, confidence, cost = benchmark.probabilities(placed, benchmark.NULL)
    none = benchmark.scores(placed, shares, position, confidence)
    assert none["log p"] == pytest.approx(-np.log(len(places))) and cost == {}
    assert none["expected"] > sure["expected"] and none["share of spots"] > 0.85


def test_the_set_with_most_of_the_probability_is_the_smallest(benchmark: Any, made: Any) -> None:
    """Three spots of .5, .3 and .2: all three are needed for nine tenths."""
    placed = made[2]
    shares = np.zeros((len(placed.truth), placed.spots.n_obs))
    shares[:, :3] = (0.5, 0.3, 0.2)
    found = benchmark.scores(placed, shares, placed.truth, np.ones(len(shares)))
    assert found["share of spots"] == pytest.approx(3 / placed.spots.n_obs) and found["expected"] == 0.0
