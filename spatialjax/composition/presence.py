"""Which types a spot holds, and how much of each: a Gibbs sampler with an atom at zero.

Model of one spot: a type is present with probability π_k, its abundance is then exponential with mean m_k, and the
counts speak through the quadratic approximation of their log likelihood, raised to a power τ ≤ 1 (cells of one type
differ more than Poisson noise does, so that genes are not independent witnesses).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr, ndtr, ndtri
from jaxtyping import Array, Bool, Float

from spatialjax.composition.poisson import NormalEquations

#: Half of the logarithm of 2π.
_HALF_LOG_TAU = 0.9189385332046727
#: Standard score below which a truncated normal is taken for an exponential.
_FAR = -5.0


class Prior(NamedTuple):
    """What is known of the types before the counts of a spot.

    Attributes
    ----------
    present
        (K,) probability that a spot holds the type.
    size
        (K,) mean abundance where it does, in cells.
    """

    present: Float[Array, " k"]
    size: Float[Array, " k"]


class Spots(NamedTuple):
    """State of the sampler, types first.

    Attributes
    ----------
    abundance
        (K, n), 0 where absent.
    probability
        (K, n) probability of presence at the last visit, given all other types.
    """

    abundance: Float[Array, "k n"]
    probability: Float[Array, "k n"]


def sweep(key: Array, spots: Spots, equations: NormalEquations, *, prior: Prior, power: float) -> Spots:
    """Visit every type of every spot once.

    Parameters
    ----------
    key
        Random key.
    spots
        Present state.
    equations
        Of the spots.
    prior
        Of the types.
    power
        τ.
    """
    gram, target = jnp.moveaxis(equations.gram, 0, -1), equations.target.T
    number, n = spots.abundance.shape
    uniform = jax.random.uniform(key, (number, 2, n), minval=jnp.finfo(jnp.float32).tiny)
    odds = jnp.log(prior.present) - jnp.log1p(-prior.present)

    def visit(k: Any, state: Spots) -> Spots:
        row, precision = gram[k], power * gram[k, k]
        pull = (row * state.abundance).sum(0) - row[k] * state.abundance[k]
        linear = power * (target[k] - pull) - 1.0 / prior.size[k]
        known = precision > 0
        width = jnp.where(known, jnp.sqrt(jnp.where(known, precision, 1.0)), 1.0)
        score = linear / width
        evidence = _HALF_LOG_TAU - jnp.log(width * prior.size[k]) + 0.5 * score**2 + log_ndtr(score)
        # Without any information the prior stands.
        log_odds = odds[k] + jnp.where(known, evidence, 0.0)
        size = jnp.where(known, _above_zero(uniform[k, 0], score) / width, -prior.size[k] * jnp.log(uniform[k, 0]))
        probability = jax.nn.sigmoid(log_odds)
        drawn = jnp.where(uniform[k, 1] < probability, size, 0.0)
        return Spots(state.abundance.at[k].set(drawn), state.probability.at[k].set(probability))

    return jax.lax.fori_loop(0, number, visit, spots)


def _above_zero(uniform: Float[Array, " n"], score: Float[Array, " n"]) -> Float[Array, " n"]:
    """Draws of N(score, 1) above 0."""
    near = jnp.maximum(score, _FAR)
    inside = near - ndtri(jnp.maximum(uniform * ndtr(near), jnp.finfo(jnp.float32).tiny))
    outside = -jnp.log(uniform) / jnp.maximum(-score, -_FAR)
    return jnp.maximum(jnp.where(score > _FAR, inside, outside), 0.0)


def begin(abundance: Float[Array, "n k"]) -> Spots:
    """State at given abundances."""
    return Spots(abundance.T, (abundance.T > 0).astype(abundance.dtype))


def empirical_prior(
    key: Array, start: Float[Array, "n k"], equations: NormalEquations, *, used: Bool[Array, " n"], power: float,
    rounds: int = 80,
) -> Prior:  # fmt: skip
    """Presence and size of each type over the spots, by stochastic expectation–maximisation.

    Parameters
    ----------
    key
        Random key.
    start
        (n, K) abundances to begin with.
    equations
        Of the spots.
    used
        Spots that count.
    power
        τ.
    rounds
        Number of sweeps; what they say is averaged over the later half.

    References
    ----------
    Celeux & Diebolt (1985), Computational Statistics Quarterly 2 (stochastic EM).
    """
    weight = used.astype(start.dtype)
    count = jnp.maximum(weight.sum(), 1.0)
    mean = (start * weight[:, None]).sum(0) / count
    floor = 1e-3 * jnp.maximum(mean.sum(), 1e-6) / start.shape[1]
    first = Prior(jnp.full(start.shape[1], 0.5), jnp.maximum(2.0 * mean, floor))

    def one(carry: tuple[Spots, Prior], round_key: Any) -> tuple[tuple[Spots, Prior], Prior]:
        spots, prior = carry
        spots = sweep(round_key, spots, equations, prior=prior, power=power)
        on = (spots.probability * weight).sum(1)
        amount = (spots.abundance * weight).sum(1)
        held = ((spots.abundance > 0) * weight).sum(1)
        # One half spot of each kind keeps a type possible that no spot seems to hold, and one absent that all do.
        prior = Prior((on + 0.5) / (count + 1.0), jnp.maximum((amount + floor) / (held + 1.0), floor))
        return (spots, prior), prior

    _, path = jax.lax.scan(one, (begin(start), first), jax.random.split(key, rounds))
    return jax.tree.map(lambda values: values[rounds // 2 :].mean(0), path)


class Sampled(NamedTuple):
    """Summaries of the draws of each spot.

    Attributes
    ----------
    mean, sd
        (n, K) of the proportions; a draw without any cell counts for the mean of the prior.
    abundance
        (n, K) mean abundance, cells.
    present
        (n, K) probability that the type is there.
    low, high
        (n, K) quantiles of the proportion over all draws.
    low_present, high_present
        The same over the draws in which the type is there; NaN where it is in none.
    last
        (n, K) abundances of the last draw.
    """

    mean: Float[Array, "n k"]
    sd: Float[Array, "n k"]
    abundance: Float[Array, "n k"]
    present: Float[Array, "n k"]
    low: Float[Array, "n k"]
    high: Float[Array, "n k"]
    low_present: Float[Array, "n k"]
    high_present: Float[Array, "n k"]
    last: Float[Array, "n k"]


def sampled(
    key: Array,
    start: Float[Array, "n k"],
    equations: NormalEquations,
    *,
    prior: Prior,
    power: float,
    warmup: int = 80,
    draws: int = 200,
    level: float = 0.9,
) -> Sampled:
    """Draw from the posterior of every spot.

    Parameters
    ----------
    key
        Random key.
    start
        (n, K) abundances to begin with.
    equations
        Of the spots.
    prior
        Of the types.
    power
        τ.
    warmup, draws
        Sweeps that are left out, and kept.
    level
        Share of the draws between ``low`` and ``high``.
    """
    state = begin(start)
    keys = jax.random.split(key, warmup + draws)

    def move(state: Spots, one: Any) -> tuple[Spots, None]:
        return sweep(one, state, equations, prior=prior, power=power), None

    def keep(state: Spots, one: Any) -> tuple[Spots, tuple[Any, Any]]:
        state = sweep(one, state, equations, prior=prior, power=power)
        return state, (state.abundance, state.probability)

    state, _ = jax.lax.scan(move, state, keys[:warmup])
    state, (abundance, probability) = jax.lax.scan(keep, state, keys[warmup:])
    total = abundance.sum(1, keepdims=True)
    usual = prior.present * prior.size
    share = jnp.where(total > 0, abundance / jnp.where(total > 0, total, 1.0), (usual / usual.sum())[None, :, None])
    tail = 0.5 * (1.0 - level)
    held = abundance > 0
    given = _conditional(share, held, (tail, 1.0 - tail))
    low, high = jnp.quantile(share, jnp.array([tail, 1.0 - tail]), axis=0)
    found = Sampled(
        share.mean(0),
        share.std(0),
        abundance.mean(0),
        probability.mean(0),
        low,
        high,
        given[0],
        given[1],
        abundance[-1],
    )
    return jax.tree.map(jnp.transpose, found)


def _conditional(
    share: Float[Array, "d k n"], held: Bool[Array, "d k n"], quantiles: tuple[float, ...]
) -> list[Float[Array, "k n"]]:
    """Quantiles over the draws that count."""
    count = held.sum(0)
    ordered = jnp.sort(jnp.where(held, share, jnp.inf), axis=0)
    found = []
    for q in quantiles:
        place = q * jnp.maximum(count - 1, 0)
        below = jnp.floor(place).astype(jnp.int32)
        above = jnp.minimum(below + 1, jnp.maximum(count - 1, 0))
        lower, upper = (jnp.take_along_axis(ordered, at[None], axis=0)[0] for at in (below, above))
        value = lower + (place - below) * (upper - lower)
        found.append(jnp.where(count > 0, value, jnp.nan))
    return found
