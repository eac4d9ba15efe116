"""Constants that turn the curvature of the evidence into regions that cover and weights that hold."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Calibration(NamedTuple):
    """Constants of ``posterior.pose_posterior``.

    Attributes
    ----------
    base, small
        A pose covariance is multiplied by ``base + small / n`` for ``n`` overlapping spots.
    coolest, hottest
        Range that the temperature of a pair is clipped to.
    power
        Power of the temperature that the evidence is divided by, and the covariance multiplied: well below 1,
        because a temperature is itself uncertain.
    chance, coolest_modes
        Modes weigh ``exp(evidence / t)``, where before the temperature of the pair ``t = threshold / chance``, and at
        least ``coolest_modes``: evidence that unrelated tissue reaches more easily counts for less.
    warp_gain
        Factor on the estimated variance of the warp, which sees a large displacement as a smaller one.
    warp_prior, warp_sd
        Mean and standard deviation of what is known of a warp's variance before a pair is seen, pitches squared.
    least_spots
        Pairs with fewer overlapping spots are not determined.
    """

    base: float = 0.41
    small: float = 8.0
    coolest: float = 0.2
    hottest: float = 100.0
    power: float = 0.3
    chance: float = 6.0
    coolest_modes: float = 0.5
    warp_gain: float = 2.5
    warp_prior: float = 0.05
    warp_sd: float = 0.2
    least_spots: float = 120.0


#: Constants in use for all technologies.
CALIBRATION = Calibration()


def tempering(temperature: Float[Array, "*b"], constants: Calibration) -> Float[Array, "*b"]:
    """What the evidence of a pair is divided by, given how far halves of its tissue disagree."""
    return jnp.clip(temperature, constants.coolest, constants.hottest) ** constants.power


def widening(temperature: Any, spots: Any, constants: Calibration) -> Any:
    """What the inverse curvature is multiplied by to become a covariance.

    Parameters
    ----------
    temperature
        See ``curvature.temperature``.
    spots
        Overlapping spots, weighed.
    constants
        Constants in use.
    """
    return tempering(temperature, constants) * (constants.base + constants.small / jnp.maximum(spots, 1.0))


def mode_weights(
    evidence: Float[Array, "k"], temperature: Float[Array, ""], threshold: Any, *, constants: Calibration
) -> Float[Array, "k"]:
    """Probability of each mode; the evidence is divided by one temperature for all modes of the pair.

    Parameters
    ----------
    evidence
        Nats, the largest first; -inf on unused places.
    temperature
        Of the best mode, see ``curvature.temperature``.
    threshold
        Evidence that unrelated sections reach, nats.
    constants
        Constants in use.

    Returns
    -------
    array
        Sums to 1; all 0 where there is no mode.
    """
    heat = jnp.maximum(threshold / constants.chance, constants.coolest_modes) * tempering(temperature, constants)
    weight = jnp.exp(jnp.where(jnp.isfinite(evidence), (evidence - evidence[0]) / heat, -jnp.inf))
    return weight / jnp.maximum(weight.sum(), 1e-12)
