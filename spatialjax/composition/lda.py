"""Topics of counts by variational Bayes: latent Dirichlet allocation, and which topic is which cell type."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from flax import struct
from jax.scipy.special import gammaln
from jaxtyping import Array, Bool, Float, Int

from spatialjax.algorithm import Algorithm
from spatialjax.probability import expected_log_shares, symmetric_step

#: Rows whose expected counts are formed at once.
_ROWS = 2048
#: Expected share below which it is taken for this much.
_TINY = 1e-30
#: Range of the concentration.
_LEAST, _MOST = 1e-3, 50.0
#: Rows that a first profile is the sum of, as a part of all rows over the number of topics, and at least.
_PURE, _FEW_PURE = 0.1, 3
#: First concentration times the number of topics, where it is found along with them: topics part slowly.
_FIRST = 50.0
#: Rows below which no gene varies more than by chance.
_FEW_ROWS = 3


@struct.dataclass
class Topics:
    """What ``lda`` finds.

    Attributes
    ----------
    shares
        (n, T) expected share of the counts of a row that each topic gives, each row sums to 1.
    profiles
        (T, g) expected share of each gene in the counts of a topic, each row sums to 1.
    concentration
        Of the shares: small where rows hold few topics.
    bound
        Lower bound of the log evidence, nats, up to the multinomial coefficients.
    perplexity
        ``exp(−bound / counts)``.
    converged
        Whether the bound settled.
    """

    shares: Float[Array, "n t"]
    profiles: Float[Array, "t g"]
    concentration: Float[Array, ""]
    bound: Float[Array, ""]
    perplexity: Float[Array, ""]
    converged: Bool[Array, ""]


@functools.cache
def lda(
    *,
    concentration: float | None = None,
    smoothing: float = 0.1,
    visits: int = 100,
    tolerance: float = 1e-5,
    settled: float = 1e-3,
) -> Algorithm:
    """Latent Dirichlet allocation: each count of a row has a topic, each topic a distribution over genes.

    One step finds the shares of all rows given the profiles, from even ones on, then the profiles given the shares
    (batch variational Bayes, with Dirichlet distributions for both), then the concentration by a Newton step of its
    logarithm. Rows that went on from their last shares would keep what the first profiles, which mean little, told
    them, and the bound would end lower as a rule.

    Parameters
    ----------
    concentration
        Of the Dirichlet prior of the shares, the same for every topic; found along with them where None, from 50 over
        their number on.
    smoothing
        Of the Dirichlet prior of the profiles.
    visits
        Updates of the shares in a step at the most.
    tolerance
        Relative change of the bound at which the run is done.
    settled
        Mean change of the shares' parameters in an update at which the updates of a step end.

    Returns
    -------
    Algorithm
        Data: a dict of ``counts`` (n, g), rows without any count being ignored, and ``start`` (T, g), counts that the
        topics begin with. Result: ``Topics``. ``info`` holds the loss, minus the bound a count.

    References
    ----------
    Blei, Ng & Jordan (2003), Journal of Machine Learning Research 3, 993–1022; Hoffman, Blei & Bach (2010), Advances
    in Neural Information Processing Systems 23; Minka (2000), Estimating a Dirichlet distribution.
    """
    fixed = concentration is not None

    def init(key: Any, data: Any, start: Any = None) -> dict[str, Any]:
        del key
        if start is not None:
            return start
        words = data["start"] + smoothing
        topics = len(words)
        first = jnp.asarray(concentration if fixed else _FIRST / topics, words.dtype)
        rows = _even(first, data["counts"], topics)
        never = jnp.asarray(jnp.inf, words.dtype)
        return {"words": words, "rows": rows, "concentration": first, "bound": -never, "change": never}

    def step(key: Any, state: dict[str, Any], data: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        del key
        counts, alpha = data["counts"], state["concentration"]
        rows, sums, fit = _visited(state, counts, visits=visits, settled=settled)
        words = smoothing + sums * jnp.exp(expected_log_shares(state["words"]))
        # Of the parameters that the shares were found with: it rises from step to step.
        bound = fit + _dirichlet_bound(rows, alpha, used=counts.sum(1) > 0)
        bound = bound + _dirichlet_bound(state["words"], smoothing, used=jnp.ones(len(words), bool))
        change = jnp.abs(bound - state["bound"]) / jnp.maximum(jnp.abs(bound), 1.0)
        if not fixed:
            used = counts.sum(1) > 0
            told = jnp.where(used[:, None], expected_log_shares(rows), 0.0).sum()
            told = told / (jnp.maximum(used.sum(), 1) * rows.shape[1])
            alpha = jnp.clip(symmetric_step(alpha, told, number=rows.shape[1]), _LEAST, _MOST)
        after = {"words": words, "rows": rows, "concentration": alpha, "bound": bound, "change": change}
        loss = -bound / jnp.maximum(counts.sum(), 1.0)
        return after, {"loss": loss, "done": change < tolerance, "concentration": alpha}

    def readout(key: Any, state: dict[str, Any], data: Any) -> Topics:
        del key
        rows, words, bound = state["rows"], state["words"], state["bound"]
        total = jnp.maximum(data["counts"].sum(), 1.0)
        return Topics(
            rows / rows.sum(1, keepdims=True),
            words / words.sum(1, keepdims=True),
            state["concentration"],
            bound,
            jnp.exp(-bound / total),
            state["change"] < tolerance,
        )

    return Algorithm(init, step, readout)


def _visited(
    state: dict[str, Any], counts: Float[Array, "n g"], *, visits: int, settled: float
) -> tuple[Float[Array, "n t"], Float[Array, "t g"], Float[Array, ""]]:
    """Parameters of the shares, sums for the profiles, and the fit of the counts; some rows at a time."""
    words, alpha = jnp.exp(expected_log_shares(state["words"])), state["concentration"]
    n, size = len(counts), min(_ROWS, len(counts))
    free = -n % size

    def part(sums: Any, seen: Any) -> tuple[Any, Any]:
        def update(carry: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
            rows, _, count = carry
            shares = jnp.exp(expected_log_shares(rows))
            after = alpha + shares * ((seen / jnp.maximum(shares @ words, _TINY)) @ words.T)
            return after, jnp.abs(after - rows).mean(), count + 1

        def going(carry: tuple[Any, Any, Any]) -> Any:
            return (carry[1] >= settled) & (carry[2] < visits)

        first = (_even(alpha, seen, len(words)), jnp.asarray(jnp.inf, words.dtype), jnp.int32(0))
        rows, _, _ = jax.lax.while_loop(going, update, first)
        shares = jnp.exp(expected_log_shares(rows))
        mixed = jnp.maximum(shares @ words, _TINY)
        fit = (seen * jnp.log(mixed)).sum()
        return (sums[0] + shares.T @ (seen / mixed), sums[1] + fit), rows

    nothing = (jnp.zeros_like(words), jnp.zeros((), words.dtype))
    cut = jnp.pad(counts, ((0, free), (0, 0))).reshape(-1, size, counts.shape[1])
    (sums, fit), rows = jax.lax.scan(part, nothing, cut)
    return rows.reshape(-1, rows.shape[2])[:n], sums, fit


def _even(alpha: Any, counts: Float[Array, "n g"], topics: int) -> Float[Array, "n t"]:
    return alpha + counts.sum(1, keepdims=True) / topics * jnp.ones(topics)


def _dirichlet_bound(parameters: Float[Array, "m t"], prior: Any, *, used: Bool[Array, " m"]) -> Float[Array, ""]:
    """Expected log prior less expected log density of the approximation, over the rows that count."""
    width = parameters.shape[1]
    each = ((prior - parameters) * expected_log_shares(parameters) + gammaln(parameters) - gammaln(prior)).sum(1)
    each = each + gammaln(width * prior) - gammaln(parameters.sum(1))
    return jnp.where(used, each, 0.0).sum()


def pure_profiles(counts: Any, number: int) -> Float[np.ndarray, "t g"]:
    """Counts that topics may begin with: sums of the rows at the corners of all compositions. On the host.

    Rows are mixtures of topics, so that in the space of the leading ``number − 1`` principal axes of their shares they
    lie in a simplex, whose corners are the topics where a row holds one alone. Corners are found one after the other,
    each the row farthest from the plane through those before it, and summed with the rows around them. Nothing is left
    to chance, nor to the order of the rows.

    Parameters
    ----------
    counts
        (n, g) raw counts, sparse or dense; rows without counts are left out.
    number
        Number of topics T.

    References
    ----------
    Araújo et al. (2001), Chemometrics and Intelligent Laboratory Systems 57, 65–73 (successive projections).
    """
    table = sp.csr_matrix(counts, dtype=np.float64)
    total = np.asarray(table.sum(1)).ravel()
    table, total = table[total > 0], total[total > 0]
    mean = np.asarray(table.sum(0)).ravel() / total.sum()
    scale = np.where(mean > 0, 1.0 / np.sqrt(np.where(mean > 0, mean, 1.0)), 0.0)
    # A shallow row is far from the mean by chance: it is drawn towards it.
    trust = 1.0 / (total + np.median(total))
    held = sp.diags(trust) @ table @ sp.diags(scale)
    middle = (total * trust)[:, None] * (mean * scale)
    gram = np.asarray((held.T @ held).todense()) - middle.T @ held - held.T @ middle + middle.T @ middle
    axes = np.linalg.eigh(gram)[1][:, ::-1][:, : max(number - 1, 1)]
    scores = held @ axes - middle @ axes
    rest = np.concatenate([scores, np.full((len(scores), 1), np.sqrt(np.square(scores).sum(1).mean()))], axis=1)
    around = min(max(int(_PURE * len(scores) / number), _FEW_PURE), len(scores))
    found = []
    for _ in range(number):
        corner = int(np.square(rest).sum(1).argmax())
        near = np.argsort(np.square(scores - scores[corner]).sum(1), kind="stable")[:around]
        found.append(np.asarray(table[near].sum(0)).ravel())
        direction = rest[corner] / max(np.linalg.norm(rest[corner]), _TINY)
        rest = rest - np.outer(rest @ direction, direction)
    return np.asarray(found)


def matched_types(profiles: Float[np.ndarray, "t g"], known: Float[np.ndarray, "k g"]) -> Int[np.ndarray, " t"]:
    """The cell type of each topic, by the correlation of their profiles. On the host.

    Profiles are compared by the roots of their shares, each gene less its mean over the topics or the types. Each type
    is given to one topic, so that the correlations sum to the most; topics beyond the types are joined to the type
    that they resemble most.

    Parameters
    ----------
    profiles
        Of the topics, any scale.
    known
        Of the types, on the same genes.

    References
    ----------
    Kuhn (1955), Naval Research Logistics Quarterly 2, 83–97 (assignment).
    """
    from scipy.optimize import linear_sum_assignment

    likeness = _centred(profiles) @ _centred(known).T
    found = likeness.argmax(1)
    topics, types = linear_sum_assignment(-likeness)
    found[topics] = types
    return found


def _centred(profiles: np.ndarray) -> np.ndarray:
    roots = np.sqrt(profiles / np.maximum(profiles.sum(1, keepdims=True), _TINY))
    roots = roots - roots.mean(0)
    roots = roots - roots.mean(1, keepdims=True)
    return roots / np.maximum(np.linalg.norm(roots, axis=1, keepdims=True), _TINY)


def overdispersed_genes(
    counts: Any, *, number: int = 1000, level: float = 0.05, least: float = 0.05, most: float = 1.0
) -> Int[np.ndarray, " h"]:
    """Genes that vary more between rows than genes of their mean do, ascending. On the host.

    The logarithm of the variance of a gene is compared with a quadratic curve in the logarithm of its mean; the ratio
    has an F distribution by chance, and the false discovery rate is held at ``level``.

    Parameters
    ----------
    counts
        (n, g) raw counts, sparse or dense.
    number
        Genes at the most, the most overdispersed.
    level
        False discovery rate.
    least, most
        Share of the rows that have to show the gene, and that may.

    References
    ----------
    Fan et al. (2016), Nature Methods 13, 241–244 (the residual and its test); Benjamini & Hochberg (1995), Journal of
    the Royal Statistical Society B 57, 289–300.
    """
    from scipy.stats import f

    table = sp.csr_matrix(counts, dtype=np.float64)
    total = np.asarray(table.sum(1)).ravel()
    filled = total > 0
    if filled.sum() < _FEW_ROWS:
        return np.zeros(0, int)
    table = sp.diags(total[filled].mean() / total[filled]) @ table[filled]
    n = table.shape[0]
    mean = np.asarray(table.mean(0)).ravel()
    variance = np.asarray(table.multiply(table).mean(0)).ravel() - mean**2
    shown = np.asarray((table > 0).mean(0)).ravel()
    usable = np.flatnonzero((shown >= least) & (shown <= most) & (variance > 0))
    if len(usable) <= 3:
        return usable
    x, y = np.log(mean[usable]), np.log(variance[usable])
    above = y - np.polyval(np.polyfit(x, y, 2), x)
    chance = f.sf(np.exp(above), n - 1, n - 1)
    order = np.argsort(chance, kind="stable")
    rate = chance[order] * len(order) / np.arange(1, len(order) + 1)
    held = np.flatnonzero(rate <= level)
    kept = order[: held[-1] + 1] if len(held) else order[:0]
    kept = kept[np.argsort(-above[kept], kind="stable")][:number]
    return np.sort(usable[kept])
