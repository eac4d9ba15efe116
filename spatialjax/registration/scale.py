"""How much larger one section shows the tissue than another: an isotropic scale beside the pose, with its spread."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from spatialjax.registration.calibration import Calibration, widening
from spatialjax.registration.curvature import Pull, inverse, pull_placed, temperature
from spatialjax.registration.pairs import FieldPair
from spatialjax.transforms import Affine, rigid

#: Newton steps from the rigid pose, and the longest one in each coordinate, pitches (at the rim for angle and scale).
STEPS, REACH = 12, 0.5
#: A scale beyond these factors is not shrinkage: the pose itself is wrong, and the search would have to begin anew.
SMALLEST, LARGEST = 0.8, 1.25


@struct.dataclass
class ScaleSpread:
    """Similarity maps near rigid modes and how far they may be off.

    The perturbation of a mode is ``x -> exp(l) R(angle) (T x - center) + center + (x, y)`` in the target's frame.

    Attributes
    ----------
    poses
        Similarity maps from source µm to target µm: the rigid modes, moved and scaled to the most evidence.
    scale
        What lengths of the source are multiplied by; above 1 where the source has shrunk more than the target.
    sd
        Standard deviation of the logarithm of the scale, all other coordinates unknown.
    covariance
        Of (angle in rad, shift x, shift y in µm, logarithm of the scale).
    center
        What angle and scale are about, µm, in the target's frame.
    """

    poses: Affine
    scale: Float[Array, "k"]
    sd: Float[Array, "k"]
    covariance: Float[Array, "k 4 4"]
    center: Float[Array, "k 2"]

    def interval(self, *, level: float = 0.9) -> tuple[Float[Array, "k"], Float[Array, "k"]]:
        """Lower and upper end of the interval of each scale that has the probability ``level``."""
        half = jax.scipy.stats.norm.ppf(0.5 + level / 2) * self.sd
        return self.scale * jnp.exp(-half), self.scale * jnp.exp(half)


def scale_spread(pair: FieldPair, poses: Affine, *, calibration: Calibration) -> ScaleSpread:
    """Scale of each mode: Newton steps in four coordinates from its rigid pose, then their tempered curvature.

    Parameters
    ----------
    pair
        The two sections.
    poses
        Rigid modes from source µm to target µm.
    calibration
        Constants that widen the inverse curvature, those of the rigid pose.
    """

    def one(pose: Affine) -> ScaleSpread:
        start = (pose.matrix, (pose.shift + pose.matrix @ pair.centers[0] - pair.centers[1]) / pair.unit)
        matrix, shift = jax.lax.fori_loop(0, STEPS, lambda _, local: _moved(pair, local), start)
        found = _look(pair, (matrix, shift))
        scale = _size(matrix)
        units = jnp.stack([1.0 / found.arm, pair.unit, pair.unit, 1.0 / found.arm])
        factor = widening(temperature(found), found.weights.sum(), calibration)
        covariance = factor * inverse(found.information.sum(0)) * units[:, None] * units[None, :]
        shift = shift * pair.unit + pair.centers[1] - matrix @ pair.centers[0]
        center = found.center * pair.unit + pair.centers[1]
        return ScaleSpread(Affine(matrix, shift), scale, jnp.sqrt(covariance[3, 3]), covariance, center)

    return jax.lax.map(one, poses)


def _look(pair: FieldPair, local: tuple[Any, Any]) -> Pull:
    return pull_placed(pair, Affine(*local)(pair.points), scale=True)


def _size(matrix: Any) -> Any:
    return jnp.sqrt(jnp.abs(jnp.linalg.det(matrix)))


def _moved(pair: FieldPair, local: tuple[Any, Any]) -> tuple[Any, Any]:
    """A map (pitches, about the centres) after one Newton step on the evidence."""
    found = _look(pair, local)
    step = inverse(found.information.sum(0)) @ found.scores.sum(0)
    step = step * REACH / jnp.maximum(jnp.abs(step).max(), REACH)
    size = _size(local[0])
    grown = jnp.clip(size * jnp.exp(step[3] / found.arm), SMALLEST, LARGEST) / size
    turn = rigid(step[0] / found.arm, jnp.zeros(2))
    matrix = grown * turn.matrix
    shift = matrix @ (local[1] - found.center) + found.center + step[1:3]
    return matrix @ local[0], shift
