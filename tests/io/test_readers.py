"""Every reader on a small folder made as the platform makes it, from the folder to µm behind the door."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp

from spatialjax import io
from spatialjax.checks import InputError

GENES = 14
needs_pyarrow = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed")


def counts(cells: int, seed: int = 0, genes: int = GENES) -> np.ndarray:
    """Raw counts."""
    return np.random.default_rng(seed).poisson(3.0, (cells, genes)).astype(np.int32)


def write_tenx_h5(path: Path, matrix: np.ndarray, barcodes: list[str], *, controls: int = 0) -> None:
    """A matrix as 10x writes it: features by barcodes; the last features are controls, two genes share a symbol."""
    csc = sp.csc_matrix(matrix.T)
    total = matrix.shape[1]
    types = ["Gene Expression"] * (total - controls) + ["Negative Control Probe"] * controls
    symbols = ["TWICE" if i < 2 else f"GENE{i}" for i in range(total)]
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        for name, values in (
            ("data", csc.data),
            ("indices", csc.indices),
            ("indptr", csc.indptr),
            ("shape", csc.shape),
        ):
            group[name] = np.asarray(values)
        group["barcodes"] = np.array(barcodes, dtype="S")
        group["features/id"] = np.array([f"ENSG{i:011d}" for i in range(total)], dtype="S")
        group["features/name"] = np.array(symbols, dtype="S")
        group["features/feature_type"] = np.array(types, dtype="S")


def write_tenx_folder(folder: Path, matrix: np.ndarray, barcodes: list[str]) -> None:
    """The same as Matrix Market."""
    folder.mkdir(parents=True)
    scipy.io.mmwrite(folder / "matrix.mtx", sp.coo_matrix(matrix.T))
    (folder / "matrix.mtx.gz").write_bytes(gzip.compress((folder / "matrix.mtx").read_bytes()))
    (folder / "matrix.mtx").unlink()
    symbols = ["TWICE" if i < 2 else f"GENE{i}" for i in range(matrix.shape[1])]
    features = "".join(f"ENSG{i:011d}\t{symbol}\tGene Expression\n" for i, symbol in enumerate(symbols))
    (folder / "features.tsv.gz").write_bytes(gzip.compress(features.encode()))
    (folder / "barcodes.tsv.gz").write_bytes(gzip.compress("\n".join(barcodes).encode()))


def visium_table(um_per_px: float) -> pd.DataFrame:
    """Positions of a small slide; one spot in five is outside of the tissue."""
    array = [(r, c) for r in range(8) for c in range(12) if (r + c) % 2 == 0]
    rows, columns = np.array(array).T
    return pd.DataFrame(
        {
            "barcode": [f"BC{i:03d}-1" for i in range(len(array))],
            "in_tissue": (np.arange(len(array)) % 5 != 0).astype(int),
            "array_row": rows,
            "array_col": columns,
            "pxl_row_in_fullres": np.round(rows * 50 * np.sqrt(3) / um_per_px).astype(int),
            "pxl_col_in_fullres": np.round(columns * 50 / um_per_px).astype(int),
        }
    )


def write_visium(
    folder: Path, *, um_per_px: float = 0.2, positions: str = "csv", mtx: bool = False, seed: int = 0
) -> pd.DataFrame:
    """An ``outs`` folder; returns the spots in the order of the matrix, which is not that of the positions."""
    (folder / "spatial").mkdir(parents=True)
    table = visium_table(um_per_px)
    if positions == "list":
        table.to_csv(folder / "spatial/tissue_positions_list.csv", header=False, index=False)
    elif positions == "parquet":
        table.to_parquet(folder / "spatial/tissue_positions.parquet")
    else:
        table.to_csv(folder / "spatial/tissue_positions.csv", index=False)
    factors = {"spot_diameter_fullres": 65 / um_per_px, "tissue_hires_scalef": 0.1}
    (folder / "spatial/scalefactors_json.json").write_text(json.dumps(factors))
    inside = table[table["in_tissue"] == 1].iloc[::-1]
    matrix, barcodes = counts(len(inside), seed), inside["barcode"].tolist()
    if mtx:
        write_tenx_folder(folder / "filtered_feature_bc_matrix", matrix, barcodes)
    else:
        write_tenx_h5(folder / "filtered_feature_bc_matrix.h5", matrix, barcodes)
    return inside


@pytest.mark.parametrize(
    ("positions", "mtx"), [("csv", False), ("list", True), pytest.param("parquet", False, marks=needs_pyarrow)]
)
def test_visium(tmp_path: Path, positions: str, mtx: bool) -> None:
    """Spots, counts and places agree; the unit comes from the lattice; x is the pixel column."""
    spots = write_visium(tmp_path / "S 1" / "outs", positions=positions, mtx=mtx)
    (adata,) = io.read(tmp_path / "S 1")
    assert adata.uns["spatialjax"]["name"] == "S 1"
    assert adata.obs_names.tolist() == spots["barcode"].tolist()
    np.testing.assert_array_equal(adata.X.toarray(), counts(len(spots)))
    np.testing.assert_array_equal(adata.obsm["spatial"][:, 0], spots["pxl_col_in_fullres"])
    np.testing.assert_array_equal(adata.obsm["spatial"][:, 1], spots["pxl_row_in_fullres"])
    assert adata.var_names[:3].tolist() == ["TWICE (ENSG00000000000)", "TWICE (ENSG00000000001)", "GENE2"]
    assert adata.uns["spatialjax"]["um_per_unit"] == pytest.approx(0.2, rel=1e-3)
    assert "lattice" in adata.uns["spatialjax"]["units_source"]


def test_two_visium_slides_need_no_unit(tmp_path: Path) -> None:
    """A folder of slides, in natural order, at two magnifications: behind the door both have a pitch of 100 µm."""
    write_visium(tmp_path / "s10" / "outs", um_per_px=0.5, seed=1)
    write_visium(tmp_path / "s2" / "outs", um_per_px=0.2)
    (tmp_path / "notes.txt").write_text("not a section")
    stack = io.open_sections(io.read(tmp_path))
    assert stack.names == ["s2", "s10"]
    np.testing.assert_allclose([section.pitch for section in stack.sections], 100, rtol=0.02)
    np.testing.assert_allclose([section.um_per_unit for section in stack.sections], [0.2, 0.5], rtol=1e-3)


def test_visium_written_and_read_again(tmp_path: Path) -> None:
    """The unit survives a round trip through h5ad; the name given wins."""
    write_visium(tmp_path / "outs")
    (adata,) = io.read(tmp_path / "outs", name="first")
    adata.write_h5ad(tmp_path / "a.h5ad")
    (again,) = io.read(tmp_path / "a.h5ad")
    assert again.uns["spatialjax"]["um_per_unit"] == adata.uns["spatialjax"]["um_per_unit"]
    assert (adata.uns["spatialjax"]["name"], again.uns["spatialjax"]["name"]) == ("first", "a")
    assert io.open_sections(again, at_least=1).sections[0].units_source == adata.uns["spatialjax"]["units_source"]


def test_visium_with_missing_parts(tmp_path: Path) -> None:
    """No matrix; a spot without a place; a matrix that was cut."""
    spots = write_visium(tmp_path / "outs")
    matrix = tmp_path / "outs/filtered_feature_bc_matrix.h5"
    whole = matrix.read_bytes()
    matrix.unlink()
    with pytest.raises(InputError, match=r"a count matrix \(filtered_feature_bc_matrix\.h5 or .*found 'spatial'"):
        io.read(tmp_path / "outs")
    matrix.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="Visium folder that can be read, found .* cut or damaged"):
        io.read(tmp_path / "outs")
    write_tenx_h5(matrix, counts(len(spots)), ["OTHER-1", *spots["barcode"][1:]])
    with pytest.raises(InputError, match=r"found 1 of \d+ without a place: 'OTHER-1'"):
        io.read(tmp_path / "outs")


def write_hd_bin(folder: Path, size: int) -> None:
    """One bin size of Visium HD."""
    (folder / "spatial").mkdir(parents=True)
    rows, columns = np.divmod(np.arange(36), 6)
    barcodes = [f"s_{size:03d}um_{r:05d}_{c:05d}-1" for r, c in zip(rows, columns, strict=True)]
    pixels = size / 0.25
    pd.DataFrame(
        {
            "barcode": barcodes,
            "in_tissue": 1,
            "array_row": rows,
            "array_col": columns,
            "pxl_row_in_fullres": rows * pixels + 7.5,
            "pxl_col_in_fullres": columns * pixels + 3.5,
        }
    ).to_csv(folder / "spatial/tissue_positions.csv", index=False)
    factors = {"microns_per_pixel": 0.25, "bin_size_um": size, "spot_diameter_fullres": pixels}
    (folder / "spatial/scalefactors_json.json").write_text(json.dumps(factors))
    write_tenx_h5(folder / "filtered_feature_bc_matrix.h5", counts(36), barcodes)


def test_visium_hd(tmp_path: Path) -> None:
    """8 µm bins where no size is asked for, said aloud; another size by its own folder."""
    for size in (2, 8, 16):
        write_hd_bin(tmp_path / "brain/outs/binned_outputs" / f"square_{size:03d}um", size)
    stack = io.open_sections(io.read(tmp_path / "brain"), at_least=1)
    assert stack.names == ["brain"]
    assert stack.sections[0].pitch == pytest.approx(8.0)
    assert any("square_008um were read; also there: square_002um, square_016um" in m for m in stack.messages)
    (coarse,) = io.read(tmp_path / "brain/outs/binned_outputs/square_016um")
    assert coarse.uns["spatialjax"]["name"] == "brain"
    assert coarse.uns["spatialjax"]["um_per_unit"] == 0.25
    assert io.open_sections(coarse, at_least=1).sections[0].pitch == pytest.approx(16.0)


def write_xenium(folder: Path, *, table: str = "csv.gz") -> np.ndarray:
    """A Xenium folder; the cells of the table are in another order than those of the matrix."""
    folder.mkdir(parents=True)
    cells = [f"cell{i}-1" for i in range(30)]
    xy = np.random.default_rng(0).uniform(0, 300, (30, 2))
    write_tenx_h5(folder / "cell_feature_matrix.h5", counts(30), cells, controls=3)
    frame = pd.DataFrame({"cell_id": cells, "x_centroid": xy[:, 0], "y_centroid": xy[:, 1], "cell_area": 40.0}).iloc[
        ::-1
    ]
    frame.to_parquet(folder / "cells.parquet") if table == "parquet" else frame.to_csv(
        folder / f"cells.{table}", index=False
    )
    (folder / "experiment.xenium").write_text(json.dumps({"pixel_size": 0.2125, "analysis_sw_version": "xenium-3.0"}))
    return xy


@pytest.mark.parametrize("table", ["csv.gz", "csv", pytest.param("parquet", marks=needs_pyarrow)])
def test_xenium(tmp_path: Path, table: str) -> None:
    """µm, cells matched by name, controls left out aloud, other columns kept."""
    xy = write_xenium(tmp_path / "run", table=table)
    (adata,) = io.read(tmp_path / "run")
    np.testing.assert_allclose(adata.obsm["spatial"], xy)
    np.testing.assert_array_equal(adata.X.toarray(), counts(30)[:, :-3])
    assert adata.obs["cell_area"].tolist() == [40.0] * 30
    stack = io.open_sections(adata, at_least=1)
    assert stack.sections[0].um_per_unit == 1.0
    assert any("3 features that are no genes" in message for message in stack.messages)


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the extra; a csv beside it is read instead."""
    write_xenium(tmp_path / "run")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / "run/cells.parquet").write_bytes(b"PAR1")
    assert len(io.read(tmp_path / "run")[0]) == 30
    (tmp_path / "run/cells.csv.gz").unlink()
    with pytest.raises(InputError, match=r"pyarrow, which reads 'cells\.parquet', .* not installed\. Install"):
        io.read(tmp_path / "run")


