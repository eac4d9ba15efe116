"""``tl.map_cells`` and the command: cells are found where they were, rows stay, and bad input is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
from test_contract_mapping import CELLS, EMPTY, GENES, PITCH, SIDE, TYPES, tissue
from typer.testing import CliRunner

import spatialjax as sj
from spatialjax.checks import InputError
from spatialjax.cli import app


@pytest.fixture(scope="module")
def made() -> tuple[anndata.AnnData, anndata.AnnData, np.ndarray]:
    """Spots, cells and the places of the cells."""
    table, cells, truth = tissue(1)
    spots, reference = anndata.AnnData(table.counts), anndata.AnnData(cells.counts)
    spots.obsm["spatial"] = table.xy
    spots.obs_names = [f"spot{i}" for i in range(spots.n_obs)]
    reference.obs_names = [f"cell{i}" for i in range(reference.n_obs)]
    reference.obs["kind"] = np.array(cells.names)[cells.types]
    spots.var_names = reference.var_names = [f"Gene{i}" for i in range(GENES)]
    return spots, reference, truth


@pytest.fixture(scope="module")
def found(made: Any) -> Any:
    """One run that most tests look at."""
    return sj.tl.map_cells(made[0], made[1], cell_type_key="kind", progress=False)


def test_cells_are_found_where_they_were(made: Any, found: Any) -> None:
    """Nearer than the middle of their type; nearer where the confidence is high; spread and miss are alike in size."""
    miss = np.linalg.norm(found.position - made[2], axis=1)
    kind = made[1].obs["kind"].to_numpy()
    middle = np.stack([made[2][kind == k].mean(0) for k in kind])
    assert np.median(miss) < 0.6 * np.median(np.linalg.norm(middle - made[2], axis=1))
    sure = found.confidence > np.median(found.confidence)
    assert np.median(miss[sure]) < np.median(miss[~sure])
    assert 0.5 < np.sqrt(np.mean(miss**2)) / np.sqrt(np.mean(found.sd**2)) < 2.0


def test_the_copy_holds_the_places_and_can_be_written(made: Any, found: Any, tmp_path: Path) -> None:
    """Every key that the page of outputs names, in the order of the reference; the inputs as they were."""
    adata = found.adata
    assert "mapped_position" not in made[1].obsm and list(adata.obs_names) == list(made[1].obs_names)
    assert adata.obsm["mapped_spots"].shape == (TYPES * CELLS, SIDE**2) and sp.issparse(adata.obsm["mapped_spots"])
    assert np.diff(found.spots.indptr).max() == 10
    assert 0.2 < found.spots.sum(1).mean() <= 1.0001 and not found.spots[:, EMPTY].count_nonzero()
    assert set(adata.obs) == {"kind", "mapped_sd", "mapped_confidence", "mapped_evidence"}
    adata.write_h5ad(tmp_path / "out.h5ad")
    again = anndata.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(again.obsm["mapped_position"], found.position)
    assert (again.obsm["mapped_spots"] != found.spots).nnz == 0
    assert list(again.uns["mapped"]["spots"]) == list(made[0].obs_names)
    assert again.uns["mapped"]["method"] == "local_profiles"


def test_every_key_stands_on_the_page_of_outputs(found: Any, repository: Path) -> None:
    """obs, obsm and uns by name, and what stands in uns; those of other methods and options, too."""
    page = (repository / "docs" / "outputs.md").read_text(encoding="utf-8")
    part = page.split("\n## Places of single cells\n")[1].split("\n## ")[0]
    keys = [f"obs['{key}']" for key in found.adata.obs if key.startswith("mapped")]
    keys += [f"obsm['{key}']" for key in found.adata.obsm] + ["obs['mapped_section']", "obs['mapped_placed']"]
    for key in (*keys, "uns['mapped']", *found.adata.uns["mapped"]):
        assert f"`{key}`" in part, key


def test_the_order_of_spots_and_cells_carries_no_meaning(made: Any, found: Any) -> None:
    """Permuted spots permute the columns; permuted cells the rows."""
    rng = np.random.default_rng(1)
    order, other = rng.permutation(made[0].n_obs), rng.permutation(made[1].n_obs)
    again = sj.tl.map_cells(made[0][order], made[1][other], cell_type_key="kind", progress=False)
    np.testing.assert_allclose(again.position, found.position[other], atol=0.02 * PITCH)
    np.testing.assert_allclose(again.spots.toarray(), found.spots.toarray()[other][:, order], atol=0.02)


def test_cells_that_cannot_be_mapped_keep_their_rows(made: Any, found: Any) -> None:
    """Without a type or without a count: NaN, an empty row, and a word; the others are as ever."""
    reference = made[1].copy()
    kinds = reference.obs["kind"].astype(object)
    kinds.iloc[3], kinds.iloc[4] = None, " "
    reference.obs["kind"] = kinds
    reference.X = sp.csr_matrix(sp.diags((np.arange(reference.n_obs) != 7).astype(np.float32)) @ reference.X)
    again = sj.tl.map_cells(made[0], reference, cell_type_key="kind", progress=False)
    gone = np.isin(np.arange(reference.n_obs), [3, 4, 7])
    assert np.array_equal(np.isnan(again.position).all(1), gone) and np.array_equal(np.isnan(again.sd), gone)
    assert np.array_equal(np.diff(again.spots.indptr) == 0, gone)
    np.testing.assert_allclose(np.median(again.position[~gone] - found.position[~gone]), 0.0, atol=0.05 * PITCH)
    said = "\n".join(again.messages)
    assert "2 cells of the reference have no type" in said and "1 cells of the reference have no count" in said


def test_cells_that_are_alike_everywhere_are_said_to_be(made: Any, found: Any) -> None:
    """Types without any change over the tissue: no evidence, and a sentence; none where there is some."""
    rng = np.random.default_rng(3)
    mean = rng.gamma(0.5, 3.0, (TYPES, GENES)) + 0.2
    number = rng.multinomial(8, rng.dirichlet(np.ones(TYPES), SIDE**2))
    spots, reference = made[0].copy(), made[1].copy()
    spots.X = sp.csr_matrix(rng.poisson(number @ mean), dtype=np.float32)
    reference.X = sp.csr_matrix(rng.poisson(mean[np.repeat(np.arange(TYPES), CELLS)]), dtype=np.float32)
    alike = sj.tl.map_cells(spots, reference, cell_type_key="kind", progress=False)
    assert any("tell hardly more of their places" in message for message in alike.messages)
    assert not any("tell hardly more of their places" in message for message in found.messages)
    assert alike.adata.obs["mapped_evidence"].mean() < 0 < found.adata.obs["mapped_evidence"].mean()


def test_each_section_has_places_of_its_own(made: Any) -> None:
    """Two sections that lie on each other: a cell is placed in one of them, and named so."""
    spots = made[0].copy()
    left = spots.obsm["spatial"][:, 0] < 0.5 * SIDE * PITCH
    spots.obs["part"] = np.where(left, "left", "right")
    spots.obsm["spatial"] = spots.obsm["spatial"] - np.where(left, 0.0, 0.5 * SIDE * PITCH)[:, None] * [1.0, 0.0]
    found = sj.tl.map_cells(spots, made[1], cell_type_key="kind", slice_key="part", progress=False)
    section = found.adata.obs["mapped_section"].to_numpy()
    assert np.mean(section == np.where(made[2][:, 0] < 0.5 * SIDE * PITCH, "left", "right")) > 0.8
    assert found.position[:, 0].max() < 0.5 * SIDE * PITCH


def test_values_of_the_cells_are_projected_on_the_spots(made: Any, found: Any) -> None:
    """A gene that the spots do not need for it comes out as they show it; a constant stays one."""
    ones = found.projected(np.ones((made[1].n_obs, 1)))
    np.testing.assert_allclose(ones[np.isfinite(ones)], 1.0, rtol=1e-5)
    assert np.isnan(ones[EMPTY]).all()
    place = found.projected(made[2])
    keep = np.isfinite(place[:, 0])
    assert np.corrcoef(place[keep, 0], made[0].obsm["spatial"][keep, 0])[0, 1] > 0.8
    sparse = found.projected(made[1].X)
    np.testing.assert_allclose(sparse[keep], found.projected(made[1].X.toarray())[keep], rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="one row for each of the 480 cells"):
        found.projected(np.ones((3, 1)))


@pytest.mark.parametrize("mode", ["clusters", "constrained"])
def test_tangram_has_further_modes(made: Any, mode: str) -> None:
    """Clusters lie where their type does; the constrained mode chooses as many cells as it is told."""
    options = {"mode": mode, "genes": 15, "cells": 120.0}
    found = sj.tl.map_cells(
        made[0], made[1], cell_type_key="kind", method="tangram", method_options=options, progress=False
    )
    kind = made[1].obs["kind"].to_numpy()
    alike = np.ptp(found.position[kind == "type 0"], axis=0).max() == 0
    assert alike == (mode == "clusters")
    assert ("mapped_placed" in found.adata.obs) == (mode == "constrained")
    if mode == "constrained":
        assert abs(found.adata.obs["mapped_placed"].sum() - 120.0) < 10.0


def logged(made: Any) -> tuple[Any, Any]:
    reference = made[1].copy()
    reference.layers["umi"], reference.X = reference.X.copy(), np.log1p(reference.X)
    return made[0], reference


def human(made: Any) -> tuple[Any, Any]:
    reference = made[1].copy()
    reference.var_names = [name.upper() for name in reference.var_names]
    return made[0], reference


def without_places(made: Any) -> tuple[Any, Any]:
    spots = made[0].copy()
    del spots.obsm["spatial"]
    return spots, made[1]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (human, {}, "mouse.*human.*ortholog"),
        (logged, {}, r"reference.*give reference_layer='umi' \(--reference-layer umi\)"),
        (without_places, {}, r"coordinates of the spots in obsm\['spatial'\]"),
        (lambda m: m[:2], {"cell_type_key": "kinds"}, "Did you mean 'kind'"),
        (lambda m: m[:2], {"method": "tangrams"}, "Did you mean 'tangram'"),
        (lambda m: m[:2], {"n_spots": 0}, "at least 1 for n_spots"),
        (lambda m: m[:2], {"slice_key": "section"}, "slice_key='section'"),
        (lambda m: m[:2], {"method_options": {"tau": 1}}, "found 'tau'"),
        (lambda m: m[:2], {"method_options": {"power": -1.0}}, "Expected power"),
        (lambda m: m[:2], {"resume": True}, "Give checkpoint="),
        (lambda m: (m[0].X, m[1]), {}, "Expected an AnnData for the spots"),
    ],
)
def test_bad_input_is_one_message(made: Any, change: Any, options: dict[str, Any], message: str) -> None:
    """What was expected, what was found, how to mend it; before any work."""
    spots, reference = change(made)
    with pytest.raises(InputError, match=message):
        sj.tl.map_cells(spots, reference, **{"cell_type_key": "kind", "progress": False, **options})


def test_the_command_writes_one_file(made: Any, found: Any, tmp_path: Path) -> None:
    """The same places as the function; a second run is refused, bad input leaves nothing."""
    made[0].write_h5ad(tmp_path / "st.h5ad")
    made[1].write_h5ad(tmp_path / "sc.h5ad")
    words = ["map-cells", str(tmp_path / "st.h5ad"), "--reference", str(tmp_path / "sc.h5ad"), "--cell-type-key"]
    out = tmp_path / "out.h5ad"
    done = CliRunner().invoke(app, [*words, "kind", "--out", str(out)])
    assert done.exit_code == 0, done.output
    written = anndata.read_h5ad(out)
    np.testing.assert_array_equal(written.obsm["mapped_position"], found.position)
    again = CliRunner().invoke(app, [*words, "kind", "--out", str(out)])
    assert again.exit_code == 2 and "--overwrite" in again.output
    bad = CliRunner().invoke(app, [*words, "none", "--out", str(tmp_path / "bad.h5ad")])
    assert bad.exit_code == 2 and not (tmp_path / "bad.h5ad").exists()
    taken = CliRunner().invoke(
        app,
        ["map-cells", words[1], "--reference", str(out), "--cell-type-key", "kind", "--out", str(tmp_path / "b.h5ad")],
    )
    assert taken.exit_code == 2 and "--key-added" in taken.output
