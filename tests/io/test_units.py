"""The unit out of Visium's lattice and scale factors."""

from __future__ import annotations

from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from spatialjax import io
from spatialjax.io.units import lattice_scale, visium_scale


def lattice(rows: int = 12, columns: int = 20, *, um_per_px: float = 0.73, angle: float = 0.3, mirrored: bool = False):
    """Pixels and array positions of a hexagonal grid with a pitch of 100 µm."""
    array = np.array([(r, c) for r in range(rows) for c in range(columns) if (r + c) % 2 == 0], float)
    um = np.column_stack([array[:, 1] * 50, array[:, 0] * 50 * np.sqrt(3)])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag(
        [1, -1 if mirrored else 1]
    )
    return um @ turn.T / um_per_px + 1e4, array


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle", [0.0, 0.3, 2.5])
def test_lattice_gives_the_scale(angle: float, mirrored: bool) -> None:
    """However the slide lies; pixels rounded to whole numbers."""
    xy, array = lattice(angle=angle, mirrored=mirrored)
    assert lattice_scale(np.round(xy), array) == pytest.approx(0.73, rel=1e-3)


def test_lattice_is_robust() -> None:
    """A tenth of the spots misplaced by a thousand pixels does not move it."""
    xy, array = lattice()
    far = np.random.default_rng(0).choice(len(xy), len(xy) // 10, replace=False)
    xy[far] += np.random.default_rng(1).normal(0, 1000, (len(far), 2))
    assert lattice_scale(xy, array) == pytest.approx(0.73, rel=1e-6)


def test_lattice_refuses_another_grid() -> None:
    """A square grid, a line and two spots say nothing."""
    array = np.stack(np.divmod(np.arange(100.0), 10), 1)
    assert lattice_scale(array[:, ::-1] * 200, array) is None
    xy, hexagonal = lattice(rows=1)
    assert lattice_scale(xy, hexagonal) is None
    assert lattice_scale(xy[:2], hexagonal[:2]) is None


def test_scale_factors() -> None:
    """HD says it outright; the lattice goes before the diameter, and a contradiction is said."""
    xy, array = lattice()
    assert visium_scale(xy, array, {"microns_per_pixel": 0.25}).um_per_unit == 0.25
    agreed = visium_scale(xy, array, {"spot_diameter_fullres": 65 / 0.73})
    assert agreed.um_per_unit == pytest.approx(0.73)
    assert "rescaled" not in agreed.source
    rescaled = visium_scale(xy * 2, array, {"spot_diameter_fullres": 65 / 0.73})
    assert rescaled.um_per_unit == pytest.approx(0.365)
    assert "rescaled" in rescaled.source
    assert visium_scale(xy, None, {"spot_diameter_fullres": 65 / 0.73}).um_per_unit == pytest.approx(0.73)
    assert visium_scale(xy, None, {}) is None


def scanpy_section(name: str, um_per_px: float) -> Any:
    """What scanpy's Visium reader leaves."""
    xy, array = lattice(um_per_px=um_per_px)
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        array.astype(int), columns=["array_row", "array_col"], index=[f"{name}{i}" for i in range(len(xy))]
    )
    adata = anndata.AnnData(
        rng.poisson(3.0, (len(xy), 15)), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(15)])
    )
    adata.obsm["spatial"] = xy
    adata.uns["spatial"] = {name: {"scalefactors": {"spot_diameter_fullres": 65 / um_per_px}, "images": {}}}
    return adata


def test_metadata_of_scanpy() -> None:
    """Two slides at different magnification come to one pitch, without a question."""
    stack = io.open_sections([scanpy_section("a", 0.73), scanpy_section("b", 0.29)])
    np.testing.assert_allclose([s.pitch for s in stack.sections], 100, rtol=1e-6)
    np.testing.assert_allclose([s.um_per_unit for s in stack.sections], [0.73, 0.29], rtol=1e-6)
    assert sum("the lattice of the spots" in message for message in stack.messages) == 2


def test_metadata_of_several_libraries() -> None:
    """With several libraries in one object the section's own one is used, and none is guessed."""
    both = anndata.concat([scanpy_section("a", 0.73), scanpy_section("b", 0.29)])
    both.obs["library_id"] = [name[0] for name in both.obs_names]
    both.uns["spatial"] = scanpy_section("a", 0.73).uns["spatial"] | scanpy_section("b", 0.29).uns["spatial"]
    stack = io.open_sections(both, slice_key="library_id")
    np.testing.assert_allclose([s.um_per_unit for s in stack.sections], [0.73, 0.29], rtol=1e-6)
    both.obs["part"] = both.obs["library_id"].map({"a": "one", "b": "two"})
    np.testing.assert_allclose(io.open_sections(both, slice_key="part").sections[1].um_per_unit, 0.29, rtol=1e-6)
    del both.obs["library_id"]
    with pytest.raises(ValueError, match="no platform metadata in 'one', 'two'"):
        io.open_sections(both, slice_key="part")


def test_nothing_else_counts_as_metadata() -> None:
    """Scale factors anywhere else, or of other coordinates, are not used."""
    sections = [scanpy_section("a", 0.73), scanpy_section("b", 0.29)]
    for adata in sections:
        adata.obsm["other"] = adata.obsm["spatial"]
    with pytest.raises(ValueError, match="no platform metadata"):
        io.open_sections(sections, spatial_key="other")
    for adata in sections:
        adata.uns["scalefactors"] = next(iter(adata.uns.pop("spatial").values()))["scalefactors"]
    with pytest.raises(ValueError, match="no platform metadata"):
        io.open_sections(sections)
