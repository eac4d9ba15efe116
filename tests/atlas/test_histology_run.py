"""The option ``histology`` on its way from the front door to the steps of a run."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import spatialjax as sj
from spatialjax.atlas import beside, outputs
from spatialjax.atlas.features import histology_lost, histology_record, prepare
from spatialjax.atlas.fingerprint import differences, fingerprint_of
from spatialjax.atlas.intake import open_in_order
from spatialjax.atlas.reconstruction import Options
from spatialjax.checks import InputError


@pytest.fixture(scope="module")
def described(make_adatas: Any) -> list[Any]:
    """Two tiny sections with columns that stand for those of a picture."""
    adatas = make_adatas(2)
    for adata in adatas:
        adata.obsm["histology"] = np.sin(adata.obsm["spatial"] / 150.0).astype(np.float32)
    return adatas


@pytest.mark.parametrize("call", [sj.tl.reconstruct, lambda adatas, **kw: sj.tl.align(*adatas, **kw)])
def test_a_missing_picture_is_refused_at_the_door(described: list[Any], call: Any) -> None:
    """Before any work: the section without columns is named."""
    bare = described[1].copy()
    del bare.obsm["histology"]
    options = {"progress": False} if call is sj.tl.reconstruct else {}
    with pytest.raises(InputError, match=r"Expected obsm\['histology'\] in all sections"):
        call([described[0], bare], units="um", histology="histology", **options)


def test_a_run_with_other_pictures_is_another_run(described: list[Any]) -> None:
    """What a resumed run must share: the columns of each picture, and whether they are used at all."""
    other = [described[0], described[1].copy()]
    other[1].obsm["histology"] = other[1].obsm["histology"] * 2.0
    marks = [
        fingerprint_of(open_in_order(adatas, units="um", histology=key).stack, Options())
        for adatas, key in ((described, "histology"), (other, "histology"), (described, None))
    ]
    assert differences(marks[0], marks[0]) == ""
    assert differences(marks[0], marks[1]) == "section 'section2', columns of its picture: other contents"
    assert "columns of its picture" in differences(marks[0], marks[2])


def test_sections_taken_in_another_order_keep_their_columns(described: list[Any]) -> None:
    """Sorted by a column of ``obs``: each section brings its own picture."""
    adatas = [a.copy() for a in described]
    for adata, number in zip(adatas, (2, 1), strict=True):
        adata.obs["number"] = number
    stack = open_in_order(adatas, units="um", order_by="number", histology="histology").stack
    for section, adata in zip(stack.sections, adatas[::-1], strict=True):
        np.testing.assert_array_equal(section.added, adata.obsm["histology"][section.order])


def pictured(adata: Any, *, noise: bool = False) -> Any:
    """A copy with two named columns of a picture: a pattern on the lattice that no gene shows, or noise."""
    adata = adata.copy()
    number = np.array([int(name.split("-")[1]) for name in adata.obs_names])
    y, x = np.divmod(number, 14)
    columns = np.stack([np.sin(x / 2.2) * np.sin(y / 1.9), (x % 5 < 2) * 1.0], 1)
    if noise:
        columns = np.random.default_rng(adata.X.nnz).normal(size=columns.shape)
    adata.obsm["histology"] = columns.astype(np.float32)
    adata.uns["histology"] = {"columns": np.array(["pattern", "stripes"])}
    return adata


def test_a_run_says_that_nothing_of_the_pictures_is_left(make_adatas: Any, tmp_path: Path) -> None:
    """Noise: one warning, first among the sentences of the report; ``uns`` and ``run.json`` hold that 0 were added."""
    adatas = [pictured(a, noise=True) for a in make_adatas(2, angles=(0.0, 0.7))]
    out, options = tmp_path / "out", {"n_domains": 2, "method": "moments", "progress": False}
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", UserWarning)
        result = sj.tl.reconstruct(adatas, units="um", histology="histology", out=out, **options)
    (said,) = (str(w.message) for w in heard if "pictures add nothing" in str(w.message))
    assert result.warnings[0] == said
    card = json.loads((out / "run.json").read_text())
    assert card["warnings"][0] == said
    assert card["histology"] == {"key": "histology", "columns": ["pattern", "stripes"], "components": 0}
    assert json.loads(result.atlas.uns["spatialjax"]["histology"]) == card["histology"]
    assert "<li>The pictures add nothing" in (out / "report.html").read_text(encoding="utf-8")


def test_a_run_without_pictures_has_no_record_of_them(reconstruction: Any) -> None:
    """No key in ``uns``, null in ``run.json``, no sentence."""
    assert "histology" not in reconstruction.atlas.uns["spatialjax"]
    assert outputs.run_card(reconstruction)["histology"] is None
    stack = SimpleNamespace(histology=None)
    assert histology_lost(stack, 0) == [] and histology_record(stack, 0) is None


def test_a_pair_with_pictures_in_vain_is_told(make_adatas: Any) -> None:
    """``align``: the warning, and the sentence before all others."""
    adatas = [pictured(a, noise=True) for a in make_adatas(2)]
    with pytest.warns(UserWarning, match="The pictures add nothing"):
        found = sj.tl.align(*adatas, units="um", histology="histology", method="moments")
    assert found.messages[0].startswith("The pictures add nothing")


@pytest.fixture(scope="module")
def atlas(reconstruction: Any) -> Any:
    """The shared atlas as one that was made with pictures."""
    atlas = pictured(renamed(reconstruction.atlas))
    del atlas.uns["histology"]
    record = {"key": "histology", "columns": ["pattern", "stripes"], "components": 1}
    atlas.uns["spatialjax"] = {**atlas.uns["spatialjax"], "histology": json.dumps(record)}
    return atlas


def renamed(atlas: Any) -> Any:
    """A copy whose cells are called by their number in the section."""
    atlas = atlas.copy()
    atlas.obs_names = [f"{s}-{n.split('-')[-1]}" for s, n in zip(atlas.obs["slice"], atlas.obs_names, strict=True)]
    return atlas


def test_register_takes_pictures(atlas: Any, make_adatas: Any) -> None:
    """Both have them: evidence is gained, the section and the larger atlas say so, and its place is right."""
    (section,) = (pictured(a) for a in make_adatas(1, angles=(-1.3,), seed=40))
    options = {"z": 10.0, "name": "new", "units": "um", "method": "moments"}
    larger, found = sj.tl.add_section(atlas, section, histology="histology", **options)
    assert found.placed and found.messages[0].startswith("Histology: the 2 columns")
    record = json.loads(found.section.uns["spatialjax"]["histology"])
    assert record == {"key": "histology", "columns": ["pattern", "stripes"], "components": record["components"]}
    assert record["components"] >= 1
    assert json.loads(larger.uns["spatialjax"]["options"])["added"][0]["histology"] == record
    first = atlas.obsm["spatial3d"][(atlas.obs["slice"] == "A 1/left").to_numpy()]
    assert np.median(np.linalg.norm(found.section.obsm["spatial3d"][:, :2] - first[:, :2], axis=1)) < 60.0
    held = beside.held_of(atlas, "new", z=10.0, component=0)
    own = open_in_order([section, section], units="um", names=["new", "other"]).stack.sections[0]
    both, alone = (beside.stacked(held, own, histology=key, duplicates="allow") for key in ("histology", None))
    features = [prepare(stack, method="moments").slices[0].features.shape[1] for stack in (both, alone)]
    assert features[0] == features[1] + record["components"]


def test_what_the_atlas_was_made_with_is_said(atlas: Any, reconstruction: Any, make_adatas: Any) -> None:
    """One has pictures and the other has not, or they are not asked for: a sentence says what counts."""
    (bare,) = make_adatas(1)
    made, plain = (beside.held_of(a, "new", z=10.0, component=0) for a in (atlas, reconstruction.atlas))
    (said,) = beside.pictures_said(made, bare, None, name="new")
    assert "made with pictures (obsm['histology'])" in said and "'new' has none" in said
    assert "the other features alone" in said
    (said,) = beside.pictures_said(made, pictured(bare), None, name="new")
    assert "histology='histology' (--histology) would use it" in said
    (said,) = beside.pictures_said(plain, pictured(bare), "histology", name="new")
    assert "made without pictures; obsm['histology'] adds to the evidence of the place of 'new' only" in said
    assert beside.pictures_said(made, pictured(bare), "histology", name="new") == []
    assert beside.pictures_said(plain, pictured(bare), None, name="new") == []


def test_pictures_that_one_side_lacks_are_refused(atlas: Any, reconstruction: Any, make_adatas: Any) -> None:
    """Asked for, and the section or the atlas has none, or other columns: the same messages as for a stack."""
    (bare,) = make_adatas(1)
    options = {"z": 10.0, "units": "um", "histology": "histology"}
    with pytest.raises(InputError, match=r"Expected obsm\['histology'\] in all sections.* found none in 'new'"):
        sj.tl.register(bare, atlas, **options)
    with pytest.raises(InputError, match=r"Expected obsm\['histology'\] in all sections.* found none in 'A 1/left'"):
        sj.tl.register(pictured(bare), reconstruction, **options)
    other = pictured(bare)
    other.uns["histology"] = {"columns": np.array(["pattern", "spots"])}
    with pytest.raises(InputError, match="same columns"):
        sj.tl.register(other, atlas, **options)
