"""Pictures of sections brought into the frame of an atlas: read, warped, and written with their scale and origin.

A place in a picture is (x, y) = (column, row), and the centre of the first pixel is (0, 0); x runs to the right and y
down, as in the coordinates of Visium and of most scanners.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from spatialjax import checks
from spatialjax.checks import InputError
from spatialjax.transforms import Affine

if TYPE_CHECKING:
    from anndata import AnnData

#: Formats by their ending.
TIFF, PILLOW = (".tif", ".tiff"), (".png", ".jpg", ".jpeg")
#: Largest picture that is made where nothing else is asked for, pixels.
MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class WarpedImage:
    """A picture in the frame of an atlas.

    Attributes
    ----------
    pixels
        (h, w) or (h, w, c), the type of the picture that was warped.
    covered
        Where the picture shows something; elsewhere the pixels hold the fill value.
    um_per_pixel
        Width of a pixel, µm.
    origin
        Place of the centre of the first pixel, µm: pixel (row, column) lies at ``origin + um_per_pixel (column, row)``.
    """

    pixels: Shaped[np.ndarray, "h w *c"]
    covered: Bool[np.ndarray, "h w"]
    um_per_pixel: float
    origin: Float[np.ndarray, "2"]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top edge in µm, y upwards as plots count: for ``imshow(..., origin="lower")``."""
        half, (height, width) = 0.5 * self.um_per_pixel, self.pixels.shape[:2]
        x, y = (float(v) for v in self.origin)
        step = self.um_per_pixel
        return x - half, x + (width - 1) * step + half, y - half, y + (height - 1) * step + half


def transforms(atlas: AnnData) -> dict[str, Affine]:
    """Map of each placed section from the units of its file into the frame of the atlas, µm.

    Parameters
    ----------
    atlas
        What a reconstruction returned or wrote.

    Raises
    ------
    InputError
        If it is no atlas.
    """
    own = atlas.uns.get("spatialjax", {})
    if "matrix_from_units" not in own:
        raise InputError("Expected an atlas made by reconstruct, found an AnnData without transforms in its uns.")
    rows = zip(own["sections"], own["placed"], own["matrix_from_units"], own["shift_from_units"], strict=True)
    return {
        str(name): Affine(np.asarray(matrix, np.float64), np.asarray(shift, np.float64))
        for name, placed, matrix, shift in rows
        if bool(placed)
    }


def pixel_map(from_units: Affine, *, pixels_per_unit: float = 1.0) -> Affine:
    """Map from the pixels of a picture to µm.

    Parameters
    ----------
    from_units
        Map from the units of the section's file to µm, see :func:`transforms` or ``Placement.from_units``.
    pixels_per_unit
        Pixels of this picture in a unit of the file: 1 for the picture that the coordinates count in, the scale factor
        for a smaller copy (``tissue_hires_scalef`` of Visium).
    """
    scale = checks.positive(pixels_per_unit, "pixels_per_unit")
    return from_units.compose(Affine(np.eye(2) / scale, np.full(2, 0.5 / scale - 0.5)))


def warp(
    pixels: Shaped[np.ndarray, "h w *c"],
    to_um: Affine,
    *,
    um_per_pixel: float | None = None,
    bounds: tuple[float, float, float, float] | None = None,
    fill: float = 0.0,
    smooth: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> WarpedImage:
    """Lay a picture into the frame of an atlas, its axes along x and y.

    Parameters
    ----------
    pixels
        The picture; not changed.
    to_um
        Map from its pixels to µm, see :func:`pixel_map`.
    um_per_pixel
        Width of a pixel of the result, µm; that of the picture where left out.
    bounds
        (x0, y0, x1, y1) in µm that the result shows, the same for all sections to lay them on each other; all of the
        picture where left out.
    fill
        Value where the picture shows nothing.
    smooth
        Interpolate between pixels; False takes the nearest, for pictures of labels.
    max_pixels
        Larger results are refused.

    Raises
    ------
    InputError
        If it is no picture, the map is not finite (a section that is not placed), or the result would be too large;
        the message gives the pixel width that fits.
    """
    from scipy import ndimage

    pixels = np.asarray(pixels)
    if pixels.ndim not in (2, 3) or pixels.size == 0:
        raise InputError(f"Expected a picture of shape (h, w) or (h, w, channels), found {pixels.shape}.")
    if not (np.isfinite(to_um.matrix).all() and np.isfinite(to_um.shift).all()):
        raise InputError(
            "Expected a section that is placed in the atlas, found a map of NaN: nothing says where it is."
        )
    own = float(np.sqrt(abs(np.linalg.det(to_um.matrix))))
    step = own if um_per_pixel is None else checks.positive(um_per_pixel, "um_per_pixel")
    x0, y0, x1, y1 = _bounds(pixels.shape, to_um) if bounds is None else bounds
    width, height = (max(int(np.ceil((hi - lo) / step - 1e-6)), 1) for lo, hi in ((x0, x1), (y0, y1)))
    if width * height > max_pixels:
        fits = step * np.sqrt(width * height / max_pixels)
        raise InputError(
            f"Expected a picture of at most {max_pixels:,} pixels, found {width:,} × {height:,}. Give um_per_pixel of "
            f"at least {fits:.3g}, smaller bounds, or a larger max_pixels."
        )
    origin = np.array([x0, y0]) + 0.5 * step
    back = to_um.inverse()
    matrix = (back.matrix * step)[::-1, ::-1]
    offset = back(origin[None])[0][::-1]

    def layer(values: np.ndarray, order: int, cval: float) -> np.ndarray:
        options = {"output_shape": (height, width), "order": order, "cval": cval, "mode": "grid-constant"}
        return ndimage.affine_transform(values, matrix, offset, **options)

    blur = max(0.0, (step / own - 1) / 2) if smooth else 0.0
    layers = []
    for channel in np.moveaxis(pixels[..., None] if pixels.ndim == 2 else pixels, -1, 0):
        values = channel.astype(np.float32) if smooth else channel
        values = ndimage.gaussian_filter(values, blur, mode="nearest") if blur > 0 else values
        layers.append(_as_type(layer(values, int(smooth), fill), pixels.dtype))
    covered = layer(np.ones(pixels.shape[:2], np.uint8), 0, 0) > 0
    result = np.stack(layers, -1) if pixels.ndim == 3 else layers[0]
    result[~covered] = _as_type(np.array(fill), pixels.dtype)
    return WarpedImage(result, covered, step, origin)


def read_image(path: str | Path) -> Shaped[np.ndarray, "h w *c"]:
    """Read a picture: TIFF, PNG, JPEG or a numpy array (.npy).

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    InputError
        If the format is unknown, the file cannot be read, or the library that reads it is missing.
    """
    path = Path(path)
    suffix = checks.one_of(path.suffix.lower(), (*TIFF, *PILLOW, ".npy"), "format of a picture")
    if not path.is_file():
        raise InputError(f"Expected a picture at {str(path)!r}, found no file there.")
    try:
        if suffix == ".npy":
            return np.load(path, allow_pickle=False)
        if suffix in TIFF:
            return np.asarray(_tifffile().imread(path))
        with _pillow().open(path) as image:
            return np.asarray(image)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"Expected a picture in {str(path)!r}, found a file that cannot be read: {error}.") from error


