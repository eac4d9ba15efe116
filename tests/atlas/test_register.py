"""A section laid on a finished atlas, and an atlas with one section more: nothing else moves."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata
import numpy as np
import pytest

import spatialjax as sj
from spatialjax.atlas import enlarged, report
from spatialjax.atlas.adding import joined
from spatialjax.atlas.beside import nearest
from spatialjax.atlas.register import _next_to
from spatialjax.atlas.watch import Watch
from spatialjax.checks import InputError
from spatialjax.viewer.contents import given_key


@pytest.fixture(scope="module")
def further(make_adatas: Any) -> Any:
    """Another section of the tissue: turned, in units of half a µm, its cells named like those of the first section."""
    (adata,) = make_adatas(1, angles=(-1.3,), seed=40)
    adata.obsm["spatial"] = adata.obsm["spatial"] * 2.0
    return adata


@pytest.fixture(scope="module")
def added(reconstruction: Any, further: Any) -> tuple[Any, Any]:
    """The shared atlas with the further section between the first two."""
    return sj.tl.add_section(reconstruction, further, z=10.0, name="new", units=0.5, seed=3)


def test_a_section_finds_its_place(added: Any, reconstruction: Any) -> None:
    """Cells lie where the same cells of the atlas lie (all show one tissue), within a pitch of 100 µm."""
    _, found = added
    assert found.placed and not found.placement.mirrored
    first = reconstruction.atlas.obsm["spatial3d"][(reconstruction.atlas.obs["slice"] == "A 1/left").to_numpy()]
    apart = np.linalg.norm(found.section.obsm["spatial3d"][:, :2] - first[:, :2], axis=1)
    assert np.median(apart) < 60.0
    assert (found.section.obsm["spatial3d"][:, 2] == 10.0).all()
    assert [row["target"] for row in found.pairs] == ["A 1/left", "<b>B</b> $2", "C"]
    sd = found.section.obsm["spatial3d_sd"]
    assert (sd[:, :2] > 0).all() and (sd[:, :2] < 100).all()


def test_the_map_holds_for_the_units_of_the_file(added: Any, further: Any) -> None:
    """``Placement.apply`` on coordinates as given is what the cells got."""
    _, found = added
    np.testing.assert_allclose(found.placement.apply(further.obsm["spatial"]), found.section.obsm["spatial3d"])


def test_the_atlas_does_not_move(added: Any, reconstruction: Any, further: Any) -> None:
    """Old cells keep their rows, names, places and values; the new ones follow; inputs are not changed."""
    atlas, _ = added
    old, n = reconstruction.atlas, reconstruction.atlas.n_obs
    np.testing.assert_array_equal(atlas.obsm["spatial3d"][:n], old.obsm["spatial3d"])
    assert list(atlas.obs_names[:n]) == list(old.obs_names) and atlas.obs_names.is_unique
    assert (atlas.X[:n] != old.X).nnz == 0 and (atlas.X[n:] != further.X).nnz == 0
    for column in ("domain3d", "slice", "placed", "overlap"):
        np.testing.assert_array_equal(atlas.obs[column].to_numpy()[:n].astype(str), old.obs[column].astype(str))
    assert list(atlas.obs["slice"].cat.categories) == [*old.obs["slice"].cat.categories, "new"]
    assert "spatial3d" not in further.obsm and "added" not in json.loads(old.uns["spatialjax"]["options"])


def test_the_new_cells_get_domains_and_a_record(added: Any) -> None:
    """The domains are those of the same places in the section beside, and the record has one row more."""
    atlas, found = added
    own = (atlas.obs["slice"] == "new").to_numpy()
    assert atlas.obs["domain3d"][own].notna().mean() > 0.8
    beside = atlas.obs["domain3d"][(atlas.obs["slice"] == "A 1/left").to_numpy()].astype(str).to_numpy()
    assert (atlas.obs["domain3d"][own].astype(str).to_numpy() == beside).mean() > 0.65
    record = atlas.uns["spatialjax"]
    assert list(record["sections"])[-1] == "new" and record["matrix"].shape == (4, 2, 2)
    np.testing.assert_allclose(record["matrix_from_units"][-1], found.placement.from_units.matrix)
    assert json.loads(record["options"])["added"] == [{"name": "new", "placed": True, "histology": None}]


def test_the_section_is_coupled_to_its_neighbours(added: Any, reconstruction: Any, further: Any) -> None:
    """Soft matches with the section below and the one above, lower one first, rows in the order of the cells."""
    _, found = added
    assert list(found.couplings) == [("A 1/left", "new"), ("new", "<b>B</b> $2")]
    atlas = reconstruction.atlas
    places = {n: atlas.obsm["spatial3d"][(atlas.obs["slice"] == n).to_numpy(), :2] for n in reconstruction.transforms}
    places["new"] = found.section.obsm["spatial3d"][:, :2]
    for (lower, upper), matches in found.couplings.items():
        assert matches.shape == (len(places[lower]), len(places[upper]))
        used = np.diff(matches.indptr) > 0
        np.testing.assert_allclose(np.asarray(matches.sum(1)).ravel()[used], 1.0)
        apart = np.linalg.norm(places[lower][used] - (matches @ places[upper])[used], axis=1)
        assert used.mean() > 0.8 and np.median(apart) < 60.0
    labels = sj.tl.transfer_labels(
        added[0], "layer", source="A 1/left", target="new", couplings=dict(found.couplings)
    ).table["label"]
    assert (labels.astype(str).to_numpy() == further.obs["layer"].astype(str).to_numpy()).mean() > 0.8
    turned = {("new", "A 1/left"): found.couplings["A 1/left", "new"][:50]}
    with pytest.raises(InputError, match="120 rows and 120 columns"):
        sj.tl.transfer_labels(added[0], "layer", source="A 1/left", target="new", couplings=turned)


def test_the_neighbours_on_both_sides_are_always_compared() -> None:
    """Four sections below lie nearer than the one above, which must be among the four all the same."""
    sections = [SimpleNamespace(name=str(z), z=float(z)) for z in (0, 10, 20, 30, 40, 500)]
    assert [s.z for s in nearest(sections, 45.0)] == [40.0, 30.0, 20.0, 500.0]
    assert [s.z for s in nearest(sections, -5.0)] == [0.0, 10.0, 20.0, 30.0]
    assert _next_to(15.0, (20.0, 10.0, 30.0, 0.0)) == [1, 0]
    assert _next_to(10.0, (20.0, 10.0, 30.0, 0.0)) == [1] and _next_to(99.0, (20.0, 10.0)) == [0]


def test_given_coordinates_stand_under_the_key_of_the_atlas(added: Any, reconstruction: Any, further: Any) -> None:
    """The atlas has them under another key than the section: all are there, and the maps still start from them."""
    atlas = reconstruction.atlas.copy()
    atlas.obsm["place"] = atlas.obsm.pop("spatial")
    larger = joined(atlas, added[1])
    np.testing.assert_array_equal(larger.obsm["place"][-further.n_obs :], further.obsm["spatial"])
    assert given_key(larger) == "place"


def test_the_report_says_what_it_cannot_show(added: Any, tmp_path: Path) -> None:
    """No ``run.json`` beside the old atlas: the pages are there, and the page says what is missing; a section that
    came in later says so of itself."""
    larger, found = added
    kept = {"couplings": {}, "before": {}, "watch": Watch(), "source": "a test"}
    enlarged.write(larger, found, tmp_path / "out", **kept)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count(escape(report.NO_FIRST_RUN)) == 2
    assert "Added to the finished atlas" in page and "nothing speaks against" not in page
    assert "<td>new → A 1/left</td>" in page and "<td>A 1/left → new</td>" in page
    assert "added later: Units of all sections" in page
    card = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [(row["source"], row["target"]) for row in card["metrics"]["similarity_pairs"]] == list(found.couplings)
    assert all(row["atlas"] > max(row["permuted"], row["identity"]) + 0.2 for row in found.similarity)
    assert (tmp_path / "out" / "viewer.html").stat().st_size > 100_000


def test_an_atlas_from_a_file_takes_a_section_and_can_be_written(
    added: Any, reconstruction: Any, further: Any, tmp_path: Path
) -> None:
    """The atlas read back gives the same place; the new atlas is written and read."""
    reconstruction.atlas.write_h5ad(tmp_path / "atlas.h5ad")
    atlas, found = sj.tl.add_section(
        anndata.read_h5ad(tmp_path / "atlas.h5ad"), further, z=10.0, name="new", units=0.5, seed=3
    )
    np.testing.assert_allclose(found.section.obsm["spatial3d"], added[1].section.obsm["spatial3d"])
    atlas.write_h5ad(tmp_path / "more.h5ad")
    back = anndata.read_h5ad(tmp_path / "more.h5ad")
    assert list(back.uns["spatialjax"]["sections"]) == list(atlas.uns["spatialjax"]["sections"])


def test_a_section_without_evidence_is_not_placed(reconstruction: Any, further: Any) -> None:
    """Cells with their values dealt out at random: NaN, said, and no guess."""
    scrambled = further.copy()
    scrambled.X = further.X[np.random.default_rng(0).permutation(further.n_obs)]
    found = sj.tl.register(scrambled, reconstruction, z=10.0, units=0.5)
    assert not found.placed and np.isnan(found.section.obsm["spatial3d"]).all()
    assert found.couplings == {}
    assert np.isnan(found.section.obs["overlap"]).all() and "No evidence places 'new'" in found.messages[-1]
    atlas, _ = sj.tl.add_section(reconstruction, scrambled, z=10.0, name="new", units=0.5)
    own = (atlas.obs["slice"] == "new").to_numpy()
    assert np.isnan(atlas.obsm["spatial3d"][own]).all() and atlas.obs["domain3d"][own].isna().all()


def test_without_a_height_the_most_similar_section_gives_it(reconstruction: Any, further: Any) -> None:
    """The height is one of the atlas, and it is said which."""
    found = sj.tl.register(further, reconstruction, units=0.5, seed=3)
    assert found.placement.z in (0.0, 20.0, 40.0) and "No height was given" in found.messages[-1]


def test_what_cannot_be_registered_is_refused(reconstruction: Any, further: Any) -> None:
    """A name or height that is taken, a frame that is not there, unknown units."""
    for options, message in (
        ({"name": "C", "z": 5.0, "units": 0.5}, "not in the atlas"),
        ({"name": "x", "z": 20.0, "units": 0.5}, "height of its own"),
        ({"name": "x", "z": 5.0, "units": 0.5, "component": 3}, "component="),
        ({"name": "x", "z": float("nan"), "units": 0.5}, "finite height"),
        ({"name": "x", "z": 5.0}, "unit"),
    ):
        with pytest.raises(InputError, match=message):
            sj.tl.add_section(reconstruction, further, **options)
