"""The page on compositions says what the results say, and names every set where the default is behind."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def writer() -> Any:
    """The writer of the page, as a module."""
    spec = importlib.util.spec_from_file_location("composition_page", ROOT / "docs" / "_ext" / "composition_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(method: str, pearson: float, rmse: float, **more: Any) -> dict[str, Any]:
    """One line of the results."""
    head = {"set": "made", "name": "made set", "method": method, "seeds": 2, "spots, genes, types": [9, 20, 3]}
    return {**head, "pearson": pearson, "rmse": rmse, "jsd": 0.1, "aupr": 0.9, **more}


def test_the_page_shows_the_figures_and_where_ours_is_behind(writer: Any) -> None:
    """Best figures are bold, nulls are not compared, a set that is lost is named with both figures."""
    interval = {"coverage": 0.87, "width": 0.2, "score": 0.4, "fair null": 0.6, "oracle null": 0.5}
    presence = {"Brier": 0.05, "Brier of the frequency": 0.2}
    rows = [
        row("spike_slab", 0.9, 0.05, interval=interval, presence=presence),
        row("peer RCTD", 0.91, 0.06),
        row("oracle: mean of the truth", 0.99, 0.01),
    ]
    text = writer.page({"rows": rows, "command": "python it"})
    assert "| made set | 0.87 | 0.20 | 0.40 | 0.60 | 0.50 | 0.05 | 0.20 |" in text
    assert "| spatialjax `spike_slab` | 0.900 | **0.050** | **0.100** | **0.900** | 2 |" in text
    assert "| RCTD | **0.910** | 0.060 |" in text and "| *oracle: mean of the truth* | 0.990 |" in text
    assert (
        "- r: not behind the best other package in 0 of 1 sets. Behind in made set: 0.900 against 0.910 (RCTD)." in text
    )
    assert "- RMSE: not behind the best other package in 1 of 1 sets.\n" in text
    means = text.split("Means over the sets")[1]
    assert "| RCTD | 1 | 0.900 / 0.910 | 0.050 / 0.060 | 0.100 / 0.100 | 0.900 / 0.900 |" in means
    assert "oracle" not in means.split("## ")[0]


def test_re_implementations_stand_beside_their_peers(writer: Any) -> None:
    """Apart from the table of the set; what is more than .02 below its peer, or before the default, is named."""
    rows = [
        row("spike_slab", 0.90, 0.05),
        row("rctd", 0.91, 0.06),
        row("destvi", 0.60, 0.11),
        row("peer RCTD", 0.92, 0.055),
        row("peer DestVI", 0.63, 0.12),
        {"set": "made", "name": "made set", "method": "peer Stereoscope", "status": "stopped after 600 s"},
    ]
    text = writer.page({"rows": rows, "command": "python it"})
    near, again = text.split("## Re-implementations beside their peers")
    assert "`rctd`" not in near and "| RCTD | **0.920** |" in near
    assert "| made set | `rctd` | 0.910 / 0.920 | 0.060 / 0.055 |" in again
    assert "in 1 of 2 rows; below: `destvi` on made set (0.600 against 0.630)." in again
    assert "| made set | 0.900 | 0.600 | **0.910** |" in again and "| made set | **0.050** | 0.110 | 0.060 |" in again
    assert (
        "- r: not behind the best of our other methods in 0 of 1 sets. Behind in made set: 0.900 against 0.910 (rctd)."
        in again
    )
    assert "- RMSE: not behind the best of our other methods in 1 of 1 sets." in again
    assert "Without a figure: made set, Stereoscope: stopped after 600 s." in again


def test_the_picture_has_a_point_for_each_set(writer: Any, tmp_path: Path) -> None:
    """Rows without intervals are left out; the file is a picture."""
    interval = {"coverage": 0.87, "width": 0.2, "score": 0.4, "fair null": 0.6, "oracle null": 0.5}
    writer.draw([row("spike_slab", 0.9, 0.05, interval=interval), row("nnls", 0.8, 0.1)], tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
