"""Poisson counts whose mean is off by a lognormal factor: likelihood, derivatives, and abundances that fit best."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jaxtyping import Array, Bool, Float

from spatialjax.composition.nnls import nnls
from spatialjax.composition.poisson import poisson_abundance, weighted_gram
from spatialjax.composition.signatures import Signatures

#: Places of the quadrature, and Newton steps to its centre.
NODES, CENTRING = 8, 4
#: Background that every gene of every spot has, counts: no mean is 0.
BACKGROUND = 1e-4
#: σ of a gene in the pooled counts of all spots, and counts of all of them at the most.
_POOLED_SIGMA, _MOST_POOLED = 1.0, 1e7
#: Part of the way below which a spot gives up.
_LEAST_PART = 1e-3
#: Least curvature of a gene's likelihood in the logarithm of its mean.
_LEAST_CURVATURE = 1e-7


class Likelihood(NamedTuple):
    """Of counts, as a function of the logarithm of their means.

    Attributes
    ----------
    value
        Log likelihood, less that of a Poisson count which is exactly its mean (a term of the counts alone).
    slope
        Its derivative.
    curvature
        Its second derivative with the sign turned, above 0: the likelihood is log-concave in the logarithm of the mean.
    """

    value: Float[Array, "..."]
    slope: Float[Array, "..."]
    curvature: Float[Array, "..."]


def poisson_lognormal(counts: Float[Array, "..."], log_mean: Float[Array, "..."], sigma: Any) -> Likelihood:
    """``log E[Poisson(y; μ e^ε)]`` over ε ~ N(0, σ²), with its first two derivatives in log μ.

    Gauss–Hermite quadrature around the mode of the integrand, at its own width: a few places are enough for any
    count. As a convolution with a normal, the derivatives are ``E[ε]/σ²`` and ``Var[ε]/σ⁴ − 1/σ²`` under the
    integrand.

    Parameters
    ----------
    counts
        y, at least 0.
    log_mean
        log μ, same shape.
    sigma
        σ, above 0; one number or an array that broadcasts.

    References
    ----------
    Aitchison & Ho (1989), Biometrika 76 (Poisson-lognormal); Liu & Pierce (1994), Biometrika 81 (centred quadrature).
    """
    variance = jnp.square(jnp.asarray(sigma, log_mean.dtype))
    # The mode solves v + e^v = log(σ²μ) + σ²y with v = log(σ²μ) + ε.
    shift = jnp.log(variance) + log_mean
    aim = shift + variance * counts
    mode = jnp.where(aim > 1.0, jnp.log(jnp.maximum(aim, 1.0)), aim - jnp.exp(jnp.minimum(aim, 1.0)) / 2.0)
    for _ in range(CENTRING):
        grown = jnp.exp(mode)
        mode = mode - (mode + grown - aim) / (1.0 + grown)
    grown = jnp.exp(mode)
    centre, ratio = mode - shift, grown / (1.0 + grown)
    width = jnp.sqrt(variance / (1.0 + grown))
    total = first = second = jnp.zeros_like(log_mean)
    for place, weight in zip(*_quadrature(), strict=True):
        step = width * place
        # In units of the width: what the integrand falls by, beside the normal that the rule stands for.
        fall = grown / variance * (jnp.expm1(step) - step) - 0.5 * ratio * place**2
        mass = weight * jnp.exp(-fall)
        total, first, second = total + mass, first + mass * place, second + mass * place**2
    mean = first / total
    spread = second / total - mean**2
    # Logarithm of the mean at the mode over the count: from their difference where they are alike.
    several = jnp.maximum(counts, 1.0)
    off = -centre / (variance * several)
    log_ratio = jnp.where(jnp.abs(off) < 0.5, jnp.log1p(jnp.clip(off, -0.5, 0.5)), mode - jnp.log(variance * several))
    best = jnp.where(counts > 0, counts * (log_ratio - off), -grown / variance)
    value = best - 0.5 * centre**2 / variance + jnp.log(total) - 0.5 * jnp.log1p(grown)
    curvature = jnp.maximum((1.0 - spread / (1.0 + grown)) / variance, _LEAST_CURVATURE)
    return Likelihood(value, (centre + width * mean) / variance, curvature)


def saturated(counts: Float[Array, "..."]) -> Float[Array, "..."]:
    """Log probability of a Poisson count that is exactly its mean: what ``Likelihood.value`` leaves out."""
    return jnp.where(counts > 0, counts * jnp.log(jnp.maximum(counts, 1.0)) - counts - gammaln(counts + 1.0), 0.0)


class Fitted(NamedTuple):
    """Abundances of spots.

    Attributes
    ----------
    abundance
        (n, K) in the unit of the signatures.
    value
        (n,) log likelihood, see ``Likelihood``.
    settled
        (n,) whether the last step asked for changed the abundances by less than the tolerance.
    """

    abundance: Float[Array, "n k"]
    value: Float[Array, " n"]
    settled: Bool[Array, " n"]


def lognormal_abundance(
    counts: Float[Array, "n g"],
    means: Float[Array, "k g"],
    sigma: Any,
    *,
    start: Float[Array, "n k"] | None = None,
    steps: int = 50,
    tolerance: float = 1e-3,
) -> Fitted:
    """Abundances of at least 0 that fit Poisson counts with lognormal errors best.

    Iteratively reweighted least squares: at each step the likelihood is replaced by a quadratic in w (Gauss–Newton in
    the logarithm of the mean, where it is concave) and its best w ≥ 0 is the aim. A spot goes a part of the way: twice
    the part after a step that raised its likelihood, half of it after one that did not and is taken back. A spot that
    has settled stands still, so that a spot's result does not depend on the others.

    Parameters
    ----------
    counts
        (n, g) counts.
    means
        (K, g) expected counts of one unit of each type.
    sigma
        σ of the error, see ``poisson_lognormal``.
    start
        (n, K) to begin with; least squares where left out.
    steps
        Number of steps at the most.
    tolerance
        Change of an abundance, relative to the sum of the spot, at which it has settled.
    """
    if start is None:
        start = poisson_abundance(counts, Signatures(means, jnp.full(len(means), jnp.inf)), steps=0)[0]
    filled = counts.sum(1) > 0

    def judged(abundance: Float[Array, "n k"]) -> tuple[Any, ...]:
        mean = abundance @ means + BACKGROUND
        found = poisson_lognormal(counts, jnp.log(mean), sigma)
        gram = weighted_gram(found.curvature / mean**2, means)
        return found.value.sum(1), (found.slope / mean) @ means.T, gram

    def step(state: _State) -> _State:
        # The first trial is the start itself: it beats no value at all.
        trial = jnp.where(state.settled[:, None], state.now, state.now + state.part[:, None] * (state.aim - state.now))
        value, slope, gram = judged(trial)
        # Sums of thousands of genes in single precision carry this much noise.
        better = (state.count == 0) | (value >= state.value - 1e-6 * jnp.abs(state.value))
        aim = nnls(gram, slope + (gram @ trial[..., None])[..., 0], start=trial)
        total = jnp.maximum(jnp.maximum(trial.sum(1), aim.sum(1)), 1e-12)
        still = better & (jnp.abs(aim - trial).max(1) / total < tolerance)
        part = jnp.where(better, jnp.minimum(2.0 * state.part, 1.0), 0.5 * state.part)
        return _State(
            count=state.count + 1,
            now=jnp.where(better[:, None], trial, state.now),
            aim=jnp.where(better[:, None], aim, state.aim),
            part=part,
            value=jnp.where(better, value, state.value),
            settled=state.settled | still | (part < _LEAST_PART),
        )

    def going(state: _State) -> Any:
        return (state.count <= steps) & ~state.settled.all()

    ones = jnp.ones(len(counts), start.dtype)
    first = _State(jnp.int32(0), start, start, ones, value=-jnp.inf * ones, settled=~filled)
    last = jax.lax.while_loop(going, step, first)
    return Fitted(jnp.where(filled[:, None], last.now, 0.0), jnp.where(filled, last.value, 0.0), last.settled)


class _State(NamedTuple):
    """Of ``lognormal_abundance``: abundances, where they should go, which part of the way, and how good they are."""

    count: Any
    now: Any
    aim: Any
    part: Any
    value: Any
    settled: Any


def pooled_composition(counts: Float[np.ndarray, " g"], shares: Float[np.ndarray, "k g"]) -> Float[np.ndarray, " k"]:
    """(K,) share of each type in counts of all spots together, on the host.

    Each gene may be off by a lognormal factor of its own, with σ = 1, beside which the noise of large counts is
    nothing: no deep gene decides alone.

    Parameters
    ----------
    counts
        (g,) counts of the chosen genes.
    shares
        (K, g) their share in the counts of each type.
    """
    total = max(float(np.sum(counts)), 1.0)
    # In single precision the largest counts would be known no better.
    size = min(total, _MOST_POOLED)
    seen = jnp.asarray(np.asarray(counts, np.float64)[None] * (size / total), jnp.float32)
    found = np.asarray(_pooled(seen, jnp.asarray(shares * size, jnp.float32)), np.float64)[0]
    return found / found.sum() if found.sum() > 0 else np.full(len(found), 1.0 / len(found))


@jax.jit
def _pooled(counts: Any, means: Any) -> Any:
    return lognormal_abundance(counts, means, _POOLED_SIGMA, steps=100, tolerance=1e-4).abundance


def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Places and weights for the standard normal."""
    places, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return places.astype(np.float32), (weights / math.sqrt(2.0 * math.pi)).astype(np.float32)
