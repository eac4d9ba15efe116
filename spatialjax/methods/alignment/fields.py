"""Alignment by the evidence of smoothed feature fields: every angle, both parities, every shift (ours, the default)."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from spatialjax.algorithm import Algorithm
from spatialjax.methods.card import Card, Method
from spatialjax.registration.pairs import (
    FieldPair,
    field_pair,
    find_peaks,
    refine_step,
    score_pair,
    score_poses,
    to_affine,
    usable,
)
from spatialjax.results import Alignment
from spatialjax.slices import Slice

#: Leading components that the global search looks at; the refinement and the evidence take all of them.
SEARCHED = 6

#: Poses must settle whose evidence is lower than the best by no more than this share.
RIVAL = 0.5


class Hypotheses(NamedTuple):
    """Poses under refinement, in pitches about the centres of the sections."""

    angle: Float[Array, "k"]
    shift: Float[Array, "k 2"]
    mirrored: Float[Array, "k"]
    found: Float[Array, "k"]
    damping: Float[Array, "k"]
    length: Float[Array, "k"]
    evidence: Float[Array, "k"]


@functools.lru_cache
def fields(*, angles: int = 36, hypotheses: int = 8, tolerance: float = 3e-3) -> Method:
    r"""Global pose search on smoothed shared features, then refinement of the best hypotheses with an outlier class.

    Both sections become fields of a shared embedding. For every rotation, both parities and every shift the
    components are correlated inside the overlap only, and scored by

    .. math:: L = -\tfrac12 \sum_c (n - 3)\,\mathrm{sign}(r_c) \log(1 - r_c^2),

    the log-likelihood ratio of a linear relation against none with ``n`` independent samples in the overlap: a small
    true overlap can win against a large wrong one, so that partial overlap needs no parameter. The best peaks of each
    parity are refined by damped Newton steps on the same evidence with spline-interpolated fields, where each spot
    counts by its probability to be matched at all. The kept hypotheses are returned with their evidence.

    Parameters
    ----------
    angles
        Rotations searched over the full turn.
    hypotheses
        Poses kept and refined, half of them for each parity.
    tolerance
        Length of a step (pitches, at the rim) below which a pose has settled; the run ends when all poses of
        either parity have that may be right (``RIVAL``).

    Returns
    -------
    Method
        Data: (source, target) slices with features of ``preprocess.shared_embedding``. Result: ``Alignment``.
    """

    def init(key: Any, pair: FieldPair, start: Any = None) -> Hypotheses:
        del key
        if start is not None:
            return start
        peaks = find_peaks(pair, angles=angles, keep=hypotheses, components=SEARCHED)
        many = jnp.ones(hypotheses)
        return Hypotheses(
            peaks.angle, peaks.shift, peaks.mirrored, peaks.evidence, 0.1 * many, jnp.inf * many, -jnp.inf * many
        )

    def step(key: Any, state: Hypotheses, pair: FieldPair) -> tuple[Hypotheses, dict[str, Any]]:
        del key
        real = usable(state.found)

        def one(each: tuple[Hypotheses, Any]) -> Hypotheses:
            own, used = each
            moving = used & (own.length >= tolerance)
            return jax.lax.cond(moving, lambda: _moved(pair, own), lambda: own)

        # One after the other, so that those that have settled cost nothing.
        state = jax.lax.map(one, (state, real))
        best = jnp.max(jnp.where(real, state.evidence, -jnp.inf))
        rival = real & (state.evidence > best - RIVAL * jnp.abs(best))
        move = jnp.max(jnp.where(rival, state.length, 0.0))
        return state, {"evidence": best, "step": move, "done": move < tolerance}

    def readout(key: Any, state: Hypotheses, pair: FieldPair) -> Alignment:
        del key
        scored, overlap = jax.vmap(lambda *pose: score_pair(pair, pose))(state.angle, state.shift, state.mirrored)
        evidence = jnp.where(usable(state.found), scored.evidence, -jnp.inf)
        evidence = jnp.where(_repeated(state, evidence), -jnp.inf, evidence)
        order = jnp.argsort(-evidence)
        poses = to_affine(pair, (state.angle, state.shift, state.mirrored))
        return Alignment(
            poses=poses[order],
            evidence=evidence[order],
            overlap=overlap[order[0]],
            plan=None,
            objective=-evidence[order[0]],
            error=jnp.zeros(()),
            converged=state.length[order[0]] < tolerance,
        )

    return Method(_prepare, Algorithm(init, step, readout), _finish, max_steps=40)


def _prepare(source: Slice, target: Slice) -> FieldPair:
    return field_pair(source, target)


def _moved(pair: FieldPair, own: Hypotheses) -> Hypotheses:
    (angle, shift, _), damping, length, evidence = refine_step(pair, (own.angle, own.shift, own.mirrored), own.damping)
    return own._replace(angle=angle, shift=shift, damping=damping, length=length, evidence=evidence)


def _repeated(state: Hypotheses, evidence: Any) -> Any:
    """Which hypotheses ended where a better one already is."""
    turn = jnp.abs((state.angle[:, None] - state.angle[None, :] + jnp.pi) % (2 * jnp.pi) - jnp.pi)
    away = jnp.sqrt(((state.shift[:, None] - state.shift[None, :]) ** 2).sum(-1) + 1e-12)
    same = (turn < jnp.deg2rad(5.0)) & (away < 3.0) & (state.mirrored[:, None] == state.mirrored[None, :])
    rank = jnp.argsort(jnp.argsort(-evidence))
    return (same & (rank[None, :] < rank[:, None])).any(1)


def _finish(result: Alignment, source: Slice, target: Slice) -> Alignment:
    if result.overlap.shape[0] == source.capacity:
        return result
    best = score_poses(result.poses[np.arange(1)], source, target)
    return result.replace(overlap=best.overlap[0])


CARD = Card(
    name="fields",
    task="alignment",
    summary="Every angle and both parities on smoothed shared features, scored by evidence in the overlap; refined.",
    citation=None,
    expects="embedding",
    returns="Alignment",
    default_steps=40,
    fidelity="ours",
    evidence="benchmarks/alignment_dlpfc.py, alignment_truth.py and alignment_stacks.py",
    licence="BSD-3-Clause (this package)",
)
