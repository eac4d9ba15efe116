"""The comparison with peers: processes are stopped and weighed, scores know right from wrong, the page shows them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from spatialjax.transforms import rigid

ROOT = Path(__file__).resolve().parents[1]


def load(path: Path) -> Any:
    """A module by its file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return load(ROOT / "benchmarks" / "alignment_peers.py")


@pytest.fixture(scope="module")
def peers_page() -> Any:
    """The writer of the page."""
    return load(ROOT / "docs" / "_ext" / "peers_page.py")


@pytest.fixture
def grid(peers: Any) -> Any:
    """A square of spots in two layers, and the same square turned by 40 degrees."""
    xy = np.stack(np.meshgrid(np.arange(8.0), np.arange(6.0)), -1).reshape(-1, 2) * 100
    layers = np.array(["left" if x < 400 else "right" for x, _ in xy], object)
    moved = rigid(np.radians(40.0), np.array([30.0, -20.0]))
    sections = []
    for places in (moved(xy), xy):
        adata = anndata.AnnData(sp.csr_matrix(np.eye(len(xy), 4, dtype=np.float32)))
        adata.obsm["spatial"] = places
        sections.append(adata)
    return peers.Pair(*sections, 100.0, moved.inverse(), (layers, layers))


def test_a_perfect_plan_scores_full_marks(peers: Any, grid: Any) -> None:
    """The identity plan gives accuracy 1, and the map made of it lies on the true one."""
    found = peers.score(grid, sp.eye(48, format="csr"), None)
    assert found["plan accuracy"] == 1 and found["map accuracy"] == 1 and found["matched"] == 1
    assert found["displacement"] < 1e-9 and found["parity right"]


def test_a_wrong_plan_scores_as_wrong(peers: Any, grid: Any) -> None:
    """A plan that reverses the columns joins other labels, and its map is mirrored."""
    order = np.arange(48).reshape(6, 8)[:, ::-1].ravel()
    found = peers.score(grid, sp.eye(48, format="csr")[order], None)
    assert found["plan accuracy"] == 0 and not found["parity right"] and found["displacement"] > 1


def test_a_given_map_is_scored_instead_of_the_plan(peers: Any, grid: Any) -> None:
    """Half the spots matched, and a map that is two pitches off."""
    plan = sp.diags((np.arange(48) < 24).astype(float)).tocsr()
    off = grid.truth.matrix, grid.truth.shift + np.array([200.0, 0.0])
    found = peers.score(grid, plan, off)
    assert found["matched"] == 0.5 and found["displacement"] == pytest.approx(2.0) and found["plan accuracy"] == 1


def test_the_true_overlap_is_that_of_the_smaller_share(peers: Any, grid: Any) -> None:
    """Half of the columns of the source lie on half of the target: about half, and a border of one pitch."""
    half = grid.source[np.tile(np.arange(8) < 4, 6)].copy()
    found = peers.true_overlap(peers.Pair(half, grid.target, 100.0, grid.truth, grid.labels))
    assert found == pytest.approx(5 / 8)


def test_a_process_is_stopped_at_its_limit(peers: Any, tmp_path: Path) -> None:
    """A process that sleeps is killed; the row says so, and its memory is known."""
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    ended = peers.run(command, limit=1.0, log=tmp_path / "log")
    assert ended.status == "stopped after 1 s" and 1 <= ended.wall < 10 and ended.peak_gb > 0


def test_a_failure_is_told_by_its_last_line(peers: Any, tmp_path: Path) -> None:
    """The message of an exception reaches the row."""
    ended = peers.run([sys.executable, "-c", "raise SystemExit('no such thing')"], limit=30.0, log=tmp_path / "log")
    assert ended.status == "failed: no such thing"


def test_rows_replace_those_of_the_same_pair_and_method(
    peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that is run again takes the place of the old one; the others stay, in the order of the tables."""
    monkeypatch.setattr(peers.record, "RESULTS", tmp_path)
    old = [{"row": "simulated", "method": name, "seconds": 1.0} for name in ("icp", "fields")]
    peers.record.write("alignment_peers", old, command="", targets={})
    rows = peers.merged([{"row": "simulated", "method": "icp", "seconds": 2.0}])
    assert [(row["method"], row["seconds"]) for row in rows] == [("fields", 1.0), ("icp", 2.0)]


def test_every_method_has_its_script_and_environment(peers: Any) -> None:
    """Each runner is there, with the list of what its environment holds."""
    for peer in peers.METHODS.values():
        assert (peers.RUNNERS / peer.script).is_file()
        assert peer.environment is None or (peers.RUNNERS / f"{peer.environment}.txt").is_file()


def test_the_page_marks_the_best_and_counts_fairly(
    peers_page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best figure is bold, a stopped run is named, and a row where a peer is better is said to be below."""
    head = {"row": "simulated", "spots": [10, 12], "load": 0.5}
    rows = [
        {**head, "method": "fields", "status": "finished", "plan accuracy": 0.8, "map accuracy": 1.0, "seconds": 2.0},
        {
            **head,
            "method": "peer moscot",
            "status": "finished",
            "plan accuracy": 0.9,
            "map accuracy": 0.5,
            "seconds": 50,
        },
        {**head, "method": "peer PASTE2", "status": "stopped after 600 s"},
    ]
    context = {"device": "cpu", "cores": 2}
    text = peers_page.json.dumps({"rows": rows, "context": context, "command": "python it"})
    (tmp_path / "alignment_peers.json").write_text(text, encoding="utf-8")
    monkeypatch.setattr(peers_page, "RESULTS", tmp_path)
    page = peers_page.page()
    assert "| moscot | **0.900** | 0.500 |" in page and "| spatialjax `fields` | 0.800 | **1.000** |" in page
    assert "not behind the best peer in 0 of 1 pairs. Worse in simulated: 0.800 against 0.900." in page
    assert "moscot took 25.0 to 25.0 times as long" in page and "Stopped for time: PASTE2 (simulated)" in page
