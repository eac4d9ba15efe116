"""``sj.tl``, ``sj.pl`` and ``sj.datasets``: the calls of a user, and the refusals before any work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spatialjax as sj
from spatialjax.checks import InputError

UM = {"units": "um", "progress": False}


@pytest.fixture(scope="module")
def pair(make_adatas: Any) -> list[Any]:
    """Two sections of one tissue, the second turned by 0.7 rad."""
    return make_adatas(2, angles=(0.0, 0.7))


@pytest.fixture(scope="module")
def result(pair: list[Any]) -> Any:
    """Both sections reconstructed."""
    return sj.tl.reconstruct(dict(zip(["a", "b $x$"], pair, strict=True)), n_domains=2, **UM)


def test_align_gives_the_map_in_the_units_of_both_sections(pair: list[Any]) -> None:
    """A source in mm on a target in µm: the map, the moved cells and the angle fit the truth."""
    target, source = pair[0], pair[1].copy()
    source.obsm["spatial"] = source.obsm["spatial"] / 1000
    source.uns["spatialjax"] = {"um_per_unit": 1000.0, "units_source": "stated"}
    target = target.copy()
    target.uns["spatialjax"] = {"um_per_unit": 1.0, "units_source": "stated"}
    found = sj.tl.align(source, target)
    assert found.supported
    assert not found.mirrored
    assert found.angle == pytest.approx(-np.degrees(0.7), abs=3)
    assert np.allclose(found.transform(source.obsm["spatial"]), found.coordinates)
    distance = np.linalg.norm(found.coordinates - target.obsm["spatial"], axis=1)
    assert np.median(distance) < 60
    assert found.overlap.shape == (source.n_obs,)
    assert np.median(found.overlap) > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "feilds"}, "Did you mean 'fields'"),
        ({"reflection": "maybe"}, "'never'"),
        ({"anchor": "c"}, "anchor section"),
        ({"n_domains": 0}, "at least 1"),
        ({"n_domains": 10**6}, "domains"),
        ({"z": [0, 10], "order_by": "layer"}, "order_by"),
        ({"order_by": "depht"}, "order_by='depht'"),
        ({"names": ["x", "y"]}, "names"),
    ],
)
def test_bad_options_are_refused_before_any_work(pair: list[Any], tmp_path: Path, options: Any, message: str) -> None:
    """One clear message, no step begun beyond reading, nothing written."""
    steps: list[str] = []
    out = tmp_path / "out"
    call = UM | {"progress": lambda event: steps.append(event.step), "out": out} | options
    with pytest.raises(InputError, match=message):
        sj.tl.reconstruct(dict(zip("ab", pair, strict=True)), **call)
    assert set(steps) <= {"input"}
    assert not out.exists()


def test_count_method_refuses_other_values(pair: list[Any]) -> None:
    """``paste`` on log values names the problem before any work."""
    logs = [a.copy() for a in pair]
    for a in logs:
        a.layers["raw"] = a.X.copy()
        a.X = a.X.astype(float).log1p()
    with pytest.raises(InputError, match="layer='raw'"):
        sj.tl.reconstruct(logs, method="paste", **UM)


def test_order_column_must_tell_the_order(pair: list[Any]) -> None:
    """A column that varies within a section, or repeats between sections, is refused."""
    with pytest.raises(InputError, match="one value"):
        sj.tl.reconstruct(pair, order_by="layer", **UM)
    same = [a.copy() for a in pair]
    for a in same:
        a.obs["day"] = 3
    with pytest.raises(InputError, match="different value"):
        sj.tl.reconstruct(same, order_by="day", **UM)


def test_input_is_not_changed(pair: list[Any], result: Any) -> None:
    """After a run the sections hold what they held."""
    assert result.atlas.n_obs == 240
    for adata in pair:
        assert list(adata.obs.columns) == ["layer"]
        assert list(adata.obsm) == ["spatial"]
        assert dict(adata.uns) == {}


@pytest.mark.parametrize("draw", ["overlay", "gene", "overlap", "domains", "stack"])
def test_every_picture_can_be_drawn_from_the_atlas(result: Any, draw: str) -> None:
    """Each function gives a figure that renders; nothing global (pyplot) is touched."""
    import io

    figure = getattr(sj.pl, draw)(result.atlas)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    assert buffer.getvalue().startswith(b"\x89PNG")
    assert len(figure.axes) >= 2


def test_pictures_survive_the_file(result: Any, tmp_path: Path) -> None:
    """The atlas read back from a file can be drawn."""
    import anndata

    result.atlas.write_h5ad(tmp_path / "a.h5ad")
    atlas = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert len(sj.pl.overlay(atlas).axes) == 2


def test_unknown_gene_and_section_are_named(result: Any) -> None:
    """The message proposes the nearest name."""
    with pytest.raises(InputError, match="Did you mean 'gene1"):
        sj.pl.gene(result.atlas, "gen1")
    with pytest.raises(InputError, match="section"):
        sj.pl.overlay(result.atlas, pairs=[("a", "c")])


def test_marker_gene_is_the_one_that_follows_the_domains(result: Any) -> None:
    """A gene that is on in one domain only is found among the others."""
    atlas = result.atlas.copy()
    matrix = atlas.X.toarray()
    matrix[:, 7] = 50 * (atlas.obs["domain3d"] == "1")
    atlas.X = matrix
    assert sj.pl.marker_gene(atlas) == "gene7"


def test_simulated_sections_carry_their_truth() -> None:
    """The true map takes slide coordinates near the true places; the same seed gives the same sections."""
    first, again = (sj.datasets.simulated(seed=4, n_sections=2, spots=150, genes=20) for _ in range(2))
    assert len(first) == 2
    for a, b in zip(first, again, strict=True):
        assert (a.X != b.X).nnz == 0
        assert np.array_equal(a.obsm["spatial"], b.obsm["spatial"])
        moved = a.obsm["spatial"] @ a.uns["truth"]["matrix"].T + a.uns["truth"]["shift"]
        assert np.median(np.linalg.norm(moved - a.obsm["true3d"][:, :2], axis=1)) < 50


def test_unknown_or_absent_data_set_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A wrong name is answered with the nearest; absent files with the variable to set."""
    with pytest.raises(InputError, match="Did you mean 'dlpfc'"):
        sj.datasets.load("dlfpc")
    monkeypatch.setenv("SPATIALJAX_DATA", str(tmp_path))
    with pytest.raises(InputError, match="SPATIALJAX_DATA"):
        sj.datasets.load("dlpfc")


