"""What a haematoxylin and eosin picture shows around each spot, and what of it adds to features that are there already.

Stains follow Beer–Lambert: the optical density of a pixel is a sum of stain amounts times the colour of each stain.
Nothing here depends on how a section lies: windows and filters are round, so that a section turned or mirrored with its
picture has the same features. A place in a picture is (x, y) = (column, row), the centre of the first pixel is (0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.stats import norm, rankdata

from spatialjax.checks import InputError
from spatialjax.preprocess import smoothing_operator

#: Columns of ``spot_features``.
COLUMNS = (
    "haematoxylin",
    "eosin",
    "haematoxylin share",
    "haematoxylin spread",
    "eosin spread",
    "nuclear share",
    "tissue share",
    "texture below 1/8 pitch",
    "texture 1/8 to 1/4 pitch",
    "texture 1/4 to 1/2 pitch",
    "fibre coherence",
)
#: Colours of the stains in optical density (red, green, blue), for pictures that do not show two stains
#: (Ruifrok & Johnston 2001, Anal. Quant. Cytol. Histol. 23:291).
USUAL_STAINS = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]])
#: Optical density above which a pixel counts as tissue.
TISSUE_DENSITY = 0.15
#: Standard deviation of the window around a spot, pitches.
WINDOW = 0.4
#: Pixels of a pitch that are looked at, at the most, and at the least.
FINEST, COARSEST = 64, 3.0


class Stains(NamedTuple):
    """Colours of the two stains of a picture.

    Attributes
    ----------
    colors
        Unit vectors of optical density (red, green, blue): haematoxylin, eosin.
    estimated
        Whether they come from the picture; else they are the usual ones.
    """

    colors: Float[np.ndarray, "2 3"]
    estimated: bool


def color_pixels(pixels: Shaped[np.ndarray, "h w *c"], *, where: str = "the picture") -> Float[np.ndarray, "h w 3"]:
    """Red, green and blue as float32, any scale; transparent pixels become white.

    Parameters
    ----------
    pixels
        8-bit, 16-bit or float; three channels, or four with opacity last.
    where
        Which picture, for the message.

    Raises
    ------
    InputError
        If there are no colours (one channel, or three equal ones), the channels come first, or values are not finite.
    """
    pixels = np.asarray(pixels)
    if pixels.ndim == 3 and pixels.shape[0] in (3, 4) and pixels.shape[2] not in (3, 4):
        raise InputError(
            f"Expected the channels of {where} in its last axis, found shape {pixels.shape}. Move them: "
            "numpy.moveaxis(pixels, 0, -1)."
        )
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or pixels.dtype.kind not in "uif" or 0 in pixels.shape:
        raise InputError(
            f"Expected {where} in colour, (height, width, 3 or 4 channels), found shape {pixels.shape} of "
            f"{pixels.dtype}: stains are told apart by their colour. Give the colour picture of the section."
        )
    values = _intensities(pixels, where)
    if float(np.abs(values - values.mean(-1, keepdims=True)).max()) <= 0.005 * max(float(values.max()), 1e-6):
        raise InputError(
            f"Expected {where} in colour, found three equal channels, a grey picture: stains are told apart by their "
            "colour. Give the colour picture of the section."
        )
    return values


def _intensities(pixels: np.ndarray, where: str) -> np.ndarray:
    values = pixels[..., :3].astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"Expected finite pixels in {where}, found NaN or infinite ones.")
    if pixels.shape[2] == 4:
        top = float(np.iinfo(pixels.dtype).max) if pixels.dtype.kind in "ui" else 1.0 if pixels.max() <= 1.0 else 255.0
        opacity = pixels[..., 3:].astype(np.float32) / top
        shown = values[opacity[..., 0] > 0.5]
        values = values * opacity + (white_point(shown) if len(shown) else top) * (1.0 - opacity)
    return values


def optical_density(
    values: Float[np.ndarray, "h w 3"], *, white: Float[np.ndarray, "3"] | None = None
) -> Float[np.ndarray, "h w 3"]:
    """``-log10(I / white)`` of each channel, not below 0.

    Parameters
    ----------
    values
        Intensities, any scale.
    white
        Intensity of empty glass; the 99th percentile of each channel where left out.
    """
    white = white_point(values) if white is None else white
    return np.maximum(-np.log10(np.maximum(values / white, 1 / 255)), 0.0).astype(np.float32)


def white_point(values: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "3"]:
    """Intensity of empty glass: the 99th percentile of each channel."""
    return np.maximum(np.quantile(values.reshape(-1, 3), 0.99, axis=0), 1e-6).astype(np.float32)


def stain_colors(density: Float[np.ndarray, "h w 3"], *, tail: float = 0.01) -> Stains:
    """Colours of haematoxylin and eosin in a picture of its own stain and scanner.

    Pixels of two stains lie in a plane through the origin of optical density, between the directions of the stains.
    The plane is that of the two leading eigenvectors of the second moments of the tissue's pixels, and the stains are
    the robust extremes of the directions in it. Haematoxylin is the one that takes more red.

    Parameters
    ----------
    density
        Optical density.
    tail
        Share of the pixels beyond each extreme.

    Returns
    -------
    Stains
        The usual colours where fewer than 100 pixels show tissue, or the directions are less than 6° apart.

    References
    ----------
    Macenko et al. (2009), IEEE ISBI, 1107, for the extremes in the plane of two stains.
    """
    flat = density.reshape(-1, 3)
    flat = flat[:: max(1, len(flat) // 500_000)].astype(np.float64)
    tissue = flat[(flat > TISSUE_DENSITY).any(1)]
    if len(tissue) < 100:
        return Stains(_unit(USUAL_STAINS), estimated=False)
    plane = np.linalg.eigh(tissue.T @ tissue)[1][:, :0:-1]
    plane = plane * np.where(plane.sum(0) < 0, -1.0, 1.0)
    along = tissue @ plane
    angle = np.quantile(np.arctan2(along[:, 1], along[:, 0]), [tail, 1.0 - tail])
    colors = np.stack([np.cos(angle), np.sin(angle)], 1) @ plane.T
    if np.ptp(angle) < np.deg2rad(6.0) or (colors < -0.1).any():
        return Stains(_unit(USUAL_STAINS), estimated=False)
    colors = _unit(np.maximum(colors, 0.0))
    return Stains(colors[np.argsort(-colors[:, 0])], estimated=True)


def stain_amounts(density: Float[np.ndarray, "h w 3"], stains: Stains) -> Float[np.ndarray, "h w 2"]:
    """Amounts of haematoxylin and eosin in each pixel: least squares, not below 0."""
    back = np.linalg.pinv(stains.colors).astype(np.float32)
    return np.maximum(density @ back, 0.0)


def spot_features(
    pixels: Shaped[np.ndarray, "h w c"],
    places: Float[np.ndarray, "n 2"],
    *,
    pitch: float,
    where: str = "the picture",
) -> tuple[Float[np.ndarray, "n q"], Stains]:
    """Stains, nuclei and texture around each spot.

    Parameters
    ----------
    pixels
        The picture in colour, see ``color_pixels``.
    places
        (x, y) of each spot, pixels.
    pitch
        Distance of neighbouring spots, pixels: the scale of windows and textures.
    where
        Which picture, for messages.

    Returns
    -------
    tuple
        (n, q) float32 with the columns ``COLUMNS``, on the picture's own scale (see ``normal_scores``), and the stains.

    Raises
    ------
    InputError
        If there are no colours, spots lie outside the picture or off its tissue, or a pitch has fewer than 3 pixels.
    """
    places, pixels = np.asarray(places, np.float64), np.asarray(pixels)
    step = max(1, int(np.sqrt(pixels.size / 3e6)))
    white = white_point(color_pixels(pixels[::step, ::step] if pixels.ndim == 3 else pixels, where=where))
    _check_places(pixels.shape, places, pitch=pitch, where=where)
    low = np.maximum(np.floor(places.min(0) - 2 * pitch), 0).astype(int)
    high = np.ceil(places.max(0) + 2 * pitch).astype(int) + 1
    factor = max(1, int(pitch // FINEST))
    values = _blocks(_intensities(pixels[low[1] : high[1], low[0] : high[0]], where), factor)
    places, pitch = (places - low + 0.5) / factor - 0.5, pitch / factor
    density = optical_density(values, white=white)
    stains = stain_colors(density)
    columns = _columns(density, stain_amounts(density, stains), places, pitch=pitch)
    if np.median(columns[:, COLUMNS.index("tissue share")]) < 0.05:
        raise InputError(
            f"Expected the spots on the tissue of {where}, found blank glass under most of them. Check the scale "
            "(pixels_per_unit) and that the picture belongs to this section, neither turned nor cropped."
        )
    return columns, stains


def _check_places(shape: tuple[int, ...], places: np.ndarray, *, pitch: float, where: str) -> None:
    height, width = shape[:2]
    if not (np.isfinite(pitch) and pitch >= COARSEST):
        raise InputError(
            f"Expected at least {COARSEST:g} pixels between neighbouring spots in {where}, found {pitch:.3g}: too "
            "coarse to show anything of its own. Give a picture of higher resolution, or check pixels_per_unit."
        )
    if not np.isfinite(places).all():
        raise InputError(f"Expected finite places of the spots in {where}, found NaN or infinite ones.")
    outside = (places < -0.5) | (places > np.array([width, height]) - 0.5)
    if outside.any():
        (x0, y0), (x1, y1) = places.min(0), places.max(0)
        raise InputError(
            f"Expected all spots inside {where} of {width} × {height} pixels, found {int(outside.any(1).sum())} of "
            f"{len(places)} outside: they reach from ({x0:.0f}, {y0:.0f}) to ({x1:.0f}, {y1:.0f}). Check "
            "pixels_per_unit (the scale factor of this copy of the picture), or that the picture was not cropped."
        )


def _columns(density: np.ndarray, amounts: np.ndarray, places: np.ndarray, *, pitch: float) -> np.ndarray:
    nuclear, eosin = amounts[..., 0], amounts[..., 1]
    total = density.mean(-1)
    tissue = (density > TISSUE_DENSITY).any(-1)
    seen = nuclear[tissue] if tissue.any() else nuclear.ravel()
    fine, middle, coarse = (ndimage.gaussian_filter(total, pitch / k, mode="nearest") for k in (8, 4, 2))
    gx, gy = (ndimage.gaussian_filter(total, max(pitch / 16, 0.7), order=o, mode="nearest") for o in ((0, 1), (1, 0)))
    maps = [
        *(nuclear, eosin, nuclear**2, eosin**2, nuclear > _two_class_threshold(seen), tissue),
        *((total - fine) ** 2, (fine - middle) ** 2, (middle - coarse) ** 2, gx * gx - gy * gy, 2 * gx * gy),
        gx * gx + gy * gy,
    ]
    h, e, hh, ee, nuclei, on, t1, t2, t3, c1, c2, g = (_windowed(m, places, pitch) for m in maps)
    share = h / np.maximum(h + e, 1e-6)
    spread = [np.sqrt(np.maximum(square - mean**2, 0.0)) for square, mean in ((hh, h), (ee, e))]
    textures = [np.sqrt(np.maximum(t, 0.0)) for t in (t1, t2, t3)]
    coherence = np.hypot(c1, c2) / np.maximum(g, 1e-12)
    return np.stack([h, e, share, *spread, nuclei, on, *textures, coherence], 1).astype(np.float32)


def _windowed(values: np.ndarray, places: np.ndarray, pitch: float) -> np.ndarray:
    """Mean of a map in the round window of each place."""
    factor = max(1, int(pitch // 8))
    small = _blocks(np.asarray(values, np.float32), factor)
    small = ndimage.gaussian_filter(small, WINDOW * pitch / factor, mode="nearest")
    place = (places + 0.5) / factor - 0.5
    return ndimage.map_coordinates(small, place[:, ::-1].T, order=1, mode="nearest")


def _blocks(values: np.ndarray, factor: int) -> np.ndarray:
    """Means of square blocks of pixels; blocks at the border that are not full repeat the border."""
    if factor == 1:
        return values
    pad = [(0, -size % factor) for size in values.shape[:2]] + [(0, 0)] * (values.ndim - 2)
    padded = np.pad(values, pad, mode="edge")
    height, width = (size // factor for size in padded.shape[:2])
    return padded.reshape(height, factor, width, factor, *values.shape[2:]).mean((1, 3), dtype=np.float32)


def _two_class_threshold(values: np.ndarray) -> float:
    """The value that splits a histogram into two classes with the largest variance between them (Otsu 1979)."""
    counts, edges = np.histogram(values, 256)
    middle = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middle)
    apart = sums / np.maximum(below, 1) - (sums[-1] - sums) / np.maximum(above, 1)
    return float(edges[1:][np.argmax(below * above.astype(np.float64) * apart**2)])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def normal_scores(values: Float[np.ndarray, "n q"]) -> Float[np.ndarray, "n q"]:
    """Each column by its ranks within the section, as quantiles of the normal distribution; constant ones become 0.

    Ranks are the same under any stain strength, scanner or exposure that keeps the order.
    """
    ranks = rankdata(values, axis=0, method="average")
    scores = norm.ppf((ranks - 0.5) / len(values)).astype(np.float32)
    scores[:, np.ptp(values, axis=0) <= 0] = 0.0
    return scores


def added_components(
    values: Sequence[Float[np.ndarray, "n q"]],
    xy: Sequence[Float[np.ndarray, "n d"]],
    *,
    known: Sequence[Float[np.ndarray, "n p"]] | None = None,
    most: int = 5,
    least: float = 0.1,
) -> list[Float[np.ndarray, "n k"]]:
    """Components of added columns that say something new and vary smoothly over the tissue.

    Each column is ranked within its section, averaged over near spots as the features it joins, and what the known
    features explain is taken off (one regression for all sections), so that nothing is counted twice. Of the rest the
    combinations with the largest autocorrelation at two pitches are kept: noise of a picture has none.

    Parameters
    ----------
    values
        One (n_i, q) matrix a section, the same columns in the same order.
    xy
        Coordinates of each section.
    known
        Features there are already, smoothed over neighbours and centred on each section; none where left out.
    most
        Largest number of components.
    least
        Smallest autocorrelation at two pitches, pooled over the sections.

    Returns
    -------
    list
        (n_i, k) float32 with mean 0 in each section, pooled variance 1, uncorrelated with each other and with the known
        features, the most autocorrelated first; ``k`` may be 0.

    References
    ----------
    Switzer & Green (1984), Stanford Univ. Dept. of Statistics Tech. Rep. 6, for the factors of largest
    autocorrelation.
    """
    rough = [_centred(normal_scores(v).astype(np.float64)) for v in values]
    smooth = [_centred(smoothing_operator(np.asarray(p, np.float64)) @ v) for v, p in zip(rough, xy, strict=True)]
    if known is not None:
        before = np.concatenate([np.asarray(k, np.float64) for k in known])
        slope = np.linalg.lstsq(before, np.concatenate(smooth), rcond=None)[0]
        rough = [v - np.asarray(k, np.float64) @ slope for v, k in zip(rough, known, strict=True)]
        smooth = [v - np.asarray(k, np.float64) @ slope for v, k in zip(smooth, known, strict=True)]
    number = sum(len(v) for v in rough)
    spread, turn = np.linalg.eigh(sum(v.T @ v for v in rough) / number)
    keep = spread > 0.01 * max(spread.max(), 1e-12)
    whiten = turn[:, keep] / np.sqrt(spread[keep])
    lagged = sum(v.T @ (_ring(np.asarray(p, np.float64)) @ v) for v, p in zip(rough, xy, strict=True)) / number
    lagged = whiten.T @ (lagged + lagged.T) @ whiten / 2
    strength, factors = np.linalg.eigh(lagged)
    order = [i for i in np.argsort(-strength)[:most] if strength[i] >= least]
    axes = whiten @ factors[:, order]
    return _decorrelated([v @ axes for v in smooth])


def _centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean(0)


def _ring(xy: np.ndarray) -> Bool[np.ndarray, "n n"]:
    """Row-stochastic matrix of the neighbours about two pitches away: beyond what one window or average shares."""
    import scipy.sparse as sp

    tree = cKDTree(xy)
    pitch = float(np.median(tree.query(xy, k=min(5, len(xy)))[0][:, 1:]))
    pairs = tree.query_pairs(2.6 * pitch, output_type="ndarray")
    pairs = pairs[np.linalg.norm(xy[pairs[:, 0]] - xy[pairs[:, 1]], axis=1) > 1.5 * pitch]
    ones = np.ones(len(pairs))
    near = sp.csr_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape=(len(xy), len(xy)))
    near = near + near.T
    return sp.diags(1.0 / np.maximum(np.asarray(near.sum(1)).ravel(), 1.0)) @ near


def _decorrelated(values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Unit variance and no correlation, each column as near to what it was as the ones before it allow."""
    pooled = sum(v.T @ v for v in values) / sum(len(v) for v in values)
    root = np.linalg.cholesky(pooled + 1e-9 * np.eye(len(pooled)))
    return [np.linalg.solve(root, v.T).T.astype(np.float32) for v in values]
