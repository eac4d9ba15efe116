"""Fields on a grid: scattered spots to rasters (on the host), and smooth values between the nodes (on the device)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float
from scipy.ndimage import gaussian_filter

#: Sides that rasters are padded to, so that a second section does not compile again.
SIDES = (64, 128, 256, 512, 1024)


@struct.dataclass
class Field:
    """Values on the nodes of a square grid.

    Attributes
    ----------
    values
        Field values; off the tissue the values of the nearest tissue, blurred.
    cover
        How much of the tissue a node sees: 0 outside, 1 inside.
    origin
        Place of node (0, 0).
    pixel
        Distance of two nodes.
    """

    values: Float[Array, "h w p"]
    cover: Float[Array, "h w"]
    origin: Float[Array, "2"]
    pixel: Float[Array, ""]


def rasterize(
    xy: Float[np.ndarray, "n 2"],
    features: Float[np.ndarray, "n p"],
    *,
    pixel: float,
    blur: float,
    side: int | None = None,
    margin: int = 4,
    extent: Float[np.ndarray, "m 2"] | None = None,
) -> Field:
    """Kernel averages of scattered spots on a grid (host, numpy).

    Parameters
    ----------
    xy
        Places in any unit.
    features
        Values of the spots.
    pixel
        Distance of the nodes, same unit as ``xy``.
    blur
        Standard deviation of the Gaussian kernel, same unit.
    side
        Nodes on each side; the first of ``SIDES`` that holds the spots and the margin where left out.
    margin
        Free nodes on each side.
    extent
        Places that say where tissue is, where they differ from ``xy`` (values averaged over neighbours stand further
        inside than the spots).

    Raises
    ------
    ValueError
        If the spots do not fit on ``side`` nodes.
    """
    extent = xy if extent is None else extent
    low, high = extent.min(0), extent.max(0)
    need = int(np.ceil((high - low).max() / pixel)) + 1 + 2 * margin
    if side is None:
        side = next((s for s in SIDES if s >= need), need)
    if side < need:
        raise ValueError(f"Expected a raster of at least {need} nodes a side for these spots, found {side}.")
    origin = (low + high) / 2 - pixel * (side - 1) / 2
    spots = _splat((extent - origin) / pixel, np.ones((len(extent), 1)), side)[0]
    table = _splat((xy - origin) / pixel, np.column_stack([np.ones(len(xy)), features]), side)
    blur = blur / pixel
    values = _filled(table[0], table[1:], blur)
    width = max(blur, 0.7)
    density = gaussian_filter(spots, width, mode="constant")
    cover = np.clip(2.0 * density / np.average(density, weights=spots) - 0.5, 0.0, 1.0)
    return Field(
        values=values.astype(np.float32),
        cover=cover.astype(np.float32),
        origin=origin.astype(np.float32),
        pixel=np.float32(pixel),
    )


def _splat(place: np.ndarray, columns: np.ndarray, side: int) -> np.ndarray:
    """Bilinear sums of the columns on the nodes, (columns, side, side)."""
    corner = np.floor(place).astype(np.int64)
    share = place - corner
    sums = np.zeros((columns.shape[1], side * side))
    for dx in (0, 1):
        for dy in (0, 1):
            weight = np.abs(1 - dx - share[:, 0]) * np.abs(1 - dy - share[:, 1])
            flat = (corner[:, 0] + dx) * side + corner[:, 1] + dy
            for c in range(columns.shape[1]):
                sums[c] += np.bincount(flat, weight * columns[:, c], side * side)
    return sums.reshape(-1, side, side)


def _filled(weights: np.ndarray, sums: np.ndarray, blur: float) -> np.ndarray:
    """Kernel averages; off the tissue, where they would be 0/0, wider kernels with less weight decide."""
    typical = weights.sum() / max((weights > 0).sum(), 1)
    top = bottom = 0.0
    for level, width in enumerate((1.0, 3.0, 9.0, 27.0)):
        wide = min(blur * width, len(weights) / 4)
        factor = 100.0**-level
        bottom = bottom + factor * gaussian_filter(weights, wide, mode="constant")
        top = top + factor * np.stack([gaussian_filter(s, wide, mode="constant") for s in sums])
    return np.moveaxis(top / (bottom + 1e-15 * typical), 0, -1)


def sample(field: Field, points: Float[Array, "n 2"]) -> tuple[Any, Any, Any]:
    """Cubic B-spline values of a field at points: values (n, p), their gradient (n, p, 2) and the cover (n,).

    The nodes are the spline's coefficients: slightly smoother than the nodes, twice differentiable. Points off the
    grid see its border and no cover.
    """
    height, width = field.cover.shape
    place = (points - field.origin) / field.pixel
    inside = jnp.all((place >= 1) & (place <= jnp.array([height - 3.0, width - 3.0])), axis=1)
    place = jnp.clip(place, 1.0, jnp.array([height - 3.0, width - 3.0]))
    corner = jnp.floor(place).astype(jnp.int32)
    across, down = (jnp.stack(_spline(place[:, k] - corner[:, k])) for k in (0, 1))
    flat = jnp.concatenate([field.values, field.cover[..., None]], -1).reshape(height * width, -1)

    # One body for the sixteen nodes around a point: every program that looks at a field compiles it.
    def add(node: Any, sums: Any) -> Any:
        i, j = node // 4, node % 4
        here = flat[(corner[:, 0] + i - 1) * width + corner[:, 1] + j - 1]
        (wx, gx), (wy, gy) = (jnp.take(weights, k, axis=2)[..., None] for weights, k in ((across, i), (down, j)))
        return sums[0] + wx * wy * here, sums[1] + gx * wy * here, sums[2] + wx * gy * here

    none = jnp.zeros((len(points), flat.shape[1]), flat.dtype)
    value, slope_x, slope_y = jax.lax.fori_loop(0, 16, add, (none, none, none))
    slope = jnp.stack([slope_x, slope_y], -1)[:, :-1] / field.pixel
    return value[:, :-1], slope, jnp.where(inside, value[:, -1], 0.0)


def _spline(t: Float[Array, "n"]) -> tuple[Any, Any]:
    """Weights of the four nodes around a point and their derivatives, in nodes."""
    weights = jnp.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], -1) / 6
    slopes = jnp.stack([-((1 - t) ** 2), 3 * t**2 - 4 * t, -3 * t**2 + 2 * t + 1, t**2], -1) / 2
    return weights, slopes
