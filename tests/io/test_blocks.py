"""Counts that are left in their file: the same rows, the same result, the same refusals as in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

import spatialjax as sj
from spatialjax.checks import InputError
from spatialjax.io.blocks import ROWS, RowBlocks, left_in_file


@pytest.fixture(scope="module")
def tissue() -> tuple[anndata.AnnData, anndata.AnnData]:
    """Spots without places (their order is then that of the input) and a reference of three types."""
    rng = np.random.default_rng(0)
    mean = rng.gamma(0.5, 3.0, (3, 40)) + 0.05
    types = np.repeat(np.arange(3), 30)
    reference = anndata.AnnData(sp.csr_matrix(rng.poisson(mean[types]).astype(np.float32)))
    reference.obs["kind"] = np.array(["a", "b", "c"])[types]
    number = rng.multinomial(8, rng.dirichlet(np.ones(3), 50))
    spots = anndata.AnnData(sp.csr_matrix(rng.poisson(number @ mean).astype(np.float32)))
    spots.obs_names = [f"s{i}" for i in range(50)]
    spots.var_names = reference.var_names = [f"g{i}" for i in range(40)]
    return spots, reference[:, ::-1].copy()


def stored(spots: anndata.AnnData, path: Path, form: Any) -> anndata.AnnData:
    copy = spots.copy()
    copy.X = form(copy.X)
    copy.write_h5ad(path)
    return anndata.read_h5ad(path, backed="r")


@pytest.mark.parametrize("form", [sp.csr_matrix, lambda x: x.toarray()], ids=["csr", "dense"])
def test_rows_are_those_of_the_matrix_in_memory(tissue: Any, tmp_path: Path, form: Any) -> None:
    """Stretches, an order of its own, repeated columns' order, and an empty stretch."""
    whole = tissue[0].X.toarray()
    backed = stored(tissue[0], tmp_path / "a.h5ad", form)
    assert left_in_file(backed.X) and not left_in_file(tissue[0].X) and not left_in_file(whole)
    columns, kept = np.array([5, 0, 17]), np.array([7, 3, 44, 45, 46, 1])
    blocks = RowBlocks(backed.X, kept, columns)
    assert blocks.shape == (6, 3)
    for start, stop in ((0, 6), (2, 5), (1, 4), (6, 9)):
        np.testing.assert_array_equal(blocks.rows(start, stop).toarray(), whole[kept[start:stop]][:, columns])
    np.testing.assert_array_equal(blocks.library_sizes(), whole[kept][:, columns].sum(1))
    backed.file.close()


@pytest.mark.parametrize("form", ["h5ad", "zarr", "calibrated"])
def test_a_file_gives_the_same_bits_as_memory(tissue: Any, tmp_path: Path, form: str) -> None:
    """And the result leaves its counts in the file, carries what the object in memory was given, and can be written."""
    spots, reference = tissue
    options = {"cell_type_key": "kind", "uncertainty": form == "calibrated", "progress": False}
    options |= {"method_options": {"draws": 20, "warmup": 10, "pseudo_spots": 40}} if form == "calibrated" else {}
    inside = sj.tl.deconvolve(spots, reference, **options)
    if form == "zarr":
        zarr = pytest.importorskip("zarr")
        spots.write_zarr(tmp_path / "a.zarr")
        rows = anndata.io.sparse_dataset(zarr.open(tmp_path / "a.zarr", mode="r")["X"])
        backed = anndata.AnnData(rows, obs=spots.obs.copy(), var=spots.var.copy())
    else:
        backed = stored(spots, tmp_path / "a.h5ad", sp.csr_matrix)
    backed.obs["mark"] = np.arange(50)
    found = sj.tl.deconvolve(backed, reference, **options)
    np.testing.assert_array_equal(found.proportions.to_numpy(), inside.proportions.to_numpy())
    assert left_in_file(found.adata.X)
    assert found.adata.uns["proportions"]["checks"]["outside"] == inside.adata.uns["proportions"]["checks"]["outside"]
    found.adata.write_h5ad(tmp_path / "b.h5ad")
    again = anndata.read_h5ad(tmp_path / "b.h5ad")
    np.testing.assert_array_equal(again.X.toarray(), spots.X.toarray())
    np.testing.assert_array_equal(again.obsm["proportions"].to_numpy(), found.proportions.to_numpy())
    assert list(again.obs["mark"]) == list(range(50))
    assert "proportions" not in backed.obsm, "the input is not changed"
    if form != "zarr":
        backed.file.close()


def test_bad_values_in_a_file_are_refused_at_the_door(tissue: Any, tmp_path: Path) -> None:
    spots, reference = tissue
    logged, broken = spots.copy(), spots.copy()
    logged.layers["counts"] = logged.X.copy()
    logged.X = logged.X.log1p()
    broken.X = broken.X.astype(np.float32)
    broken.X.data[7] = np.nan
    for number, (bad, match) in enumerate([(logged, r"needs raw counts.*layer='counts'"), (broken, "finite values")]):
        backed = stored(bad, tmp_path / f"{number}.h5ad", sp.csr_matrix)
        with pytest.raises(InputError, match=match):
            sj.tl.deconvolve(backed, reference, cell_type_key="kind", progress=False)
        backed.file.close()


def test_blocks_are_looked_at_one_by_one() -> None:
    """No stretch longer than a block is ever read, however many rows there are."""
    asked = []

    class Watched:
        shape = (2 * ROWS + 5, 4)

        def __getitem__(self, rows: slice) -> np.ndarray:
            asked.append(rows.stop - rows.start)
            return np.ones((len(range(*rows.indices(self.shape[0]))), 4), np.float32)

    blocks = RowBlocks(Watched(), np.arange(2 * ROWS + 5), np.arange(4))
    assert blocks.library_sizes().sum() == 4 * (2 * ROWS + 5)
    assert max(asked) <= ROWS and len(asked) == 3
