"""The sets of the deconvolution benchmark are what they say: spots are sums of the cells that the truth counts.

None of these cells is in the reference, and simulated counts have the stated means.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
REAL = (
    *("seqfishplus", "merfish", "embryo", "starmap", "mob", "mob_platform", "mob_dominant", "mob_dominant_rare"),
    *(
        "mob_uniform_distinct",
        "pdac",
        "pdac_platform",
        "pdac_dominant_rare",
        "pdac_regional_rare",
        "pdac_missing_types",
    ),
)


def load(name: str) -> Any:
    """A module of the benchmarks by its file."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sets() -> Any:
    """The sets as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield load("deconvolution_sets")


@pytest.fixture(scope="module")
def harness(sets: Any) -> Any:
    """The benchmark as a module."""
    return load("deconvolution")


@pytest.fixture
def traced() -> Any:
    """90 cells of three types, and one of a fourth; each cell shows one count of a gene that is its own."""
    adata = anndata.AnnData(sp.eye(91, format="csr", dtype=np.float32))
    adata.var_names = [f"of cell {i}" for i in range(91)]
    adata.obs["kind"] = [*np.repeat(["a", "b", "c"], 30), "alone"]
    adata.obsm["spatial"] = np.random.default_rng(0).uniform(0, 300, (91, 2))
    return adata


def cells_in(counts: Any, adata: Any, columns: Any) -> np.ndarray:
    """Number of cells of each type that rows of traced counts are made of."""
    return counts @ np.asarray(adata.obs["kind"].to_numpy()[:, None] == np.asarray(columns)[None, :], float)


def shown(adata: Any) -> np.ndarray:
    """Genes with any count: in traced data, cells that are in it."""
    return np.flatnonzero(np.asarray(adata.X.sum(0)).ravel())


def test_bins_are_sums_of_the_cells_that_the_truth_counts_and_of_none_in_the_reference(sets: Any, traced: Any) -> None:
    """Every binned cell of a known type is in one spot, once; the type that the reference lacks is in none."""
    one = np.arange(91) % 2 == 0
    made = sets.binned("bins", traced, types=traced.obs["kind"], spots=one, side=60.0)
    np.testing.assert_array_equal(cells_in(made.spots.X, traced, made.cells.columns), made.cells.to_numpy())
    assert sorted(shown(made.spots)) == [i for i in range(90) if one[i]]
    assert sorted(shown(made.reference)) == [i for i in range(90) if not one[i]]
    np.testing.assert_allclose(made.truth.sum(1), 1.0)
    assert list(made.truth.columns) == ["a", "b", "c"]


@pytest.mark.parametrize("pattern", ["diverse_overlap", "dominant_rare", "regional_rare"])
def test_synthetic_spots_are_sums_of_cells_that_are_not_in_the_reference(sets: Any, traced: Any, pattern: str) -> None:
    """Counts of each spot are the cells of the truth; half of each type is held out; other seeds, other cells."""
    made, other = (
        sets.synthetic("tissue", traced, types=traced.obs["kind"], pattern=pattern, seed=seed) for seed in (0, 1)
    )
    np.testing.assert_array_equal(cells_in(made.spots.X, traced, made.cells.columns), made.cells.to_numpy())
    assert not set(shown(made.spots)) & set(shown(made.reference))
    assert made.reference.obs["cell_type"].value_counts().to_dict() == {"a": 15, "b": 15, "c": 15}
    np.testing.assert_allclose(made.truth.sum(1), 1.0)
    assert len(np.unique(made.spots.obsm["spatial"], axis=0)) == made.spots.n_obs
    assert set(shown(made.reference)) != set(shown(other.reference))


def test_a_platform_effect_scales_genes_and_leaves_the_truth(sets: Any) -> None:
    """Total counts of the genes change by factors of the stated spread, the cells of the spots do not."""
    rng = np.random.default_rng(0)
    adata = anndata.AnnData(sp.csr_matrix(rng.poisson(5.0, (60, 200)).astype(np.float32)))
    kinds = np.repeat(["a", "b"], 30)
    plain, scaled = (
        sets.synthetic("tissue", adata, types=kinds, pattern="uniform_distinct", platform=p) for p in (0.0, 0.5)
    )
    pd.testing.assert_frame_equal(plain.cells, scaled.cells)
    ratio = np.log(np.asarray(scaled.spots.X.sum(0)) / np.asarray(plain.spots.X.sum(0)))
    assert 0.4 < ratio.std() < 0.6


def test_a_type_that_the_reference_lacks_is_refused(sets: Any) -> None:
    """Its counts would be in the spots and its cells not in the truth."""
    reference = sets._reference(sp.eye(4, format="csr"), ["a", "a", "b", "b"], list("wxyz"))
    cells = pd.DataFrame({"a": [1], "b": [0], "c": [1]})
    with pytest.raises(ValueError, match=r"found others in 'spots': \['c'\]"):
        sets._composed("spots", counts=np.ones((1, 4)), xy=[[0, 0]], cells=cells, reference=reference, held_out=True)


def test_rehearsed_spots_are_of_one_half_of_the_reference(sets: Any, traced: Any, key: Any) -> None:
    """Compositions follow the given ones, cells are of the half that does not judge, counts of the asked depth."""
    reference = traced[:90].copy()
    reference.obs["cell_type"] = reference.obs["kind"]
    spots = anndata.AnnData(sp.csr_matrix(np.full((5, 91), 1.0, np.float32))[:, :90])
    abundance = pd.DataFrame({"a": [6.0] * 5, "b": [2.0] * 5, "c": [0.0] * 5})
    made = sets.rehearsed(key, spots, reference, abundance=abundance, number=50)
    assert not set(shown(made.spots)) & set(shown(made.reference))
    np.testing.assert_allclose(made.truth.mean(), [0.75, 0.25, 0.0], atol=0.02)


def test_simulated_counts_have_the_stated_means_and_density(sets: Any, key: Any) -> None:
    """Sums over many spots are cells × profile × depth, within six standard deviations of a Poisson sum."""
    known = sets.profiles(key, genes=500, types=3)
    cells = np.tile([[2, 3, 3]], (4000, 1))
    counts = sets.poisson_counts(key, cells, known)
    profile = np.diff(known.cumulative, axis=1, prepend=0.0)
    expected = 4000 * known.depth * (np.array([2, 3, 3]) @ profile)
    found = np.asarray(counts.sum(0)).ravel()
    assert np.abs(found - expected).max() < 6 * np.sqrt(expected.max()) and found.sum() > 0
    assert (np.abs(found - expected) <= 6 * np.sqrt(expected) + 6).all()
    assert 0.06 < counts.nnz / np.prod(counts.shape) < 0.1


def test_a_file_written_in_blocks_is_one_table(sets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All spots in order over the border of blocks, whole counts, and more of a type's counts where more of it is."""
    monkeypatch.setattr(sets, "BLOCK", 70)
    reference, truth = sets.write_simulated(tmp_path / "spots.h5ad", 200, 300, 3)
    spots = anndata.read_h5ad(tmp_path / "spots.h5ad", backed="r").to_memory()
    assert spots.shape == (200, 300) and list(spots.obs_names) == list(truth.index)
    assert (spots.X.data == np.round(spots.X.data)).all() and list(spots.var_names) == list(reference.var_names)
    kinds = reference.obs["cell_type"].to_numpy()
    means = np.stack([np.asarray(reference.X[kinds == kind].mean(0)).ravel() for kind in truth.columns])
    fit = np.linalg.lstsq(means.T, spots.X.toarray().T, rcond=None)[0].T
    assert np.corrcoef(fit.ravel(), truth.to_numpy().ravel())[0, 1] > 0.7


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
def test_real_sets_have_a_truth_for_every_spot(sets: Any, data_path: Path, name: str) -> None:
    """Shares sum to 1, types are those of the reference, counts are whole, and none of the spots' cells is left in."""
    made = sets.SETS[name](0)
    np.testing.assert_allclose(made.truth.sum(1), 1.0)
    assert list(made.truth.columns) == sorted(made.reference.obs["cell_type"].unique())
    assert list(made.truth.index) == list(made.spots.obs_names)
    assert list(made.spots.var_names) == list(made.reference.var_names)
    assert (made.cells.to_numpy() == np.round(made.cells.to_numpy())).all() and (made.cells.sum(1) > 0).all()
    for part in (made.spots, made.reference):
        assert (part.X.data == np.round(part.X.data)).all() and (part.X.data > 0).all()
        assert (np.asarray(part.X.sum(1)) > 0).any()
    assert made.held_out == (name != "seqfishplus")


