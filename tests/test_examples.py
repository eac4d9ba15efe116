"""The examples run, at small size, and come out right."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

#: The same programs run many times.
pytestmark = pytest.mark.usefixtures("optimized_module")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def load(name: str) -> Any:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested_here() -> None:
    """A new example gets a test of its own in this file."""
    text = Path(__file__).read_text(encoding="utf-8")
    assert all(f'load("{path.stem}")' in text for path in EXAMPLES.glob("*.py"))


def test_script_a_method(capsys: pytest.CaptureFixture[str]) -> None:
    """Both ways to the same factorisation end at the same loss within 1 %, a third of what either gains."""
    fitted = load("script_a_method").main(["--small"])
    updates, gradients = np.array(fitted["updates"]), np.array(fitted["gradients"])
    assert np.isfinite(updates).all() and np.isfinite(gradients).all()
    np.testing.assert_allclose(updates, gradients, rtol=0.01)
    assert "genes that the factors explain worst" in capsys.readouterr().out


def test_align_real_stack(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Three simulated sections are all placed, and the files are written where asked."""
    result = load("align_real_stack").main(["--small", "--out", str(tmp_path / "atlas")])
    assert result.unplaced == []
    assert np.isfinite(result.atlas.obsm["spatial3d"]).all()
    assert (tmp_path / "atlas" / "atlas.h5ad").exists() and (tmp_path / "atlas" / "report.html").exists()
    assert "cells placed" in capsys.readouterr().out


@pytest.mark.real
def test_align_real_stack_on_the_real_sections(data_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The four real sections are placed, and whatever loops their supported pairs make close within three degrees."""
    if not (data_path / "stahl_breast_4slices" / "paste_slices.h5ad").exists():
        pytest.skip("no stahl_breast_4slices in $SPATIALJAX_DATA")
    monkeypatch.setenv("SPATIALJAX_DATA", str(data_path))
    result = load("align_real_stack").main([])
    assert result.unplaced == []
    assert all(loop["angle_deg"] < 3.0 for loop in result.metrics["loops"])
