"""Moment matching: centroids and principal axes (a baseline)."""

from __future__ import annotations

import functools

import jax.numpy as jnp

from spatialjax.algorithm.adaptors import solve
from spatialjax.methods.card import Card, Method
from spatialjax.registration.axes import axis_poses, shape_overlap
from spatialjax.results import Alignment
from spatialjax.slices import Slice


@functools.lru_cache
def moments(*, mirrored: bool = True) -> Method:
    """Centroid on centroid, principal axis on principal axis: the outline alone, no expression.

    The principal axes have no sign, so two rotations (and with ``mirrored`` their two mirror images) fit equally well
    by the second moments; they are ranked by how well the outlines cover each other. What every aligner must beat.

    Parameters
    ----------
    mirrored
        Whether mirrored poses are candidates.

    Returns
    -------
    Method
        Data: (source, target) slices; features are not read. Result: ``Alignment``.
    """

    def align(key: Any, data: tuple[Slice, Slice]) -> Alignment:
        del key
        source, target = data
        poses = axis_poses(source, target, mirrored=mirrored)
        evidence = jnp.stack([shape_overlap(poses[i], source, target) for i in range(poses.shift.shape[0])])
        order = jnp.argsort(-evidence)
        return Alignment(
            poses=poses[order],
            evidence=evidence[order],
            overlap=source.mask.astype(jnp.float32),
            plan=None,
            objective=-evidence[order[0]],
            error=jnp.zeros(()),
            converged=jnp.array(True),
        )

    return Method(_prepare, solve(align), _finish, max_steps=1)


def _prepare(source: Slice, target: Slice) -> tuple[Slice, Slice]:
    return source, target


def _finish(result: Alignment, source: Slice, target: Slice) -> Alignment:
    del source, target
    return result


CARD = Card(
    name="moments",
    task="alignment",
    summary="Centroids and principal axes of the outlines (baseline).",
    citation=None,
    expects="none",
    returns="Alignment",
    default_steps=1,
    fidelity="ours",
    evidence="textbook moment matching",
    licence="BSD-3-Clause (this package)",
)