def write_merscope(folder: Path, prefix: str = "") -> tuple[np.ndarray, list[str]]:
    """MERSCOPE's two tables, with ids too long for a float and in two orders."""
    folder.mkdir(parents=True)
    cells = [str(1112223334445556660 + i) for i in range(25)]
    xy = np.random.default_rng(0).uniform(0, 300, (25, 2))
    matrix = pd.DataFrame(counts(25), columns=[f"gene{i}" for i in range(12)] + ["Blank-1", "Blank-2"])
    matrix.insert(0, "cell", cells)
    matrix.to_csv(folder / f"{prefix}cell_by_gene.csv", index=False)
    table = pd.DataFrame({"EntityID": cells, "fov": 1, "center_x": xy[:, 0], "center_y": xy[:, 1]}).iloc[::-1]
    table.to_csv(folder / f"{prefix}cell_metadata.csv", index=False)
    return xy, cells


@pytest.mark.parametrize("prefix", ["", "region_0_"])
def test_merscope(tmp_path: Path, prefix: str) -> None:
    """µm, cells matched by their long ids, blanks left out aloud."""
    xy, cells = write_merscope(tmp_path / "region_0", prefix)
    (adata,) = io.read(tmp_path / "region_0")
    assert adata.obs_names.tolist() == cells
    np.testing.assert_allclose(adata.obsm["spatial"], xy)
    np.testing.assert_array_equal(adata.X.toarray(), counts(25)[:, :12])
    assert adata.uns["spatialjax"]["um_per_unit"] == 1.0
    assert adata.uns["spatialjax"]["notes"] == ["2 control probes were left out, 12 genes kept."]


