"""Poses from outlines alone: centroids, principal axes, nearest spots."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from spatialjax.results import Alignment
from spatialjax.slices import Slice
from spatialjax.transforms import Affine, rigid

#: Spots per block of a distance table: nearest spots are found without holding n x m distances.
_BLOCK = 512


def principal_angle(section: Slice) -> tuple[Float[Array, "2"], Float[Array, ""]]:
    """Centroid (µm) and angle of the longer principal axis (radians, modulo π) of the real spots."""
    w = section.mask.astype(jnp.float32)
    total = jnp.maximum(w.sum(), 1.0)
    center = (w[:, None] * section.xy).sum(0) / total
    d = (section.xy - center) * w[:, None]
    xx, yy, xy = (d[:, 0] ** 2).sum(), (d[:, 1] ** 2).sum(), (d[:, 0] * d[:, 1]).sum()
    return center, 0.5 * jnp.arctan2(2 * xy, xx - yy)


def axis_poses(source: Slice, target: Slice, *, mirrored: bool) -> Affine:
    """The poses that lay centroid on centroid and principal axis on principal axis: two, or four with mirror images."""
    (a, alpha), (b, beta) = principal_angle(source), principal_angle(target)
    turns = [beta - alpha, beta - alpha + jnp.pi]
    flips = [0.0, 0.0]
    if mirrored:
        turns += [beta + alpha, beta + alpha + jnp.pi]
        flips += [1.0, 1.0]
    angle, flip = jnp.stack(turns), jnp.array(flips)
    local = rigid(angle, jnp.zeros((len(flips), 2)), flip > 0)
    return Affine(local.matrix, b - (local.matrix @ a[:, None])[..., 0])


def nearest(points: Float[Array, "n 2"], section: Slice) -> tuple[Any, Any]:
    """Index of and squared distance (µm²) to the nearest real spot of ``section``, in blocks of points."""

    def block(part: Any) -> Any:
        d = ((part[:, None] - section.xy[None]) ** 2).sum(-1)
        d = jnp.where(section.mask[None], d, jnp.inf)
        index = jnp.argmin(d, axis=1)
        return index, d[jnp.arange(len(part)), index]

    n = len(points)
    size = min(_BLOCK, n)
    padded = jnp.pad(points, ((0, -n % size), (0, 0)))
    index, distance = jax.lax.map(block, padded.reshape(-1, size, 2))
    return index.ravel()[:n], distance.ravel()[:n]


def shape_overlap(pose: Affine, source: Slice, target: Slice) -> Float[Array, ""]:
    """Minus the mean distance (µm) to the nearest spot, both ways: 0 where the outlines agree."""
    moved = pose(source.xy)
    there = _mean(jnp.sqrt(nearest(moved, target)[1] + 1e-9), source.mask)
    back = _mean(jnp.sqrt(nearest(target.xy, source.replace(xy=moved))[1] + 1e-9), target.mask)
    return -0.5 * (there + back)


def ranked_by_outline(poses: Affine, source: Slice, target: Slice, *, settled: Bool[Array, " k"]) -> Alignment:
    """Poses as an ``Alignment``, those whose outlines agree best first.

    Parameters
    ----------
    poses
        Maps from source µm to target µm along a leading axis.
    source, target
        The sections.
    settled
        Whether each pose met the stopping rule of its method.
    """
    evidence = jax.lax.map(lambda pose: shape_overlap(pose, source, target), poses)
    order = jnp.argsort(-evidence)
    return Alignment(
        poses=poses[order],
        evidence=evidence[order],
        overlap=source.mask.astype(jnp.float32),
        plan=None,
        objective=-evidence[order[0]],
        error=jnp.zeros(()),
        converged=settled[order[0]],
    )


def _mean(values: Any, mask: Any) -> Any:
    return jnp.where(mask, values, 0.0).sum() / jnp.maximum(mask.sum(), 1)
