"""The whole job on three small sections: what the atlas holds, and what it must not depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import spatialjax as sj

PITCH = 100.0


def _run(adatas: Any, **options: Any) -> Any:
    options = {"units": "um", "gap": 20, "n_domains": 3, "seed": 1, "progress": False} | options
    return sj.tl.reconstruct(adatas, **options)


def _true_error(result: Any, adatas: list[Any]) -> float:
    """Largest median distance (µm) of the cells of a section from those of the first one: all show the same grid."""
    size = adatas[0].n_obs
    xy = result.atlas.obsm["spatial3d"][:, :2]
    return max(float(np.median(np.linalg.norm(xy[i * size : (i + 1) * size] - xy[:size], axis=1))) for i in (1, 2))


def test_turned_sections_come_to_lie_on_each_other(reconstruction: Any, three_sections: list[Any]) -> None:
    """All sections are placed within one spot distance of the truth; as given they are far from it."""
    assert reconstruction.unplaced == []
    assert _true_error(reconstruction, three_sections) < PITCH
    given = np.concatenate([a.obsm["spatial"] for a in three_sections])
    size = three_sections[0].n_obs
    assert np.median(np.linalg.norm(given[2 * size :] - given[:size], axis=1)) > 3 * PITCH


def test_every_cell_keeps_name_order_and_values(
    reconstruction: Any, three_sections: list[Any], section_names: list[str]
) -> None:
    """Rows, names, counts, given coordinates and columns of obs are those of the input, in its order."""
    atlas = reconstruction.atlas
    assert atlas.obs_names.tolist() == [name for a in three_sections for name in a.obs_names]
    assert list(atlas.obs["slice"].cat.categories) == section_names
    assert (np.concatenate([a.X.toarray() for a in three_sections]) != atlas.X).sum() == 0
    assert np.array_equal(atlas.obsm["spatial"], np.concatenate([a.obsm["spatial"] for a in three_sections]))
    assert atlas.obs["layer"].tolist() == [v for a in three_sections for v in a.obs["layer"]]
    assert set(three_sections[0].obs.columns) == {"layer"}
    assert "spatial3d" not in three_sections[0].obsm


def test_anchor_keeps_its_coordinates_to_the_bit(reconstruction: Any, three_sections: list[Any]) -> None:
    """The anchor's own float64 coordinates are passed through; heights are those of the gap."""
    atlas, size = reconstruction.atlas, three_sections[0].n_obs
    assert np.array_equal(atlas.obsm["spatial3d"][:size, :2], three_sections[0].obsm["spatial"])
    assert np.unique(atlas.obsm["spatial3d"][:, 2]).tolist() == [0.0, 20.0, 40.0]


def test_transforms_move_the_given_coordinates_into_the_atlas(reconstruction: Any, three_sections: list[Any]) -> None:
    """``Placement.apply`` and the arrays in ``uns`` give the same places as ``obsm['spatial3d']``."""
    facts = reconstruction.atlas.uns["spatialjax"]
    for i, (name, placement) in enumerate(reconstruction.transforms.items()):
        rows = (reconstruction.atlas.obs["slice"] == name).to_numpy()
        xyz = reconstruction.atlas.obsm["spatial3d"][rows]
        given = three_sections[i].obsm["spatial"]
        assert np.allclose(placement.apply(given), xyz, atol=1e-6)
        by_hand = given @ facts["matrix_from_units"][i].T + facts["shift_from_units"][i]
        assert np.allclose(by_hand, xyz[:, :2], atol=1e-6)


def test_every_cell_has_the_spread_of_its_place(reconstruction: Any, three_sections: list[Any]) -> None:
    """0 for the anchor and along z, below a pitch elsewhere, wider far from the middle; the truth lies in its reach."""
    atlas, size = reconstruction.atlas, three_sections[0].n_obs
    sd = atlas.obsm["spatial3d_sd"]
    assert sd.shape == (atlas.n_obs, 3) and not sd[:size].any() and not sd[:, 2].any()
    assert (sd[size:, :2] > 0).all() and sd.max() < PITCH
    xy = atlas.obsm["spatial3d"][:, :2]
    for i in (1, 2):
        rows = slice(i * size, (i + 1) * size)
        far = np.linalg.norm(xy[rows] - xy[rows].mean(0), axis=1)
        assert np.corrcoef(far, sd[rows, :2].sum(1))[0, 1] > 0.5
        assert np.mean(np.abs(xy[rows] - xy[:size]) < 3 * sd[rows, :2]) > 0.9
    placement = list(reconstruction.transforms.values())[1]
    assert np.allclose(atlas.uns["spatialjax"]["pose_covariance"][1], placement.covariance)
    assert 0 < placement.angle_sd_deg < 5