def test_merscope_cut(tmp_path: Path) -> None:
    """A table that stops within a row."""
    write_merscope(tmp_path / "r")
    path = tmp_path / "r/cell_by_gene.csv"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(InputError, match=r"cell_by_gene\.csv', found empty ones: the file may be cut"):
        io.read(tmp_path / "r")


@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_cosmx(tmp_path: Path, suffix: str) -> None:
    """Cells by field of view and number; counts outside of cells and probes left out aloud; pixels to µm."""
    folder = tmp_path / "slide"
    folder.mkdir()
    keys = pd.DataFrame({"fov": [1] * 11 + [2] * 11, "cell_ID": [*range(11)] * 2})
    columns = [f"gene{i}" for i in range(11)] + ["NegPrb1", "SystemControl2", "Negative3"]
    matrix = pd.concat([keys, pd.DataFrame(counts(22), columns=columns)], axis=1)
    matrix.to_csv(folder / f"Run1_exprMat_file.{suffix}", index=False)
    inside = keys[keys["cell_ID"] > 0].reset_index(drop=True)
    xy = np.random.default_rng(0).uniform(0, 5000, (20, 2))
    inside["CenterX_global_px"], inside["CenterY_global_px"] = xy.T
    inside.iloc[::-1].to_csv(folder / f"Run1_metadata_file.{suffix}", index=False)
    (adata,) = io.read(folder)
    assert adata.obs_names.tolist()[:2] == ["1_1", "1_2"]
    np.testing.assert_allclose(adata.obsm["spatial"], xy)
    np.testing.assert_array_equal(adata.X.toarray(), counts(22)[keys["cell_ID"] > 0][:, :11])
    stack = io.open_sections(adata, at_least=1)
    np.testing.assert_allclose(stack.sections[0].in_input_order(stack.sections[0].xy), xy * 0.120280945)
    assert any("2 rows of counts outside of cells" in message for message in stack.messages)
    assert any("3 control probes" in message for message in stack.messages)


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_anndata_files(tmp_path: Path, make_adatas: Any, form: str) -> None:
    """Both forms hold the same; the name of the file is the name of the section; no unit is made up."""
    (adata,) = make_adatas(1, n_spots=20, n_genes=12)
    path = tmp_path / f"section 1.{form}"
    getattr(adata, f"write_{form}")(path)
    (again,) = io.read(path)
    np.testing.assert_array_equal(again.X.toarray(), adata.X.toarray())
    np.testing.assert_array_equal(again.obsm["spatial"], adata.obsm["spatial"])
    assert again.uns["spatialjax"] == {"name": "section 1"}


