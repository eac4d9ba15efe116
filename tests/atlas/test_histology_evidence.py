"""Columns of the sections' pictures as added evidence: what they change, what they leave alone, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anndata
import jax
import numpy as np
import pandas as pd
import pytest

import spatialjax as sj
from spatialjax.atlas.features import evidence, prepare
from spatialjax.atlas.pairs import align_pairs, preferred
from spatialjax.checks import InputError
from spatialjax.io import open_sections
from spatialjax.io.histology import with_histology

TURN = 2.0


def section(number: int, *, spots: int = 400, rate: float = 0.02, seed: int = 0, waves: int = 7) -> anndata.AnnData:
    """A round section of one tissue, turned by ``number * TURN``: hardly any counts, a picture of four smooth waves."""
    rng = np.random.default_rng([seed, number])
    side = int(np.ceil(np.sqrt(spots * 4 / np.pi)))
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) - (side - 1) / 2
    grid = grid[np.argsort((grid**2).sum(1), kind="stable")[:spots]] + rng.uniform(-0.2, 0.2, (spots, 2))
    drawn = np.random.default_rng(waves)
    direction = drawn.normal(size=(2, 4)) * 0.35
    picture = np.sin(grid @ direction + drawn.uniform(0, 6, 4)) + 0.3 * rng.normal(size=(spots, 4))
    c, s = np.cos(TURN * number), np.sin(TURN * number)
    adata = anndata.AnnData(
        rng.poisson(rate, (spots, 12)).astype(np.float32),
        obs=pd.DataFrame(index=[f"s{number}-{i}" for i in range(spots)]),
        var=pd.DataFrame(index=[f"gene{g}" for g in range(12)]),
    )
    adata.obsm["spatial"] = grid @ np.array([[c, -s], [s, c]]).T * 100.0
    adata.obsm["histology"] = (3.0**number * picture).astype(np.float32)
    return adata


def opened(adatas: list[Any], key: str | None = "histology", **door: Any) -> Any:
    return with_histology(open_sections(adatas, units="um", **door), key)


@pytest.fixture(scope="module")
def pair() -> list[anndata.AnnData]:
    """Two sections."""
    return [section(0), section(1)]


def test_columns_follow_the_canonical_order(pair: list[Any]) -> None:
    """Each row of the added columns belongs to the cell of that row; rows given in another order change nothing."""
    stack = opened(pair)
    for adata, own in zip(pair, stack.sections, strict=True):
        rows = adata.obs_names.get_indexer(own.cells)
        np.testing.assert_array_equal(own.added, adata.obsm["histology"][rows])
    shuffled = opened([a[np.random.default_rng(0).permutation(a.n_obs)].copy() for a in pair])
    for one, two in zip(stack.sections, shuffled.sections, strict=True):
        np.testing.assert_array_equal(one.added, two.added)
    assert "4 columns" in stack.messages[-1]


def test_without_a_key_nothing_changes(pair: list[Any]) -> None:
    """No key: the very stack, and slices that hold the shared features alone."""
    stack = open_sections(pair, units="um")
    assert with_histology(stack, None) is stack
    prepared = prepare(stack, method="fields")
    assert prepared.added == 0
    for own, features in zip(prepared.slices, prepared.embeddings, strict=True):
        np.testing.assert_array_equal(np.asarray(own.features)[: len(features)], features)


def test_a_picture_joins_the_evidence_and_nothing_else(pair: list[Any]) -> None:
    """Features for domains and couplings stay; the slices gain uncorrelated columns that take turns with them."""
    alone, both = (prepare(opened(pair, key), method="fields") for key in (None, "histology"))
    for one, two in zip(alone.embeddings, both.embeddings, strict=True):
        np.testing.assert_array_equal(one, two)
    added, wide = both.added, alone.embeddings[0].shape[1]
    assert 1 <= added <= 4
    joined = np.concatenate(
        [np.asarray(s.features)[: len(e)] for s, e in zip(both.slices, both.embeddings, strict=True)]
    )
    np.testing.assert_array_equal(joined[:, 0], np.concatenate(alone.embeddings)[:, 0])
    extra = joined[:, 1 : 2 * added : 2]
    extra = extra / extra.std(0)
    known = np.concatenate(alone.embeddings)
    assert joined.shape[1] == wide + added
    np.testing.assert_allclose(extra.T @ extra / len(extra), np.eye(added), atol=1e-3)
    np.testing.assert_allclose(extra.T @ (known / known.std(0)) / len(extra), 0.0, atol=1e-3)
    assert both.inputs is not both.slices
    assert all(a is b for a, b in zip(both.inputs, both.slices, strict=True))


def test_noise_is_left_out(pair: list[Any]) -> None:
    """The picture of another spot for each spot: not one column is added, so the evidence is that of the genes."""
    rng = np.random.default_rng(1)
    dealt = []
    for adata in pair:
        dealt.append(adata.copy())
        dealt[-1].obsm["histology"] = adata.obsm["histology"][rng.permutation(adata.n_obs)]
    alone, both = prepare(opened(pair, None), method="fields"), prepare(opened(dealt), method="fields")
    assert both.added == 0
    for one, two in zip(alone.slices, both.slices, strict=True):
        np.testing.assert_array_equal(one.features, two.features)


def test_monotone_changes_of_a_stain_change_nothing(pair: list[Any]) -> None:
    """Another stain strength in one section: the same slices to the bit, because columns are ranked in each section."""
    other = [pair[0], pair[1].copy()]
    other[1].obsm["histology"] = np.exp(0.1 * other[1].obsm["histology"]) + 5.0
    one, two = (prepare(opened(adatas), method="fields") for adatas in (pair, other))
    for a, b in zip(one.slices, two.slices, strict=True):
        np.testing.assert_allclose(a.features, b.features, atol=1e-5)


def test_a_shared_picture_places_what_too_few_counts_cannot(pair: list[Any]) -> None:
    """Hardly any counts: with the pictures the angle is right to 5° and supported; with those of two tissues it is not.

    The second picture is as smooth as the first, so its columns are kept: smoothness alone must not place a section.
    """
    other = pair[1].copy()
    other.obsm["histology"] = section(1, waves=8).obsm["histology"]
    found = {}
    for name, second in (("same", pair[1]), ("other", other)):
        prepared = prepare(opened([pair[0], second]), method="fields")
        assert prepared.added == 4
        (found[name],) = align_pairs(prepared, [(0, 1)], method="fields", key=jax.random.key(0))
    best = found["same"]
    pose = best.poses[preferred(best, "auto")]
    off = (float(pose.angle) - TURN + np.pi) % (2 * np.pi) - np.pi
    assert best.supported
    assert not bool(pose.mirrored)
    assert abs(np.degrees(off)) < 5.0
    assert found["other"].evidence[0] - found["other"].threshold < 0.2 * (best.evidence[0] - best.threshold)


def test_all_sections_or_none(pair: list[Any]) -> None:
    """A section without columns is named, and the call that makes them."""
    other = pair[1].copy()
    del other.obsm["histology"]
    with pytest.raises(InputError, match="all sections.*none in 'second'.*pp.histology_features"):
        opened([pair[0], other], names=["first", "second"])
    with pytest.raises(InputError, match="Did you mean 'histology'"):
        opened(pair, "histologie")


def test_columns_that_cannot_be_used_are_refused(pair: list[Any]) -> None:
    """Other columns, NaN, constant ones, one dimension, and the features themselves."""

    def refuse(match: str, values: Any) -> None:
        other = pair[1].copy()
        other.obsm["histology"] = values
        with pytest.raises(InputError, match=match):
            opened([pair[0], other])

    values = pair[1].obsm["histology"]
    refuse("same columns.*found 4 .* and 3", values[:, :3])
    refuse("NaN or infinite ones in 5 of 400", np.where(np.arange(400)[:, None] < 5, np.nan, values))
    refuse("columns that vary", np.ones_like(values))
    with pytest.raises(InputError, match="feature_key"):
        opened(pair, feature_key="histology")
    named = [a.copy() for a in pair]
    for adata, columns in zip(named, ("abcd", "abce"), strict=True):
        adata.uns["histology"] = {"columns": np.array(list(columns))}
    with pytest.raises(InputError, match="same columns.*other names"):
        opened(named)


def test_evidence_counts_sections_without_columns_as_none(pair: list[Any]) -> None:
    """One section without added columns: the features alone."""
    stack = opened(pair)
    stack = replace(stack, sections=(stack.sections[0], replace(stack.sections[1], added=None)))
    assert prepare(stack, method="fields").added == 0
    joined, number = evidence([np.ones((3, 2))], [np.zeros((3, 2))], [None])
    assert number == 0
    np.testing.assert_array_equal(joined[0], 1.0)


@pytest.mark.real
def test_pictures_of_the_cortex_agree_with_its_layers(data_path: Any) -> None:
    """Two Visium sections with their low-resolution pictures: white matter is told from the layers by every section.

    The haematoxylin share of white matter and of the layers differs the same way in both sections, and columns are
    added beside the genes.
    """
    pytest.importorskip("PIL", reason="Pillow reads the pictures")
    sections = []
    for name in ("151673", "151674"):
        adata = anndata.read_h5ad(data_path / "dlpfc_visium_allspots" / f"{name}.h5ad")[::3].copy()
        path = data_path / "dlpfc_images_labels" / f"{name}_lowres.png"
        sections.append(
            sj.pp.histology_features(adata, image=path, pixels_per_unit=0.045004502, pitch=137.0)[:, :200].copy()
        )
    share = [
        np.median(s.obsm["histology"][(s.obs["layer"] == "WM").to_numpy(), 2])
        - np.median(s.obsm["histology"][(s.obs["layer"] != "WM").to_numpy(), 2])
        for s in sections
    ]
    assert share[0] * share[1] > 0
    stack = with_histology(open_sections(sections, pitch=100 * np.sqrt(3)), "histology")
    assert prepare(stack, method="fields").added >= 2