def write_image(image: WarpedImage, path: str | Path, *, name: str = "", overwrite: bool = False) -> Path:
    """Write a warped picture, and beside it ``<file>.json`` with its scale and origin.

    Parameters
    ----------
    image
        What :func:`warp` returned.
    path
        File that ends in ``.tif``, ``.png`` or ``.npy``; a TIFF holds its resolution as well.
    name
        Name of the section, for the record.
    overwrite
        Whether a file that is there may be replaced.

    Returns
    -------
    Path
        The record: ``um_per_pixel``, ``origin_um`` (centre of the first pixel), ``shape``, ``section``.

    Raises
    ------
    InputError
        If the format is unknown or cannot hold the pixels, a file is there, or a library is missing.
    """
    path = Path(path)
    suffix = checks.one_of(path.suffix.lower(), (*TIFF, ".png", ".npy"), "format of a picture to write")
    record = path.with_name(f"{path.name}.json")
    there = [str(p) for p in (path, record) if p.exists()]
    if there and not overwrite:
        raise InputError(f"Expected no file yet, found {checks.listed(there)}. Choose another name, or overwrite=True.")
    facts: dict[str, Any] = {
        "section": name,
        "um_per_pixel": image.um_per_pixel,
        "origin_um": [float(v) for v in image.origin],
        "shape": list(image.pixels.shape),
    }
    if suffix == ".npy":
        np.save(path, image.pixels)
    elif suffix == ".png":
        _write_png(image.pixels, path)
    else:
        per_cm = 1e4 / image.um_per_pixel
        options = {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER", "compression": "zlib"}
        color = "rgb" if image.pixels.ndim == 3 and image.pixels.shape[2] in (3, 4) else "minisblack"
        planes = image.pixels if image.pixels.ndim == 2 or color == "rgb" else np.moveaxis(image.pixels, -1, 0)
        _tifffile().imwrite(path, planes, photometric=color, description=json.dumps(facts), **options)
    record.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return record


def _bounds(shape: tuple[int, ...], to_um: Affine) -> tuple[float, float, float, float]:
    """What a whole picture covers in µm, pixels counted to their edges."""
    height, width = shape[:2]
    corners = np.array([(x, y) for x in (-0.5, width - 0.5) for y in (-0.5, height - 0.5)])
    placed = to_um(corners)
    (x0, y0), (x1, y1) = placed.min(0), placed.max(0)
    return float(x0), float(y0), float(x1), float(y1)


def _as_type(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Rounded and kept within the range of an integer type."""
    if dtype.kind == "b":
        return values > 0.5
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return np.clip(np.rint(values), info.min, info.max).astype(dtype)
    return values.astype(dtype)


def _write_png(pixels: np.ndarray, path: Path) -> None:
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if pixels.dtype != np.uint8 or channels not in (1, 3, 4):
        raise InputError(
            f"Expected 8-bit pixels with 1, 3 or 4 channels for a PNG, found {pixels.dtype} with {channels}. Write "
            "a .tif or .npy file."
        )
    _pillow().fromarray(pixels[..., 0] if pixels.ndim == 3 and channels == 1 else pixels).save(path)


def _tifffile() -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise InputError(_missing("TIFF files", "tifffile")) from error
    return tifffile


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError(_missing("PNG and JPEG files", "Pillow")) from error
    return Image


def _missing(what: str, library: str) -> str:
    return (
        f"Expected {library} to read and write {what}, found it not installed. Install it with: python -m pip install "
        "'spatialjax[image]'"
    )
