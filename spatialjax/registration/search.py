"""Every angle, both parities and every shift at once: the evidence of all rigid poses of one field on another."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from spatialjax.registration.raster import Field, rasterize


@struct.dataclass
class Peaks:
    """Local maxima of the evidence, the best first, as poses of the source about the origin.

    Attributes
    ----------
    angle
        Radians.
    shift
        In the unit of the fields.
    mirrored
        Whether the source was turned over (y -> -y) before the rotation.
    evidence
        Nats; -inf where there are fewer peaks.
    """

    angle: Float[Array, "k"]
    shift: Float[Array, "k 2"]
    mirrored: Float[Array, "k"]
    evidence: Float[Array, "k"]


def correlation_evidence(correlation: Any, samples: Any) -> Any:
    """Signed log evidence of correlated fields: the likelihood ratio of a linear relation against none.

    Parameters
    ----------
    correlation
        (..., p) correlation of each component inside the overlap.
    samples
        (..., p) number of independent samples in the overlap.

    Returns
    -------
    array
        (...,) nats, summed over the components; components that disagree in sign count against the pose.
    """
    square = jnp.minimum(correlation**2, 0.9999)
    return -0.5 * jnp.sum(jnp.maximum(samples - 3.0, 0.0) * jnp.sign(correlation) * jnp.log1p(-square), axis=-1)


def search(source: Field, target: Field, area: Float[Array, "p"], *, angles: int = 48, keep: int = 8) -> Peaks:
    """The best poses of ``source`` on ``target`` over all shifts, ``angles`` rotations and both parities.

    For every pose the components are correlated inside the overlap only (masked, overlap-normalised), so that a small
    true overlap can win against a large wrong one with no parameter; all shifts are had at once by fast Fourier
    transforms.

    Parameters
    ----------
    source, target
        Fields with one pixel size, centred near the origin, on equal square grids.
    area
        Area of one independent sample of each component, in the fields' unit squared.
    angles
        Number of rotations over the full turn.
    keep
        Number of peaks, half of them for each parity.

    Returns
    -------
    Peaks
        The peaks, the best first.
    """
    side = 2 * target.cover.shape[0]
    spectra = _spectra(_moments(target.values, target.cover), side)
    variance = _variance(target.values, target.cover)
    turn = jnp.arange(angles) * (2 * jnp.pi / angles)
    pixels = area / target.pixel**2
    least = 0.05 * jnp.minimum(target.cover.sum(), source.cover.sum())

    def one(pose: tuple[Any, Any]) -> Any:
        angle, mirrored = pose
        values, cover = _turned(source, angle, mirrored)
        return _evidence_map(_moments(values, cover), spectra, pixels=pixels, least=least, variance=variance, side=side)

    parity, angle = (a.ravel() for a in jnp.meshgrid(jnp.array([0.0, 1.0]), turn, indexing="ij"))
    maps = jax.lax.map(one, (angle, parity))
    maps = maps.reshape(2, angles, side, side)
    picks = [_maxima(maps[m], keep // 2, reach=max(side // 24, 2)) for m in (0, 1)]
    index = jnp.concatenate([p[0] for p in picks])
    evidence = jnp.concatenate([p[1] for p in picks])
    mirrored = jnp.repeat(jnp.array([0.0, 1.0]), keep // 2)
    step = index[:, 1:]
    lag = jnp.where(step >= side // 2, step - side, step)
    shift = lag * target.pixel + (target.origin - _turned_origin(source))
    order = jnp.argsort(-evidence)
    return Peaks(turn[index[:, 0]][order], shift[order], mirrored[order], evidence[order])


def _turned_origin(source: Field) -> Any:
    half = source.pixel * (source.cover.shape[0] - 1) / 2
    return jnp.stack([-half, -half])


def _turned(source: Field, angle: Any, mirrored: Any) -> tuple[Any, Any]:
    """The source field turned about the origin, on a grid of the same size that is centred on the origin."""
    side = source.cover.shape[0]
    line = (jnp.arange(side) - (side - 1) / 2) * source.pixel
    x, y = jnp.meshgrid(line, line, indexing="ij")
    c, s = jnp.cos(angle), jnp.sin(angle)
    back_x, back_y = c * x + s * y, (-s * x + c * y) * jnp.where(mirrored > 0, -1.0, 1.0)
    place = (jnp.stack([back_x, back_y], -1) - source.origin) / source.pixel
    corner = jnp.floor(place).astype(jnp.int32)
    share = place - corner
    value = cover = 0.0
    for dx in (0, 1):
        for dy in (0, 1):
            i, j = corner[..., 0] + dx, corner[..., 1] + dy
            inside = (i >= 0) & (i < side) & (j >= 0) & (j < side)
            i, j = jnp.clip(i, 0, side - 1), jnp.clip(j, 0, side - 1)
            w = jnp.abs(1 - dx - share[..., 0]) * jnp.abs(1 - dy - share[..., 1]) * inside * source.cover[i, j]
            cover = cover + w
            value = value + w[..., None] * source.values[i, j]
    return value / jnp.maximum(cover, 1e-6)[..., None], cover


def _moments(values: Any, cover: Any) -> Any:
    weighted = values * cover[..., None]
    return jnp.concatenate([cover[..., None], weighted, weighted * values], -1)


def _spectra(moments: Any, side: int) -> Any:
    return jnp.fft.rfft2(jnp.moveaxis(moments, -1, 0), (side, side))


def _variance(values: Any, cover: Any) -> Any:
    total = jnp.maximum(cover.sum(), 1e-6)
    mean = (values * cover[..., None]).sum((0, 1)) / total
    return ((values - mean) ** 2 * cover[..., None]).sum((0, 1)) / total


def _evidence_map(moments: Any, target: Any, *, pixels: Any, least: Any, variance: Any, side: int) -> Any:
    """Evidence at every shift of the source against the target."""
    p = pixels.shape[0]
    source = jnp.conj(_spectra(moments, side))
    sm, sf, sq = source[:1], source[1 : 1 + p], source[1 + p :]
    tm, tf, tq = target[:1], target[1 : 1 + p], target[1 + p :]
    products = jnp.concatenate([tm * sm, tf * sm, tm * sf, tq * sm, tm * sq, tf * sf])
    sums = jnp.fft.irfft2(products, (side, side))
    overlap = sums[0]
    n = jnp.maximum(overlap, 1e-3)
    a, b, aa, bb, ab = (sums[1 + i * p : 1 + (i + 1) * p] for i in range(5))
    floor = 0.05 * (variance * n[..., None])
    floor = jnp.moveaxis(floor, -1, 0)
    var_a, var_b, cov = jnp.maximum(aa - a * a / n, 0), jnp.maximum(bb - b * b / n, 0), ab - a * b / n
    correlation = cov / jnp.sqrt((var_a + floor) * (var_b + floor) + 1e-20)
    correlation = jnp.clip(correlation, -0.999, 0.999)
    samples = n / pixels[:, None, None]
    score = correlation_evidence(jnp.moveaxis(correlation, 0, -1), jnp.moveaxis(samples, 0, -1))
    return jnp.where(overlap >= least, score, -jnp.inf)


def _maxima(maps: Any, number: int, *, reach: int) -> tuple[Any, Any]:
    """The best peaks of (angles, side, side) maps, each at least 20° or ``reach`` pixels away from better ones."""
    angles, side, _ = maps.shape
    near_angle = max(int(round(angles * 20 / 360)), 1)
    a, i, j = jnp.arange(angles)[:, None, None], jnp.arange(side)[:, None], jnp.arange(side)[None, :]

    def ring(x: Any, y: Any, size: int) -> Any:
        return jnp.minimum((x - y) % size, (y - x) % size)

    def pick(maps: Any, _: Any) -> tuple[Any, Any]:
        flat = jnp.argmax(maps)
        at = jnp.stack(jnp.unravel_index(flat, maps.shape))
        near = (
            (ring(a, at[0], angles) <= near_angle) & (ring(i, at[1], side) <= reach) & (ring(j, at[2], side) <= reach)
        )
        return jnp.where(near, -jnp.inf, maps), (at, maps.ravel()[flat])

    _, (index, evidence) = jax.lax.scan(pick, maps, None, length=number)
    return index, evidence


def coarse_fields(
    xy: tuple[np.ndarray, np.ndarray],
    features: tuple[np.ndarray, np.ndarray],
    *,
    pixel: float,
    extent: tuple[np.ndarray, np.ndarray],
    side: int = 48,
) -> tuple[Field, Field]:
    """Both sections on equal square grids with one pixel size, for ``search`` (host).

    Parameters
    ----------
    xy, features
        Places and values of source and target; the source about the origin.
    pixel
        Smallest distance of two nodes; it grows until the grid holds both sections at any angle.
    extent
        The spots, which say where tissue is.
    side
        Number of nodes on a side: one for all sections, so that a pair of another size does not compile again.
    """
    spans = [2 * np.sqrt((extent[0] ** 2).sum(1)).max(), np.ptp(extent[1], axis=0).max()]
    pixel = max(pixel, max(spans) / (side - 9.01))
    source, target = (
        rasterize(p, f, pixel=pixel, blur=0.7 * pixel, side=side, extent=e)
        for p, f, e in zip(xy, features, extent, strict=True)
    )
    return source, target
