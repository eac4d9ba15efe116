"""Posterior predictive checks of counts: what a fitted model would have shown, beside what was seen."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

#: Variance and expected count below which they are taken for this much.
_TINY = 1e-8


@struct.dataclass
class Check:
    """One statistic of every gene, or of every spot.

    Attributes
    ----------
    observed
        Of the counts; where it depends on the model, its mean over the replicates' means.
    mean, sd
        Of the replicates.
    tail
        Probability that a replicate has more, half of those that have as much included. It is about uniform where the
        model is right, and near 0 or 1 where the counts have more or less than the model can show.
    """

    observed: Float[Array, " m"]
    mean: Float[Array, " m"]
    sd: Float[Array, " m"]
    tail: Float[Array, " m"]


@struct.dataclass
class Predictive:
    """Checks by the name of the statistic.

    Attributes
    ----------
    genes
        ``"total"`` counts, ``"zeros"`` (share of the spots without a count) and ``"pearson"`` (mean squared residual
        over its variance in the model) of each gene.
    spots
        The same of each spot, over the genes; NaN in spots that are not used.
    """

    genes: dict[str, Check]
    spots: dict[str, Check]


def predictive_check(
    key: Any,
    counts: Float[Array, "n g"],
    mean: Float[Array, "*d n g"],
    *,
    dispersion: Float[Array, "*d g"] | None = None,
    used: Bool[Array, " n"] | None = None,
    replicates: int = 200,
) -> Predictive:
    """Compare counts with replicates drawn from a fitted model, gene by gene and spot by spot.

    Tail probabilities near 0 or 1 of the totals of genes speak of a platform effect, of zeros and Pearson residuals of
    a wrong dispersion or of a structure that the model lacks. Where the model was fitted to the same counts they are
    nearer to one half than by chance.

    Parameters
    ----------
    key
        Random key.
    counts
        Raw counts.
    mean
        Expected counts, or draws of them along a leading axis: then there is one replicate a draw.
    dispersion
        r of a negative binomial with variance ``μ + μ² / r``, with a leading axis where ``mean`` has one; Poisson where
        None.
    used
        Spots that count; all where None.
    replicates
        Number of replicates, where ``mean`` is not draws.

    Raises
    ------
    ValueError
        If shapes do not fit together, or ``replicates`` is below 1.

    References
    ----------
    Gelman, Meng & Stern (1996), Statistica Sinica 6, 733–760.
    """
    counts, mean = jnp.asarray(counts, jnp.float32), jnp.asarray(mean, jnp.float32)
    drawn = mean.ndim == counts.ndim + 1
    if mean.shape[drawn:] != counts.shape or replicates < 1:
        raise ValueError(
            f"Expected means (draws of means) of the shape {counts.shape} of the counts and at least one replicate, "
            f"found {mean.shape} and {replicates}."
        )
    if dispersion is not None:
        dispersion = jnp.asarray(dispersion, jnp.float32)
        wanted = (*mean.shape[:drawn], counts.shape[1])
        if dispersion.shape != wanted:
            raise ValueError(f"Expected a dispersion of shape {wanted}, found {dispersion.shape}.")
    keep = jnp.ones(len(counts), bool) if used is None else jnp.asarray(used, bool)
    keys = jax.random.split(key, len(mean) if drawn else replicates)
    return _checked(keys, counts, mean, dispersion=dispersion, used=keep, drawn=drawn)


@jax.jit(static_argnames="drawn")
def _checked(keys: Any, counts: Any, mean: Any, *, dispersion: Any, used: Any, drawn: bool) -> Predictive:
    number = len(keys)

    def one(carry: Any, at: Any) -> tuple[Any, None]:
        before, sums = carry
        own_key, own_mean, own_dispersion = at if drawn else (at, mean, dispersion)
        replicate = _replicate(own_key, own_mean, own_dispersion)
        said = [_statistics(table, own_mean, own_dispersion, used) for table in (replicate, counts)]

        def add(known: Any, new: Any, seen: Any) -> Any:
            shown, middle, square, more = known
            after = middle + (new - middle) / (before + 1.0)
            more = more + (new > seen) + 0.5 * (new == seen)
            return shown + (seen - shown) / (before + 1.0), after, square + (new - middle) * (new - after), more

        each = {k: {n: add(sums[k][n], said[0][k][n], said[1][k][n]) for n in sums[k]} for k in sums}
        return (before + 1.0, each), None

    genes, spots = jnp.zeros(counts.shape[1]), jnp.zeros(len(counts))
    names = ("total", "zeros", "pearson")
    nothing = {k: dict.fromkeys(names, (zero,) * 4) for k, zero in (("genes", genes), ("spots", spots))}
    (_, sums), _ = jax.lax.scan(one, (jnp.float32(0.0), nothing), (keys, mean, dispersion) if drawn else keys)

    def check(shown: Any, middle: Any, square: Any, more: Any) -> Check:
        return Check(shown, middle, jnp.sqrt(square / number), (more + 0.5) / (number + 1.0))

    found = {k: {n: check(*parts) for n, parts in table.items()} for k, table in sums.items()}
    hidden = jax.tree.map(lambda leaf: jnp.where(used, leaf, jnp.nan), found["spots"])
    return Predictive(found["genes"], hidden)


def _replicate(key: Any, mean: Any, dispersion: Any) -> Any:
    first, second = jax.random.split(key)
    if dispersion is not None:
        mean = mean * jax.random.gamma(first, jnp.broadcast_to(dispersion, mean.shape)) / dispersion
    return jax.random.poisson(second, mean).astype(jnp.float32)


def _statistics(counts: Any, mean: Any, dispersion: Any, used: Any) -> dict[str, dict[str, Any]]:
    """The three statistics of genes, over the spots that count, and of spots."""
    variance = mean if dispersion is None else mean + mean**2 / dispersion
    pearson = (counts - mean) ** 2 / jnp.maximum(variance, _TINY)
    weight = used.astype(counts.dtype)[:, None]
    number = jnp.maximum(weight.sum(), 1.0)
    zeros = (counts == 0).astype(counts.dtype)
    over_spots = {"total": (weight * counts).sum(0), "zeros": (weight * zeros).sum(0) / number}
    over_spots["pearson"] = (weight * pearson).sum(0) / number
    return {"genes": over_spots, "spots": {"total": counts.sum(1), "zeros": zeros.mean(1), "pearson": pearson.mean(1)}}


class Misfit(NamedTuple):
    """Totals of the genes beside those that sums of the reference's cells would show.

    Attributes
    ----------
    expected
        (g,) expected counts of all spots together.
    sd
        (g,) their standard deviation.
    outside
        (g,) whether the observed total is outside of the predictive range.
    log_ratio
        (g,) natural logarithm of observed over expected, drawn to 0 by what chance alone would give.
    """

    expected: Float[np.ndarray, " g"]
    sd: Float[np.ndarray, " g"]
    outside: Bool[np.ndarray, " g"]
    log_ratio: Float[np.ndarray, " g"]


def gene_total_misfit(
    observed: Float[np.ndarray, " g"],
    amount: Float[np.ndarray, " k"],
    *,
    means: Float[np.ndarray, "k g"],
    variances: Float[np.ndarray, "k g"],
    cells: Float[np.ndarray, " k"],
    level: float = 0.99,
) -> Misfit:
    """Which genes show more or less in all spots together than so many cells of the reference would. On the host.

    The total of a gene over W_k cells of each type has the mean ``Σ_k W_k b_kg`` and the variance ``Σ_k (W_k v_kg +
    W_k² v_kg / M_k)``: cells differ by v, and the mean b of a type is known from M_k cells only. It costs no table of
    spots and genes, so that it fits every run.

    Parameters
    ----------
    observed
        Counts of each gene in all spots.
    amount
        W, number of cells of each type in all spots, on the scale of the reference's depth.
    means, variances
        Of the counts of one cell of each type.
    cells
        M, number of cells that these rest on.
    level
        Probability of the predictive range.

    References
    ----------
    Gelman, Meng & Stern (1996), Statistica Sinica 6, 733–760 (checks of what a model would have shown).
    """
    from scipy.stats import norm

    observed, amount = np.asarray(observed, np.float64), np.asarray(amount, np.float64)
    variances = np.asarray(variances, np.float64)
    expected = amount @ np.asarray(means, np.float64)
    known = (amount**2 / np.asarray(cells, np.float64)) @ variances
    variance = np.maximum(amount @ variances, expected) + known
    deviation = np.sqrt(np.maximum(variance, _TINY))
    outside = np.abs(observed - expected) > norm.ppf(0.5 * (1.0 + level)) * deviation + 0.5
    # As if counts with the relative precision of the expectation had been seen beside.
    shown = np.where(expected > 0, expected, 1.0)
    beside = np.maximum(variance / shown, 1.0)
    return Misfit(expected, deviation, outside, np.log((observed + beside) / (expected + beside)))
