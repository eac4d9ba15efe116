"""Triplets across sections: which spots of other sections a spot should be near."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

#: Spots compared with all others at once.
_BLOCK = 256


class Anchors(NamedTuple):
    """For each spot a spot of another section that it should be near, and one of its own that it should not.

    Attributes
    ----------
    positive, negative
        Numbers of the two spots.
    weight
        1 where a spot has both, else 0.
    """

    positive: Int[Array, " n"]
    negative: Int[Array, " n"]
    weight: Float[Array, " n"]


def find_anchors(
    key: Array, z: Float[Array, "n z"], member: Float[Array, "n s"], *, labels: Int[Array, " n"], candidates: int = 50
) -> Anchors:
    """Anchors of :func:`triplet` by global nearest neighbours, as in STG3Net (Fang, Zhu and Min 2024).

    The positive is the most alike, by inner product, of the nearest ``candidates`` spots of all other sections, after
    half of them were dropped at random and those of another cluster left out; the negative is any spot of the own
    section. Similarities are made for blocks of spots, never n × n; time grows with n².

    Parameters
    ----------
    key
        Random key.
    z
        Embedding.
    member
        One-hot number of the section of each spot, 0 on padding, see ``slices.section_members``.
    labels
        Cluster of each spot.
    candidates
        Number of nearest spots that are looked at.
    """
    n, number, real = len(z), member.argmax(-1), member.sum(-1) > 0
    width = min(candidates, n)
    drop_key, negative_key = jax.random.split(key)
    left = jax.random.bernoulli(drop_key, 0.5, (n, width))

    def best(row: Any) -> tuple[Any, Any]:
        own, label, kept, mine = row
        alike, place = jax.lax.top_k(jnp.where(real & (number != own), z @ mine, -jnp.inf), width)
        fits = kept & jnp.isfinite(alike) & (labels[place] == label)
        return place[fits.argmax()], fits.any()

    positive, found = jax.lax.map(best, (number, labels, left, z), batch_size=min(_BLOCK, n))
    negative = _any_of_own(negative_key, member)
    return Anchors(positive.astype(jnp.int32), negative, (found & real).astype(jnp.float32))


def _any_of_own(key: Array, member: Float[Array, "n s"]) -> Int[Array, " n"]:
    """For each spot any spot of its own section, drawn without regard to the padding."""
    n = len(member)
    number, real = member.argmax(-1), member.sum(-1) > 0
    order = jnp.argsort(jnp.where(real, number, member.shape[1]), stable=True)
    size = member.sum(0)
    start = jnp.cumsum(size) - size
    place = start[number] + jnp.floor(jax.random.uniform(key, (n,)) * size[number])
    last = (start + size)[number] - 1
    return order[jnp.clip(jnp.minimum(place, last), 0, n - 1).astype(jnp.int32)].astype(jnp.int32)
