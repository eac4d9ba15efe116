"""Stains, nuclei and texture around spots: pictures whose stains are known, turns of a section, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import spatialjax as sj
from spatialjax import histology
from spatialjax.checks import InputError
from spatialjax.io.histology import section_image

STAINS = np.array([[0.60, 0.75, 0.28], [0.20, 0.93, 0.31]])
STAINS = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
PITCH = 8.0


def smooth(seed: int, side: int, width: float) -> np.ndarray:
    """A smooth random field between 0 and 1."""
    field = gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), width, mode="wrap")
    return (field - field.min()) / np.ptp(field)


def picture(
    *, side: int = 160, seed: int = 0, strength: float = 1.0, white: float = 235.0, stains: np.ndarray = STAINS
) -> np.ndarray:
    """An 8-bit picture of two stains: nuclei that come and go with a field, eosin everywhere, glass around them."""
    nuclei = (smooth(seed + 1, side, 1.0) > 0.75 - 0.35 * smooth(seed, side, 14.0)) * 0.9
    eosin = (0.2 + 0.5 * smooth(seed + 2, side, 10.0)) * np.where(nuclei > 0, 0.1, 1.0)
    amounts = np.stack([nuclei, eosin], -1) * strength
    glass = np.zeros((side, side), bool)
    glass[8:-8, 8:-8] = True
    return np.rint(white * 10 ** -((amounts * glass[..., None]) @ stains)).astype(np.uint8)


def lattice(side: int = 160) -> np.ndarray:
    """Spots on a square grid inside the tissue of ``picture``."""
    line = np.arange(20.0, side - 20.0, PITCH)
    return np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)


@pytest.fixture(scope="module")
def described() -> np.ndarray:
    """Columns of the picture as it is."""
    return histology.spot_features(picture(), lattice(), pitch=PITCH)[0]


@pytest.mark.parametrize("strength", [0.6, 1.3])
def test_stains_are_those_of_the_picture(strength: float) -> None:
    """Colours within 4° of the ones the picture was made with; eosin is more than 10° from its usual colour."""
    density = histology.optical_density(histology.color_pixels(picture(strength=strength)))
    stains = histology.stain_colors(density)
    assert stains.estimated
    angles = np.degrees(np.arccos(np.clip((stains.colors * STAINS).sum(1), -1, 1)))
    assert (angles < 4.0).all(), angles
    usual = histology.USUAL_STAINS[1] / np.linalg.norm(histology.USUAL_STAINS[1])
    assert np.degrees(np.arccos(usual @ STAINS[1])) > 10.0


def test_stain_amounts_come_back() -> None:
    """Densities mixed of known amounts are taken apart into them."""
    amounts = np.random.default_rng(0).uniform(0, 1, (5, 7, 2)).astype(np.float32)
    found = histology.stain_amounts((amounts @ STAINS).astype(np.float32), histology.Stains(STAINS, estimated=True))
    np.testing.assert_allclose(found, amounts, atol=1e-5)


def test_a_picture_of_one_stain_falls_back_to_the_usual_colours() -> None:
    """No plane of two stains: the usual colours, and it is said."""
    density = np.random.default_rng(0).uniform(0.2, 0.8, (40, 40, 1)) * STAINS[0]
    stains = histology.stain_colors(density.astype(np.float32))
    assert not stains.estimated
    np.testing.assert_allclose(np.linalg.norm(stains.colors, axis=1), 1.0)


@pytest.mark.parametrize("quarter", [1, 2])
@pytest.mark.parametrize("mirrored", [False, True])
def test_columns_do_not_know_how_the_section_lies(described: np.ndarray, quarter: int, mirrored: bool) -> None:
    """The picture turned by quarters and turned over, the spots with it: the same columns."""
    pixels, places = picture(), lattice()
    last = len(pixels) - 1.0
    for _ in range(quarter):
        pixels, places = np.rot90(pixels), np.stack([places[:, 1], last - places[:, 0]], 1)
    if mirrored:
        pixels, places = pixels[:, ::-1], np.stack([last - places[:, 0], places[:, 1]], 1)
    found = histology.spot_features(pixels, places, pitch=PITCH)[0]
    np.testing.assert_allclose(found, described, atol=2e-3 * np.abs(described).max(0).max())


def test_columns_nearly_agree_at_any_angle(described: np.ndarray) -> None:
    """Turned by 30° by interpolation: each column keeps its ranks (correlation above 0.9; stains above 0.98)."""
    from scipy.ndimage import rotate

    pixels, places = picture(), lattice()
    turned = rotate(pixels, 30.0, reshape=False, order=1, mode="nearest")
    middle, angle = (len(pixels) - 1) / 2, np.deg2rad(30.0)
    c, s = np.cos(angle), np.sin(angle)
    moved = (places - middle) @ np.array([[c, s], [-s, c]]).T + middle
    inside = np.linalg.norm(places - middle, axis=1) < 50
    found = histology.spot_features(turned, moved[inside], pitch=PITCH)[0]
    for column, name in enumerate(histology.COLUMNS[:6]):
        least = 0.98 if column < 3 else 0.9
        assert np.corrcoef(found[:, column], described[inside, column])[0, 1] > least, name


def test_ranks_do_not_know_how_strong_a_stain_is() -> None:
    """The same tissue stained more strongly, with other colours and a darker lamp: nearly the same normal scores."""
    other = np.array([[0.65, 0.70, 0.29], [0.10, 0.97, 0.20]])
    other = other / np.linalg.norm(other, axis=1, keepdims=True)
    one = histology.spot_features(picture(), lattice(), pitch=PITCH)[0]
    two = histology.spot_features(picture(strength=1.3, white=190.0, stains=other), lattice(), pitch=PITCH)[0]
    one, two = histology.normal_scores(one), histology.normal_scores(two)
    for column in (0, 1, 2, 5):
        assert np.corrcoef(one[:, column], two[:, column])[0, 1] > 0.95, histology.COLUMNS[column]


def test_normal_scores_of_constant_and_tied_columns() -> None:
    """Constant columns say nothing, ties share a score, order is kept, scores are bounded."""
    scores = histology.normal_scores(np.array([[1.0, 5.0], [1.0, 5.0], [1.0, 9.0], [1.0, 1e9]]))
    np.testing.assert_array_equal(scores[:, 0], 0.0)
    assert scores[0, 1] == scores[1, 1] < scores[2, 1] < scores[3, 1] < 3


@pytest.mark.parametrize("kind", ["16 bit", "12 bit in 16", "float", "alpha"])
def test_other_pixels_give_the_same_columns(described: np.ndarray, kind: str) -> None:
    """16-bit, 12-bit and float pixels, and glass that is transparent instead of white."""
    pixels = picture()
    places = lattice()
    if kind == "16 bit":
        pixels = pixels.astype(np.uint16) * 257
    elif kind == "12 bit in 16":
        pixels = pixels.astype(np.uint16) * 16
    elif kind == "float":
        pixels = pixels / 255.0
    elif kind == "alpha":
        opacity = np.full((*pixels.shape[:2], 1), 255, np.uint8)
        opacity[:8] = 0
        hidden = np.where(opacity > 0, pixels, 0).astype(np.uint8)
        pixels = np.concatenate([hidden, opacity], -1)
    found = histology.spot_features(pixels, places, pitch=PITCH)[0]
    np.testing.assert_allclose(found, described, atol=0.01 * np.abs(described).max())


def test_pictures_that_cannot_be_used_are_refused() -> None:
    """Each refusal says what was found and what to give instead."""
    pixels, places = picture(), lattice()

    def refuse(match: str, pixels: Any = pixels, places: Any = places, pitch: float = PITCH) -> None:
        with pytest.raises(InputError, match=match):
            histology.spot_features(pixels, places, pitch=pitch)

    refuse("in colour.*shape", pixels[..., 0])
    refuse("three equal channels", np.repeat(pixels[..., :1], 3, -1))
    refuse("last axis", np.moveaxis(pixels, -1, 0))
    refuse("finite pixels", np.where(pixels > 200, np.nan, pixels.astype(float)))
    refuse("inside .* outside.*pixels_per_unit", places=places * 1.3)
    refuse("inside .* outside", places=places - 30.0)
    refuse("at least 3 pixels", pitch=2.0)
    refuse("finite places", places=np.where(places > 100, np.nan, places))
    blank = np.full((400, 400, 3), 240, np.uint8)
    blank[:160, :160] = pixels
    refuse("blank glass", blank, places + 220.0)


def test_only_smooth_and_new_columns_add_something() -> None:
    """Noise and what the known features explain add nothing; a smooth column of its own adds one component."""
    rng = np.random.default_rng(3)
    xy = lattice()
    at = xy.astype(int)
    signal = smooth(5, 160, 12.0)[at[:, 1], at[:, 0]][:, None]
    known = smooth(9, 160, 12.0)[at[:, 1], at[:, 0]][:, None]
    known = known - known.mean(0)
    noise = rng.normal(size=(len(xy), 4))

    def added(column: np.ndarray) -> np.ndarray:
        return histology.added_components([column, column], [xy, xy], known=[known, known])[0]

    assert added(noise).shape[1] == 0
    assert added(histology.normal_scores(known) * 2.0).shape[1] <= 1
    found = added(np.concatenate([noise, signal], 1))
    assert found.shape[1] == 1
    assert abs(np.corrcoef(found[:, 0], signal[:, 0])[0, 1]) > 0.9
    both = added(np.concatenate([signal + 0.02 * noise[:, :1], signal**2 + known, noise], 1))
    np.testing.assert_allclose(both.T @ both / len(both), np.eye(both.shape[1]), atol=1e-3)
    np.testing.assert_allclose(both.T @ known / len(both), 0.0, atol=1e-3)


def section(*, images: bool = True) -> Any:
    """A tiny section whose full-resolution picture is twice as fine as ``picture``."""
    import anndata

    places = (lattice() + 0.5) * 2.0 - 0.5
    adata = anndata.AnnData(np.ones((len(places), 3), np.float32))
    adata.obsm["spatial"] = places
    adata.obs["column"], adata.obs["row"] = lattice().T
    if images:
        entry = {"images": {"hires": picture()}, "scalefactors": {"tissue_hires_scalef": 0.5}}
        adata.uns["spatial"] = {"lib": entry}
    return adata


def test_the_picture_in_uns_and_a_file_give_the_same(described: np.ndarray, tmp_path: Any) -> None:
    """From ``uns['spatial']`` with its scale factor, from a file by pixel columns of ``obs``; nothing is changed."""
    adata = section()
    before = adata.copy()
    found = sj.pp.histology_features(adata, pitch=2 * PITCH)
    np.testing.assert_allclose(found.obsm["histology"], described, rtol=1e-5, atol=1e-6)
    assert list(found.uns["histology"]["columns"]) == list(histology.COLUMNS)
    assert found.uns["histology"]["pixels_per_pitch"] == pytest.approx(PITCH, rel=1e-6)
    assert "histology" not in adata.obsm
    assert set(adata.uns) == set(before.uns)
    np.save(tmp_path / "picture.npy", picture())
    other = sj.pp.histology_features(
        section(images=False), image=tmp_path / "picture.npy", coordinates=("column", "row"), pitch=PITCH, key_added="h"
    )
    np.testing.assert_allclose(other.obsm["h"], described, rtol=1e-5, atol=1e-6)
    found.write_h5ad(tmp_path / "section.h5ad")


def test_a_picture_that_is_not_there_is_said(tmp_path: Any) -> None:
    """No picture, no scale, several libraries, a wrong name, a missing file, no such coordinates."""
    with pytest.raises(InputError, match=r"uns\['spatial'\].*image="):
        section_image(section(images=False))
    with pytest.raises(InputError, match="found no file"):
        section_image(section(), image=tmp_path / "none.png")
    adata = section()
    adata.uns["spatial"]["other"] = adata.uns["spatial"]["lib"]
    with pytest.raises(InputError, match="'lib', 'other'.*library="):
        section_image(adata)
    with pytest.raises(InputError, match="Did you mean 'lib'"):
        section_image(adata, library="libs")
    with pytest.raises(InputError, match="resolution"):
        section_image(section(), resolution="lowres")
    with pytest.raises(InputError, match="Did you mean 'spatial'"):
        section_image(section(), coordinates="spatiall")
    with pytest.raises(InputError, match="two columns of obs"):
        section_image(section(), coordinates=("column", "rows"))
    with pytest.raises(InputError, match="found both"):
        section_image(section(), image=picture(), library="lib")
    adata = section()
    del adata.uns["spatial"]["lib"]["scalefactors"]
    with pytest.raises(InputError, match="scale factor.*pixels_per_unit"):
        section_image(adata)
