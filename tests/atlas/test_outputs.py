"""The files of a run: complete, self-contained, safe for any name, and never half-written."""

from __future__ import annotations

import html.parser
import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from spatialjax.atlas import files, outputs
from spatialjax.checks import InputError


@pytest.fixture(scope="module")
def folder(reconstruction: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A written run."""
    return outputs.write(reconstruction, tmp_path_factory.mktemp("run") / "out", source="a <command> & more")


def test_atlas_reads_back(folder: Path, reconstruction: Any) -> None:
    """The h5ad holds what the reconstruction held."""
    atlas = anndata.read_h5ad(folder / "atlas.h5ad")
    assert np.array_equal(atlas.obsm["spatial3d"], reconstruction.atlas.obsm["spatial3d"])
    assert atlas.obs["domain3d"].tolist() == reconstruction.atlas.obs["domain3d"].tolist()
    assert list(atlas.uns["spatialjax"]["sections"]) == list(reconstruction.transforms)
    assert json.loads(atlas.uns["spatialjax"]["options"])["n_domains"] == 3


def test_run_card_is_plain_json_and_indexes_the_couplings(
    folder: Path, reconstruction: Any, section_names: list[str]
) -> None:
    """Versions, device, options, times, metrics with nulls; every coupling file is listed and opens."""
    card = json.loads((folder / "run.json").read_text())
    assert {"versions", "device", "options", "steps", "metrics", "pairs", "findings", "warnings"} <= set(card)
    assert card["options"]["seed"] == 1
    assert card["source"] == "a <command> & more"
    assert set(card["metrics"]["similarity"]) == {"atlas", "identity", "centered", "permuted"}
    assert [step["step"] for step in card["steps"]][-1] == "outputs"
    assert [(c["source"], c["target"]) for c in card["couplings"]] == list(
        zip(section_names, section_names[1:], strict=False)
    )
    for entry in card["couplings"]:
        assert (folder / entry["file"]).resolve().parent == (folder / "couplings").resolve()
        kept = reconstruction.couplings[entry["source"], entry["target"]]
        assert (sp.load_npz(folder / entry["file"]) != kept).nnz == 0


def test_report_is_self_contained_and_escapes_names(folder: Path) -> None:
    """No link to another file or server, every picture inside, section names as text and not as markup."""
    page = (folder / "report.html").read_text(encoding="utf-8")

    class Reader(html.parser.HTMLParser):
        sources: list[str] = []
        text: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

        def handle_data(self, data: str) -> None:
            self.text.append(data)

    reader = Reader()
    reader.feed(page)
    assert len(reader.sources) == 6
    assert all(source.startswith("data:image/png;base64,") for source in reader.sources)
    assert "<b>B</b>" not in page
    assert any("<b>B</b> $2" in text for text in reader.text)
    assert "a <command> & more" in reader.text
    assert "µm" in page


def test_findings_and_unplaced_sections_come_first(reconstruction: Any) -> None:
    """What looks wrong stands before the pictures."""
    import dataclasses

    from spatialjax.atlas import report

    first, *others = reconstruction.transforms
    lost = dataclasses.replace(reconstruction.transforms[first], placed=False)
    result = dataclasses.replace(
        reconstruction,
        findings=["Sections 1 & 2 seem to have changed places."],
        transforms={first: lost} | {name: reconstruction.transforms[name] for name in others},
    )
    page = report.page(result)
    assert page.index("Sections 1 &amp; 2 seem") < page.index("Not placed") < page.index("data:image/png")
    assert "Every section is placed" not in page


def test_folder_with_files_is_refused_unless_overwritten(folder: Path, reconstruction: Any, tmp_path: Path) -> None:
    """A non-empty folder is refused; with overwrite only files of the earlier run go, files of others stay."""
    with pytest.raises(InputError, match="--overwrite"):
        outputs.check_directory(folder)
    target = tmp_path / "old"
    (target / "couplings").mkdir(parents=True)
    (target / "couplings" / "007_x--y.npz").write_text("an earlier run")
    (target / "notes.txt").write_text("mine")
    outputs.check_directory(target, overwrite=True)
    outputs.write(reconstruction, target)
    assert (target / "notes.txt").read_text() == "mine"
    assert not (target / "couplings" / "007_x--y.npz").exists()
    assert len(list((target / "couplings").iterdir())) == 2


def test_checking_a_folder_writes_nothing(tmp_path: Path) -> None:
    """The check before the run leaves no folder behind; a file in the way is refused."""
    outputs.check_directory(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        outputs.check_directory(tmp_path / "file")


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    """Whatever breaks a write, the name holds the old content or nothing, never a part."""
    path = tmp_path / "x.txt"
    path.write_text("old")

    def broken(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outputs.atomically(path, broken)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


@pytest.mark.parametrize("name", ["a/b", "../up", "", "ü $x", "." * 5, "n" * 300])
def test_file_names_are_safe(name: str) -> None:
    """Any section name gives a short name that stays in its folder."""
    safe = files.safe_name(name)
    assert 0 < len(safe) <= 60
    assert Path(safe).name == safe
    assert safe not in (".", "..")


def test_json_values_are_plain() -> None:
    """NaN and infinity become null, numpy numbers become numbers."""
    value = {"a": np.float32(1.5), "b": [np.nan, np.inf], "c": np.array([1, 2]), "d": np.bool_(True), "e": None}
    assert outputs.plain(value) == {"a": 1.5, "b": [None, None], "c": [1, 2], "d": True, "e": None}


def test_groups_without_a_common_frame_are_an_alert(reconstruction: Any) -> None:
    """Sections in two frames: the page says so first and does not call everything well."""
    import dataclasses

    from spatialjax.atlas import report

    transforms = dict(reconstruction.transforms)
    last = list(transforms)[-1]
    transforms[last] = dataclasses.replace(transforms[last], component=1, anchor=last)
    page = report.page(dataclasses.replace(reconstruction, transforms=transforms))
    assert "Groups that nothing joins" in page
    assert "Every section is placed" not in page


@pytest.mark.parametrize("decoy", [False, True])
def test_given_coordinates_under_another_key_are_shown(reconstruction: Any, decoy: bool) -> None:
    """Report and viewer find the coordinates that the maps start from, beside other ones under the usual key too."""
    import dataclasses

    from spatialjax.atlas import report
    from spatialjax.viewer.contents import contents, given_key

    atlas = reconstruction.atlas.copy()
    expected = contents(atlas)["given"]
    atlas.obsm["place"] = atlas.obsm.pop("spatial")
    if decoy:
        atlas.obsm["spatial"] = atlas.obsm["place"] * 3.0 + 5.0
    assert given_key(atlas) == "place" and given_key(reconstruction.atlas) == "spatial"
    assert contents(atlas)["given"] == expected
    page = report.page(dataclasses.replace(reconstruction, atlas=atlas)) if decoy else ""
    assert not decoy or 'alt="Successive sections as given and as placed"' in page
    del atlas.obsm["place"]
    assert given_key(atlas) is None and contents(atlas)["given"] is None


def test_the_report_tells_decisions_in_words(folder: Path, reconstruction: Any) -> None:
    """Sentences instead of the raw option; a run without decisions says that there were none."""
    import dataclasses

    from spatialjax.atlas import report
    from spatialjax.atlas.hand import Decisions, Fix

    assert "Nothing was decided by hand." in (folder / "report.html").read_text(encoding="utf-8")
    atlas = reconstruction.atlas.copy()
    record = dict(atlas.uns["spatialjax"])
    decided = Decisions(exclude=("<i>E</i>",), fix=(Fix("C", "A 1/left", 12.0),))
    record["options"] = json.dumps(json.loads(record["options"]) | {"decisions": dataclasses.asdict(decided)})
    atlas.uns["spatialjax"] = record
    page = report.page(dataclasses.replace(reconstruction, atlas=atlas))
    assert "Section &#x27;&lt;i&gt;E&lt;/i&gt;&#x27; is left out." in page
    assert "is fixed: rotated by 12°, shifted by (0, 0) µm." in page
    assert "angle_deg" not in page and "decisions =" not in page
