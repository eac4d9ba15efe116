"""Every angle, both parities and every shift at once: the evidence of all rigid poses of one field on another."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from spatialjax.registration.raster import Field, rasterize

#: Nodes at each border of a field that may see no tissue.
FREE = 3


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
        Fields with one pixel size, centred near the origin, on equal square grids; no tissue on the ``FREE`` outermost
        nodes, at any rotation of the source (see ``coarse_fields``).
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
    side, p = _padded(target), len(area)
    spectra = _spectra(target.values, target.cover, side)
    judged = _judged(source, target, area)

    def one(pose: tuple[Any, Any]) -> Any:
        turned = _spectra(*_turned(source, *pose), side)
        across = _correlated(turned[1 : 1 + p], spectra[1 : 1 + p], side)
        return _evidence_map(_products(turned, spectra, side), across, *judged)

    turn, poses = _all_poses(angles)
    maps = jax.lax.map(one, poses).reshape(2, angles, side, side)
    index, evidence = jax.vmap(lambda maps: _maxima(maps, keep // 2, reach=max(target.cover.shape[0] // 12, 2)))(maps)
    index, evidence = index.reshape(-1, 3), evidence.ravel()
    mirrored = jnp.repeat(jnp.array([0.0, 1.0]), keep // 2)
    step = index[:, 1:]
    lag = jnp.where(step >= side // 2, step - side, step)
    shift = lag * target.pixel + (target.origin - _turned_origin(source))
    order = jnp.argsort(-evidence)
    return Peaks(turn[index[:, 0]][order], shift[order], mirrored[order], evidence[order])


def best_unrelated(
    source: Field,
    target: Field,
    area: Float[Array, "p"],
    *,
    partners: Int[Array, "d p"],
    signs: Float[Array, "d p"],
    angles: int = 24,
) -> Float[Array, "d"]:
    """Evidence of the best pose of ``source`` on ``target`` with its components exchanged and turned in sign.

    What ``search`` would find for each draw; what the exchange leaves as it is, is transformed once for all of them.

    Parameters
    ----------
    source, target, area
        As in ``search``.
    partners
        For each draw the component of the target that stands in the place of each one.
    signs
        And its sign.
    angles
        Number of rotations over the full turn, both parities.
    """
    side, p = _padded(target), len(area)
    spectra = _spectra(target.values, target.cover, side)
    pixels, least, variance = _judged(source, target, area)

    def one(pose: tuple[Any, Any]) -> Any:
        turned = _spectra(*_turned(source, *pose), side)
        cover, a, b, aa, bb = _products(turned, spectra, side)

        def drawn(exchange: tuple[Any, Any]) -> Any:
            partner, sign = exchange[0], exchange[1][:, None, None]
            across = _correlated(turned[1 : 1 + p], sign * spectra[1 + partner], side)
            products = cover, sign * a[partner], b, aa[partner], bb
            return _evidence_map(products, across, pixels, least, variance[partner]).max()

        return jax.lax.map(drawn, (partners, signs))

    return jax.lax.map(one, _all_poses(angles)[1]).max(0)


def _padded(field: Field) -> int:
    """Side of the transforms: what two fields span at most, so that no shift meets the other end of the grid."""
    return 2 * (field.cover.shape[0] - 2 * FREE)


def _all_poses(angles: int) -> tuple[Any, tuple[Any, Any]]:
    """The rotations; and angle and parity of every pose that is looked at."""
    turn = jnp.arange(angles) * (2 * jnp.pi / angles)
    parity, angle = (a.ravel() for a in jnp.meshgrid(jnp.array([0.0, 1.0]), turn, indexing="ij"))
    return turn, (angle, parity)


def _judged(source: Field, target: Field, area: Any) -> tuple[Any, Any, Any]:
    """Pixels of one independent sample, the least overlap in pixels, and the variance of the target's components."""
    total = jnp.maximum(target.cover.sum(), 1e-6)
    mean = (target.values * target.cover[..., None]).sum((0, 1)) / total
    variance = ((target.values - mean) ** 2 * target.cover[..., None]).sum((0, 1)) / total
    return area / target.pixel**2, 0.05 * jnp.minimum(target.cover.sum(), source.cover.sum()), variance


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
    corner = jnp.floor(place).astype(jnp.int32)[..., None, :] + jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    weight = (1.0 - jnp.abs(place[..., None, :] - corner)).prod(-1)
    weight = weight * ((corner >= 0) & (corner < side)).all(-1)
    node = jnp.clip(corner, 0, side - 1)
    node = node[..., 0] * side + node[..., 1]
    weight = weight * source.cover.ravel()[node]
    cover = weight.sum(-1)
    value = (weight[..., None] * source.values.reshape(side * side, -1)[node]).sum(-2)
    return value / jnp.maximum(cover, 1e-6)[..., None], cover


def _spectra(values: Any, cover: Any, side: int) -> Any:
    """Transforms of the cover and of the first and second moments under it, one after another."""
    first = jnp.moveaxis(values, -1, 0) * cover
    return jnp.fft.rfft2(jnp.concatenate([cover[None], first, first * jnp.moveaxis(values, -1, 0)]), (side, side))


def _correlated(source: Any, target: Any, side: int) -> Any:
    return jnp.fft.irfft2(target * jnp.conj(source), (side, side))


def _products(source: Any, target: Any, side: int) -> tuple[Any, Any, Any, Any, Any]:
    """At every shift: the overlap, and inside it the first and second moments of the target and of the source."""
    p = len(source) // 2
    moments, still = np.arange(1, 1 + 2 * p), np.zeros(2 * p, int)
    sums = _correlated(source[np.r_[0, still, moments]], target[np.r_[0, moments, still]], side)
    a, aa, b, bb = sums[1:].reshape(4, p, side, side)
    return sums[0], a, b, aa, bb


def _evidence_map(products: Any, across: Any, pixels: Any, least: Any, variance: Any) -> Any:
    """Evidence at every shift of the source against the target."""
    overlap, a, b, aa, bb = products
    n = jnp.maximum(overlap, 1e-3)
    floor = 0.05 * variance[:, None, None] * n
    var_a, var_b, cov = jnp.maximum(aa - a * a / n, 0), jnp.maximum(bb - b * b / n, 0), across - a * b / n
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
