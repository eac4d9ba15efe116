"""Pictures in the frame of an atlas: every pixel where the map puts it, and a file that says its scale and origin."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from spatialjax.checks import InputError
from spatialjax.io import images
from spatialjax.transforms import Affine, rigid


def picture(*, channels: int = 3) -> np.ndarray:
    """Three bright squares of one channel each on black; 60 rows, 80 columns."""
    pixels = np.zeros((60, 80, channels), np.uint8)
    for channel, (row, column) in enumerate(((10, 15), (40, 20), (30, 65))[:channels]):
        pixels[row - 3 : row + 4, column - 3 : column + 4, channel] = 200
    return pixels


def centre_um(image: images.WarpedImage, channel: int) -> np.ndarray:
    """Place of the bright square of a channel, µm."""
    weight = image.pixels[..., channel].astype(float)
    rows, columns = np.indices(weight.shape)
    at = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
    return image.origin + image.um_per_pixel * at


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("step", [None, 1.0, 6.0])
def test_every_square_lands_where_the_map_puts_it(mirrored: bool, step: float | None) -> None:
    """A turned, perhaps mirrored map of 2 µm a pixel, coarser and finer results: centres within a third of a pixel."""
    pose = rigid(np.float64(0.6), np.array([500.0, -300.0]), mirrored)
    to_um = Affine(pose.matrix * 2.0, pose.shift)
    image = images.warp(picture(), to_um, um_per_pixel=step)
    for channel, (row, column) in enumerate(((10, 15), (40, 20), (30, 65))):
        expected = to_um(np.array([[column, row]], float))[0]
        assert np.linalg.norm(centre_um(image, channel) - expected) < max(image.um_per_pixel, 2.0) / 3
    assert image.pixels.dtype == np.uint8 and image.um_per_pixel == (step or 2.0)
    area = image.covered.sum() * image.um_per_pixel**2
    assert abs(area / (60 * 80 * 4) - 1) < 0.03
    assert not image.pixels[~image.covered].any()


def test_no_motion_gives_the_picture_back() -> None:
    """The identity keeps every pixel, and the extent is that of the pixels' edges."""
    image = images.warp(picture(), Affine(np.eye(2), np.zeros(2)))
    np.testing.assert_array_equal(image.pixels, picture())
    assert image.covered.all() and image.extent == (-0.5, 79.5, -0.5, 59.5)


def test_a_smaller_copy_lands_on_the_same_place() -> None:
    """A picture averaged over 4 × 4 pixels, told its scale, lies where the full one does."""
    full = np.zeros((240, 320), np.float32)
    full[80:100, 200:240] = 1.0
    small = full.reshape(60, 4, 80, 4).mean((1, 3))
    pose = rigid(np.float64(-0.4), np.array([10.0, 20.0]))
    both = [
        images.warp(p, images.pixel_map(pose, pixels_per_unit=s), um_per_pixel=2.0)
        for p, s in ((full, 1.0), (small, 0.25))
    ]
    centres = [centre_um(images.WarpedImage(i.pixels[..., None], i.covered, i.um_per_pixel, i.origin), 0) for i in both]
    assert np.linalg.norm(centres[0] - centres[1]) < 0.5


def test_common_bounds_lay_pictures_on_each_other() -> None:
    """The same bounds give the same grid; beyond the picture stands the fill value."""
    bounds = (-50.0, -50.0, 150.0, 110.0)
    image = images.warp(picture(), Affine(np.eye(2), np.zeros(2)), bounds=bounds, um_per_pixel=2.0, fill=255)
    assert image.pixels.shape == (80, 100, 3) and np.allclose(image.origin, [-49.0, -49.0])
    assert (image.pixels[0, 0] == 255).all() and not image.covered[0, 0]


def test_labels_are_not_mixed() -> None:
    """Nearest pixels bring no new value, whatever the angle."""
    labels = np.random.default_rng(0).choice([3, 70, 1000], size=(40, 40)).astype(np.int32)
    image = images.warp(labels, rigid(np.float64(0.3), np.zeros(2)), smooth=False)
    assert set(np.unique(image.pixels[image.covered])) <= {3, 70, 1000}


