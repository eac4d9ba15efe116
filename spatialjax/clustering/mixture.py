"""Gaussian mixture with one shared covariance: scores are linear in the rows, so an E step is one matrix product.

With responsibilities R (n, K), T = XᵀX/N of the centred rows and N_k, μ_k the size and mean of each component, the
shared covariance is W = T − Σ (N_k/N) μ_k μ_kᵀ; T is formed once. The score of row x for component k is
``x·W⁻¹μ_k − ½ μ_kᵀW⁻¹μ_k + log N_k/N``, because the quadratic term is the same for all components; it enters the
likelihood as its sum, ``N tr(W⁻¹T)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from spatialjax.clustering.kmeans import nearest_centre
from spatialjax.clustering.starts import best_of, canonical_order, centred, each_start, plus_plus, row_weights

#: Rows that the mixture is fitted on at the most; the others are assigned afterwards.
FITTED_ROWS = 100_000
#: Elements of the rows of all members up to which members run together: 1.4 times as fast as one after the other for 30
#: members of 4,096 x 25 and 40 rounds on two busy CPU cores; one pair of runs, to be measured again on free ones.
TOGETHER = 2**23
#: Smallest part of the mean variance that is added to the covariance, so that its factor exists in single precision.
_FLOOR = 1e-6


@struct.dataclass
class Mixture:
    """A fitted mixture, or several along a leading axis.

    Attributes
    ----------
    probability
        (n, k) responsibility of each component for each row, the largest component first; 0 on padding.
    weights
        (k,) share of each component.
    means
        (k, p).
    covariance
        (p, p) shared by all components, shrunk.
    log_likelihood
        Mean over the fitted rows, nats.
    converged
        Whether the likelihood stood still before the last step.
    """

    probability: Float[Array, "*m n k"]
    weights: Float[Array, "*m k"]
    means: Float[Array, "*m k p"]
    covariance: Float[Array, "*m p p"]
    log_likelihood: Float[Array, "*m"]
    converged: Bool[Array, "*m"]

    @property
    def labels(self) -> Int[Array, "*m n"]:
        """The component with the largest responsibility; 0 on padding."""
        return jnp.argmax(self.probability, -1).astype(jnp.int32)


@partial(
    jax.jit,
    static_argnames=("number", "shrinkage", "starts", "steps", "tolerance", "lloyd_steps", "fitted_rows", "sort"),
)
def tied_mixture(
    key: Array,
    values: Float[Array, "n p"],
    mask: Bool[Array, " n"] | Float[Array, " n"] | None = None,
    *,
    number: int,
    shrinkage: float = 0.3,
    starts: int = 1,
    steps: int = 40,
    tolerance: float = 1e-5,
    lloyd_steps: int = 0,
    fitted_rows: int = FITTED_ROWS,
    used: Int[Array, ""] | int | None = None,
    sort: bool = True,
) -> Mixture:
    """Fit a Gaussian mixture with one covariance by expectation maximisation; the start with the best likelihood.

    The rows are worked on in canonical order (see ``clustering.starts``), so a permutation of the rows permutes the
    responsibilities. Works under ``jit`` and ``vmap``; :func:`tied_mixtures` runs members of one shape.

    Parameters
    ----------
    key
        Random key of the starts and of the rows that are fitted on.
    values
        (n, p) rows.
    mask
        True for real rows; or weights of at least 0.
    number
        Number of components.
    shrinkage
        ``s`` in W ← (1 − s) W + s (tr W / p) I, from 0 to 1.
    starts
        Number of k-means++ starts.
    steps
        Largest number of rounds of a start.
    tolerance
        A start ends when the mean log-likelihood of a row changes by less (nats).
    lloyd_steps
        Steps of k-means between the k-means++ centres and the first round.
    fitted_rows
        Of more rows, this many are fitted on, spread evenly over the canonical order; all rows get responsibilities.
    used
        Number of components in use, at most ``number``; the others stay empty. It may be traced, so that several
        numbers share one compiled program.
    sort
        Where False the rows are worked on as they come: a small change of the values then leaves the draws of the
        starts as they are, so that nearly equal tables get nearly equal labels.

    References
    ----------
    Dempster, Laird & Rubin (1977), Journal of the Royal Statistical Society B 39; Friedman (1989), Journal of the
    American Statistical Association 84 (shrinkage towards a multiple of the identity).
    """
    weight = row_weights(values, mask)
    order_key, start_key = jax.random.split(key)
    order = canonical_order(values, weight) if sort else jnp.argsort(weight <= 0, stable=True)
    order = _fitted(order_key, order, weight > 0, fitted_rows)
    fit_weight = weight[order]
    x, mean = centred(values[order], fit_weight)
    total = jnp.maximum(fit_weight.sum(), jnp.finfo(x.dtype).tiny)
    moment = (x * (fit_weight / total)[:, None]).T @ x

    def run(key: Array) -> Any:
        centres = plus_plus(key, x, fit_weight, number=number)
        return _maximise(
            x, fit_weight / total, moment, centres,
            shrinkage=shrinkage, steps=steps, tolerance=tolerance, lloyd_steps=lloyd_steps,
            inside=jnp.arange(number) < (number if used is None else used),
        )  # fmt: skip

    runs = each_start(run, jax.random.split(start_key, starts))
    (share, means, covariance), likelihood, converged = best_of(runs, runs[1])
    centred_rows = jnp.where(weight[:, None] > 0, values - mean, 0)
    scores, _ = _scores(centred_rows, share, means, covariance)
    probability = jax.nn.softmax(scores, 1) * (weight > 0)[:, None]
    size = weight @ jax.nn.one_hot(jnp.argmax(probability, 1), number, dtype=x.dtype)
    rank = jnp.argsort(-size, stable=True)
    return Mixture(probability[:, rank], share[rank], means[rank] + mean, covariance, likelihood, converged)


def tied_mixtures(
    keys: Array, values: Float[Array, "*m n p"], mask: Bool[Array, "*m n"] | None = None, **options: Any
) -> Mixture:
    """:func:`tied_mixture` of several members of one shape, each with its own key: sections, scales or weightings.

    Small members run together, large ones one after the other; each is compiled once.

    Parameters
    ----------
    keys
        (m,) one key for each member.
    values
        (m, n, p), or (n, p) where all members share the rows.
    mask
        (m, n), or (n,) where all members share it, or None.
    **options
        Of :func:`tied_mixture`.

    Returns
    -------
    Mixture
        With one more leading axis.
    """
    return _members(keys, values, mask, options=tuple(sorted(options.items())))


@partial(jax.jit, static_argnames="options")
def _members(keys: Array, values: Array, mask: Array | None, *, options: tuple[tuple[str, Any], ...]) -> Mixture:
    fit = partial(tied_mixture, **dict(options))
    own = (values if values.ndim == 3 else None, mask if mask is not None and mask.ndim == 2 else None)

    def run(member: tuple[Array, Array | None, Array | None]) -> Mixture:
        key, rows, covered = member
        return fit(key, values if rows is None else rows, mask if covered is None else covered)

    together = len(keys) * values.shape[-2] * max(values.shape[-1], fit.keywords["number"]) <= TOGETHER
    return jax.vmap(run)((keys, *own)) if together else jax.lax.map(run, (keys, *own))


def responsibilities(mixture: Mixture, values: Float[Array, "n p"]) -> Float[Array, "n k"]:
    """Responsibility of each component of a fitted mixture for rows that were not fitted."""
    origin = mixture.weights @ mixture.means
    scores, _ = _scores(values - origin, mixture.weights, mixture.means - origin, mixture.covariance)
    return jax.nn.softmax(scores, 1)


@jax.jit
def member_labels(mixtures: Mixture, tables: Sequence[Float[Array, "v n q"]]) -> Int[Array, "m n"]:
    """Labels of rows that were not fitted, for several mixtures one after the other.

    Parameters
    ----------
    mixtures
        m fitted mixtures along a leading axis, which read the tables in turn, and from the first again.
    tables
        Batches of tables of the same rows; of the columns, as many leading ones are read as the mixtures have.

    Returns
    -------
    array
        Component with the largest responsibility, in the smallest type of whole numbers.
    """
    count, number, width = mixtures.means.shape
    kind = jnp.int8 if number <= 2**7 else jnp.int16 if number <= 2**15 else jnp.int32
    fitted = (mixtures.weights, mixtures.means, mixtures.covariance)

    def run(member: tuple[Any, ...]) -> Int[Array, " n"]:
        table, share, means, covariance = member
        origin = share @ means
        scores, _ = _scores(table[:, :width] - origin, share, means - origin, covariance)
        return jnp.argmax(scores, 1).astype(kind)

    ends = np.cumsum([len(batch) for batch in tables])
    labels = []
    for turn in range(0, count, int(ends[-1])):
        for batch, end in zip(tables, ends, strict=True):
            own = slice(turn + int(end) - len(batch), turn + int(end))
            labels.append(jax.lax.map(run, (batch, *(leaf[own] for leaf in fitted))))
    return jnp.concatenate(labels)


def _fitted(key: Array, order: Int[Array, " n"], real: Bool[Array, " n"], most: int) -> Int[Array, " m"]:
    """The canonical order, thinned to ``most`` rows: one at random from each of as many equal stretches."""
    if len(order) <= most:
        return order
    offset = jnp.arange(most) + jax.random.uniform(key, (most,))
    count = real.sum()
    place = jnp.minimum((offset * (count / most)).astype(jnp.int32), jnp.maximum(count - 1, 0))
    return order[place]


def _scores(
    x: Float[Array, "n p"], share: Float[Array, " k"], means: Float[Array, "k p"], covariance: Float[Array, "p p"]
) -> tuple[Float[Array, "n k"], tuple[Array, bool]]:
    """Linear scores and the Cholesky factor of the covariance."""
    factor = jax.scipy.linalg.cho_factor(covariance, lower=True)
    slopes = jax.scipy.linalg.cho_solve(factor, means.T)
    offset = jnp.where((share > 0).any(), jnp.log(share), 0) - 0.5 * (means.T * slopes).sum(0)
    return x @ slopes + offset, factor


def _maximise(
    x: Float[Array, "n p"],
    weight: Float[Array, " n"],
    moment: Float[Array, "p p"],
    centres: Float[Array, "k p"],
    *,
    shrinkage: float,
    steps: int,
    tolerance: float,
    lloyd_steps: int,
    inside: Bool[Array, " k"],
) -> tuple[tuple[Array, Array, Array], Array, Array]:
    """EM from the partition by nearest centre; ``weight`` sums to 1."""
    p, number = x.shape[1], len(centres)
    eye = jnp.eye(p, dtype=x.dtype)
    floor = _FLOOR * jnp.trace(moment) / p + jnp.finfo(x.dtype).tiny ** 0.5

    def shares(member: Float[Array, "n k"]) -> tuple[Array, Array]:
        member = member * weight[:, None]
        share = member.sum(0)
        return share, member.T @ x / jnp.maximum(share, jnp.finfo(x.dtype).tiny)[:, None]

    def parameters(member: Float[Array, "n k"]) -> tuple[Array, Array, Array]:
        share, means = shares(member)
        within = moment - (means * share[:, None]).T @ means
        size = jnp.maximum(jnp.trace(within) / p, 0)
        return share, means, (1 - shrinkage) * within + (shrinkage * size + floor) * eye

    def nearest(centres: Float[Array, "k p"]) -> Float[Array, "n k"]:
        # A component that is not in use lies where no row is nearest to it.
        places = jnp.where(inside[:, None], centres, jnp.finfo(x.dtype).max ** 0.25)
        return jax.nn.one_hot(nearest_centre(x, places)[0], number, dtype=x.dtype)

    def unfinished(state: Any) -> Bool[Array, ""]:
        _, likelihood, before, step = state
        return (step < steps) & ~(jnp.abs(likelihood - before) < tolerance)

    def advance(state: Any) -> Any:
        member, likelihood, _, step = state
        share, means, covariance = parameters(member)
        scores, factor = _scores(x, share, means, covariance)
        log_sum = jax.nn.logsumexp(scores, 1)
        quadratic = jnp.trace(jax.scipy.linalg.cho_solve(factor, moment))
        determinant = 2 * jnp.log(jnp.diagonal(factor[0])).sum()
        new = weight @ log_sum - 0.5 * (quadratic + determinant + p * jnp.log(2 * jnp.pi))
        return jnp.exp(scores - log_sum[:, None]), new, likelihood, step + 1

    centres = jax.lax.fori_loop(0, lloyd_steps, lambda _, c: shares(nearest(c))[1], centres)
    infinite = jnp.array(jnp.inf, x.dtype)
    state = (nearest(centres), -infinite, infinite, jnp.int32(0))
    member, likelihood, before, _ = jax.lax.while_loop(unfinished, advance, state)
    return parameters(member), likelihood, jnp.abs(likelihood - before) < tolerance
