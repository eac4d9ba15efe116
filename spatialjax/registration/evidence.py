"""The evidence of one rigid pose, its slope and its curvature: what refines, judges and weighs every alignment."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from spatialjax.registration.raster import Field, sample
from spatialjax.registration.search import correlation_evidence


@struct.dataclass
class Scored:
    """Evidence of a pose and its second-order shape.

    Attributes
    ----------
    evidence
        Nats.
    gradient
        Slope along (angle about ``center`` in radians, shift x, shift y).
    curvature
        Gauss–Newton information, positive semi-definite, same coordinates.
    center
        Where the angle turns about: the mean place of the overlapping spots, in the target's frame.
    correlation
        (p,) correlation of each component inside the overlap.
    slopes
        Of the evidence along the value that each spot sees of each component.
    """

    evidence: Float[Array, ""]
    gradient: Float[Array, "3"]
    curvature: Float[Array, "3 3"]
    center: Float[Array, "2"]
    correlation: Float[Array, "p"]
    slopes: Float[Array, "n p"]


@struct.dataclass
class Seen:
    """What the source spots see of the target where a pose places them.

    Attributes
    ----------
    placed
        The spots in the target's frame.
    values, slopes
        Field values under them and their gradients.
    cover
        How far each spot lies inside the target's tissue.
    """

    placed: Float[Array, "n 2"]
    values: Float[Array, "n p"]
    slopes: Float[Array, "n p 2"]
    cover: Float[Array, "n"]


def look(target: Field, placed: Float[Array, "n 2"]) -> Seen:
    """The target's field under the placed spots."""
    return Seen(placed, *sample(target, placed))


def score(
    seen: Seen,
    features: Float[Array, "n p"],
    weights: Float[Array, "n"],
    *,
    samples: Float[Array, ""],
) -> Scored:
    """Evidence of source spots where a pose places them, and its shape around that pose.

    Parameters
    ----------
    seen
        The target under the placed spots.
    features
        Features of the source spots.
    weights
        Weight of each spot in the overlap, 0 on padding: what it covers, times its odds to be matched at all.
    samples
        Source spots that make one independent sample.
    """
    placed, values, slopes, w = seen.placed, seen.values, seen.slopes, weights
    total = jnp.maximum(w.sum(), 1e-6)
    share = (w / total)[:, None]
    a = values - (share * values).sum(0)
    b = features - (share * features).sum(0)
    aa, bb, ab = (share * a * a).sum(0), (share * b * b).sum(0), (share * a * b).sum(0)
    floor = 0.05 * (features**2).sum(0) / jnp.maximum((features**2).any(1).sum(), 1) + 1e-12
    root = jnp.sqrt((aa + floor) * (bb + floor))
    r = jnp.clip(ab / root, -0.999, 0.999)
    count = jnp.full_like(r, total / samples)
    strength = jnp.maximum(count - 3.0, 0.0)
    center = (share * placed).sum(0)
    arm = placed - center
    lever = jnp.stack([-arm[:, 1], arm[:, 0]], -1)
    moves = jnp.concatenate([(slopes * lever[:, None, :]).sum(-1)[..., None], slopes], -1)
    pull = strength * jnp.abs(r) / (1 - r**2)
    by_value = share * (b / root - r * a / (aa + floor)) * pull
    gradient = jnp.einsum("np,npk->k", by_value, moves)
    slope = ab / (aa + floor)
    gain = jnp.where(r > 0, strength * slope**2 / ((bb + floor) * (1 - r**2)), 0.0)
    curvature = jnp.einsum("np,npk,npl->kl", share * gain, moves, moves)
    return Scored(correlation_evidence(r, count), gradient, curvature, center, r, by_value)


def similarity(scored: Scored, features: Float[Array, "n p"]) -> Float[Array, ""]:
    """Mean correlation of the components inside the overlap, weighed by their variance."""
    spread = (features**2).sum(0)
    return (scored.correlation * spread).sum() / jnp.maximum(spread.sum(), 1e-12)


def newton_step(
    gradient: Float[Array, "3"], curvature: Float[Array, "3 3"], damping: Float[Array, ""], *, reach: Float[Array, "3"]
) -> Float[Array, "3"]:
    """Damped Newton step on (angle, shift x, shift y), no longer than ``reach`` in any coordinate.

    Parameters
    ----------
    gradient, curvature
        Of the evidence.
    damping
        Share of the mean curvature (in units of ``reach``) that is added to each coordinate.
    reach
        Longest step in each coordinate.
    """
    scaled = curvature * reach[:, None] * reach[None, :]
    scaled = scaled + (damping * (jnp.trace(scaled) / 3 + 1e-6)) * jnp.eye(3)
    step = jnp.linalg.solve(scaled, gradient * reach)
    return step / jnp.maximum(jnp.max(jnp.abs(step)), 1.0) * reach


def matched_odds(seen: Seen, features: Any, weights: Any, *, prior: float = 0.95, rounds: int = 3) -> Float[Array, "n"]:
    """Probability that each spot shows the tissue that lies under it, against an outlier class.

    The residual of each component (after the linear relation inside the overlap) is normal for a matched spot; an
    outlier's features are as wide as the whole section's. A few rounds of expectation-maximisation with a common
    share of outliers.

    Parameters
    ----------
    seen, features
        As in ``score``.
    weights
        1 on real spots, 0 on padding.
    prior
        Share of matched spots at the start.
    rounds
        Rounds of expectation-maximisation.

    Returns
    -------
    array
        (n,) probability for the covered spots; off the target's tissue it means nothing: multiply by the cover.
    """
    values, base = seen.values, weights * seen.cover

    def again(_: Any, held: tuple[Any, Any]) -> tuple[Any, Any]:
        odds, share = held
        w = base * odds
        w = (w / jnp.maximum(w.sum(), 1e-6))[:, None]
        u = base[:, None] / jnp.maximum(base.sum(), 1e-6)
        a, b = values - (w * values).sum(0), features - (w * features).sum(0)
        slope = (w * a * b).sum(0) / ((w * a * a).sum(0) + 1e-9)
        inner = (w * (b - slope * a) ** 2).sum(0) + 1e-9
        outer = (u * (features - (u * features).sum(0)) ** 2).sum(0) + inner
        informative = jnp.maximum(1.0 - inner / outer, 0.0)
        log_ratio = 0.5 * jnp.log(outer / inner) - 0.5 * (b - slope * a) ** 2 / inner + 0.5 * b**2 / outer
        log_ratio = (informative * log_ratio).sum(1) / jnp.maximum(informative.sum(), 1.0) * 2.0
        odds = 1.0 / (1.0 + (1.0 - share) / share * jnp.exp(-jnp.clip(log_ratio, -30.0, 30.0)))
        return odds, jnp.clip((base * odds).sum() / jnp.maximum(base.sum(), 1e-6), 0.05, 0.99)

    return jax.lax.fori_loop(0, rounds, again, (jnp.ones_like(base), jnp.asarray(prior, base.dtype)))[0]
