"""Compositions: the Dirichlet distribution that fits them, or counts, best, and what one says of each share.

Densities and draws are numpyro's: ``numpyro.distributions.Dirichlet`` and ``DirichletMultinomial``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax.scipy.special import betainc, digamma, gammaln, polygamma
from jaxtyping import Array, Bool, Float

from spatialjax.probability.summaries import Posterior

#: Range of a concentration: below it a part is never there, above it shares do not vary.
LEAST, MOST = 1e-3, 1e4
#: Largest change of the logarithm of a concentration in a step, and part of a step below which the fit gives up.
_LONGEST, _LEAST_PART = 2.0, 1e-3
#: Noise of a log likelihood in single precision, relative to the terms that it is the sum of.
_NOISE = 1e-6
#: Least curvature in log α.
_FLAT = 1e-12
#: Halvings of the range that a quantile is in.
_HALVINGS = 40


@struct.dataclass
class DirichletFit:
    """The Dirichlet distribution of the largest likelihood.

    Attributes
    ----------
    concentration
        (K,) α; the mean composition is ``α / Σα``, and Σα says how little shares vary around it. Kept between .001 and
        10,000: at the lower end where a part is never there, at the upper one where shares vary by chance alone.
    log_likelihood
        Mean over the rows, nats; of counts without the multinomial coefficients.
    steps
        Number of steps, the first of which judges the start.
    converged
        Whether the last step asked for changed every α by less than the tolerance.
    """

    concentration: Float[Array, " k"]
    log_likelihood: Float[Array, ""]
    steps: Any
    converged: Bool[Array, ""]


class _Judged(NamedTuple):
    """Mean log likelihood at a concentration, its noise, slope, and curvature ``diag(own) + shared 1 1ᵀ``."""

    value: Any
    noise: Any
    slope: Any
    own: Any
    shared: Any


def fit_dirichlet(
    shares: Float[Array, "n k"],
    *,
    mask: Bool[Array, " n"] | None = None,
    symmetric: bool = False,
    least: float = 1e-6,
    tolerance: float = 1e-4,
    max_steps: int = 100,
) -> DirichletFit:
    """The Dirichlet distribution that compositions are likeliest under.

    By Newton steps in the logarithm of α, whose matrix is diagonal but for a term of rank one; a step that does not
    raise the likelihood is taken in half.

    Parameters
    ----------
    shares
        Compositions, each row sums to 1.
    mask
        Rows that count; all where left out.
    symmetric
        Whether all α are equal.
    least
        Share that smaller ones are taken for: the density of a share of 0 is 0 or infinite. Where shares are 0 because
        few cells were counted, fit the counts with ``fit_dirichlet_multinomial`` instead.
    tolerance
        Change of the logarithm of each α at which it has settled.
    max_steps
        Steps at the most.

    References
    ----------
    Minka (2000), Estimating a Dirichlet distribution, technical report, MIT.
    """
    used = jnp.ones(len(shares), bool) if mask is None else mask
    logs = jnp.log(jnp.maximum(shares, least))
    told = jnp.where(used[:, None], logs, 0.0).sum(0) / jnp.maximum(used.sum(), 1)
    # Moments of the first kind give the mean, those of the second the sum.
    mean = jnp.where(used[:, None], shares, 0.0).sum(0) / jnp.maximum(used.sum(), 1)
    spread = jnp.where(used[:, None], jnp.square(shares - mean), 0.0).sum(0) / jnp.maximum(used.sum(), 1)
    amount = jnp.maximum((mean * (1.0 - mean)).sum() / jnp.maximum(spread.sum(), 1e-12) - 1.0, 1.0)

    def judged(alpha: Any) -> _Judged:
        total = alpha.sum()
        terms = jnp.stack([gammaln(total), -gammaln(alpha).sum(), ((alpha - 1.0) * told).sum()])
        slope = digamma(total) - digamma(alpha) + told
        own, shared = -polygamma(1, alpha), polygamma(1, total)
        return _Judged(terms.sum(), _NOISE * jnp.abs(terms).sum(), slope, own, shared)

    start = jnp.maximum(mean, least) * amount
    return _ascended(judged, start, symmetric=symmetric, tolerance=tolerance, max_steps=max_steps)


def fit_dirichlet_multinomial(
    counts: Float[Array, "n k"],
    *,
    mask: Bool[Array, " n"] | None = None,
    symmetric: bool = False,
    tolerance: float = 1e-4,
    max_steps: int = 200,
) -> DirichletFit:
    """The Dirichlet distribution of compositions of which only some cells were counted.

    Parameters
    ----------
    counts
        Numbers of each part, whole or not; a row without any says nothing.
    mask, symmetric, tolerance, max_steps
        As for ``fit_dirichlet``.

    References
    ----------
    Minka (2000), Estimating a Dirichlet distribution, technical report, MIT.
    """
    counts = counts if mask is None else jnp.where(mask[:, None], counts, 0.0)
    depth = counts.sum(1)
    rows = jnp.maximum((depth > 0).sum(), 1)
    mean = (counts.sum(0) + 1.0) / (counts.sum() + counts.shape[1])

    def judged(alpha: Any) -> _Judged:
        total = alpha.sum()
        grown, all_grown = alpha + counts, total + depth
        terms = jnp.stack([
            (gammaln(total) - gammaln(all_grown)).sum(), (gammaln(grown) - gammaln(alpha)).sum()
        ]) / rows  # fmt: skip
        slope = ((digamma(total) - digamma(all_grown)).sum() + (digamma(grown) - digamma(alpha)).sum(0)) / rows
        own = (polygamma(1, grown) - polygamma(1, alpha)).sum(0) / rows
        shared = (polygamma(1, total) - polygamma(1, all_grown)).sum() / rows
        return _Judged(terms.sum(), _NOISE * jnp.abs(terms).sum(), slope, own, shared)

    start = mean * counts.shape[1]
    return _ascended(judged, start, symmetric=symmetric, tolerance=tolerance, max_steps=max_steps)


def expected_log_shares(concentration: Float[Array, "... k"]) -> Float[Array, "... k"]:
    """Expected logarithm of each share: ``ψ(α) − ψ(Σα)``.

    Parameters
    ----------
    concentration
        α.
    """
    return digamma(concentration) - digamma(concentration.sum(-1, keepdims=True))


def symmetric_step(concentration: Float[Array, ""], log_share: Float[Array, ""], *, number: int) -> Float[Array, ""]:
    """A Newton step of the logarithm of one α for all parts, towards the largest likelihood.

    Parameters
    ----------
    concentration
        α.
    log_share
        Mean (expected) logarithm of the shares, over rows and parts.
    number
        Number of parts.

    Returns
    -------
    array
        The next α, at most a factor e away.
    """
    alpha = concentration
    slope = number * (digamma(number * alpha) - digamma(alpha) + log_share)
    bend = number * (number * polygamma(1, number * alpha) - polygamma(1, alpha))
    # In log α; where the likelihood bends upwards the step follows the slope alone.
    first, second = alpha * slope, alpha**2 * bend + alpha * slope
    move = jnp.where(second < 0, -first / jnp.where(second < 0, second, -1.0), jnp.sign(first))
    return alpha * jnp.exp(jnp.clip(move, -1.0, 1.0))


def dirichlet_posterior(concentration: Float[Array, "... k"], *, converged: Any = True) -> Posterior:
    """Mean, standard deviation and quantiles of each share: its own distribution is ``Beta(α_k, Σα − α_k)``.

    Parameters
    ----------
    concentration
        α, above 0, of any number of Dirichlet distributions.
    converged
        Whether what gave them met its own stopping rule.

    Returns
    -------
    Posterior
        Of the site ``"shares"``.
    """
    total = concentration.sum(-1, keepdims=True)
    mean = concentration / total
    rest = total - concentration
    sd = jnp.sqrt(mean * (rest / total) / (total + 1.0))
    ends = [beta_quantile(concentration, rest, probability=q) for q in (0.05, 0.95)]
    return Posterior(*({"shares": each} for each in (mean, sd, *ends)), jnp.asarray(converged, bool))


def beta_quantile(a: Float[Array, "..."], b: Float[Array, "..."], *, probability: float) -> Float[Array, "..."]:
    """Quantile of Beta distributions, by halving the range that it is in.

    Parameters
    ----------
    a, b
        Parameters, above 0.
    probability
        Of a value below the quantile.
    """

    def halve(_: Any, ends: tuple[Any, Any]) -> tuple[Any, Any]:
        low, high = ends
        middle = 0.5 * (low + high)
        below = betainc(a, b, middle) < probability
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    first = (jnp.zeros_like(a), jnp.ones_like(a))
    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, first)
    return 0.5 * (low + high)


class _State(NamedTuple):
    """Logarithm of α, what is known there, which part of a step is tried next, and how far the loop has come."""

    now: Any
    known: _Judged
    part: Any
    settled: Any
    count: Any


def _ascended(
    judge: Callable[[Any], _Judged], start: Any, *, symmetric: bool, tolerance: float, max_steps: int
) -> DirichletFit:
    """Damped Newton steps in log α."""
    low, high = jnp.log(LEAST), jnp.log(MOST)

    def step(state: _State) -> _State:
        alpha, known = jnp.exp(state.now), state.known
        move = _direction(alpha, known, symmetric=symmetric)
        trial = jnp.clip(state.now + state.part * move, low, high)
        found = judge(jnp.exp(trial))
        better = found.value >= known.value - known.noise
        # What the ends of the range take back of a step does not count.
        still = jnp.abs(jnp.clip(state.now + move, low, high) - state.now).max() < tolerance
        still = still & (state.count > 0)
        part = jnp.where(better, jnp.minimum(2.0 * state.part, 1.0), 0.5 * state.part)
        kept = jax.tree.map(lambda a, b: jnp.where(better, a, b), (trial, found), (state.now, known))
        return _State(*kept, part, still, state.count + 1)

    def going(state: _State) -> Any:
        return ~state.settled & (state.count < max_steps) & (state.part > _LEAST_PART)

    first = jnp.clip(jnp.log(jnp.full_like(start, start.mean()) if symmetric else start), low, high)
    # The first trial is the start itself: it beats no value at all.
    one, still = jnp.ones((), start.dtype), jnp.zeros_like(start)
    nothing = _Judged(-jnp.inf * one, 0.0 * one, slope=still, own=still, shared=0.0 * one)
    last = jax.lax.while_loop(going, step, _State(first, nothing, one, jnp.bool_(False), jnp.int32(0)))
    return DirichletFit(jnp.exp(last.now), last.known.value, last.count, last.settled)


def _direction(alpha: Any, known: _Judged, *, symmetric: bool) -> Any:
    """The Newton step in log α, or one that surely goes up where the curvature does not go down."""
    slope = alpha * known.slope
    if symmetric:
        both = slope.sum()
        own = (alpha**2 * known.own).sum() + jnp.minimum(both, 0.0)
        bend = own + known.shared * alpha.sum() ** 2
        bend = jnp.minimum(jnp.where(bend < 0, bend, own), -_FLAT)
        return jnp.clip(jnp.full_like(alpha, -both / bend), -_LONGEST, _LONGEST)
    # A slope that goes up would bend the logarithm upwards.
    own = jnp.minimum(alpha**2 * known.own + jnp.minimum(slope, 0.0), -_FLAT)
    share = 1.0 + known.shared * (alpha**2 / own).sum()
    both = known.shared * (alpha * slope / own).sum() / jnp.where(share > 0, share, 1.0)
    move = -(slope - jnp.where(share > 0, both, 0.0) * alpha) / own
    return jnp.clip(move, -_LONGEST, _LONGEST)
