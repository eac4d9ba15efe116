"""The commands for a person's hand on small files: register, add-section, align, transfer-labels, warp-images."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from typer.testing import CliRunner

import spatialjax as sj
from spatialjax.atlas import outputs
from spatialjax.cli import app

#: The same programs run many times.
pytestmark = pytest.mark.usefixtures("optimized_module")

QUICK = ("--units", "um", "--method", "moments")


class Ended(NamedTuple):
    """How a command ended: its exit code, and all that it said, in one line."""

    code: int
    said: str


def run(*words: Any) -> Ended:
    """Run the command line inside this process."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ended(result.exit_code, " ".join(result.output.split()))


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its contents."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def sections(make_adatas: Any) -> list[Any]:
    """Three sections for an atlas and one to come, of one tissue, turned."""
    found = make_adatas(4, angles=(0.0, 0.7, 2.5, -1.3))
    for adata in found:
        adata.obsm["spatial"] = adata.obsm["spatial"] + 300.0
    return found


@pytest.fixture(scope="module")
def home(sections: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run in ``atlas``, a further section, and noise in place of one."""
    folder = tmp_path_factory.mktemp("home")
    result = sj.tl.reconstruct(
        sections[:3], names=["A", "B", "C"], units="um", gap=20, n_domains=2, seed=1, method="moments", progress=False
    )
    outputs.write(result, folder / "atlas", source="a test")
    for name, adata in zip("ABCD", sections, strict=True):
        adata.write_h5ad(folder / f"{name}.h5ad")
    noise = sections[3].copy()
    noise.X = noise.X[np.random.default_rng(0).permutation(noise.n_obs)]
    noise.write_h5ad(folder / "noise.h5ad")
    return folder


def off(found: Any, sections: list[Any]) -> float:
    """Median distance (µm) of the cells from the same cells of the first section, whose frame the atlas has."""
    return float(np.median(np.linalg.norm(found[:, :2] - sections[0].obsm["spatial"], axis=1)))


def test_register_writes_the_section_with_its_place(home: Path, sections: list[Any], tmp_path: Path) -> None:
    """Exit code 0; places within a spacing of the truth, the height asked for, the map in ``uns``; inputs untouched."""
    before = files_in(home)
    out = tmp_path / "new" / "D.h5ad"
    done = run("register", home / "D.h5ad", "--atlas", home / "atlas", "--z", 10, "--out", out, *QUICK)
    assert done.code == 0, done.said
    assert "'D' is placed at 10 µm" in done.said
    found = anndata.read_h5ad(out)
    assert off(found.obsm["spatial3d"], sections) < 60.0 and (found.obsm["spatial3d"][:, 2] == 10.0).all()
    record = found.uns["spatialjax"]
    moved = sections[3].obsm["spatial"] @ record["matrix_from_units"][0].T + record["shift_from_units"][0]
    np.testing.assert_allclose(moved, found.obsm["spatial3d"][:, :2])
    assert {row["target"] for row in json.loads(record["pairs"])} == {"A", "B", "C"}
    assert files_in(home) == before
    (again,) = sj.io.read(out)
    assert again.uns["spatialjax"]["um_per_unit"] == 1.0


def test_a_section_without_evidence_has_its_own_exit_code(home: Path, tmp_path: Path) -> None:
    """Noise: exit code 3, the file is there, its coordinates are NaN, and it is said."""
    out = tmp_path / "noise.h5ad"
    done = run("register", home / "noise.h5ad", "--atlas", home / "atlas", "--z", 10, "--out", out, *QUICK)
    assert done.code == 3, done.said
    assert "not placed" in done.said
    assert np.isnan(anndata.read_h5ad(out).obsm["spatial3d"]).all()


def test_add_section_writes_a_larger_atlas(home: Path, sections: list[Any], tmp_path: Path) -> None:
    """All files, couplings of old pairs and to both neighbours with rows in the order of the cells; ``run.json`` lists
    them; the new folder serves as an atlas again."""
    out = tmp_path / "larger"
    done = run("add-section", home / "D.h5ad", "--atlas", home / "atlas", "--z", 10, "--out", out, *QUICK)
    assert done.code == 0, done.said
    assert {p.name for p in out.iterdir()} == {"atlas.h5ad", "couplings", "report.html", "viewer.html", "run.json"}
    atlas = anndata.read_h5ad(out / "atlas.h5ad")
    card = json.loads((out / "run.json").read_text())
    assert [s["name"] for s in card["sections"]] == ["A", "B", "C", "D"] and card["sections"][3]["z_um"] == 10.0
    assert [(c["source"], c["target"]) for c in card["couplings"]] == [("A", "B"), ("B", "C"), ("A", "D"), ("D", "B")]
    places = {name: atlas.obsm["spatial3d"][(atlas.obs["slice"] == name).to_numpy(), :2] for name in "ABCD"}
    for row in card["couplings"][2:]:
        matches = sp.load_npz(out / row["file"])
        used = np.diff(matches.indptr) > 0
        assert used.mean() > 0.8 and np.allclose(matches.sum(1).A1[used], 1.0)
        matched = (matches @ places[row["target"]])[used]
        apart = np.linalg.norm(matched - places[row["source"]][used], axis=1)
        assert np.median(apart) < 60.0
    fits = [(row["source"], row["target"]) for row in card["metrics"]["similarity_pairs"]]
    assert fits == [("A", "B"), ("B", "C"), ("A", "D"), ("D", "B")]
    assert all(row["atlas"] > row["permuted"] + 0.3 for row in card["metrics"]["similarity_pairs"])
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Added to the finished atlas" in page and "<td>D → A</td>" in page and "<td>A → D</td>" in page
    assert "A → B → C" in page and "nothing speaks against their order" not in page
    taken = run("add-section", home / "D.h5ad", "--atlas", out, "--z", 5, "--out", tmp_path / "x.h5ad", *QUICK)
    assert taken.code == 2 and "--name" in taken.said
    again = run("add-section", home / "D.h5ad", "--atlas", home / "atlas", "--z", 10, "--out", out, *QUICK)
    assert again.code == 2 and "--overwrite" in again.said


def test_add_section_to_one_file(home: Path, tmp_path: Path) -> None:
    """A name that ends in .h5ad: the atlas alone."""
    out = tmp_path / "more.h5ad"
    words = ("--atlas", home / "atlas" / "atlas.h5ad", "--z", 30, "--name", "between", "--out", out)
    done = run("add-section", home / "D.h5ad", *words, *QUICK)
    assert done.code == 0, done.said
    assert list(tmp_path.iterdir()) == [out]
    assert list(anndata.read_h5ad(out).uns["spatialjax"]["sections"]) == ["A", "B", "C", "between"]


def test_align_writes_the_moved_section(home: Path, sections: list[Any], tmp_path: Path) -> None:
    """Places on the target, the pose and its evidence; without evidence exit code 3."""
    out = tmp_path / "B_on_A.h5ad"
    done = run("align", home / "B.h5ad", home / "A.h5ad", "--out", out, *QUICK)
    assert done.code == 0, done.said
    found = anndata.read_h5ad(out)
    assert off(found.obsm["aligned"], sections) < 60.0
    assert found.uns["aligned"]["supported"] and abs(found.uns["aligned"]["angle_deg"] + np.degrees(0.7)) < 3.0
    again = run("align", out, home / "A.h5ad", "--out", tmp_path / "b.h5ad", *QUICK)
    assert again.code == 2 and "--key-added" in again.said
    noise = run("align", home / "noise.h5ad", home / "A.h5ad", "--out", tmp_path / "n.h5ad", *QUICK)
    assert noise.code == 3 and "not supported" in noise.said


def test_labels_between_two_files(home: Path, sections: list[Any], tmp_path: Path) -> None:
    """The target's own labels do not count; most cells get the right one, with a confidence between 0 and 1."""
    out = tmp_path / "B.h5ad"
    done = run("transfer-labels", home / "A.h5ad", home / "B.h5ad", "--label-key", "layer", "--out", out, *QUICK)
    assert done.code == 0, done.said
    found = anndata.read_h5ad(out)
    assert list(found.obs_names) == list(sections[1].obs_names)
    known = found.obs["layer_transferred"].notna().to_numpy()
    right = found.obs["layer_transferred"].astype(str).to_numpy() == found.obs["layer"].astype(str).to_numpy()
    assert known.mean() > 0.8 and right[known].mean() > 0.85
    assert found.obs["layer_transferred_confidence"][known].between(0, 1).all()
    assert found.uns["layer_transferred"]["judged_on"] == "neighbours"


def test_labels_inside_an_atlas(home: Path, tmp_path: Path) -> None:
    """From the outer sections to the middle one over the couplings of the folder; other cells get none."""
    out = tmp_path / "labels.h5ad"
    words = ("--atlas", home / "atlas", "--label-key", "layer", "--from", "A", "--from", "C", "--to", "B")
    done = run("transfer-labels", *words, "--key-added", "guess", "--out", out)
    assert done.code == 0, done.said
    found = anndata.read_h5ad(out)
    own = (found.obs["slice"] == "B").to_numpy()
    right = found.obs["guess"].astype(str).to_numpy() == found.obs["layer"].astype(str).to_numpy()
    assert right[own].mean() > 0.85 and found.obs["guess"][~own].isna().all()
    first = sj.tl.transfer_labels(
        anndata.read_h5ad(home / "atlas" / "atlas.h5ad"), "layer", source=["A", "C"], target="B"
    )
    assert not np.allclose(first.table["confidence"], found.obs["guess_confidence"][own], equal_nan=True)


def named_under(heading: str) -> set[str]:
    """Words in code on the page of outputs, in one section and what stands below it."""
    page = (Path(__file__).resolve().parents[1] / "docs" / "outputs.md").read_text(encoding="utf-8")
    depth = heading.split(" ")[0]
    own = re.split(rf"^#{{1,{len(depth)}}} ", page.split(f"\n{heading}\n")[1], maxsplit=1, flags=re.M)[0]
    return set(re.findall(r"[\w-]+", " ".join(re.findall(r"`([^`\n]+)`", own))))


def written(value: Any, *, free: tuple[str, ...] = ()) -> set[str]:
    """All keys of a nested record, JSON texts opened; what stands under a key in ``free`` is named by the input."""
    if isinstance(value, str) and value[:1] in "[{":
        value = json.loads(value)
    if isinstance(value, pd.DataFrame):
        return set(value.columns)
    if isinstance(value, dict):
        return set(value).union(*(written(v, free=free) for k, v in value.items() if k not in free))
    return set().union(*(written(v, free=free) for v in value)) if isinstance(value, list) else set()


def test_every_key_that_is_written_stands_on_the_page_of_outputs(home: Path, tmp_path: Path) -> None:
    """reconstruct, register, add-section, align, transfer-labels, domains: obs, obsm, uns and run.json by name."""
    free = ("fingerprint", "versions", "criterion")
    given = anndata.read_h5ad(home / "D.h5ad")
    first = run("register", home / "D.h5ad", "--atlas", home / "atlas", "--out", tmp_path / "D.h5ad", *QUICK)
    second = run("add-section", home / "D.h5ad", "--atlas", home / "atlas", "--z", 10, "--out", tmp_path / "l", *QUICK)
    third = run("align", home / "D.h5ad", home / "A.h5ad", "--out", tmp_path / "al.h5ad", *QUICK)
    words = ("--label-key", "layer", "--key-added", "KEY_transferred", "--out", tmp_path / "lab.h5ad")
    fourth = run("transfer-labels", home / "A.h5ad", home / "B.h5ad", *words, *QUICK)
    fifth = run("domains", home / "A.h5ad", "--method", "kmeans", "--n-domains", 2, "--out", tmp_path / "dom.h5ad")
    assert [done.code for done in (first, second, third, fourth, fifth)] == [0] * 5

    for folder in (home / "atlas", tmp_path / "l"):
        atlas, card = anndata.read_h5ad(folder / "atlas.h5ad"), json.loads((folder / "run.json").read_text())
        about = named_under("## `atlas.h5ad`")
        assert {*atlas.obs, *atlas.obsm} - {*given.obs} <= about
        more = named_under("### Pairs") | named_under("### Metrics")
        assert written(dict(atlas.uns["spatialjax"]), free=free) <= about | more
        assert {key for key, value in card.items() if key not in free} <= named_under("## `run.json`")
        assert written(card, free=free) <= named_under("## `run.json`") | more | about
        assert {p.name for p in folder.iterdir()} <= named_in_files()
    assert "added_pairs" in atlas.uns["spatialjax"]

    section = anndata.read_h5ad(tmp_path / "D.h5ad")
    about = named_under("## One section more")
    assert {*section.obs, *section.obsm} - {*given.obs, *given.obsm} <= about
    own = written(dict(section.uns["spatialjax"]), free=free)
    assert own <= about | named_under("## `atlas.h5ad`") | named_under("### Pairs")
    assert {"name", "spatial_key", "pairs"} <= own & about
    for file, key, heading in (("al", "aligned", "Two sections"), ("lab", "KEY_transferred", "Labels")):
        found, about = anndata.read_h5ad(tmp_path / f"{file}.h5ad"), named_under(f"## {heading}")
        assert {*found.obs, *found.obsm} - {*given.obs, *given.obsm} <= about
        assert written(dict(found.uns[key])) <= about
    found, about = anndata.read_h5ad(tmp_path / "dom.h5ad"), named_under("## Domains")
    assert {*found.obs, *found.obsm} - {*given.obs, *given.obsm} <= about
    assert written(dict(found.uns["domain"])) <= about


def named_in_files() -> set[str]:
    """Names in the table of files."""
    page = (Path(__file__).resolve().parents[1] / "docs" / "outputs.md").read_text(encoding="utf-8")
    return {name.split("/")[0] for name in re.findall(r"^\| `([^`]+)` \|", page.split("\n## ")[0], re.M)}


@pytest.fixture(scope="module")
def pictures(home: Path, sections: list[Any]) -> dict[str, Path]:
    """A picture of A in which each pixel is 10 µm, with a bright square on one cell, and one that is too small."""
    extent = sections[0].obsm["spatial"].max(0)
    width, height = (int(np.ceil(v / 10)) + 6 for v in extent)
    pixels = np.zeros((height, width), np.uint8)
    x, y = (int(round(v / 10)) for v in sections[0].obsm["spatial"][60])
    pixels[y - 1 : y + 2, x - 1 : x + 2] = 200
    paths = {"A": home / "A.npy", "small": home / "small.npy"}
    np.save(paths["A"], pixels)
    np.save(paths["small"], pixels[:60, :60])
    return paths


def test_warped_pictures_lie_where_the_cells_do(
    home: Path, sections: list[Any], pictures: dict[str, Path], tmp_path: Path
) -> None:
    """The bright square is found at the cell's place in the atlas; all pictures have one frame; a record each."""
    words = ("--atlas", home / "atlas", "--image", f"A={pictures['A']}", "--image", f"B={pictures['A']}")
    scale = ("--pixels-per-unit", "0.1", "--pixels-per-unit", "B=0.04")
    done = run("warp-images", *words, *scale, "--format", "npy", "--um-per-pixel", 10, "--out", tmp_path / "w")
    assert done.code == 0, done.said
    assert {p.name for p in (tmp_path / "w").iterdir()} == {"A.npy", "A.npy.json", "B.npy", "B.npy.json"}
    first, second = (json.loads((tmp_path / "w" / f"{n}.npy.json").read_text()) for n in "AB")
    assert first["origin_um"] == second["origin_um"] and first["shape"] == second["shape"]
    rows, columns = np.nonzero(np.load(tmp_path / "w" / "A.npy") > 100)
    place = np.array(first["origin_um"]) + 10.0 * np.array([columns.mean(), rows.mean()])
    np.testing.assert_allclose(place, sections[0].obsm["spatial"][60], atol=12.0)
    assert "The cells of 'B' fill" in done.said and "The cells of 'A' fill" not in done.said
    again = run("warp-images", *words, *scale, "--format", "npy", "--out", tmp_path / "w")
    assert again.code == 2 and "--overwrite" in again.said
    more = run("warp-images", *words, *scale, "--format", "npy", "--whole", "--out", tmp_path / "w", "--overwrite")
    assert more.code == 0, more.said


Words = Callable[[Path, Path], tuple[Any, ...]]
BAD: dict[str, tuple[Words, str]] = {
    "register: no such section file": (
        lambda h, o: ("register", h / "absent.h5ad", "--atlas", h / "atlas", "--out", o / "x.h5ad", *QUICK),
        "absent.h5ad",
    ),
    "register: no such atlas": (
        lambda h, o: ("register", h / "D.h5ad", "--atlas", h / "atls", "--out", o / "x.h5ad", *QUICK),
        "atls",
    ),
    "register: a section in place of the atlas": (
        lambda h, o: ("register", h / "D.h5ad", "--atlas", h / "A.h5ad", "--out", o / "x.h5ad", *QUICK),
        "is no atlas that 'spatialjax reconstruct' wrote",
    ),
    "register: unknown units": (
        lambda h, o: ("register", h / "D.h5ad", "--atlas", h / "atlas", "--out", o / "x.h5ad"),
        "--units",
    ),
    "register: a folder of several sections": (
        lambda h, o: ("register", h, "--atlas", h / "atlas", "--out", o / "x.h5ad", *QUICK),
        "--section",
    ),
    "register: no such section in it": (
        lambda h, o: ("register", h, "--section", "AA", "--atlas", h / "atlas", "--out", o / "x.h5ad", *QUICK),
        "Did you mean 'A'",
    ),
    "register: a folder as output": (
        lambda h, o: ("register", h / "D.h5ad", "--atlas", h / "atlas", "--out", o / "x", *QUICK),
        "ends in .h5ad",
    ),
    "register: no frame of that number": (
        lambda h, o: (*_register(h, o), "--component", 4),
        "--component",
    ),
    "register: the input as output": (
        lambda h, o: ("register", h / "D.h5ad", "--atlas", h / "atlas", "--out", h / "D.h5ad", "--overwrite", *QUICK),
        "another file for --out",
    ),
    "register: an output that is there": (
        lambda h, o: ("register", h / "D.h5ad", "--atlas", h / "atlas", "--out", h / "C.h5ad", *QUICK),
        "--overwrite",
    ),
    "add-section: the height is taken": (
        lambda h, o: ("add-section", h / "D.h5ad", "--atlas", h / "atlas", "--z", 20, "--out", o / "x", *QUICK),
        "height of its own",
    ),
    "add-section: into the folder of the atlas": (
        lambda h, o: (
            *("add-section", h / "D.h5ad", "--atlas", h / "atlas", "--z", 5, "--out", h / "atlas", "--overwrite"),
            *QUICK,
        ),
        "another file for --out",
    ),
    "register: a section without pictures": (
        lambda h, o: (*_register(h, o), "--histology", "histology"),
        "Expected obsm['histology'] in all sections",
    ),
    "add-section: a section without pictures": (
        lambda h, o: (
            *("add-section", h / "D.h5ad", "--atlas", h / "atlas", "--z", 5, "--out", o / "x", *QUICK),
            *("--histology", "histology"),
        ),
        "Expected obsm['histology'] in all sections",
    ),
    "align: sections without pictures": (
        lambda h, o: (
            *("align", h / "A.h5ad", h / "B.h5ad", "--out", o / "x.h5ad", *QUICK),
            *("--histology", "histology"),
        ),
        "Expected obsm['histology'] in all sections",
    ),
    "align: no such method": (
        lambda h, o: ("align", h / "A.h5ad", h / "B.h5ad", "--out", o / "x.h5ad", "--units", "um", "--method", "best"),
        "Unknown method 'best'",
    ),
    "labels: wrong key": (
        lambda h, o: (
            "transfer-labels",
            h / "A.h5ad",
            h / "B.h5ad",
            "--label-key",
            "layr",
            "--out",
            o / "x.h5ad",
            *QUICK,
        ),
        "Did you mean 'layer'",
    ),
    "labels: no such section of the atlas": (
        lambda h, o: (*_labels(h, o), "--from", "AA"),
        "source section 'AA'",
    ),
    "labels: one file": (
        lambda h, o: ("transfer-labels", h / "A.h5ad", "--label-key", "layer", "--out", o / "x.h5ad"),
        "SOURCE and TARGET, or --atlas",
    ),
    "labels: a column that is there": (
        lambda h, o: (*_labels(h, o), "--from", "A", "--to", "B", "--key-added", "domain3d"),
        "--key-added",
    ),
    "labels: noise": (
        lambda h, o: (
            *("transfer-labels", h / "A.h5ad", h / "noise.h5ad", "--label-key", "layer", "--out", o / "x.h5ad"),
            *QUICK,
        ),
        "supported pose",
    ),
    "pictures: no such section": (lambda h, o: _warp(h, o, f"Z={h / 'A.npy'}"), "section in --image: 'Z'"),
    "pictures: no name": (lambda h, o: _warp(h, o, h / "A.npy"), "NAME=VALUE"),
    "pictures: no such file": (lambda h, o: _warp(h, o, f"A={h / 'none.npy'}"), "none.npy"),
    "pictures: another size": (lambda h, o: _warp(h, o, f"A={h / 'small.npy'}"), "--pixels-per-unit right"),
    "pictures: not made smaller": (
        lambda h, o: ("warp-images", "--atlas", h / "atlas", "--image", f"A={h / 'A.npy'}", "--out", o),
        "shows the cells of 'A'",
    ),
    "pictures: unknown format": (lambda h, o: (*_warp(h, o, f"A={h / 'A.npy'}"), "--format", "gif"), "--format"),
    "pictures: no pixel": (lambda h, o: (*_warp(h, o, f"A={h / 'A.npy'}"), "--um-per-pixel", 0), "--um-per-pixel"),
    "pictures: not an atlas": (
        lambda h, o: ("warp-images", "--atlas", h / "A.h5ad", "--image", f"A={h / 'A.npy'}", "--out", o),
        "is no atlas",
    ),
}


def _register(home: Path, out: Path) -> tuple[Any, ...]:
    return ("register", home / "D.h5ad", "--atlas", home / "atlas", "--out", out / "x.h5ad", *QUICK)


def _labels(home: Path, out: Path) -> tuple[Any, ...]:
    return ("transfer-labels", "--atlas", home / "atlas", "--label-key", "layer", "--out", out / "x.h5ad")


def _warp(home: Path, out: Path, image: Any) -> tuple[Any, ...]:
    return ("warp-images", "--atlas", home / "atlas", "--image", image, "--pixels-per-unit", "0.1", "--out", out)


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message(home: Path, pictures: dict[str, Path], tmp_path: Path, case: str) -> None:
    """Exit code 2, one message that helps, no traceback, nothing written and nothing changed."""
    words, message = BAD[case]
    before = files_in(home)
    done = run(*words(home, tmp_path))
    assert done.code == 2, done.said
    assert message in done.said
    assert done.said.count("error:") == 1 and "Traceback" not in done.said
    assert list(tmp_path.iterdir()) == [] and files_in(home) == before


def test_a_disk_without_room_leaves_nothing(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system refuses the file: exit code 1, one message, no half file; what was there before is still there."""
    import errno

    from spatialjax.io import writing

    def refused(_: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(writing, "write_h5ad", refused)
    out = tmp_path / "x.h5ad"
    out.write_bytes(b"earlier")
    done = run(*_register(home, tmp_path), "--overwrite")
    assert done.code == 1 and "disk is full" in done.said and done.said.count("error:") == 1
    assert files_in(tmp_path) == {"x.h5ad": b"earlier"}


def test_ctrl_c_has_its_own_exit_code(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during the work: exit code 130, nothing written."""
    from spatialjax.atlas import register

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(register, "register", interrupted)
    done = run(*_register(home, tmp_path))
    assert done.code == 130 and "interrupted" in done.said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["register", "add-section", "align", "transfer-labels", "warp-images"])
def test_the_help_shows_an_example(command: str) -> None:
    """Each command has one line to copy."""
    assert f"Example: spatialjax {command} " in run(command, "--help").said
