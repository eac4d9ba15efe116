"""Moment matching: centroids and principal axes (a baseline)."""

from __future__ import annotations

import functools

import jax.numpy as jnp

from spatialjax.algorithm.adaptors import solve
from spatialjax.methods.card import Card, Method, as_given, unchanged
from spatialjax.registration.axes import axis_poses, ranked_by_outline
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
        return ranked_by_outline(poses, source, target, settled=jnp.ones(len(poses.shift), bool))

    return Method(as_given, solve(align), unchanged, max_steps=1)


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