def test_a_coarser_picture_keeps_its_mean_brightness() -> None:
    """Fine stripes become grey instead of aliasing."""
    stripes = np.tile(np.array([0.0, 1.0], np.float32), (200, 100))
    image = images.warp(stripes, Affine(np.eye(2), np.zeros(2)), um_per_pixel=9.0)
    inner = image.pixels[2:-2, 2:-2]
    assert abs(inner.mean() - 0.5) < 0.02 and inner.std() < 0.05


@pytest.mark.parametrize("suffix", [".png", ".npy", ".tif"])
def test_written_pictures_say_their_scale_and_origin(tmp_path: Path, suffix: str) -> None:
    """Pixels come back, the record beside holds scale, origin and section; nothing is replaced unasked."""
    if suffix == ".tif":
        pytest.importorskip("tifffile", reason="tifffile is not installed: see the extra 'image'")
    image = images.warp(picture(), rigid(np.float64(0.3), np.array([7.0, 8.0])), um_per_pixel=2.0)
    path = tmp_path / f"s{suffix}"
    record = json.loads(images.write_image(image, path, name="B 2").read_text())
    np.testing.assert_array_equal(images.read_image(path), image.pixels)
    assert record["um_per_pixel"] == 2.0 and record["section"] == "B 2"
    np.testing.assert_allclose(record["origin_um"], image.origin)
    with pytest.raises(InputError, match="overwrite=True"):
        images.write_image(image, path)
    images.write_image(image, path, overwrite=True)


def test_a_tiff_holds_its_resolution(tmp_path: Path) -> None:
    """Viewers that know nothing of this package read the pixel width from the file."""
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed: see the extra 'image'")
    image = images.warp(picture(), Affine(np.eye(2), np.zeros(2)), um_per_pixel=2.0)
    images.write_image(image, tmp_path / "s.tif")
    with tifffile.TiffFile(tmp_path / "s.tif") as file:
        above, below = file.pages[0].tags["XResolution"].value
        assert abs(above / below - 5000.0) < 1 and file.pages[0].tags["ResolutionUnit"].value == 3


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One message with the command that installs it."""
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    with pytest.raises(InputError, match=r"tifffile.*spatialjax\[image\]"):
        images.read_image(tmp_path / "a.tif")


def test_what_cannot_be_warped_read_or_written_is_refused(tmp_path: Path) -> None:
    """Too large, no picture, no place, no file, another format, pixels that a PNG cannot hold."""
    still = Affine(np.eye(2), np.zeros(2))
    with pytest.raises(InputError, match="um_per_pixel of at least 0.1"):
        images.warp(picture(), still, um_per_pixel=0.01, max_pixels=48_000_000 // 100)
    with pytest.raises(InputError, match="shape"):
        images.warp(np.zeros(5), still)
    with pytest.raises(InputError, match="map of NaN"):
        images.warp(picture(), Affine(np.full((2, 2), np.nan), np.zeros(2)))
    (tmp_path / "b.png").write_bytes(b"no picture")
    for name, message in (("a.png", "no file"), ("b.png", "cannot be read"), ("a.bmp", "format of a picture")):
        with pytest.raises(InputError, match=message):
            images.read_image(tmp_path / name)
    with pytest.raises(InputError, match="8-bit"):
        images.write_image(images.warp(picture().astype(np.float32), still), tmp_path / "c.png")
    with pytest.raises(InputError, match="without transforms"):
        images.transforms(SimpleNamespace(uns={}))


def test_the_transforms_of_an_atlas_are_those_of_its_placed_sections() -> None:
    """Names to maps; a section that is not placed has none."""
    own = {
        "sections": np.array(["a", "b/1"], object),
        "placed": np.array([True, False]),
        "matrix_from_units": np.stack([np.eye(2) * 2, np.full((2, 2), np.nan)]),
        "shift_from_units": np.array([[1.0, 2.0], [np.nan, np.nan]]),
    }
    found = images.transforms(SimpleNamespace(uns={"spatialjax": own}))
    assert list(found) == ["a"]
    np.testing.assert_allclose(found["a"](np.array([[3.0, 4.0]])), [[7.0, 10.0]])
