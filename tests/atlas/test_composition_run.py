"""The main job with a reference: the composition of every spot in the atlas, the report, the viewer, and resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from typer.testing import CliRunner

import spatialjax as sj
from spatialjax.atlas import adding, composed, steps
from spatialjax.atlas.report_composition import composition_part
from spatialjax.checks import InputError
from spatialjax.cli import app

KINDS = ["glia/astro", "neuron A", "neuron B"]
OPTIONS = {"units": "um", "gap": 20, "n_domains": 2, "seed": 1, "cell_type_key": "kind", "progress": False}
WORDS = ["--units", "um", "--gap", "20", "--n-domains", "2", "--seed", "1"]


def tissue() -> tuple[dict[str, anndata.AnnData], anndata.AnnData, list[np.ndarray]]:
    """Three sections of one tissue of three types, turned; cells of the types; true shares of each section."""
    rng = np.random.default_rng(0)
    means = rng.gamma(0.6, 3.0, (3, 40)) + 0.05
    genes = [f"Gene{i}" for i in range(40)]
    grid = np.stack(np.divmod(np.arange(120), 12)[::-1], 1) * 100.0
    unit = grid / grid.max()
    share = np.exp(3.0 * np.stack([np.sin(4 * unit[:, 0]), np.cos(5 * unit[:, 1]), unit[:, 0] - unit[:, 1]], 1))
    share /= share.sum(1, keepdims=True)
    sections, truth = {}, []
    for number, angle in enumerate((0.0, 0.7, 2.5)):
        cells = np.stack([rng.multinomial(8, p) for p in share])
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        adata = anndata.AnnData(sp.csr_matrix(rng.poisson(cells @ means).astype(np.float32)))
        adata.obsm["spatial"] = (grid - grid.mean(0)) @ turn.T
        adata.obs_names = [f"s{number}-{i}" for i in range(120)]
        adata.var_names = genes
        order = rng.permutation(120)
        sections[f"s{number}"] = adata[order].copy()
        truth.append((cells / 8.0)[order])
    types = np.repeat(np.arange(3), 30)
    reference = anndata.AnnData(sp.csr_matrix(rng.poisson(means[types]).astype(np.float32)))
    reference.obs["kind"], reference.var_names = np.array(KINDS)[types], genes
    return sections, reference, truth


@pytest.fixture(scope="module")
def made() -> Any:
    return tissue()


@pytest.fixture(scope="module")
def folder(made: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the sections and the reference, and in ``out`` what the command made of them, its steps kept."""
    folder = tmp_path_factory.mktemp("composition")
    for name, section in made[0].items():
        section.write_h5ad(folder / f"{name}.h5ad")
    made[1].write_h5ad(folder / "sc.h5ad")
    words = [*command(folder), "--cell-type-key", "kind", "--out", str(folder / "out"), "--keep-checkpoint"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return folder


def command(folder: Path) -> list[str]:
    """The command on the files, without the column of types."""
    files = [str(folder / f"s{number}.h5ad") for number in range(3)]
    return ["reconstruct", *files, *WORDS, "--reference", str(folder / "sc.h5ad")]


@pytest.fixture(scope="module")
def atlas(folder: Path) -> anndata.AnnData:
    """The atlas that the command wrote."""
    return anndata.read_h5ad(folder / "out" / "atlas.h5ad")


def test_every_spot_has_its_composition_in_input_order(made: Any, atlas: Any, folder: Path) -> None:
    """Near the truth, with a spread, intervals and the most frequent type."""
    table, truth = atlas.obsm["proportions"], np.concatenate(made[2])
    assert list(table.index) == list(atlas.obs_names)
    assert list(table.columns) == ["glia|astro", "neuron A", "neuron B"]
    assert np.sqrt(np.mean((table.to_numpy() - truth) ** 2)) < 0.12 < np.sqrt(np.mean((truth.mean(0) - truth) ** 2))
    for name in ("sd", "q05", "q95", "presence"):
        assert np.isfinite(atlas.obsm[f"proportions_{name}"].to_numpy()).all()
    assert atlas.obsm["abundance"].shape == truth.shape
    dominant = atlas.obs["dominant_type"]
    assert list(dominant.cat.categories) == ["glia/astro", "neuron A", "neuron B"]
    assert np.mean(dominant.cat.codes.to_numpy() == truth.argmax(1)) > 0.8
    assert atlas.uns["proportions"]["cell_type_key"] == "kind"
    card = json.loads((folder / "out" / "run.json").read_text())
    assert any("Composition: 40 genes are shared" in sentence for sentence in card["warnings"])
    assert all(section["placed"] for section in card["sections"])
    assert card["fingerprint"]["reference, cell types"] == KINDS


def test_nothing_else_changes_by_a_reference(made: Any, atlas: Any, folder: Path) -> None:
    """Places, domains and columns of a run without it, and with the kept features and pairs, are the same."""
    options = {name: value for name, value in OPTIONS.items() if name != "cell_type_key"}
    bare = sj.tl.reconstruct(made[0], out=folder / "bare", reuse=folder / "out", **options)
    np.testing.assert_array_equal(bare.atlas.obsm["spatial3d"], atlas.obsm["spatial3d"])
    assert bare.atlas.obs.astype(str).equals(atlas.obs.drop(columns="dominant_type").astype(str))
    assert "proportions" not in bare.atlas.obsm and "proportions" not in bare.atlas.uns
    assert "composition" not in {t.step for t in bare.timings}
    assert "Cell types" not in (folder / "bare" / "report.html").read_text(encoding="utf-8")


def test_the_files_show_it(folder: Path) -> None:
    """The report has its part with a table and a picture; the viewer may colour by the frequent type."""
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    part = page.split("<h2>Cell types</h2>")[1].split("<h2>")[0]
    assert "glia/astro" in part and "glia|astro" not in part and "data:image/png" in part and part.count("<tr>") == 4
    assert "dominant_type" in (folder / "out" / "viewer.html").read_text(encoding="utf-8")


def test_every_key_stands_on_the_page_of_outputs(atlas: Any, repository: Path) -> None:
    """By name, in the part on the atlas."""
    page = (repository / "docs" / "outputs.md").read_text(encoding="utf-8")
    part = page.split("\n## `atlas.h5ad`\n")[1].split("\n### ")[0]
    added = [f"obsm['{key}']" for key in atlas.obsm if key.startswith(("proportions", "abundance"))]
    assert len(added) == 6
    for key in (*added, "obs['dominant_type']", "uns['proportions']"):
        assert f"`{key}`" in part, key


def test_an_interrupted_run_goes_on_and_another_reference_is_refused(
    made: Any, atlas: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped when the composition was kept: the same bits after; other cells, other types or none are named."""
    save = steps.Store.save

    def stopping(self: Any, name: str, value: Any) -> None:
        save(self, name, value)
        if name == "composition":
            raise KeyboardInterrupt

    given = OPTIONS | {"reference": made[1], "out": tmp_path / "out"}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(steps.Store, "save", stopping)
        sj.tl.reconstruct(made[0], reuse=folder / "out", **given)
    other = made[1].copy()
    other.X = other.X[::-1]
    for change, named in (
        ({"reference": other}, "reference, counts: other contents"),
        ({"reference": None, "cell_type_key": None}, "reference, cells: 90 -> none"),
        ({"reference": made[1][10:]}, "reference, cells: 90 -> 80"),
    ):
        with pytest.raises(InputError, match=named):
            sj.tl.reconstruct(made[0], resume=True, **(given | change))
    monkeypatch.setattr("spatialjax.atlas.run.find_composition", None)
    again = sj.tl.reconstruct(made[0], resume=True, **given)
    for name in ("proportions", "proportions_q95", "abundance"):
        np.testing.assert_array_equal(again.atlas.obsm[name].to_numpy(), atlas.obsm[name].to_numpy())


def test_a_section_that_is_added_later_has_no_composition(made: Any, atlas: Any) -> None:
    """The tables of the old cells stay, those of the new ones are NaN, and the report says none."""
    old, new = atlas.copy(), made[0]["s1"].copy()
    new.obs_names = [f"new-{i}" for i in range(new.n_obs)]
    given = list(new.obsm)
    adding._unknown_tables(old, new)
    assert set(new.obsm) - set(given) == {key for key in old.obsm if key.startswith(("proportions", "abundance"))}
    larger = anndata.concat([old, new], join="inner", uns_merge="first")
    assert list(larger.obsm["proportions"].columns) == list(atlas.obsm["proportions"].columns)
    shares = larger.obsm["proportions"].to_numpy()
    np.testing.assert_array_equal(shares[: old.n_obs], atlas.obsm["proportions"].to_numpy())
    assert np.isnan(shares[old.n_obs :]).all()
    larger.obs["slice"] = pd.Categorical([*old.obs["slice"], *["late"] * new.n_obs])
    larger.obs["placed"] = np.arange(larger.n_obs) < old.n_obs
    assert "<td>late</td><td>–</td>" in composition_part(larger)


def logged(reference: Any) -> Any:
    reference = reference.copy()
    reference.layers["umi"], reference.X = reference.X.copy(), np.log1p(reference.X)
    return reference


def human(reference: Any) -> Any:
    reference = reference.copy()
    reference.var_names = [name.upper() for name in reference.var_names]
    return reference


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda r: r, {"cell_type_key": "kinds"}, "Did you mean 'kind'"),
        (lambda r: r, {"cell_type_key": None}, r"give cell_type_key= \(--cell-type-key\)"),
        (lambda r: None, {}, r"Expected reference= \(--reference\) beside 'cell_type_key"),
        (lambda r: r.X, {}, "Expected an AnnData for the reference"),
        (lambda r: r, {"counts_layer": "raw"}, r"layer 'raw' in section '0?1?'|Give counts_layer="),
        (logged, {}, r"give reference_layer='umi' \(--reference-layer umi\)"),
        (human, {}, "mouse.*human.*ortholog"),
    ],
)
def test_bad_references_are_refused_at_the_door(
    made: Any, tmp_path: Path, change: Any, options: dict[str, Any], message: str
) -> None:
    """Before any work and before anything is written."""

    def told(event: Any) -> None:
        assert event.step == "input", event.step

    with pytest.raises(InputError, match=message):
        sj.tl.reconstruct(
            made[0], reference=change(made[1]), out=tmp_path / "out", **(OPTIONS | {"progress": told} | options)
        )
    assert not (tmp_path / "out").exists()


def test_log_values_of_the_sections_need_a_layer_of_counts(made: Any) -> None:
    """The message names the layer and the option; with it the counts are those of the other runs."""
    sections = [section.copy() for section in made[0].values()]
    for section in sections:
        section.layers["umi"], section.X = section.X.copy(), np.log1p(section.X)
    with pytest.raises(InputError, match=r"give counts_layer='umi' \(--counts-layer umi\)"):
        sj.tl.reconstruct(sections, reference=made[1], **OPTIONS)
    from spatialjax.atlas import intake

    entry = intake.open_in_order(sections, units="um", gap=20)
    given = composed.ReferenceOptions(made[1], "kind", counts_layer="umi")
    found = composed.with_reference(entry, given, layer=None).beside.opened
    plain = intake.open_in_order(list(made[0].values()), units="um", gap=20)
    wanted = composed.with_reference(plain, composed.ReferenceOptions(made[1], "kind"), layer=None).beside.opened
    depths = [np.sort(np.asarray(each.spots.counts.sum(1)).ravel()) for each in (found, wanted)]
    np.testing.assert_array_equal(*depths)


def test_the_command_refuses_and_knows_the_finished_run(folder: Path) -> None:
    """A column that is not there is refused with nothing written; the finished run is known with its reference."""
    words = command(folder)
    bad = CliRunner().invoke(app, [*words, "--cell-type-key", "none", "--out", str(folder / "bad")])
    assert bad.exit_code == 2 and not (folder / "bad").exists()
    lonely = CliRunner().invoke(app, [*words[:-2], "--cell-type-key", "kind", "--out", str(folder / "bad")])
    assert lonely.exit_code == 2 and "--reference" in lonely.output
    again = CliRunner().invoke(app, [*words, "--cell-type-key", "kind", "--out", str(folder / "out"), "--resume"])
    assert again.exit_code == 0 and "nothing is left to do" in again.output