def test_pairs_say_how_sure_they_are(reconstruction: Any) -> None:
    """Probabilities of a row are those of its poses, the overlap lies in its interval, loops have an expectation."""
    for pair in reconstruction.pairs:
        assert not pair["determined"]  # sections of 120 spots, and an outlier class: fewer than 120 are shared
        assert 0.5 < pair["probability"] <= 1
        assert sum(pose["probability"] for pose in pair["poses"]) == pytest.approx(1, abs=0.05)
        assert 0.9 < pair["overlap_q05"] <= pair["overlap_q95"] <= 1 and 0.9 < pair["overlap"] <= 1 + 1e-6
        assert pair["angle_sd_deg"] > 0 and pair["shift_sd_um"] > 0
    (loop,) = reconstruction.metrics["loops"]
    assert loop["angle_sd_deg"] > 0 and loop["displacement_sd_um"] > 0


def test_result_says_how_good_it_is(reconstruction: Any) -> None:
    """Similarity lies above every null, the loop closes, overlap and confidence are probabilities, steps are timed."""
    similarity = reconstruction.metrics["similarity"]
    assert similarity["atlas"] > max(similarity[null] for null in ("identity", "centered", "permuted"))
    (loop,) = reconstruction.metrics["loops"]
    assert loop["angle_deg"] < 5
    for column in ("overlap", "domain3d_confidence"):
        assert reconstruction.atlas.obs[column].between(0, 1).all()
    assert [t.step for t in reconstruction.timings][:3] == ["input", "features", "pairs"]
    assert all(pair["evidence"] > pair["threshold"] for pair in reconstruction.pairs)


def test_couplings_join_cells_of_one_place_in_input_order(reconstruction: Any, three_sections: list[Any]) -> None:
    """Rows and columns are in input order: cell i of one section is matched with cells near cell i of the next."""
    assert len(reconstruction.couplings) == 2
    grid = three_sections[0].obsm["spatial"]
    for matrix in reconstruction.couplings.values():
        assert matrix.shape == (len(grid), len(grid))
        rows = np.flatnonzero(np.diff(matrix.indptr))
        assert len(rows) > 0.8 * len(grid)
        matched = matrix[rows] @ grid
        assert np.median(np.linalg.norm(matched - grid[rows], axis=1)) < PITCH


@settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1), names=st.lists(st.text(min_size=1, max_size=6), min_size=3, max_size=3, unique=True)
)
def test_permuted_cells_and_other_names_permute_the_result_to_the_bit(
    reconstruction: Any, three_sections: list[Any], seed: int, names: list[str]
) -> None:
    """Shuffled cells and renamed sections: coordinates, overlaps, domains and couplings move along, to the last bit."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(a.n_obs) for a in three_sections]
    shuffled = _run([a[o].copy() for a, o in zip(three_sections, orders, strict=True)], names=names)
    before, after = reconstruction.atlas, shuffled.atlas
    match = before.obs_names.get_indexer(after.obs_names)
    assert list(shuffled.transforms) == names
    assert np.array_equal(after.obsm["spatial3d"], before.obsm["spatial3d"][match])
    for column in ("overlap", "domain3d_confidence", "placed", "component"):
        assert np.array_equal(after.obs[column], before.obs[column].iloc[match])
    assert after.obs["domain3d"].tolist() == before.obs["domain3d"].iloc[match].tolist()
    first, again = next(iter(reconstruction.couplings.values())), next(iter(shuffled.couplings.values()))
    assert (first[orders[0]][:, orders[1]] != again).nnz == 0


def test_units_and_place_of_a_section_do_not_matter(three_sections: list[Any], reconstruction: Any) -> None:
    """Coordinates in mm, and one section far away and turned further, give the same tissue beyond tolerance."""
    moved = [a.copy() for a in three_sections]
    c, s = np.cos(1.1), np.sin(1.1)
    moved[1].obsm["spatial"] = moved[1].obsm["spatial"] @ np.array([[c, s], [-s, c]]) + np.array([3e5, -2e5])
    for a in moved:
        a.obsm["spatial"] = a.obsm["spatial"] / 1000
    result = _run(moved, units="mm")
    apart = np.linalg.norm(result.atlas.obsm["spatial3d"] - reconstruction.atlas.obsm["spatial3d"], axis=1)
    assert np.median(apart) < 0.1 * PITCH
    assert apart.max() < 0.5 * PITCH


def test_order_of_input_rows_is_kept_when_sections_lie_mixed_in_one_object(three_sections: list[Any]) -> None:
    """One object with the cells of all sections mixed: the atlas keeps that order; a column orders sections."""
    import anndata

    parts = []
    for i, adata in enumerate(three_sections):
        part = adata.copy()
        part.obs["where"] = f"part {i}"
        part.obs["rank"] = [30, 10, 20][i]
        parts.append(part)
    whole = anndata.concat(parts)
    whole = whole[np.random.default_rng(0).permutation(whole.n_obs)].copy()
    result = _run(whole, slice_key="where", order_by="rank")
    assert result.atlas.obs_names.tolist() == whole.obs_names.tolist()
    assert list(result.transforms) == ["part 1", "part 2", "part 0"]
    assert [p.z for p in result.transforms.values()] == [0.0, 20.0, 40.0]
    rows = (whole.obs["where"] == "part 1").to_numpy()
    assert np.array_equal(result.atlas.obsm["spatial3d"][rows, :2], whole.obsm["spatial"][rows])


def test_unrelated_section_is_not_placed_and_said_so(three_sections: list[Any]) -> None:
    """A section of noise has no evidence: NaN coordinates, placed False, a warning; the others are placed."""
    noise = three_sections[2].copy()
    noise.X = np.random.default_rng(5).permutation(noise.X.toarray())
    result = _run([*three_sections[:2], noise], names=["a", "b", "noise"])
    assert result.unplaced == ["noise"]
    rows = (result.atlas.obs["slice"] == "noise").to_numpy()
    assert np.isnan(result.atlas.obsm["spatial3d"][rows]).all()
    assert np.isfinite(result.atlas.obsm["spatial3d"][~rows]).all()
    assert np.isnan(result.atlas.obsm["spatial3d_sd"][rows]).all()
    assert np.isfinite(result.atlas.obsm["spatial3d_sd"][~rows]).all()
    assert not result.atlas.obs["placed"][rows].any()
    assert any("'noise'" in warning for warning in result.warnings)
    assert result.atlas.obs["domain3d"].notna().all()


def test_mirrored_section_is_turned_over_only_where_allowed(make_adatas: Any) -> None:
    """``reflection='allow'`` finds the mirrored section; ``'never'`` leaves no section turned over."""
    adatas = make_adatas(2, angles=(0.0, 0.4))
    adatas[1].obsm["spatial"] = adatas[1].obsm["spatial"] * np.array([1.0, -1.0])
    names = ["a", "b"]
    allowed = _run(adatas, names=names, reflection="allow")
    assert allowed.transforms["b"].placed
    assert allowed.transforms["b"].mirrored
    never = _run(adatas, names=names, reflection="never")
    assert not never.transforms["b"].mirrored


@pytest.mark.parametrize("kind", ["embedding", "categories"])
def test_other_features_than_genes(three_sections: list[Any], kind: str) -> None:
    """An embedding, or categories, in place of genes: the sections are placed all the same."""
    adatas = [a.copy() for a in three_sections]
    for a in adatas:
        values = np.log1p(a.X.toarray().astype(float))
        a.obsm["shared"] = values[:, :20]
        a.obs["kind of cell"] = [f"type {v}" for v in values[:, :30].argmax(1)]
    key = "shared" if kind == "embedding" else "kind of cell"
    result = _run(adatas, feature_key=key)
    assert result.atlas.n_vars == three_sections[0].n_vars
    if kind == "embedding":
        assert result.unplaced == []
        assert _true_error(result, three_sections) < 1.5 * PITCH
