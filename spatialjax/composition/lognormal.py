"""Abundances that fit Poisson counts with lognormal errors best."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from spatialjax.composition.nnls import nnls
from spatialjax.composition.poisson import poisson_abundance, weighted_gram
from spatialjax.composition.signatures import Signatures
from spatialjax.probability import poisson_lognormal

#: Background that every gene of every spot has, counts: no mean is 0.
BACKGROUND = 1e-4
#: σ of a gene in the pooled counts of all spots, and counts of all of them at the most.
_POOLED_SIGMA, _MOST_POOLED = 1.0, 1e7
#: Part of the way below which a spot gives up.
_LEAST_PART = 1e-3


class Fitted(NamedTuple):
    """Abundances of spots.

    Attributes
    ----------
    abundance
        (n, K) in the unit of the signatures.
    value
        (n,) log likelihood, see ``probability.Likelihood``.
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
        σ of the error, see ``probability.poisson_lognormal``.
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