@pytest.mark.real
def test_every_named_set_is_looked_at(sets: Any) -> None:
    """The list of this file is that of the benchmark."""
    assert set(REAL) == set(sets.SETS)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("merfish", "merfish_hypothalamus/animal1_4slices.h5ad"),
        ("embryo", "seqfish_mouse_embryo/embryo2_full.h5ad"),
        ("starmap", "starmap_mpfc/mpfc_BZ5_BZ9.h5ad"),
    ],
)
def test_binned_cells_are_not_in_the_reference(sets: Any, data_path: Path, name: str, file: str) -> None:
    """Cells and counts of both parts together are no more than there are in the file."""
    made, whole = sets.SETS[name](0), anndata.read_h5ad(data_path / file)
    assert made.cells.to_numpy().sum() + made.reference.n_obs <= whole.n_obs
    assert made.spots.X.sum() + made.reference.X.sum() <= whole.X.sum()


@pytest.mark.real
def test_the_counts_of_seqfishplus_are_those_of_its_truth(sets: Any, data_path: Path) -> None:
    """The truth of a spot explains its counts better than that of a spot of another field, in nearly every spot."""
    made = sets.SETS["seqfishplus"](0)
    kinds = made.reference.obs["cell_type"].to_numpy()
    means = np.stack([np.asarray(made.reference.X[kinds == kind].mean(0)).ravel() for kind in made.cells.columns])
    counts = made.spots.X.toarray()

    def misfit(cells: np.ndarray) -> np.ndarray:
        expected = cells @ means
        expected = expected / expected.sum(1, keepdims=True) * counts.sum(1, keepdims=True)
        return ((np.sqrt(counts) - np.sqrt(expected)) ** 2).sum(1)

    cells = made.cells.to_numpy(float)
    assert (misfit(cells) < misfit(np.roll(cells, 30, axis=0))).mean() > 0.95


