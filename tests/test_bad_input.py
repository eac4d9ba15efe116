"""Bad input at the door: one clear message each, before any work, and nothing changed in what was given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from spatialjax import io
from spatialjax.checks import InputError, UnitsError


@pytest.fixture
def pair(make_adatas: Any) -> list[Any]:
    """Two good sections."""
    return make_adatas(2, n_spots=40, n_genes=24)


def opened(adatas: Any, **options: Any) -> io.SectionStack:
    """The door with a unit."""
    return io.open_sections(adatas, **{"units": "um", **options})


def refused(adatas: Any, match: str, **options: Any) -> str:
    """The message of the refusal, which matches and stands on one line."""
    with pytest.raises(InputError, match=match) as caught:
        opened(adatas, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def edited(adata: Any, edit: Callable[[Any], Any]) -> Any:
    """A changed copy."""
    copy = adata.copy()
    result = edit(copy)
    return copy if result is None else result


def test_good_pair_passes(pair: list[Any]) -> None:
    """What the tests below damage is accepted before."""
    assert opened(pair).n_cells == 80


def test_counts_needed_names_the_layer(pair: list[Any]) -> None:
    """A method that needs counts is told where they are."""
    for adata in pair:
        adata.layers["raw"] = adata.X.copy()
        adata.X = np.log1p(adata.X.toarray())
    stack = opened(pair)
    assert stack.kind == "log1p"
    with pytest.raises(InputError, match=r"Method 'p' needs raw counts.*Layer 'raw' holds counts: give layer='raw'"):
        stack.require_counts("method 'p'")
    opened(pair, layer="raw").require_counts("method 'p'")


def test_counts_needed_but_categories_given(pair: list[Any]) -> None:
    """Categories are no counts either."""
    with pytest.raises(InputError, match="kind 'categories'. Leave feature_key="):
        opened(pair, feature_key="layer").require_counts("method 'p'")


def test_kinds_that_differ(pair: list[Any]) -> None:
    """Counts in one section and log values in another are not mixed."""
    pair[1].layers["raw"] = pair[1].X.copy()
    pair[1].X = np.log1p(pair[1].X.toarray())
    refused(pair, r"counts in 'section1' and 'log1p' values in 'section2'\. Layer 'raw' of 'section2' holds counts")
    pair[0].layers["raw"] = pair[0].X.copy()
    refused(pair, r"Layer 'raw' holds counts: give layer='raw'")
    assert opened(pair, layer="raw").kind == "counts"


def test_no_spatial_key(pair: list[Any]) -> None:
    """The message lists what is there and proposes the near name."""
    for adata in pair:
        adata.obsm["X_spatial"] = adata.obsm.pop("spatial")
        adata.obsm["X_pca"] = np.zeros((40, 2))
    refused(
        pair, r"obsm\['spatial'\] of section 'section1', found the keys .*'X_pca'.*Did you mean spatial_key='X_spatial'"
    )
    assert opened(pair, spatial_key="X_spatial").n_cells == 80


def test_no_spatial_key_but_columns(pair: list[Any]) -> None:
    """Coordinates in ``obs`` are pointed at."""
    del pair[0].obsm["spatial"]
    pair[0].obs["x_centroid"], pair[0].obs["y_centroid"] = 0.0, 1.0
    refused(pair, r"found the keys none.*'x_centroid' and 'y_centroid': set adata.obsm")


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (-np.inf, "infinite"), (1e35, "beyond 1e30")])
def test_coordinates_not_finite(pair: list[Any], value: float, word: str) -> None:
    """How many, and which cells."""
    pair[1].obsm["spatial"][[4, 7], 0] = value
    refused(pair, rf"section 'section2', found {word}.* in 2 of 40 cells: 's1-4', 's1-7'")


def test_duplicate_coordinates(pair: list[Any]) -> None:
    """Counted and named; allowed when asked for, and then said aloud."""
    pair[0].obsm["spatial"][5] = pair[0].obsm["spatial"][6]
    refused(pair, r"2 of 40 cells at the coordinates of another cell: 's0-5', 's0-6'.*duplicates='allow'")
    stack = opened(pair, duplicates="allow")
    assert stack.n_cells == 80
    assert any("2 of 40 cells" in message for message in stack.messages)


def test_one_place_for_all(pair: list[Any]) -> None:
    """Without two places there is no spacing."""
    pair[0].obsm["spatial"][:] = 3.0
    refused(pair, "one place for all", duplicates="allow")


def test_huge_extent(pair: list[Any]) -> None:
    """A cell ten metres away overflows single precision; so does a wrong unit."""
    refused(pair, r"at most 1e\+07 µm, found .* in section 'section1'.*Check units=", units=1e6)


@pytest.mark.parametrize("columns", [1, 4])
def test_columns_of_coordinates(pair: list[Any], columns: int) -> None:
    """Neither one column nor four are places in the plane."""
    pair[0].obsm["spatial"] = np.arange(40.0 * columns).reshape(40, columns)
    refused(pair, rf"two columns \(x, y\).*shape \(40, {columns}\)")


def test_depth_that_varies(pair: list[Any]) -> None:
    """A volume is not a section."""
    xy = pair[0].obsm["spatial"]
    pair[0].obsm["spatial"] = np.column_stack([xy, np.arange(40)])
    refused(pair, r"third column from 0 to 39\. Split the volume with slice_key=")


def test_coordinates_that_are_text(pair: list[Any]) -> None:
    """Text is no coordinate."""
    pair[0].obsm["spatial"] = pd.DataFrame({"x": ["a"] * 40, "y": ["b"] * 40}, index=pair[0].obs_names)
    refused(pair, r"Expected numbers in obsm\['spatial'\]")


def test_units_unknown(pair: list[Any]) -> None:
    """Without metadata the door asks, names the usual pitches, and does not guess."""
    with pytest.raises(UnitsError) as caught:
        io.open_sections(pair)
    for word in ("--units", "--pitch", "200 for ST", "100 for Visium", "100 units apart", "'section1', 'section2'"):
        assert word in str(caught.value)
    assert "array_row" not in str(caught.value)


def test_units_unknown_but_visium_lattice(pair: list[Any]) -> None:
    """Rows and columns of a lattice are a hint to the user, never a unit."""
    for adata in pair:
        adata.obs["array_row"], adata.obs["array_col"] = 1, 2
    with pytest.raises(UnitsError, match=r"as Visium does: pitch=100"):
        io.open_sections(pair)


@pytest.mark.parametrize("units", ["furlong", "-1", 0, float("nan")])
def test_units_that_are_none(pair: list[Any], units: Any) -> None:
    """Unknown names and impossible factors."""
    refused(pair, r"Expected units= \(--units\) to be 'um', 'mm', 'nm' or the number", units=units)


def test_units_near_name(pair: list[Any]) -> None:
    """A typing error is answered."""
    refused(pair, "Did you mean 'microns'", units="mikrons")


def test_units_and_pitch(pair: list[Any]) -> None:
    """Two answers to one question."""
    refused(pair, "found both", pitch=100)
    refused(pair, "number above 0", units=None, pitch=-3)


def test_units_that_differ(pair: list[Any]) -> None:
    """One section in µm, one in mm."""
    pair[1].obsm["spatial"] /= 1000
    for options in ({}, {"units": None, "pitch": 100}):
        with pytest.raises(UnitsError, match=r"apart in 'section2' and .* apart in 'section1' \(ratio 1e\+03\)"):
            opened(pair, **options)


def test_spacing_just_within_and_just_beyond(pair: list[Any]) -> None:
    """The border is 20 %; the user may lift it."""
    xy = pair[1].obsm["spatial"].copy()
    pair[1].obsm["spatial"] = xy * 1.19
    opened(pair)
    pair[1].obsm["spatial"] = xy * 1.21
    refused(pair, "allow_spacing_mismatch=True")
    assert any("ratio 1.21" in m for m in opened(pair, allow_spacing_mismatch=True).messages)


@pytest.mark.parametrize(("cells", "found"), [(0, "no cell"), (1, "found 1 in")])
def test_too_few_cells(pair: list[Any], cells: int, found: str) -> None:
    """A section needs two cells."""
    refused([pair[0], pair[1][:cells].copy()], f"{found}.*'section2'")


def test_no_counts_at_all(pair: list[Any]) -> None:
    """A section without a single count is refused."""
    pair[1].X = sp.csr_matrix((40, 24))
    refused(pair, r"Expected values in section 'section2', found no counts in any of its 40 cells")
    pair[0].X = np.log1p(pair[0].X.toarray())
    refused(pair, r"Expected values in section 'section2', found no non-zero value in any of its 40 cells")


def test_empty_cells_are_kept_and_said(pair: list[Any]) -> None:
    """A cell without counts is no reason to drop it."""
    pair[0].X = sp.csr_matrix(np.where(np.arange(40)[:, None] < 3, 0, pair[0].X.toarray()))
    stack = opened(pair)
    assert stack.n_cells == 80
    assert any("3 of 40 cells have no counts" in message for message in stack.messages)


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_repeated_cell_names(pair: list[Any]) -> None:
    """Within a section names tell cells apart; between sections they may repeat."""
    pair[1].obs_names = pair[0].obs_names
    opened(pair)
    names = pair[0].obs_names.to_numpy().copy()
    names[3] = names[2]
    pair[0].obs_names = names
    refused(pair, r"cell names without repeats in section 'section1'.*'s0-2'\. Call adata.obs_names_make_unique\(\)")


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_repeated_gene_names(pair: list[Any]) -> None:
    """The remedy is named."""
    names = pair[0].var_names.to_numpy().copy()
    names[3] = names[2]
    pair[0].var_names = names
    refused(pair, r"gene names without repeats in section 'section1'.*'gene2'\. Call adata.var_names_make_unique\(\)")


def ensembl(count: int) -> list[str]:
    """Ids of genes."""
    return [f"ENSG{i:011d}" for i in range(count)]


def test_ids_against_symbols(pair: list[Any]) -> None:
    """The column that would match is named."""
    symbols = pair[1].var_names.copy()
    pair[1].var_names = ensembl(24)
    pair[1].var["symbol"] = symbols.to_numpy()
    message = refused(pair, r"var\['symbol'\] of 'section2' matches 24 gene names of 'section1'")
    assert "24 gene symbols" in message
    assert "24 Ensembl ids" in message
    assert "0 in both" in message


def test_version_suffixes(pair: list[Any]) -> None:
    """``ENSG….3`` against ``ENSG…``."""
    pair[0].var_names = ensembl(24)
    pair[1].var_names = [f"{name}.3" for name in ensembl(24)]
    refused(pair, r"Without the version suffixes .* 24 genes would be shared")


def test_upper_and_lower_case(pair: list[Any]) -> None:
    """Human against mouse symbols."""
    pair[1].var_names = pair[1].var_names.str.upper()
    refused(pair, "Without regard to upper and lower case 24 genes would be shared")


def test_nearly_disjoint_genes(pair: list[Any]) -> None:
    """Nine shared genes of 24 are too few, twelve are enough."""
    original = pair[1].var_names.to_numpy().copy()
    pair[1].var_names = [name if i < 9 else f"other{i}" for i, name in enumerate(original)]
    refused(pair, "too few: .* 9 in both")
    pair[1].var_names = [name if i < 12 else f"other{i}" for i, name in enumerate(original)]
    assert len(opened(pair).genes) == 12


def test_small_panels_need_half(make_adatas: Any) -> None:
    """A panel of six proteins is not held to ten genes."""
    small = make_adatas(2, n_spots=20, n_genes=6)
    assert len(opened(small).genes) == 6
    small[1].var_names = ["gene0", "gene1", "a", "b", "c", "d"]
    refused(small, "too few")


def test_one_section_only(pair: list[Any]) -> None:
    """The message names the column that may tell sections apart."""
    pair[0].obs["section"] = np.where(np.arange(40) < 20, "a", "b")
    refused(pair[:1], r"at least 2 sections, found 1\..*slice_key=.*could be it: 'section', 'layer'")
    refused(pair[0], "found 1")
    refused([], "found 0. Give one file")


def test_not_anndata(pair: list[Any]) -> None:
    """A path is no AnnData."""
    refused([pair[0], "a.h5ad"], "found str at position 1. Read files with spatialjax.io.read")


def test_slice_key(pair: list[Any]) -> None:
    """A column that is not there, and one with gaps."""
    refused(pair[0], "Did you mean 'layer'", slice_key="layers")
    pair[0].obs["section"] = [None, "b"] * 20
    refused(pair[0], r"20 cells without one: 's0-0'", slice_key="section")


def test_section_names(pair: list[Any]) -> None:
    """Too few, and twice the same."""
    refused(pair, "one name for each of the 2 sections, found 1", names=["a"])
    refused(pair, r"section names without repeats.*'a'", names=["a", "a"])
    refused(pair, "list of names", names="ab")
    pair[0].obs["section"] = np.where(np.arange(40) < 20, "a", "b")
    refused(pair[0], r"list each value of obs\['section'\] once", slice_key="section", names=["a", "c"])


def test_depths(pair: list[Any]) -> None:
    """As many as sections, all different; not beside a gap."""
    refused(pair, "one z for each of the 2 sections, found 3", z=[0, 1, 2])
    refused(pair, "different, finite z", z=[1, 1])
    refused(pair, "different, finite z", z=[1, np.nan])
    refused(pair, "found both", z=[0, 1], gap=3)
    refused(pair, "number above 0", gap=-10)


def test_feature_key(pair: list[Any]) -> None:
    """Missing, of different widths, shared by no section, or no category at all."""
    refused(pair, r"'layers' in obsm .* or obs .*Did you mean 'layer'", feature_key="layers")
    refused(pair, "found both", feature_key="layer", layer="raw")
    pair[0].obsm["pca"], pair[1].obsm["pca"] = np.ones((40, 3)), np.ones((40, 4))
    refused(pair, "found 3 in 'section1' and 4 in 'section2'", feature_key="pca")
    pair[0].obs["type"], pair[1].obs["type"] = "a", "b"
    refused(pair, r"found 'a' in 'section1' and 'b' in 'section2'", feature_key="type")
    for adata in pair:
        adata.obs["score"] = np.linspace(0, 1, 40)
        adata.obs["barcode"] = adata.obs_names.str[3:]
    for key in ("score", "barcode"):
        refused(pair, "40 different values in 40 cells", feature_key=key)


def test_layer(pair: list[Any]) -> None:
    """A layer that is not there; no X at all."""
    refused(pair, r"layer 'raw' in section 'section1', found the layers none", layer="raw")
    pair[0].X = None
    refused(pair, r"Expected values in X of section 'section1', found none")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_not_finite(pair: list[Any], value: float) -> None:
    """NaN, infinite, or infinite in single precision."""
    dense = pair[0].X.toarray().astype(float)
    dense[3, 2] = value
    pair[0].X = dense
    refused(pair, r"finite values in X of section 'section1', found 1 .* in 1 cells \(rows '3'\)")


def test_unknown_option_value(pair: list[Any]) -> None:
    """The nearest value is proposed."""
    refused(pair, "option duplicates 'alow'.*Did you mean 'allow'", duplicates="alow")


def test_input_is_never_changed(pair: list[Any]) -> None:
    """The door leaves what it was given as it was, and stores copies."""
    before = [(a.X.toarray(), a.obsm["spatial"].copy(), a.obs.copy(), list(a.uns)) for a in pair]
    stack = opened(pair, names=["b", "a"], z=[5, 1])
    stack.sections[0].xy[:] = -1
    stack.sections[0].values.data[:] = -1
    for adata, (x, xy, obs, uns) in zip(pair, before, strict=True):
        np.testing.assert_array_equal(adata.X.toarray(), x)
        np.testing.assert_array_equal(adata.obsm["spatial"], xy)
        pd.testing.assert_frame_equal(adata.obs, obs)
        assert list(adata.uns) == uns