@pytest.mark.real
def test_real_data_set_opens(data_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The four ST sections come one by one, in order, with 200 µm units."""
    monkeypatch.setenv("SPATIALJAX_DATA", str(data_path))
    adatas = sj.datasets.load("stahl")
    assert len(adatas) == 4
    assert all(a.uns["spatialjax"]["um_per_unit"] == 200.0 for a in adatas)
    assert sum(a.n_obs for a in adatas) == 1031


def test_light_modules_load_light(repository: Path) -> None:
    """``import spatialjax.cli`` and ``.pl`` load neither anndata, ott, numpyro nor matplotlib."""
    code = (
        "import sys, spatialjax.cli, spatialjax.pl, spatialjax.datasets\n"
        "heavy = {'ott', 'numpyro', 'anndata', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'loaded {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_method_with_a_dense_plan_refuses_a_section_that_is_too_large(pair: list[Any], monkeypatch: Any) -> None:
    """Before any work, with the method that has no such limit."""
    import dataclasses

    from spatialjax.methods import CARDS

    small = dataclasses.replace(CARDS["alignment"]["paste"], most_spots=20)
    monkeypatch.setitem(CARDS["alignment"], "paste", small)
    with pytest.raises(InputError, match="at most 20 spots a section for method 'paste'.*Use method 'fields'"):
        sj.tl.reconstruct(pair, method="paste", **UM)
