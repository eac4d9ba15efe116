"""Maps of cells onto spots that sum to one over the spots, block by block: what they predict, where they put cells."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

#: Cells of a block.
BLOCK = 256
#: Stands for the logarithm of no probability.
_NEVER = -1e30
#: Logarithm above which a weight is one.
_THERE = -1e29


class Predicted(NamedTuple):
    """What a map makes of the cells.

    Attributes
    ----------
    values
        (n, g) sum over the cells of their values, each times its probability at the spot.
    density
        (n,) sum of the weights of the cells times their probabilities.
    entropy
        Sum over the cells of the entropy of where they are, nats.
    """

    values: Float[Array, "n g"]
    density: Float[Array, " n"]
    entropy: Float[Array, ""]


def predicted(
    logits: Float[Array, "m n"],
    values: Float[Array, "m g"],
    weights: Float[Array, " m"],
    *,
    mask: Bool[Array, " n"],
    block: int = BLOCK,
) -> Predicted:
    """Values and weights of cells at the spots that a softmax over the spots gives them.

    Probabilities are formed a block of cells at a time, and again in the gradient: beside the logits there is never a
    table of cells and spots.

    Parameters
    ----------
    logits
        (m, n) of each cell at each spot.
    values
        (m, g) values of the cells, e.g. counts; weights are not multiplied in.
    weights
        (m,) weight of each cell in the density and the entropy; 0 for a place without a cell, whose values are 0 too.
    mask
        (n,) which spots there are.
    block
        Cells of a block.
    """
    size = min(block, len(logits))
    free = -len(logits) % size

    @jax.checkpoint
    def one(part: Any) -> Predicted:
        own, rows, mass = part
        log_map = jax.nn.log_softmax(jnp.where(mask, own, _NEVER), axis=1)
        shares = jnp.exp(log_map)
        surprise = -(shares * jnp.where(mask, log_map, 0.0)).sum(1)
        return Predicted(shares.T @ rows, mass @ shares, (mass > 0) @ surprise)

    def add(total: Predicted, part: Any) -> tuple[Predicted, None]:
        return jax.tree.map(jnp.add, total, one(part)), None

    def cut(table: Any) -> Any:
        padded = jnp.pad(table, ((0, free), *[(0, 0)] * (table.ndim - 1)))
        return padded.reshape(-1, size, *table.shape[1:])

    parts = tuple(cut(table) for table in (logits, values, weights))
    first = Predicted(
        jnp.zeros((logits.shape[1], values.shape[1])), jnp.zeros(logits.shape[1]), jnp.zeros((), logits.dtype)
    )
    if len(parts[0]) == 1:
        return one(tuple(part[0] for part in parts))
    return jax.lax.scan(add, first, parts)[0]


class Located(NamedTuple):
    """What is known of where cells are after some of the spots were seen; probabilities are kept unnormalised.

    Attributes
    ----------
    shift
        (b,) largest log weight so far.
    total
        (b,) sum of the weights, in units of ``exp(shift)``.
    energy
        (b,) sum of the weights times how far their logarithms lie below ``shift``.
    moments
        (b, f) sum of the weights times the features of the spots.
    top
        (b, t) the largest log weights, the largest first.
    index
        (b, t) numbers of these spots.
    """

    shift: Float[Array, " b"]
    total: Float[Array, " b"]
    energy: Float[Array, " b"]
    moments: Float[Array, "b f"]
    top: Float[Array, "b t"]
    index: Int[Array, "b t"]


class Places(NamedTuple):
    """Where cells are.

    Attributes
    ----------
    spots
        (m, t) numbers of the most probable spots, the most probable first; -1 where there are fewer spots.
    probabilities
        (m, t) of these spots.
    section
        (m,) section with the largest probability.
    position
        (m, 2) expected place in that section.
    sd
        (m,) root of the mean squared distance from it, in that section.
    entropy
        (m,) of the probabilities of all spots, nats.
    evidence
        (m,) logarithm of the sum of all weights.
    """

    spots: Int[Array, "m t"]
    probabilities: Float[Array, "m t"]
    section: Int[Array, " m"]
    position: Float[Array, "m 2"]
    sd: Float[Array, " m"]
    entropy: Float[Array, " m"]
    evidence: Float[Array, " m"]


def place_features(
    xy: Float[np.ndarray, "n 2"], section: Int[np.ndarray, " n"] | None
) -> tuple[Float[np.ndarray, "n f"], Float[np.ndarray, "q 2"]]:
    """What the moments of ``located`` are taken of, so that place and spread can be read of them; on the host.

    Parameters
    ----------
    xy
        (n, 2) places of the spots.
    section
        (n,) section of each spot; one where left out.

    Returns
    -------
    tuple
        (n, 4 q) for each of the q sections whether the spot lies there, its place from the middle of the section and
        the square of its distance from it; and the (q, 2) middles.
    """
    xy = np.asarray(xy, np.float64)
    section = np.zeros(len(xy), int) if section is None else np.asarray(section)
    number = int(section.max(initial=0)) + 1
    own = (section[:, None] == np.arange(number)).astype(np.float64)
    middle = (own.T @ xy) / np.maximum(own.sum(0), 1.0)[:, None]
    off = xy - middle[section]
    parts = np.stack([np.ones(len(xy)), off[:, 0], off[:, 1], np.square(off).sum(1)], 1)
    return (own[:, :, None] * parts[:, None, :]).reshape(len(xy), -1).astype(np.float32), middle.astype(np.float32)


def nowhere(cells: int, *, kept: int, features: int) -> Located:
    """Cells of which no spot was seen yet.

    Parameters
    ----------
    cells
        Number of cells.
    kept
        Number of spots that are remembered of each.
    features
        Columns of the features of the spots.
    """
    return Located(
        jnp.full(cells, _NEVER),
        jnp.zeros(cells),
        jnp.zeros(cells),
        jnp.zeros((cells, features)),
        jnp.full((cells, kept), _NEVER),
        jnp.full((cells, kept), -1, jnp.int32),
    )


def located(
    before: Located, log_weights: Float[Array, "b n"], features: Float[Array, "n f"], *, first: Int[Array, ""] | int
) -> Located:
    """What is known after further spots: the softmax over all spots is formed without ever being whole.

    Parameters
    ----------
    before
        What was known before.
    log_weights
        (b, n) of each cell at each of the further spots; below -1e29 where there is no spot.
    features
        (n, f) of these spots, 0 where there is none.
    first
        Number of the first of these spots.

    References
    ----------
    Milakov & Gimelshein (2018), Online normalizer calculation for softmax, arXiv 1805.02867 (the running sum).
    """
    shift = jnp.maximum(before.shift, log_weights.max(1))
    fade = jnp.exp(before.shift - shift)
    below = log_weights - shift[:, None]
    weights = jnp.where(log_weights > _THERE, jnp.exp(below), 0.0)
    seen_before = jnp.where(before.total > 0, before.total * (before.shift - shift), 0.0)
    number = jnp.arange(log_weights.shape[1], dtype=jnp.int32) + first
    every = jnp.concatenate([before.top, log_weights], 1)
    numbers = jnp.concatenate([before.index, jnp.broadcast_to(number, log_weights.shape)], 1)
    top, place = jax.lax.top_k(every, before.top.shape[1])
    index = jnp.where(top > _THERE, jnp.take_along_axis(numbers, place, 1), -1)
    return Located(
        shift,
        fade * before.total + weights.sum(1),
        fade * (before.energy + seen_before) + jnp.where(weights > 0, weights * below, 0.0).sum(1),
        fade[:, None] * before.moments + weights @ features,
        top,
        index.astype(jnp.int32),
    )


def places(known: Located, middle: Float[Array, "q 2"]) -> Places:
    """Read out what is known of the cells after all spots were seen.

    Parameters
    ----------
    known
        Of every cell; one of which no spot was seen lies at the middle of the first section.
    middle
        (q, 2) middle of each section, see ``place_features``.
    """
    total = jnp.where(known.total > 0, known.total, 1.0)
    each = known.moments.reshape(len(known.total), -1, 4)
    section = each[..., 0].argmax(1)
    mass, across, along, square = jnp.take_along_axis(each, section[:, None, None], 1)[:, 0].T
    mass = jnp.where(mass > 0, mass, 1.0)
    off = jnp.stack([across, along], 1) / mass[:, None]
    spread = jnp.maximum(square / mass - jnp.square(off).sum(1), 0.0)
    shares = jnp.where(known.index >= 0, jnp.exp(known.top - known.shift[:, None]), 0.0) / total[:, None]
    return Places(
        known.index,
        shares,
        section.astype(jnp.int32),
        middle[section] + off,
        jnp.sqrt(spread),
        jnp.maximum(jnp.log(total) - known.energy / total, 0.0),
        known.shift + jnp.log(total),
    )
