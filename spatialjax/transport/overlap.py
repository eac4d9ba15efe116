"""How much of two sections overlaps, by where partial plans of growing mass leave spots unmatched."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from spatialjax.algorithm.core import Algorithm
from spatialjax.slices import Neighbors
from spatialjax.transport.collapse import GuardedCoupling
from spatialjax.transport.gromov import FusedProblem
from spatialjax.transport.partial import PartialProblem, PartialState, partial_fused_gromov_wasserstein

#: Shares that the published rule tries.
PUBLISHED_SHARES = (0.99, *(0.05 * number for number in range(19, 0, -1)))
_DIRECTIONS = 64


@struct.dataclass
class OverlapProblem:
    """A fused problem of two sections whose overlap is not known.

    Attributes
    ----------
    fused
        Costs and masses.
    source, target
        Coordinates of the spots of each section, any unit.
    source_edges, target_edges
        Neighbour tables of the spots; an edge counts by its weight.
    pitch
        Distance of neighbouring spots, in the unit of the coordinates.
    """

    fused: FusedProblem
    source: Float[Array, "n 2"]
    target: Float[Array, "m 2"]
    source_edges: Neighbors
    target_edges: Neighbors
    pitch: Float[Array, ""]


@struct.dataclass
class OverlapState:
    """Where the search stands.

    Attributes
    ----------
    partial
        State of the present partial problem.
    trial
        Position of its share among those tried; their number once the share is chosen.
    scores
        What the rule noted at each share; -inf where not yet tried.
    share
        Share of the present problem.
    """

    partial: PartialState
    trial: Int[Array, ""]
    scores: Float[Array, "2 k"]
    share: Float[Array, ""]


class OverlapRule(NamedTuple):
    """How the overlap is told from partial plans of several shares.

    Attributes
    ----------
    measure
        ``(plan, data) -> (2,)``: what is noted of the plan of one share.
    estimate
        ``(shares, notes) -> overlap`` of the (k,) shares and the (2, k) notes; in (0, 1].
    shares
        What is tried, each in (0, 1), from the largest to the smallest.
    """

    measure: Callable[[Any, OverlapProblem], Any]
    estimate: Callable[[Any, Any], Any]
    shares: tuple[float, ...]


def inconsistencies(plan: Float[Array, "n m"], data: OverlapProblem) -> Float[Array, "2"]:
    """Edge inconsistency of matched and unmatched spots in the source and in the target; -inf without an edge."""
    fused = data.fused
    return jnp.stack(
        [
            edge_inconsistency(plan.sum(1) > 0.5 * fused.a, fused.a > 0, xy=data.source, edges=data.source_edges),
            edge_inconsistency(plan.sum(0) > 0.5 * fused.b, fused.b > 0, xy=data.target, edges=data.target_edges),
        ]
    )


def estimate(shares: Float[Array, " k"], scores: Float[Array, "2 k"]) -> Float[Array, ""]:
    """The overlap that the inconsistencies of the two sections at each share speak for."""
    return jnp.minimum(2 * jnp.min(shares[jnp.argmax(scores, axis=1)]), 1)


#: The published rule. As long as the share is below the overlap, unmatched spots are scattered among the matched ones;
#: the edge inconsistency (share of the edges inside the hull of the matched spots that join the two kinds) should be
#: largest near half of the overlap. The hull of a few matched spots is so small that it may be larger there by chance.
EDGES = OverlapRule(inconsistencies, estimate, PUBLISHED_SHARES)


@cache
def partial_with_overlap(
    *,
    overlap: float | None = None,
    rule: OverlapRule = EDGES,
    budget: int = 40,
    search: Algorithm | None = None,
    solver: Algorithm | None = None,
) -> Algorithm:
    r"""Partial fused Gromov–Wasserstein of a given overlap, or of one that is estimated first.

    Parameters
    ----------
    overlap
        Share of the mass that is matched, in (0, 1]; None to estimate it.
    rule
        How: what is tried, noted and concluded.
    budget
        Largest number of outer iterations for each share that is tried.
    search, solver
        Solvers of ``PartialProblem`` for the estimate and for the result; a coarse and the default one where left out.

    Returns
    -------
    Algorithm
        Data: ``OverlapProblem``. One step is one outer iteration; ``info`` adds ``share`` and ``trial``. Result:
        ``GuardedCoupling`` of the chosen share; not converged where the budget of steps ended before.

    Raises
    ------
    ValueError
        If the overlap is outside (0, 1], or there is no share to try.

    References
    ----------
    Liu, Zeira, Raphael (2023), Genome Research 33, "Model selection", for ``EDGES``:
    :math:`\min(2 \min(\arg\max_s I_\text{source}, \arg\max_s I_\text{target}), 1)` of the edge inconsistencies.
    """
    if overlap is not None and not 0 < overlap <= 1:
        raise ValueError(f"Expected an overlap in (0, 1] or None, found {overlap}.")
    tried = rule.shares if overlap is None else ()
    if overlap is None and not (tried and all(0 < share < 1 for share in tried)):
        raise ValueError(f"Expected shares to try in (0, 1), found {tried}.")
    search = search or partial_fused_gromov_wasserstein(decay=0.6, kernel_iterations=10, tolerance=1e-2)
    solver = solver or partial_fused_gromov_wasserstein()
    first = tried[0] if tried else overlap

    def init(key: Any, data: OverlapProblem, start: Any = None) -> OverlapState:
        share = jnp.asarray(first, data.fused.linear.dtype)
        partial = solver.init(key, PartialProblem(data.fused, share), start)
        return OverlapState(partial, jnp.int32(0), jnp.full((2, len(tried)), -jnp.inf, share.dtype), share)

    def step(key: Any, state: OverlapState, data: OverlapProblem) -> tuple[OverlapState, dict[str, Any]]:
        problem = PartialProblem(data.fused, state.share)
        if not tried:
            partial, info = solver.step(key, state.partial, problem)
            return state.replace(partial=partial), {**info, "share": state.share, "trial": state.trial}
        searching = state.trial < len(tried)
        partial, info = jax.lax.cond(
            searching,
            lambda partial: search.step(key, partial, problem),
            lambda partial: solver.step(key, partial, problem),
            state.partial,
        )
        ended = searching & (info["done"] | (partial.step >= budget))
        info = {**info, "done": info["done"] & ~searching, "share": state.share, "trial": state.trial}
        state = jax.lax.cond(ended, lambda s: following(s, data), lambda s: s, state.replace(partial=partial))
        return state, info

    def following(state: OverlapState, data: OverlapProblem) -> OverlapState:
        known = jnp.asarray(tried, state.share.dtype)
        found = rule.measure(jnp.exp(state.partial.log_plan[:-1, :-1]), data)
        scores = state.scores.at[:, state.trial].set(found)
        trial = state.trial + 1
        share = jnp.where(trial < len(tried), known[jnp.minimum(trial, len(tried) - 1)], rule.estimate(known, scores))
        partial = solver.init(None, PartialProblem(data.fused, share))
        return OverlapState(partial, trial, scores, share)

    def readout(key: Any, state: OverlapState, data: OverlapProblem) -> GuardedCoupling:
        result = solver.readout(key, state.partial, PartialProblem(data.fused, state.share))
        return result.replace(converged=result.converged & (state.trial == len(tried)))

    return Algorithm(init, step, readout)


def edge_inconsistency(
    matched: Bool[Array, " n"], mask: Bool[Array, " n"], *, xy: Float[Array, "n 2"], edges: Neighbors
) -> Float[Array, ""]:
    """Share of the edges inside the convex hull of the matched spots that join a matched with an unmatched spot.

    Parameters
    ----------
    matched
        The matched spots.
    mask
        The real spots.
    xy
        Coordinates.
    edges
        Neighbour table; an edge counts by its weight.
    """
    angle = jnp.arange(_DIRECTIONS) * (2 * jnp.pi / _DIRECTIONS)
    along = xy @ jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    # The hull by its supporting lines: no shape here depends on the data.
    reach = jnp.max(jnp.where((matched & mask)[:, None], along, -jnp.inf), axis=0)
    inside = mask & jnp.all(along <= reach[None, :] * (1 + 1e-6 * jnp.sign(reach))[None, :], axis=1)
    weight = edges.weight * (inside[:, None] & inside[edges.index])
    differ = matched[:, None] != matched[edges.index]
    total = weight.sum()
    return jnp.where(total > 0, jnp.sum(weight * differ) / jnp.where(total > 0, total, 1), -jnp.inf)
