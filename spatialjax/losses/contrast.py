"""Contrast between spots, views and surroundings."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from spatialjax.losses.spots import Loss, Weight, of_all, over_spots


def local_infomax(positive: Float[Array, "n"], negative: Float[Array, "n"], weight: Weight) -> Loss:
    """Binary cross entropy of a discriminator of matching and corrupted pairs (Veličković et al. 2019).

    GraphST (Long et al. 2023) takes ``D(h, g)`` as positive and ``D(h', g)`` as negative, with ``g`` the
    ``nn.neighbour_readout`` of ``h``, and adds the same with the parts of ``h`` and its corrupted copy ``h'`` swapped.

    Parameters
    ----------
    positive, negative
        Logits of the discriminator for each spot; the loss of a spot is the mean of the two.
    weight
        Weight of each spot.
    """
    return over_spots(0.5 * (jax.nn.softplus(-positive) + jax.nn.softplus(negative)), weight)


def info_nce(
    a: Float[Array, "n p"],
    b: Float[Array, "n p"],
    weight: Weight,
    *,
    temperature: float = 0.5,
    within: bool = False,
    block: int = 512,
) -> Loss:
    """Contrast of two views: each spot finds itself in the other view among all spots, both ways.

    With ``within`` the other spots of its own view are candidates too: NT-Xent (Chen et al. 2020); without, InfoNCE
    (van den Oord et al. 2018). Similarities are cosines, made in blocks and made again for the gradient, so that
    memory is n × p + block²; time grows with n², so beyond some 50,000 spots give a sample of them.

    Parameters
    ----------
    a, b
        The two views of the spots.
    weight
        Weight of each spot; spots of weight 0 are no candidates.
    temperature
        Divides the cosines.
    within
        Whether the other spots of the same view are candidates.
    block
        Spots in a block.
    """
    a, b = _unit(a), _unit(b)
    real = jnp.asarray(weight) != 0
    own = (a * b).sum(-1) / temperature

    def one(view: Any, other: Any) -> Any:
        total = _log_total(view, other, real, temperature=temperature, block=block, skip_own=False)
        if within:
            inside = _log_total(view, view, real, temperature=temperature, block=block, skip_own=True)
            total = jnp.logaddexp(total, inside)
        return total - own

    return over_spots(0.5 * (one(a, b) + one(b, a)), weight)


def barlow(a: Float[Array, "n p"], b: Float[Array, "n p"], weight: Weight, *, redundancy: float = 5e-3) -> Loss:
    """Barlow twins: the correlations of the columns of two views come close to the identity (Zbontar et al. 2021).

    Parameters
    ----------
    a, b
        The two views of the spots.
    weight
        Weight of each spot in the correlations.
    redundancy
        Factor of the correlations off the diagonal.
    """
    share = jnp.asarray(weight, a.dtype)
    share = share / jnp.maximum(share.sum(), 1e-12)
    real = share[:, None] != 0

    def standard(values: Any) -> Any:
        values = jnp.where(real, values, 0.0)
        centred = values - share @ values
        return centred * jax.lax.rsqrt(share @ centred**2 + 1e-8)

    correlation = (share[:, None] * standard(a)).T @ standard(b)
    on = jnp.diagonal(correlation)
    off = (correlation**2).sum() - (on**2).sum()
    return of_all(((1.0 - on) ** 2).sum() + redundancy * off, weight)


def triplet(
    z: Float[Array, "n p"],
    anchors: tuple[Int[Array, "t"], Int[Array, "t"], Int[Array, "t"]],
    weight: Float[Array, "t"] | Bool[Array, "t"],
    *,
    margin: float = 1.0,
) -> Loss:
    """Triplet margin: max(0, ‖z_a − z_p‖ − ‖z_a − z_n‖ + margin) (Schroff et al. 2015).

    Parameters
    ----------
    z
        Embedding of the spots.
    anchors
        Numbers of the anchors, of their positives (e.g. counterparts in another section) and of their negatives.
    weight
        Weight of each triplet, 0 where a place is not used.
    margin
        In units of the embedding.
    """
    anchor, positive, negative = anchors

    def distance(other: Any) -> Any:
        return jnp.sqrt(((z[anchor] - z[other]) ** 2).sum(-1) + 1e-12)

    return over_spots(jax.nn.relu(distance(positive) - distance(negative) + margin), weight)


def _unit(values: Any) -> Any:
    return values * jax.lax.rsqrt((values**2).sum(-1, keepdims=True) + 1e-12)


def _log_total(view: Any, other: Any, real: Any, *, temperature: float, block: int, skip_own: bool) -> Any:
    """log Σ_j exp(view_i · other_j / temperature) over real j, other than i where ``skip_own``, by blocks."""
    n = view.shape[0]
    block = min(block, n)
    blocks = -(-n // block)

    def cut(values: Any) -> Any:
        padded = jnp.pad(values, ((0, blocks * block - n), *((0, 0),) * (values.ndim - 1)))
        return padded.reshape(blocks, block, *values.shape[1:])

    rows = jnp.arange(blocks * block).reshape(blocks, block)
    columns = (cut(other), cut(real), rows)

    @jax.checkpoint
    def row_block(part: Any) -> Any:
        mine, numbers = part

        @jax.checkpoint
        def add(total: Any, column: Any) -> Any:
            theirs, there, their_numbers = column
            allowed = jnp.broadcast_to(there[None], (block, block))
            if skip_own:
                allowed &= numbers[:, None] != their_numbers[None]
            logits = jnp.where(allowed, mine @ theirs.T / temperature, -1e30)
            return jnp.logaddexp(total, jax.nn.logsumexp(logits, axis=1)), None

        return jax.lax.scan(add, jnp.full(block, -1e30, view.dtype), columns)[0]

    return jax.lax.map(row_block, (cut(view), rows)).reshape(-1)[:n]
