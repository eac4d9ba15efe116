"""The command line: exit codes, messages, files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from spatialjax import cli

#: The same programs run many times.
pytestmark = pytest.mark.usefixtures("optimized_module")


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run the command line inside this process."""

    def call(*words: Any) -> Ended:
        monkeypatch.setattr("sys.argv", ["spatialjax", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def files(make_adatas: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two sections as files."""
    folder = tmp_path_factory.mktemp("sections")
    paths = []
    for i, adata in enumerate(make_adatas(2, angles=(0.0, 0.7))):
        paths.append(folder / f"slide {i}.h5ad")
        adata.write_h5ad(paths[-1])
    return paths


def test_reconstruct_writes_everything(run: Any, files: list[Path], tmp_path: Path) -> None:
    """Exit code 0, all files, progress and device told on standard error; a second run into the folder is refused."""
    out = tmp_path / "out"
    done = run("reconstruct", *files, "--units", "um", "--gap", 15, "--n-domains", 2, "--out", out)
    assert done.code == 0, done.err
    assert {p.name for p in out.iterdir()} == {"atlas.h5ad", "couplings", "report.html", "viewer.html", "run.json"}
    assert "running on" in done.err
    assert "pairs: done" in done.err
    assert "2 of 2 sections placed" in done.err
    card = json.loads((out / "run.json").read_text())
    assert [s["z_um"] for s in card["sections"]] == [0.0, 15.0]
    assert [s["name"] for s in card["sections"]] == ["slide 0", "slide 1"]
    assert card["source"].startswith("spatialjax reconstruct ")
    again = run("reconstruct", *files, "--units", "um", "--out", out)
    assert again.code == 2
    assert "--overwrite" in again.err


def test_unplaced_section_has_its_own_exit_code(run: Any, files: list[Path], tmp_path: Path) -> None:
    """Noise in place of a section: exit code 3, files written, the section named."""
    import anndata

    noise = anndata.read_h5ad(files[1])
    noise.X = np.random.default_rng(5).permutation(noise.X.toarray())
    noise.write_h5ad(tmp_path / "noise.h5ad")
    out = tmp_path / "out"
    done = run("reconstruct", files[0], tmp_path / "noise.h5ad", "--units", "um", "--n-domains", 2, "--out", out)
    assert done.code == 3, done.err
    assert "noise" in done.err
    assert "nothing to show" in (out / "report.html").read_text()
    assert (out / "run.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--units"),
        (("--units", "furlong"), "furlong"),
        (("--units", "um", "--method", "pastte"), "paste"),
        (("--units", "um", "--reflection", "al"), "allow"),
        (("--units", "um", "--anchor", "slide 7"), "slide"),
        (("--units", "um", "--z", "0,ten"), "0,10,30"),
        (("--units", "um", "--z", "0"), "one z"),
        (("--units", "um", "--gap", "-3"), "gap"),
        (("--units", "um", "--layer", "nothing"), "nothing"),
        (("--units", "um", "--spatial-key", "xy"), "spatial"),
    ],
)
def test_bad_input_is_one_message(run: Any, files: list[Path], tmp_path: Path, words: Any, message: str) -> None:
    """Exit code 2, one message that helps, no traceback, nothing written."""
    out = tmp_path / "out"
    done = run("reconstruct", *files, "--out", out, *words)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("error:") == 1
    assert "Traceback" not in done.err + done.out
    assert not out.exists()


def test_missing_and_broken_files_are_named(run: Any, files: list[Path], tmp_path: Path) -> None:
    """A file that is not there, and one cut in half."""
    missing = run("validate", files[0], tmp_path / "absent.h5ad", "--units", "um")
    assert missing.code == 2
    assert "absent.h5ad" in missing.err
    cut = tmp_path / "cut.h5ad"
    cut.write_bytes(files[0].read_bytes()[:3000])
    broken = run("validate", files[0], cut, "--units", "um")
    assert broken.code == 2
    assert "cut.h5ad" in broken.err
    assert "Traceback" not in broken.err


def test_interruption_has_its_own_exit_code(run: Any, files: list[Path], tmp_path: Path, monkeypatch: Any) -> None:
    """Ctrl-C during the work: exit code 130, no folder that looks finished, no traceback."""
    from spatialjax.atlas import run as job

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "reconstruct_stack", interrupted)
    done = run("reconstruct", *files, "--units", "um", "--out", tmp_path / "out")
    assert done.code == 130
    assert "interrupted" in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out" / "run.json").exists()


def test_validate_says_what_would_happen(run: Any, files: list[Path]) -> None:
    """Sections, units, gap, pairs, estimate; nothing is written beside the input."""
    before = sorted(files[0].parent.iterdir())
    done = run("validate", *files, "--units", "um")
    assert done.code == 0, done.err
    for word in ("slide 0", "120", "counts", "gap", "'fields'", "GB"):
        assert word in done.out
    assert sorted(files[0].parent.iterdir()) == before


def test_validate_as_json(run: Any, files: list[Path]) -> None:
    """Only JSON on standard output, with plain values."""
    found = json.loads(run("validate", *files, "--pitch", 50, "--json").out)
    assert [s["cells"] for s in found["sections"]] == [120, 120]
    assert found["sections"][0]["um_per_unit"] == pytest.approx(0.5)
    assert found["pairs"] == [["slide 0", "slide 1"]]
    assert found["estimate"]["seconds"] > 0
    assert found["estimate"]["memory_mb"] > 0


@pytest.fixture(scope="module")
def cells() -> Any:
    """Cells of the sections' genes and one gene more: two types, one like the first, one of a single cell."""
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    rng = np.random.default_rng(0)
    kind = np.array(["a"] * 30 + ["b"] * 30 + ["like a"] * 30 + ["rare"])
    level = {name: rng.gamma(0.5, 8.0, 41) for name in ("a", "b", "rare")}
    level["like a"] = level["a"]
    counts = rng.poisson(np.stack([level[name] for name in kind])).astype(np.float32)
    found = anndata.AnnData(sp.csr_matrix(counts), obs=pd.DataFrame({"kind": kind}, index=[f"c{i}" for i in range(91)]))
    found.var_names = [f"gene{g}" for g in range(41)]
    return found


def test_validate_checks_a_reference_in_the_words_of_deconvolve(
    run: Any, files: list[Path], cells: Any, tmp_path: Path
) -> None:
    """Genes, types and messages are those that the door of ``deconvolve`` gives for the same spots."""
    import anndata

    from spatialjax.io.composed import open_composed

    cells.write_h5ad(tmp_path / "sc.h5ad")
    words = ("validate", files[0], files[1], "--units", "um", "--reference", tmp_path / "sc.h5ad")
    done = run(*words, "--cell-type-key", "kind", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["reference"]
    assert found["types"] == {"a": 30, "b": 30, "like a": 30, "rare": 1}
    assert (found["cells"], found["genes"]) == (91, 40)
    both = anndata.concat([anndata.read_h5ad(path) for path in files])
    assert found["messages"] == open_composed(both, cells, cell_type_key="kind").messages
    assert any("fewer than 10 cells" in m and "'rare' (1)" in m for m in found["messages"])
    assert any("No gene is 2 times higher in 'a', 'like a'" in m for m in found["messages"])
    shown = run(*words, "--cell-type-key", "kind").out
    assert "91 cells of 4 types, 40 genes" in shown and "Composition: Types with fewer" in shown
    assert "reference" not in json.loads(run(*words[:5], "--json").out)


def test_validate_refuses_a_reference_that_deconvolve_would(
    run: Any, files: list[Path], cells: Any, tmp_path: Path
) -> None:
    """No column, log values, another organism: exit code 2 and the message that says what to do."""
    log, human = cells.copy(), cells.copy()
    log.X = log.X.log1p()
    log.layers["umi"] = cells.X
    human.var_names = [f"HG{g}" for g in range(41)]
    for name, table in (("sc", cells), ("log", log), ("human", human)):
        table.write_h5ad(tmp_path / f"{name}.h5ad")
    words = ("validate", *files, "--units", "um", "--reference")
    for name, options, told in (
        ("sc", (), "--cell-type-key"),
        ("sc", ("--cell-type-key", "kid"), "Did you mean 'kind'?"),
        ("log", ("--cell-type-key", "kind"), "--reference-layer umi"),
        ("human", ("--cell-type-key", "kind"), "gene"),
    ):
        done = run(*words, tmp_path / f"{name}.h5ad", *options)
        assert done.code == 2 and told in " ".join(done.err.split()), done.err
    assert run(*words, tmp_path / "log.h5ad", "--cell-type-key", "kind", "--reference-layer", "umi").code == 0


def test_one_file_of_many_sections(run: Any, files: list[Path], tmp_path: Path) -> None:
    """``--slice-key`` splits a file, ``--order-by`` orders its sections; else the message names the column."""
    import anndata

    parts = [anndata.read_h5ad(path) for path in files]
    for i, part in enumerate(parts):
        part.obs["slide"], part.obs["rank"] = f"s{i}", 10 - i
    anndata.concat(parts).write_h5ad(tmp_path / "all.h5ad")
    alone = run("validate", tmp_path / "all.h5ad", "--units", "um")
    assert alone.code == 2
    assert "'slide'" in alone.err
    words = ("--units", "um", "--slice-key", "slide", "--order-by", "rank", "--json")
    found = json.loads(run("validate", tmp_path / "all.h5ad", *words).out)
    assert [s["name"] for s in found["sections"]] == ["s1", "s0"]


def test_info_methods_and_cite(run: Any) -> None:
    """Versions and devices; every card; BibTeX of a published method; an unknown method brings the nearest."""
    info = json.loads(run("info", "--json").out)
    assert info["versions"]["jax"]
    assert info["devices"][0]["platform"]
    assert "numpy" in run("info").out
    cards = json.loads(run("methods", "--json").out)
    assert {"fields", "paste", "icp", "moments"} <= {card["name"] for card in cards}
    table = run("methods").out
    assert "paste" in table
    assert "verified" in table
    assert run("cite", "paste").out.lstrip().startswith("@")
    wrong = run("cite", "pastee")
    assert wrong.code == 2
    assert "paste" in wrong.err


def test_help_and_version(run: Any) -> None:
    """Every command is listed; the version is printed."""
    listed = run("--help").out
    for command in ("reconstruct", "validate", "demo", "register", "add-section", "align", "transfer-labels"):
        assert command in listed
    for command in ("warp-images", "info", "methods", "cite"):
        assert command in listed
    assert run("--version").out.startswith("spatialjax ")
    assert run("reconstruct", "--bogus").code == 2


def test_demo_compares_with_the_truth(run: Any, tmp_path: Path) -> None:
    """A small demonstration: the error against the truth beside simple ways, and the files."""
    done = run("demo", "--sections", 2, "--spots", 250, "--out", tmp_path / "demo")
    assert done.code in (0, 3), done.err
    for way in ("atlas", "moments", "icp", "as given"):
        assert way in done.out
    assert (tmp_path / "demo" / "report.html").exists()