def test_one_file_with_several_sections(tmp_path: Path, make_adatas: Any) -> None:
    """Split by a column; a prefix where a name is given."""
    (adata,) = make_adatas(1, n_spots=40, n_genes=12)
    adata.obs["slice"] = np.repeat(["s10", "s2"], 20)
    adata.write_h5ad(tmp_path / "a.h5ad")
    found = io.read(tmp_path / "a.h5ad", slice_key="slice")
    assert [a.uns["spatialjax"]["name"] for a in found] == ["s2", "s10"]
    assert found[0].obs_names.tolist() == adata.obs_names[20:].tolist()
    named = io.read(tmp_path / "a.h5ad", slice_key="slice", name="mouse")
    assert [a.uns["spatialjax"]["name"] for a in named] == ["mouse s2", "mouse s10"]
    with pytest.raises(InputError, match="Did you mean 'slice'"):
        io.read(tmp_path / "a.h5ad", slice_key="slices")


def test_folder_of_files(tmp_path: Path, make_adatas: Any) -> None:
    """Natural order, hidden files passed over."""
    for name, adata in zip(("s10.h5ad", "s9.h5ad", ".s1.h5ad"), make_adatas(3, n_spots=20, n_genes=12), strict=True):
        adata.write_h5ad(tmp_path / name)
    assert [a.uns["spatialjax"]["name"] for a in io.read(tmp_path)] == ["s9", "s10"]


