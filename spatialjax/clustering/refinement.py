"""Label refinement by votes of the neighbours, over a neighbour table: never a matrix of spots by spots."""

from __future__ import annotations

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from spatialjax.slices import Neighbors

#: How neighbours decide: the most votes, or only against a clear majority.
Rule = Literal["majority", "strict"]


def votes(
    labels: Int[Array, " n"], neighbors: Neighbors, *, number: int, mask: Bool[Array, " n"] | None = None
) -> Float[Array, "n k"]:
    """Sum of edge weights of each spot to the neighbours with each label; masked neighbours do not count.

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
    """
    weight = neighbors.weight if mask is None else neighbors.weight * mask[neighbors.index]
    near = labels[neighbors.index]
    return jnp.stack([jnp.where(near == label, weight, 0).sum(1) for label in range(number)], 1)


@partial(jax.jit, static_argnames=("number", "rule", "rounds"))
def refine(
    labels: Int[Array, " n"],
    neighbors: Neighbors,
    *,
    number: int,
    mask: Bool[Array, " n"] | None = None,
    rule: Rule = "majority",
    rounds: int = 1,
) -> Int[Array, " n"]:
    """Replace labels that disagree with their neighbours; all spots of a round at once.

    Parameters
    ----------
    labels
        (n,) labels from 0 to ``number`` − 1.
    neighbors
        The voters: ``graphs.knn(xy, 50)`` for ``"majority"``; ``graphs.knn(xy, 6)`` on a hexagonal lattice, 4 on a
        square one, for ``"strict"``.
    number
        Number of labels.
    mask
        True for real spots; the others keep their labels and have no vote.
    rule
        ``"majority"``: the label with most votes of the neighbours, where it has more votes than the spot's own label.
        ``"strict"``: the spot votes too; it is relabelled where fewer than half as many votes as it has neighbours are
        for its own label, and more than half for another one.
    rounds
        Number of rounds.

    References
    ----------
    Hu et al. (2021), Nature Methods 18 (strict rule); Long et al. (2023), Nature Communications 14 (majority of 50).
    """

    def once(labels: Int[Array, " n"]) -> Int[Array, " n"]:
        poll = votes(labels, neighbors, number=number, mask=mask)
        half = 0.5 * poll.sum(1)
        if rule == "strict":
            poll = poll + jax.nn.one_hot(labels, number, dtype=poll.dtype)
        own = jnp.take_along_axis(poll, labels[:, None], 1)[:, 0]
        best, most = jnp.argmax(poll, 1).astype(labels.dtype), poll.max(1)
        change = (own < half) & (most > half) if rule == "strict" else most > own
        if mask is not None:
            change = change & mask
        return jnp.where(change, best, labels)

    return jax.lax.fori_loop(0, rounds, lambda _, current: once(current), labels)
