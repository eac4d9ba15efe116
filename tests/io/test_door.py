"""The door: units, depths, kinds of features, canonical order, and the same bits from every kind of matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spatialjax import io
from spatialjax.checks import UnitsError
from spatialjax.io.matrices import to_csr

FEW = settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def identical(a: io.SectionStack, b: io.SectionStack) -> None:
    """Same bits in everything that is stored, whatever the order of the input rows."""
    assert a.kind == b.kind
    assert a.names == b.names
    np.testing.assert_array_equal(a.genes, b.genes)
    for left, right in zip(a.sections, b.sections, strict=True):
        np.testing.assert_array_equal(left.cells, right.cells)
        assert left.xy.tobytes() == right.xy.tobytes()
        assert (left.z, left.pitch, left.um_per_unit) == (right.z, right.pitch, right.um_per_unit)
        assert type(left.values) is type(right.values)
        parts = ("data", "indices", "indptr") if sp.issparse(left.values) else ("T",)
        for part in parts:
            x, y = getattr(left.values, part), getattr(right.values, part)
            assert x.dtype == y.dtype
            assert x.tobytes() == y.tobytes(), part


@pytest.fixture
def pair(make_adatas: Any) -> list[Any]:
    """Two good sections, the second one turned."""
    return make_adatas(2, n_spots=40, n_genes=24, angles=[0.0, 0.5])


def test_stored_rows_are_the_input_rows(pair: list[Any]) -> None:
    """``order`` says which input row stands where, for cells, coordinates and values; ``in_input_order`` undoes it."""
    stack = io.open_sections(pair, units="um")
    assert stack.kind == "counts"
    for section, adata in zip(stack.sections, pair, strict=True):
        assert section.adata is adata
        np.testing.assert_array_equal(section.cells, adata.obs_names.to_numpy(str)[section.order])
        np.testing.assert_array_equal(section.xy, adata.obsm["spatial"][section.order])
        columns = adata.var_names.get_indexer(stack.genes)
        np.testing.assert_array_equal(section.values.toarray(), adata.X.toarray()[section.order][:, columns])
        np.testing.assert_array_equal(section.in_input_order(section.xy), adata.obsm["spatial"])
        assert section.xy.dtype == np.float64
        assert section.values.dtype == np.float32
        assert list(zip(*section.xy.T, strict=True)) == sorted(zip(*section.xy.T, strict=True))
    assert list(stack.genes) == sorted(stack.genes)


@FEW
@given(seed=st.integers(0, 10**6), duplicate=st.booleans(), key=st.sampled_from([None, "layer", "pca"]))
def test_permuting_cells_changes_nothing_stored(make_adatas: Any, seed: int, duplicate: bool, key: str | None) -> None:
    """The stored arrays have the same bits for every order of the input, also where cells share a place."""
    adatas = make_adatas(2, n_spots=30, n_genes=12)
    rng = np.random.default_rng(seed)
    for adata in adatas:
        adata.obsm["pca"] = np.round(np.random.default_rng(1).normal(size=(30, 3)), 1)
        if duplicate:
            adata.obsm["spatial"][[3, 4, 9]] = adata.obsm["spatial"][11]
            adata.X[3] = adata.X[4]
            adata.obsm["pca"][3] = adata.obsm["pca"][4]
    options = {"units": "um", "feature_key": key, "duplicates": "allow"}
    moved = [adata[rng.permutation(30)].copy() for adata in adatas]
    before, after = io.open_sections(adatas, **options), io.open_sections(moved, **options)
    identical(before, after)
    for section, adata in zip(after.sections, moved, strict=True):
        np.testing.assert_array_equal(section.cells, adata.obs_names.to_numpy(str)[section.order])


@FEW
@given(exponent=st.integers(-8, 8), pitch=st.floats(1, 500))
def test_units_rescale(make_adatas: Any, exponent: int, pitch: float) -> None:
    """Other units of the same coordinates give the same µm, exactly for powers of two; a pitch gives the pitch."""
    adatas = make_adatas(2, n_spots=30, n_genes=12)
    factor = 2.0**exponent
    reference = io.open_sections(adatas, units="um")
    scaled = [adata.copy() for adata in adatas]
    for adata in scaled:
        adata.obsm["spatial"] = adata.obsm["spatial"] / factor
    other = io.open_sections(scaled, units=factor)
    by_pitch = io.open_sections(scaled, pitch=pitch)
    for a, b, c in zip(reference.sections, other.sections, by_pitch.sections, strict=True):
        np.testing.assert_array_equal(a.xy, b.xy)
        np.testing.assert_allclose(c.xy, a.xy * pitch / 100, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(c.pitch, pitch, rtol=1e-9)


@pytest.mark.parametrize("units", ["um", "µm", "microns", 1, "1.0", 1.0])
def test_names_of_a_micrometre(pair: list[Any], units: Any) -> None:
    """However it is written."""
    assert io.open_sections(pair, units=units).sections[0].um_per_unit == 1.0


@pytest.mark.parametrize(("units", "factor"), [("mm", 1e3), ("NM", 1e-3), (0.73, 0.73), ("0.5", 0.5)])
def test_other_units(pair: list[Any], units: Any, factor: float) -> None:
    """Named and given as a number; said aloud."""
    stack = io.open_sections(pair, units=units)
    assert [section.um_per_unit for section in stack.sections] == [factor, factor]
    assert any(f"{factor:.6g} µm per unit (units: " in message for message in stack.messages)


def _matrices(counts: np.ndarray) -> dict[str, Any]:
    unsorted = sp.csr_matrix(counts)
    unsorted.indices = np.concatenate(
        [unsorted.indices[a:b][::-1] for a, b in zip(unsorted.indptr, unsorted.indptr[1:], strict=False)]
    )
    unsorted.data = np.concatenate(
        [unsorted.data[a:b][::-1] for a, b in zip(unsorted.indptr, unsorted.indptr[1:], strict=False)]
    )
    unsorted.has_sorted_indices = False
    wide = sp.csr_matrix(counts)
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    zeros = sp.csr_matrix(np.ones_like(counts))
    zeros.data[:] = counts.ravel()
    return {
        "csr": sp.csr_matrix(counts),
        "csc": sp.csc_matrix(counts),
        "dense": counts,
        "int64": counts.astype(np.int64),
        "uint16": sp.csr_matrix(counts.astype(np.uint16)),
        "float64": counts.astype(np.float64),
        "fortran": np.asfortranarray(counts.astype(np.float32)),
        "csr_array": sp.csr_array(counts),
        "csc_array": sp.csc_array(counts),
        "unsorted": unsorted,
        "64-bit indices": wide,
        "explicit zeros": zeros,
    }


def test_every_container_gives_the_same_bits(pair: list[Any]) -> None:
    """csr, csc, dense, integers, floats, sparse arrays, unsorted indices, 64-bit indices, explicit zeros."""
    reference = io.open_sections(pair, units="um")
    for name, matrix in _matrices(pair[0].X.toarray().astype(np.int32)).items():
        other = anndata.AnnData(matrix, obs=pair[0].obs.copy(), var=pair[0].var.copy(), obsm=dict(pair[0].obsm))
        assert other.X.dtype == matrix.dtype, name
        assert to_csr(matrix, where=name).indices.dtype == np.int32, name
        identical(reference, io.open_sections([other, pair[1]], units="um"))


@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_backed_files_give_the_same_bits(pair: list[Any], tmp_path: Path, form: Any) -> None:
    """A file left on disk is read, whole or split, and gives what memory gives."""
    dense = pair[0].X.toarray()
    pair[0].X = form(dense)
    pair[0].write_h5ad(tmp_path / "a.h5ad")
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    try:
        identical(io.open_sections(pair, units="um"), io.open_sections([backed, pair[1]], units="um"))
        split = {"units": "um", "slice_key": "layer"}
        identical(io.open_sections(pair[0], **split), io.open_sections(backed, **split))
    finally:
        backed.file.close()


@pytest.mark.parametrize(
    ("change", "kind"),
    [(lambda x: x + 0.0, "counts"), (np.log1p, "log1p"), (lambda x: x * 100.5, "float"), (lambda x: x - 3.0, "float")],
)
def test_kinds(pair: list[Any], change: Any, kind: str) -> None:
    """Told from the values of all sections together."""
    for adata in pair:
        adata.X = change(adata.X.toarray().astype(float))
    stack = io.open_sections(pair, units="um")
    assert stack.kind == kind
    assert any(repr(kind) in message for message in stack.messages)


def test_dense_floats_stay_dense(pair: list[Any]) -> None:
    """Scaled values are mostly not zero; a sparse container does not change that."""
    for adata in pair:
        adata.X = adata.X.toarray() - 2.5
    dense = io.open_sections(pair, units="um")
    assert isinstance(dense.sections[0].values, np.ndarray)
    pair[0].X = sp.csr_matrix(pair[0].X)
    identical(dense, io.open_sections(pair, units="um"))


def test_embedding(pair: list[Any]) -> None:
    """A key of ``obsm``, as an array or a table."""
    for adata in pair:
        adata.obsm["pca"] = np.random.default_rng(0).normal(size=(40, 3))
    stack = io.open_sections(pair, units="um", feature_key="pca")
    assert stack.kind == "embedding"
    assert list(stack.genes) == ["pca0", "pca1", "pca2"]
    section = stack.sections[1]
    np.testing.assert_allclose(section.values, pair[1].obsm["pca"][section.order], rtol=1e-6)
    pair[0].obsm["pca"] = pd.DataFrame(pair[0].obsm["pca"], index=pair[0].obs_names, columns=list("abc"))
    identical(stack, io.open_sections(pair, units="um", feature_key="pca"))


def test_components_of_one_section(pair: list[Any]) -> None:
    """Principal components that each section has for itself are noticed; joint ones pass without a word."""
    rng = np.random.default_rng(0)
    for adata in pair:
        raw = rng.normal(size=(40, 4)) * [4, 3, 2, 1]
        left, singular, _ = np.linalg.svd(raw - raw.mean(0), full_matrices=False)
        adata.obsm["own"], adata.obsm["joint"] = left * singular, raw
    stack = io.open_sections(pair, units="um", feature_key="own")
    assert any("'section1', 'section2' are uncorrelated within each section" in m for m in stack.messages)
    assert not any("uncorrelated" in m for m in io.open_sections(pair, units="um", feature_key="joint").messages)


def test_categories(pair: list[Any]) -> None:
    """Shared by two sections, unused ones dropped, missing labels an empty row, whole numbers as they are written."""
    pair[0].obs["type"] = pd.Categorical([1.0, 2.0, np.nan, 7.0] * 10, categories=[1.0, 2.0, 7.0, 9.0])
    pair[1].obs["type"] = pd.Series([2, 1, 1, 2] * 10, index=pair[1].obs_names, dtype="Int64")
    stack = io.open_sections(pair, units="um", feature_key="type")
    assert stack.kind == "categories"
    assert list(stack.genes) == ["1", "2"]
    first = stack.sections[0].in_input_order(stack.sections[0].values.toarray())
    np.testing.assert_array_equal(first[:4], [[1, 0], [0, 1], [0, 0], [0, 0]])
    assert stack.n_cells == 80
    assert any("10 cells have no label and 10 one that no other section has" in m for m in stack.messages)


def test_categories_of_three_sections(make_adatas: Any) -> None:
    """A type that two of three sections have is kept."""
    adatas = make_adatas(3, n_spots=20, n_genes=12)
    for adata, types in zip(adatas, ("ab", "bc", "cd"), strict=True):
        adata.obs["type"] = list(types) * 10
    assert list(io.open_sections(adatas, units="um", feature_key="type").genes) == ["b", "c"]


def test_slice_key_splits_in_natural_order(pair: list[Any]) -> None:
    """2 before 10; every row of the input in one section; rows as in the input."""
    whole = pair[0]
    whole.obs["part"] = pd.Categorical(
        np.array(["s10", "s2", "s 1/a", "s2"] * 10), categories=["s10", "s2", "s 1/a", "z"]
    )
    stack = io.open_sections(whole, units="um", slice_key="part", duplicates="allow", allow_spacing_mismatch=True)
    assert stack.names == ["s2", "s10", "s 1/a"]
    rows = np.sort(np.concatenate([section.rows for section in stack.sections]))
    np.testing.assert_array_equal(rows, np.arange(40))
    for section in stack.sections:
        np.testing.assert_array_equal(whole.obs_names.to_numpy(str)[section.rows[section.order]], section.cells)
    again = io.open_sections(
        whole, units="um", slice_key="part", names=["s10", "s 1/a", "s2"], allow_spacing_mismatch=True
    )
    assert again.names == ["s10", "s 1/a", "s2"]


def test_slice_key_of_numbers_and_ordered_categories(pair: list[Any]) -> None:
    """Numbers by size, also as text; ordered categories as ordered."""
    options = {"units": "um", "slice_key": "part", "allow_spacing_mismatch": True}
    for values, expected in (
        ([3.0, -1.0], ["-1", "3"]),
        (["0.21", "-0.29"], ["-0.29", "0.21"]),
        (pd.Categorical(["b", "a"] * 20, categories=["b", "a"], ordered=True), ["b", "a"]),
    ):
        pair[0].obs["part"] = list(values) * 20 if len(values) == 2 else values
        assert io.open_sections(pair[0], **options).names == expected


def test_slice_key_of_two_files_with_equal_values(pair: list[Any]) -> None:
    """The name of the file tells them apart."""
    for adata, name in zip(pair, ("left", "right"), strict=True):
        adata.uns["spatialjax"] = {"name": name}
    stack = io.open_sections(pair, units="um", slice_key="layer")
    assert stack.names == ["left lower", "left upper", "right lower", "right upper"]
    assert [section.source for section in stack.sections] == [0, 0, 1, 1]


def test_names_with_spaces_and_slashes(pair: list[Any]) -> None:
    """Kept as they are."""
    assert io.open_sections(pair, units="um", names=["a b", "c/d"]).names == ["a b", "c/d"]


def test_depths(pair: list[Any]) -> None:
    """10 µm assumed aloud; a gap; a list, which sorts; the third column in the units of the input."""
    stack = io.open_sections(pair, units="um")
    assert [section.z for section in stack.sections] == [0.0, 10.0]
    assert any("10 µm, assumed because" in message for message in stack.messages)
    stack = io.open_sections(pair, units="um", gap=30)
    assert [section.z for section in stack.sections] == [0.0, 30.0]
    assert not any("assumed" in message for message in stack.messages)
    stack = io.open_sections(pair, units="um", z=[50, 20])
    assert stack.names == ["section2", "section1"]
    assert [section.source for section in stack.sections] == [1, 0]
    assert any("sorted by depth: 'section2', 'section1'" in message for message in stack.messages)
    for adata, z in zip(pair, (0.4, 0.1), strict=True):
        adata.obsm["spatial"] = np.column_stack([adata.obsm["spatial"] / 1000, np.full(40, z)])
    stack = io.open_sections(pair, units="mm")
    np.testing.assert_allclose([section.z for section in stack.sections], [100, 400])
    assert stack.names == ["section2", "section1"]
    assert [s.z for s in io.open_sections(pair, units="mm", gap=5).sections] == [0, 5]


def test_metadata_of_this_package(pair: list[Any]) -> None:
    """Read and said aloud; overruled aloud; not for other coordinates."""
    for adata in pair:
        adata.uns["spatialjax"] = {"um_per_unit": 0.5, "units_source": "the platform", "name": adata.obs_names[0][:2]}
    stack = io.open_sections(pair)
    assert stack.names == ["s0", "s1"]
    assert stack.sections[0].um_per_unit == 0.5
    assert "Units of all sections: 0.5 µm per unit (the platform)." in stack.messages
    stack = io.open_sections(pair, units="um")
    assert stack.sections[0].um_per_unit == 1.0
    assert any("metadata of 's0' say 0.5 µm" in message for message in stack.messages)
    for adata in pair:
        adata.obsm["other"] = adata.obsm["spatial"]
    with pytest.raises(UnitsError):
        io.open_sections(pair, spatial_key="other")
    pair[0].uns["spatialjax"]["um_per_unit"] = -1
    with pytest.raises(ValueError, match=r"um_per_unit'\] of section 's0' to be a number above 0"):
        io.open_sections(pair)


@pytest.mark.real
def test_real_sections_in_three_units(data_path: Path) -> None:
    """Pixels, grid steps and near-grid coordinates all end at their known pitch; rows are all there."""
    visium = io.read(data_path / "dlpfc_visium_allspots")
    stack = io.open_sections(visium, pitch=100)
    assert stack.names == ["151673", "151674"]
    np.testing.assert_allclose(stack.sections[0].um_per_unit, 100 / 137, rtol=0.01)
    assert stack.n_cells == 3639 + 3673
    grid = io.open_sections(io.read(data_path / "stahl_breast_4slices/paste_slices.h5ad"), pitch=200, slice_key="slice")
    np.testing.assert_allclose([section.pitch for section in grid.sections], 200, rtol=0.02)
    assert grid.kind == "counts"
    assert len(grid.sections) == 4