def test_shares_of_counts_become_shares_of_cells(harness: Any) -> None:
    """Half of the counts from a type whose cells are three times as deep is a quarter of the cells."""
    reference = anndata.AnnData(sp.csr_matrix([[3.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))
    reference.obs["cell_type"] = ["deep", "deep", "flat", "flat"]
    truth = pd.DataFrame({"deep": [0.25], "flat": [0.75]})
    made = harness.argparse.Namespace(reference=reference, truth=truth)
    found = harness.in_cells(np.array([[0.5, 0.5]]), made)
    np.testing.assert_allclose(found / found.sum(), truth)
    scores = harness.plain_scores(np.array([[np.nan, np.nan]]), made)
    assert scores["spots left out"] == 1 and scores["rmse"] == pytest.approx(0.25)


def test_the_score_of_a_constant_width_punishes_misses(harness: Any) -> None:
    """Twenty times what is missed is added to the width, which ends at 0 and 1."""
    assert harness.constant_score(np.array([0.5]), np.array([0.55]), 0.1) == pytest.approx(0.2)
    assert harness.constant_score(np.array([0.5]), np.array([0.65]), 0.1) == pytest.approx(0.2 + 20 * 0.05)
    assert harness.constant_score(np.array([0.95]), np.array([1.0]), 0.1) == pytest.approx(0.15)


def test_rows_of_several_seeds_are_means_and_a_failure_stays(harness: Any) -> None:
    """Numbers are averaged at every depth; a run that was stopped is not averaged away."""
    rows = [{"status": "finished", "pearson": p, "interval": {"width": p}} for p in (0.8, 0.9)]
    found = harness.averaged(rows)
    assert found["pearson"] == pytest.approx(0.85) and found["interval"]["width"] == pytest.approx(0.85)
    assert harness.averaged([rows[0], {"status": "stopped after 600 s"}])["status"] == "stopped after 600 s"