def test_zarr_of_something_else(tmp_path: Path) -> None:
    """Its groups are listed."""
    import zarr

    zarr.open_group(str(tmp_path / "image.zarr"), mode="w").create_group("0")
    with pytest.raises(InputError, match=r"AnnData or SpatialData, found .* with the groups '0'"):
        io.read(tmp_path / "image.zarr")


def test_spatialdata_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the extra."""
    import zarr

    zarr.open_group(str(tmp_path / "a.zarr"), mode="w").create_group("tables")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"spatialdata, which reads .* not installed\. Install spatialjax\[spatialdata\]"
    ):
        io.read(tmp_path / "a.zarr")


@pytest.mark.parametrize("system", ["global", "microns"])
def test_spatialdata(tmp_path: Path, make_adatas: Any, system: str) -> None:
    """Two regions of one table: centres of shapes by instance; a unit only where the system has the name of one."""
    spatialdata = pytest.importorskip("spatialdata")
    from spatialdata.models import ShapesModel, TableModel
    from spatialdata.transformations import Identity, Scale, set_transformation

    (adata,) = make_adatas(1, n_spots=40, n_genes=12)
    xy = adata.obsm.pop("spatial")
    adata.obs["region"] = pd.Categorical(np.repeat(["left", "right"], 20))
    adata.obs["instance"] = np.tile(np.arange(20), 2)
    shapes = {}
    for i, region in enumerate(("left", "right")):
        shapes[region] = ShapesModel.parse(
            xy[20 * i : 20 * i + 20][::-1], geometry=0, radius=5, index=np.arange(20)[::-1]
        )
        set_transformation(shapes[region], Identity(), "global")
        if system == "microns":
            set_transformation(shapes[region], Scale([0.5, 0.5], axes=("x", "y")), "microns")
    table = TableModel.parse(adata, region=["left", "right"], region_key="region", instance_key="instance")
    spatialdata.SpatialData(shapes=shapes, tables={"table": table}).write(tmp_path / "a.zarr")
    found = io.read(tmp_path / "a.zarr")
    assert [a.uns["spatialjax"]["name"] for a in found] == ["left", "right"]
    factor = 0.5 if system == "microns" else 1.0
    np.testing.assert_allclose(np.concatenate([a.obsm["spatial"] for a in found]), xy * factor)
    assert [a.uns["spatialjax"].get("um_per_unit") for a in found] == ([1.0] * 2 if system == "microns" else [None] * 2)
