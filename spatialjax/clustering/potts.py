"""Potts field over a neighbour table: labels that follow the spots' own evidence and their neighbours'.

The energy of labels z is ``−Σ_i u_i(z_i) − β Σ_edges w_ij [z_i = z_j]``, with the log evidence u (n, k) of each spot
and every edge in the table in both directions with one weight.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from spatialjax.clustering.refinement import votes
from spatialjax.slices import Neighbors

#: Largest strength that is tried by the pseudo-likelihood.
MAX_BETA = 5.0
_HALVINGS = 40


@struct.dataclass
class Field:
    """A fitted Potts field.

    Attributes
    ----------
    probability
        (n, k) marginals of the mean field, or the labels as 0 and 1; 0 on padding.
    beta
        Strength of the field.
    converged
        Whether the labels stood still (``"icm"``), or every probability to 10⁻⁴ (``"mean_field"``).
    """

    probability: Float[Array, "n k"]
    beta: Float[Array, ""]
    converged: Bool[Array, ""]

    @property
    def labels(self) -> Int[Array, " n"]:
        """The label with the largest probability; 0 on padding."""
        return jnp.argmax(self.probability, 1).astype(jnp.int32)


@partial(jax.jit, static_argnames=("number",))
def pseudo_likelihood_beta(
    labels: Int[Array, " n"], neighbors: Neighbors, *, number: int, mask: Bool[Array, " n"] | None = None
) -> Float[Array, ""]:
    """Strength of a Potts field without evidence under which the labels are most likely, by the pseudo-likelihood.

    ``Σ_i log p(z_i | neighbours)`` is concave in β; its slope is brought to 0 by halving the interval from 0 to 5.
    Labels that were smoothed before give a larger β.

    Parameters
    ----------
    labels
        (n,) labels from 0 to ``number`` − 1.
    neighbors
        Neighbour table.
    number
        Number of labels.
    mask
        True for real spots.

    References
    ----------
    Besag (1975), The Statistician 24.
    """
    poll = votes(labels, neighbors, number=number, mask=mask)
    real = jnp.ones(len(labels), poll.dtype) if mask is None else mask.astype(poll.dtype)
    own = jnp.take_along_axis(poll, labels[:, None], 1)[:, 0]

    def halve(_: int, interval: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = interval
        middle = 0.5 * (low + high)
        slope = real @ (own - (jax.nn.softmax(middle * poll, 1) * poll).sum(1))
        return jnp.where(slope > 0, middle, low), jnp.where(slope > 0, high, middle)

    ends = (jnp.zeros((), poll.dtype), jnp.full((), MAX_BETA, poll.dtype))
    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, ends)
    return 0.5 * (low + high)


@partial(jax.jit, static_argnames=("method", "steps"))
def potts(
    evidence: Float[Array, "n k"],
    neighbors: Neighbors,
    *,
    mask: Bool[Array, " n"] | None = None,
    beta: Float[Array, ""] | float | None = None,
    method: Literal["mean_field", "icm"] = "mean_field",
    steps: int = 100,
) -> Field:
    """Labels under a Potts field with the given evidence.

    ``"icm"`` lowers the energy in every round: of neighbouring spots that would gain by another label, only the one
    that gains most changes (of equal gains the lower row number), so all changes of a round are compatible.
    ``"mean_field"`` goes half way to the new marginals in every round.

    Parameters
    ----------
    evidence
        (n, k) log-probability of each label from the spot's own values, up to a constant for each spot.
    neighbors
        Neighbour table, every edge in both directions.
    mask
        True for real spots.
    beta
        Strength of the field; estimated from the labels of the largest evidence where left out.
    method
        How the field is solved.
    steps
        Largest number of rounds.

    References
    ----------
    Besag (1986), Journal of the Royal Statistical Society B 48 (ICM); Zhang (1992), IEEE Transactions on Signal
    Processing 40 (mean field).
    """
    number = evidence.shape[1]
    weight = neighbors.weight.astype(evidence.dtype)
    if mask is not None:
        weight = weight * mask[:, None] * mask[neighbors.index]
        evidence = jnp.where(mask[:, None], evidence, 0)
    table = Neighbors(neighbors.index, weight)
    start = jnp.argmax(evidence, 1).astype(jnp.int32)
    if beta is None:
        beta = pseudo_likelihood_beta(start, table, number=number, mask=mask)
    beta = jnp.asarray(beta, evidence.dtype)
    solve = _icm if method == "icm" else _mean_field
    probability, converged = solve(evidence, table, beta, start=start, steps=steps)
    if mask is not None:
        probability = probability * mask[:, None]
    return Field(probability, beta, converged)


def _mean_field(evidence: Any, table: Neighbors, beta: Any, *, start: Any, steps: int) -> tuple[Any, Any]:
    def advance(state: Any) -> Any:
        q, _, step = state
        near = jnp.einsum("nj,njk->nk", table.weight, q[table.index])
        new = 0.5 * q + 0.5 * jax.nn.softmax(evidence + beta * near, 1)
        return new, jnp.abs(new - q).max(), step + 1

    first = 0.5 * (jax.nn.softmax(evidence, 1) + jax.nn.one_hot(start, evidence.shape[1], dtype=evidence.dtype))
    begin = (first, jnp.array(jnp.inf, evidence.dtype), jnp.int32(0))
    q, change, _ = jax.lax.while_loop(lambda s: (s[1] > 1e-4) & (s[2] < steps), advance, begin)
    return q, change <= 1e-4


def _icm(evidence: Any, table: Neighbors, beta: Any, *, start: Any, steps: int) -> tuple[Any, Any]:
    number, rows = evidence.shape[1], jnp.arange(len(start))
    joined = table.weight > 0

    def advance(state: Any) -> Any:
        labels, _, step = state
        local = evidence + beta * votes(labels, table, number=number)
        best = jnp.argmax(local, 1).astype(jnp.int32)
        gain = local.max(1) - jnp.take_along_axis(local, labels[:, None], 1)[:, 0]
        other = gain[table.index]
        loses = joined & ((other > gain[:, None]) | ((other == gain[:, None]) & (table.index < rows[:, None])))
        change = (gain > 0) & ~loses.any(1)
        return jnp.where(change, best, labels), change.any(), step + 1

    begin = (start, jnp.bool_(True), jnp.int32(0))
    labels, moved, _ = jax.lax.while_loop(lambda s: s[1] & (s[2] < steps), advance, begin)
    return jax.nn.one_hot(labels, number, dtype=evidence.dtype), ~moved
