"""``tl.deconvolve`` and the command: a known composition is found, rows stay, and bad input is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
from typer.testing import CliRunner

import spatialjax as sj
from spatialjax.checks import InputError
from spatialjax.cli import app

TYPES = ["B/plasma", "T cells", "stroma", "Über-Zelle <1>"]
GENES = 60


def tissue(seed: int = 0, *, spots: int = 70, cells: int = 40) -> tuple[anndata.AnnData, anndata.AnnData, np.ndarray]:
    """Spots that are sums of Poisson cells of four types, a reference of other cells, and the true proportions."""
    rng = np.random.default_rng(seed)
    mean = rng.gamma(0.4, 3.0, (4, GENES)) + 0.02
    types = np.repeat(np.arange(4), cells)
    reference = anndata.AnnData(sp.csr_matrix(rng.poisson(mean[types]).astype(np.float32)))
    reference.obs["kind"] = np.array(TYPES)[types]
    number = rng.multinomial(rng.integers(3, 12, spots), rng.dirichlet(np.full(4, 0.5), spots))
    adata = anndata.AnnData(sp.csr_matrix(rng.poisson(number @ mean).astype(np.float32)))
    adata.obsm["spatial"] = rng.uniform(0, 1000, (spots, 2))
    adata.obs["nuclei"] = number.sum(1)
    adata.obs_names = [f"spot{i}" for i in range(spots)]
    adata.var_names = reference.var_names = [f"Gene{i}" for i in range(GENES)]
    return adata, reference, number / number.sum(1, keepdims=True)


@pytest.fixture(scope="module")
def made() -> tuple[anndata.AnnData, anndata.AnnData, np.ndarray]:
    return tissue()


@pytest.fixture(scope="module")
def found(made: Any) -> Any:
    """One run that most tests look at."""
    return sj.tl.deconvolve(made[0], made[1], cell_type_key="kind", progress=False)


def test_a_known_composition_is_found(made: Any, found: Any) -> None:
    """Close to the truth, and closer than one composition for all spots."""
    truth = made[2]
    error = np.sqrt(np.mean((found.proportions.to_numpy() - truth) ** 2))
    null = np.sqrt(np.mean((truth.mean(0) - truth) ** 2))
    assert error < 0.1 < 0.3 * null + 0.05
    np.testing.assert_allclose(found.proportions.sum(1), 1.0, atol=1e-4)
    assert found.converged
    cells = found.abundance.sum(1).to_numpy()
    assert 0.8 < np.median(cells / made[0].obs["nuclei"].to_numpy()) < 1.25


def test_intervals_hold_the_truth_of_what_is_there(made: Any, found: Any) -> None:
    """About nine of ten, ends in order, and presence is a probability that tells there from not there."""
    truth = made[2]
    low, high = found.q05.to_numpy(), found.q95.to_numpy()
    assert (low >= 0).all() and (high <= 1).all() and (low <= high).all()
    there = truth > 0
    assert 0.75 <= np.mean((low <= truth)[there] & (truth <= high)[there]) <= 1.0
    presence = found.presence.to_numpy()
    assert presence[there].mean() > presence[~there].mean() + 0.3
    assert (found.sd.to_numpy() > 0).all()


def test_the_copy_holds_the_tables_and_can_be_written(made: Any, found: Any, tmp_path: Path) -> None:
    """One row a spot in input order, names of types that a file can hold, and the input as it was."""
    adata = found.adata
    assert "proportions" not in made[0].obsm
    assert list(adata.obs_names) == list(made[0].obs_names)
    beside = [f"proportions_{name}" for name in ("sd", "q05", "q95", "presence")]
    for key in ("proportions", *beside, "abundance"):
        assert list(adata.obsm[key].index) == list(adata.obs_names)
        assert list(adata.obsm[key].columns) == [name.replace("/", "|") for name in sorted(TYPES)]
    assert list(adata.uns["proportions"]["types"]) == sorted(TYPES)
    adata.write_h5ad(tmp_path / "out.h5ad")
    again = anndata.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(again.obsm["proportions"].to_numpy(), found.proportions.to_numpy())
    assert again.uns["proportions"]["method"] == "spike_slab"


def test_the_order_of_the_spots_carries_no_meaning(made: Any, found: Any) -> None:
    """Permuted spots get the same bits, and the same seed the same result."""
    order = np.random.default_rng(1).permutation(made[0].n_obs)
    again = sj.tl.deconvolve(made[0][order], made[1], cell_type_key="kind", progress=False)
    np.testing.assert_array_equal(again.proportions.to_numpy(), found.proportions.to_numpy()[order])
    np.testing.assert_array_equal(again.q95.to_numpy(), found.q95.to_numpy()[order])


def test_a_spot_without_counts_keeps_its_row(made: Any) -> None:
    """NaN, abundance 0 and a word; the other rows are as ever."""
    adata = made[0].copy()
    adata.X = sp.diags((np.arange(adata.n_obs) != 3).astype(np.float32)).tocsr() @ adata.X
    for uncertainty in (True, False):
        found = sj.tl.deconvolve(adata, made[1], cell_type_key="kind", uncertainty=uncertainty, progress=False)
        assert found.proportions.iloc[3].isna().all() and (found.abundance.iloc[3] == 0).all()
        assert not found.proportions.drop(index="spot3").isna().any().any()
        assert any("1 spots have no count" in message for message in found.messages)
        assert (found.sd is None) == (not uncertainty)


def test_known_numbers_of_cells_are_what_abundances_count(made: Any) -> None:
    """By a column, or one number for all."""
    found = sj.tl.deconvolve(made[0], made[1], cell_type_key="kind", n_cells="nuclei", progress=False)
    np.testing.assert_allclose(found.abundance.sum(1), made[0].obs["nuclei"], rtol=1e-4)
    one = sj.tl.deconvolve(made[0], made[1], cell_type_key="kind", n_cells=8, uncertainty=False, progress=False)
    np.testing.assert_allclose(one.abundance.sum(1), 8.0, rtol=1e-4)


def test_genes_are_matched_by_what_there_is(made: Any, found: Any) -> None:
    """A column of var, or names without version suffixes; the message says which."""
    reference = made[1].copy()
    reference.var["symbol"] = reference.var_names.to_numpy()
    reference.var_names = [f"ENSMUSG{i:011d}" for i in range(GENES)]
    by_column = sj.tl.deconvolve(made[0], reference, cell_type_key="kind", progress=False)
    assert any("var['symbol'] of the reference" in message for message in by_column.messages)
    np.testing.assert_allclose(by_column.proportions, found.proportions, atol=1e-6)
    both = [a.copy() for a in made[:2]]
    both[0].var_names = [f"ENSG{i:011d}.{i % 7}" for i in range(GENES)]
    both[1].var_names = [f"ENSG{i:011d}" for i in range(GENES)]
    bare = sj.tl.deconvolve(*both, cell_type_key="kind", uncertainty=False, progress=False)
    assert any("without version suffixes" in message for message in bare.messages)


def human(made: Any) -> tuple[Any, Any]:
    reference = made[1].copy()
    reference.var_names = [name.upper() for name in reference.var_names]
    return made[0], reference


def logged(made: Any) -> tuple[Any, Any]:
    adata = made[0].copy()
    adata.layers["raw"], adata.X = adata.X.copy(), np.log1p(adata.X)
    return adata, made[1]


def logged_reference(made: Any) -> tuple[Any, Any]:
    reference = made[1].copy()
    reference.layers["umi"], reference.X = reference.X.copy(), np.log1p(reference.X)
    return made[0], reference


def named(*names: Any) -> Any:
    def change(made: Any) -> tuple[Any, Any]:
        reference = made[1].copy()
        column = reference.obs["kind"].astype(object)
        for i, name in enumerate(names):
            column.iloc[i] = name
        reference.obs["kind"] = column
        return made[0], reference

    return change


def other_genes(made: Any) -> tuple[Any, Any]:
    reference = made[1].copy()
    reference.var_names = [f"other{i}" for i in range(GENES)]
    return made[0], reference


def empty_spots(made: Any) -> tuple[Any, Any]:
    adata = made[0].copy()
    adata.X = sp.csr_matrix(adata.shape, dtype=np.float32)
    return adata, made[1]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (human, {}, "mouse.*human.*ortholog"),
        (logged, {}, r"look log-transformed\. Layer 'raw' holds counts: give layer='raw' \(--layer raw\)"),
        (
            logged_reference,
            {},
            r"reference.*give reference_layer='umi' \(--reference-layer umi\)",
        ),
        (named("T  cells"), {}, "'T  cells' and 'T cells', which differ in spaces alone|'T cells' and 'T  cells'"),
        (named(1, "1"), {}, "found '1' as .* and as"),
        (other_genes, {}, "Expected at least 10 genes"),
        (empty_spots, {}, "found none in the genes that they share"),
        (lambda m: m[:2], {"cell_type_key": "kinds"}, "Did you mean 'kind'"),
        (lambda m: m[:2], {"method": "spike_slap"}, "Did you mean 'spike_slab'"),
        (lambda m: m[:2], {"n_cells": "cells"}, "column of obs or a number"),
        (lambda m: m[:2], {"n_cells": -3}, "at least 0 for n_cells"),
        (lambda m: m[:2], {"layer": "counts"}, "Expected layer 'counts'"),
        (lambda m: m[:2], {"slice_key": "section"}, "slice_key='section'"),
        (lambda m: m[:2], {"batch_key": "donor"}, "batch_key='donor' for method 'spike_slab', which does not use"),
        (
            lambda m: m[:2],
            {"batch_key": "donor", "method": "nnls", "method_options": {"weighted": True}},
            "batch_key='donor' to be a column",
        ),
        (lambda m: m[:2], {"method_options": {"tau": 1}}, "found 'tau'"),
        (lambda m: m[:2], {"resume": True}, "Give checkpoint="),
        (lambda m: (m[0], m[1][:0]), {}, "Expected rows in the reference"),
        (lambda m: (m[0], m[1][:40]), {}, "at least two cell types"),
        (lambda m: (m[0].X, m[1]), {}, "Expected an AnnData for the spots"),
    ],
)
def test_bad_input_is_one_message(made: Any, change: Any, options: dict[str, Any], message: str) -> None:
    """What was expected, what was found, how to mend it; before any work."""
    adata, reference = change(made)
    before = None if not hasattr(adata, "obsm") else list(adata.obsm)
    with pytest.raises(InputError, match=message):
        sj.tl.deconvolve(adata, reference, **{"cell_type_key": "kind", "progress": False, **options})
    assert before is None or list(adata.obsm) == before


def test_doubtful_references_are_warned_of(made: Any) -> None:
    """A type with one cell, a type without a marker, cells without a type: a word each, and a result."""
    reference = made[1].copy()
    kinds = reference.obs["kind"].astype(object)
    kinds.iloc[0], kinds.iloc[1], kinds.iloc[2] = "lonely", None, " "
    kinds[kinds == "stroma"] = np.where(np.arange(40) % 2, "stroma", "stroma two")
    reference.obs["kind"] = kinds
    found = sj.tl.deconvolve(made[0], reference, cell_type_key="kind", progress=False)
    said = "\n".join(found.messages)
    assert "'lonely' (1)" in said
    assert "2 cells of the reference have no type" in said
    assert "'stroma', 'stroma two'" in said and "hard to tell apart" in said
    assert np.isfinite(found.proportions.to_numpy()).all()


def test_an_interrupted_run_goes_on_to_the_same_bits(made: Any, found: Any, tmp_path: Path) -> None:
    """Stopped on its way and taken up with resume."""

    def stop(event: Any) -> None:
        if event.step == "composition" and "spots" in event.message and event.message[0].isdigit():
            raise KeyboardInterrupt

    options = {"cell_type_key": "kind", "checkpoint": tmp_path / "kept"}
    with pytest.raises(KeyboardInterrupt):
        sj.tl.deconvolve(made[0], made[1], progress=stop, **options)
    again = sj.tl.deconvolve(made[0], made[1], progress=False, resume=True, **options)
    np.testing.assert_array_equal(again.proportions.to_numpy(), found.proportions.to_numpy())
    np.testing.assert_array_equal(again.q95.to_numpy(), found.q95.to_numpy())


@pytest.fixture(scope="module")
def files(made: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deconvolution")
    made[0].write_h5ad(folder / "st.h5ad")
    made[1].write_h5ad(folder / "sc.h5ad")
    return folder


def test_the_command_writes_one_file(files: Path, found: Any) -> None:
    """The same tables as the function; a second run is refused, bad input leaves nothing."""
    words = ["deconvolve", str(files / "st.h5ad"), "--reference", str(files / "sc.h5ad"), "--cell-type-key", "kind"]
    out = files / "out.h5ad"
    done = CliRunner().invoke(app, [*words, "--out", str(out)])
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(anndata.read_h5ad(out).obsm["proportions"].to_numpy(), found.proportions.to_numpy())
    again = CliRunner().invoke(app, [*words, "--out", str(out)])
    assert again.exit_code == 2 and "--overwrite" in again.output
    bad = CliRunner().invoke(app, [*words[:-1], "none", "--out", str(files / "bad.h5ad")])
    assert bad.exit_code == 2 and not (files / "bad.h5ad").exists()
    numbers = CliRunner().invoke(app, [*words, "--n-cells", "8", "--no-uncertainty", "--out", str(files / "few.h5ad")])
    assert numbers.exit_code == 0
    few = anndata.read_h5ad(files / "few.h5ad")
    np.testing.assert_allclose(few.obsm["abundance"].sum(1), 8.0, rtol=1e-4)
    assert "proportions_q05" not in few.obsm


def test_the_picture_has_a_panel_for_each_type_and_section(made: Any, found: Any) -> None:
    """The named types, or the most frequent ones; grey where a spot has no counts; what is missing is named."""
    adata = found.adata.copy()
    adata.obs["part"] = np.where(np.arange(adata.n_obs) % 2, "a", "b")
    adata.obsm["proportions"].iloc[0] = np.nan
    figure = sj.pl.composition(adata, types=["T cells", "B/plasma"], slice_key="part", show="mean")
    titles = [panel.get_title(loc="left") for panel in figure.axes[:4]]
    assert titles == ["b T cells", "b B/plasma", "a T cells", "a B/plasma"]
    stored = sj.pl.composition(adata, types=["B|plasma"])
    assert stored.axes[0].get_title(loc="left") == "B/plasma"
    assert len(sj.pl.composition(adata, show="presence").axes) == len(TYPES) + 1
    for options, message in (
        ({"types": ["none"]}, "Expected types among"),
        ({"show": "median"}, "Expected show="),
        ({"key": "other"}, r"obsm\['other'\]"),
        ({"slice_key": "section"}, r"obs\['section'\]"),
    ):
        with pytest.raises(InputError, match=message):
            sj.pl.composition(adata, **options)


def test_the_picture_of_the_calibration_shows_coverage_and_reliability(made: Any, found: Any) -> None:
    """Two panels; the coverage of all bins together is that of the intervals."""
    import pandas as pd

    truth = pd.DataFrame(made[2], index=found.proportions.index, columns=found.proportions.columns)
    figure = sj.pl.composition_calibration(found.adata, truth, bins=4)
    drawn = figure.axes[0].lines[1].get_ydata()
    there = made[2] > 0
    inside = (found.q05.to_numpy() <= made[2]) & (made[2] <= found.q95.to_numpy())
    assert abs(np.mean(drawn) - inside[there].mean()) < 0.02
    given = sj.pl.composition_calibration(found.adata, truth.rename(columns={"B|plasma": "B/plasma"}), bins=4)
    np.testing.assert_array_equal(given.axes[0].lines[1].get_ydata(), drawn)
    with pytest.raises(InputError, match="types"):
        sj.pl.composition_calibration(found.adata, truth.rename(columns={"stroma": "other"}))
