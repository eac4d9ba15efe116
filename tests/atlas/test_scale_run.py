"""The scale of a section that has shrunk, from ``tl.align`` and the command to the map that is applied."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata
import numpy as np
import pytest
from typer.testing import CliRunner

import spatialjax as sj
from spatialjax.atlas.features import prepare
from spatialjax.atlas.intake import open_in_order
from spatialjax.atlas.pairs import PairPosterior, pose_overlap
from spatialjax.atlas.tables import scale_messages
from spatialjax.cli import app
from spatialjax.transforms import Affine

SHRUNK = 0.95


@pytest.fixture(scope="module")
def pair(make_adatas: Any) -> SimpleNamespace:
    """A section turned and shrunk by 5 %, in units of 2 µm, and another one of that tissue."""
    source, target = make_adatas(2, n_spots=300, angles=(0.7, 0.0), seed=5)
    source.obsm["spatial"] = source.obsm["spatial"] * SHRUNK / 2.0
    source.uns["spatialjax"] = {"um_per_unit": 2.0, "units_source": "stated"}
    target.uns["spatialjax"] = {"um_per_unit": 1.0, "units_source": "stated"}
    return SimpleNamespace(source=source, target=target, truth=target.obsm["spatial"])


@pytest.fixture(scope="module")
def found(pair: SimpleNamespace) -> Any:
    """The pair aligned with a scale."""
    return sj.tl.align(pair.source, pair.target, method="moments", scale=True)


def test_a_section_shrunk_by_a_twentieth_is_found_within_its_interval(found: Any, pair: SimpleNamespace) -> None:
    """The 90 % interval holds the truth and excludes 1; the map and the cells hold the scale, in the units of both."""
    assert found.supported
    low, high = found.posterior.scale_interval(found.pose)
    assert 1.0 < low <= 1 / SHRUNK <= high
    assert found.scale == pytest.approx(found.posterior.scale[found.pose])
    assert high / low == pytest.approx(np.exp(2 * 1.6449 * found.posterior.scale_sd[found.pose]), rel=1e-4)
    assert np.sqrt(np.linalg.det(found.transform.matrix)) == pytest.approx(2 * found.scale)
    np.testing.assert_allclose(found.transform(pair.source.obsm["spatial"]), found.coordinates)
    apart = np.linalg.norm(found.coordinates - pair.truth, axis=1)
    assert np.median(apart) < 40.0 and apart.max() < 130.0
    assert found.angle == pytest.approx(-np.degrees(0.7), abs=3.0)
    assert "Lengths of the source are multiplied by 1.0" in found.messages[-1]


def test_the_overlap_is_that_of_the_scaled_section(make_adatas: Any) -> None:
    """A quarter smaller: what the target, cut in two, shows is told from what was cut off; without the scale it is
    not, about the same centre."""
    source, target = make_adatas(2, n_spots=300)
    truth, middle = target.obsm["spatial"], target.obsm["spatial"].mean(0)
    source.obsm["spatial"] = 0.75 * truth
    half = target[truth[:, 0] <= middle[0] + 500.0].copy()
    stack = open_in_order([source, half], units="um", allow_spacing_mismatch=True).stack
    prepared = prepare(stack, method="moments")
    shown, cut = truth[:, 0] <= middle[0] + 300.0, truth[:, 0] >= middle[0] + 700.0
    grown, rigid = Affine(np.eye(2) / 0.75, np.zeros(2)), Affine(np.eye(2), 0.25 * middle)
    seen, blind = (stack.sections[0].in_input_order(pose_overlap(prepared, (0, 1), p)) for p in (grown, rigid))
    assert np.median(seen[shown]) > 0.8 and seen[cut].max() < 0.2
    assert blind[cut].max() > seen[cut].max() + 0.1


def test_the_command_writes_the_scale(found: Any, pair: SimpleNamespace, tmp_path: Path) -> None:
    """``--scale``: the same map in ``uns``, the scale with its spread and interval, said aloud."""
    files = [tmp_path / "source.h5ad", tmp_path / "target.h5ad"]
    for adata, file in zip((pair.source, pair.target), files, strict=True):
        adata.write_h5ad(file)
    words = ["align", *map(str, files), "--method", "moments", "--scale", "--out", str(tmp_path / "x.h5ad")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "Lengths of the source" in " ".join(done.output.split())
    moved = anndata.read_h5ad(tmp_path / "x.h5ad")
    about = moved.uns["aligned"]
    np.testing.assert_allclose(moved.obsm["aligned"], found.coordinates, atol=1e-3)
    assert about["scale"] == pytest.approx(found.scale)
    assert about["scale_sd"] == pytest.approx(found.posterior.scale_sd[found.pose])
    assert about["scale_q05"] < about["scale"] < about["scale_q95"]


def test_a_scale_at_its_limit_is_not_believed() -> None:
    """What is said of a scale: its interval, that 1 is in it, or that it went as far as it may."""

    def said(size: float) -> str:
        posterior = PairPosterior(
            probability=np.ones(1),
            covariance=np.eye(3)[None],
            warp=0.0,
            mirrored=0.0,
            determined=True,
            ambiguous=False,
            overlap=(1.0, 1.0, 1.0),
            scaled=Affine(size * np.eye(2)[None], np.zeros((1, 2))),
            scale_sd=np.array([0.01]),
        )
        (sentence,) = scale_messages(posterior, 0)
        return sentence

    assert said(1.05).endswith("(90 %: 1.033 to 1.067).")
    assert "there may be no change" in said(1.01)
    assert "Do not believe it" in said(1.25) and "Do not believe it" in said(0.8)


def test_without_asking_there_is_no_scale() -> None:
    """The posterior of a pair has none, and no interval of it."""
    plain = PairPosterior(np.ones(1), np.eye(3)[None], 0.0, 0.0, True, False, (1.0, 1.0, 1.0))
    assert plain.scale is None and plain.scale_sd is None and plain.scale_interval() is None
