"""Maps of the plane (or of space) that carry one section onto another."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float


@struct.dataclass
class Affine:
    """The map ``x -> matrix x + shift``.

    A pytree that holds numpy (float64, on the host) or jax arrays alike; leading axes are batches of maps.

    Attributes
    ----------
    matrix
        Linear part; orthogonal for a rigid map, with determinant -1 where the section is mirrored.
    shift
        Translation in µm, in the frame of the target.
    """

    matrix: Float[Array, "*b d d"]
    shift: Float[Array, "*b d"]

    def __call__(self, points: Float[Array, "*b n d"]) -> Float[Array, "*b n d"]:
        """Image of ``points`` (µm)."""
        return points @ self.matrix.swapaxes(-1, -2) + self.shift[..., None, :]

    def __getitem__(self, index: Any) -> Affine:
        """One map (or some maps) of a batch."""
        return Affine(self.matrix[index], self.shift[index])

    def compose(self, first: Affine) -> Affine:
        """The map that applies ``first`` and then this one."""
        shift = (self.matrix @ first.shift[..., None])[..., 0] + self.shift
        return Affine(self.matrix @ first.matrix, shift)

    def inverse(self) -> Affine:
        """The map back."""
        xp = _namespace(self.matrix)
        inverse = xp.linalg.inv(self.matrix)
        return Affine(inverse, -(inverse @ self.shift[..., None])[..., 0])

    @property
    def mirrored(self) -> Any:
        """True where the map turns the plane over."""
        return _namespace(self.matrix).linalg.det(self.matrix) < 0

    @property
    def angle(self) -> Any:
        """Rotation angle of a planar rigid map, radians; of a mirrored one, the angle that follows ``y -> -y``."""
        return _namespace(self.matrix).arctan2(self.matrix[..., 1, 0], self.matrix[..., 0, 0])


def rigid(angle: Any, shift: Any, mirrored: Any = False, *, center: Any = None) -> Affine:
    """The rigid map ``x -> R(angle) M (x - center) + center + shift``, with ``M: y -> -y`` where ``mirrored``.

    Parameters
    ----------
    angle
        Radians, counter-clockwise; any batch shape.
    shift
        Translation in µm, shape ``(*batch, 2)``; batches of angles, shifts and parities are broadcast.
    mirrored
        Whether the section is turned over first.
    center
        Fixed point of the linear part, µm; the origin where left out.
    """
    xp = _namespace(angle, shift, mirrored, center)
    angle, shift, mirrored = xp.asarray(angle), xp.asarray(shift), xp.asarray(mirrored)
    batch = xp.broadcast_shapes(angle.shape, mirrored.shape, shift.shape[:-1])
    angle, shift = xp.broadcast_to(angle, batch), xp.broadcast_to(shift, (*batch, 2))
    c, s = xp.cos(angle), xp.sin(angle)
    sign = xp.where(mirrored, -1, 1).astype(c.dtype)
    matrix = xp.stack([xp.stack([c, -s * sign], -1), xp.stack([s, c * sign], -1)], -2)
    if center is None:
        return Affine(matrix, shift)
    center = xp.asarray(center)
    return Affine(matrix, shift + center - (matrix @ center[..., None])[..., 0])


def identity(dimension: int = 2) -> Affine:
    """The map that moves nothing (numpy, float64)."""
    import numpy as np

    return Affine(np.eye(dimension), np.zeros(dimension))


def _namespace(*values: Any) -> Any:
    import jax
    import numpy as np

    return jnp if any(isinstance(v, jax.Array) for v in values) else np
