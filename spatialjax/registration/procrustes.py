"""Weighted Procrustes: the rigid map that fits matched points best, with the parity under control."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from spatialjax.transforms import Affine


def procrustes(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    plan: Float[Array, "n ..."],
    *,
    mirrored: Bool[Array, ""] | bool = False,
) -> Affine:
    r"""The rigid map of one parity that carries ``x`` onto ``y``.

    Minimises :math:`\sum_{ij} P_{ij} \lVert R x_i + t - y_j \rVert^2` over orthogonal ``R`` with determinant +1
    (-1 where ``mirrored``). numpy arrays are solved with numpy in their own precision, jax arrays with jax.

    Parameters
    ----------
    x
        Points of the source, µm.
    y
        Points of the target, µm.
    plan
        (n, m) matching weights, of any total mass; or (n,) weights of the pairs ``(x_i, y_i)``, where n = m.
    mirrored
        Parity of the map; may be traced.

    Returns
    -------
    Affine
        The map from the frame of ``x`` to the frame of ``y``. All weights zero give a map with no meaning, but finite.

    Raises
    ------
    ValueError
        If the shapes disagree.

    References
    ----------
    Schönemann (1966), Psychometrika 31; Umeyama (1991), IEEE TPAMI 13, for the determinant.
    """
    _check(x, y, plan)
    xp = _namespace(x, y, plan)
    rows, columns = _marginals(plan)
    total = rows.sum()
    total = xp.where(total > 0, total, xp.ones_like(total))
    center_x, center_y = rows @ x / total, columns @ y / total
    x, y = x - center_x[None, :], y - center_y[None, :]
    matched = plan @ y if plan.ndim == 2 else plan[:, None] * y
    left, _, right = xp.linalg.svd(matched.T @ x / total, full_matrices=False)
    sign = xp.where(xp.asarray(mirrored), -1.0, 1.0).astype(x.dtype)
    last = sign * xp.sign(xp.linalg.det(left @ right))
    scale = xp.concatenate([xp.ones(x.shape[1] - 1, x.dtype), last[None]])
    matrix = (left * scale[None, :]) @ right
    return Affine(matrix, center_y - matrix @ center_x)


def residual(
    x: Float[Array, "n d"], y: Float[Array, "m d"], plan: Float[Array, "n ..."], *, pose: Affine
) -> Float[Array, ""]:
    """Root of the weighted mean squared distance between matched places after ``pose``, µm.

    Parameters
    ----------
    x, y, plan
        As for ``procrustes``.
    pose
        Map from the frame of ``x`` to the frame of ``y``.
    """
    _check(x, y, plan)
    xp = _namespace(x, y, plan)
    moved, total = x @ pose.matrix.T + pose.shift[None, :], plan.sum()
    total = xp.where(total > 0, total, xp.ones_like(total))
    if plan.ndim == 1:
        return xp.sqrt((plan @ ((moved - y) ** 2).sum(1)) / total)
    axes = range(x.shape[1])
    squared = sum(((moved[:, None, axis] - y[None, :, axis]) ** 2 for axis in axes), xp.zeros_like(plan))
    return xp.sqrt((plan * squared).sum() / total)


def both_parities(
    x: Float[Array, "n d"], y: Float[Array, "m d"], plan: Float[Array, "n ..."]
) -> tuple[Affine, Float[Array, " parity"]]:
    """The best map of each parity, the one with the smaller residual first.

    Parameters
    ----------
    x, y, plan
        As for ``procrustes``.

    Returns
    -------
    tuple
        The two maps along a leading axis, and their residuals (µm), see ``residual``.
    """
    xp = _namespace(x, y, plan)
    poses = [procrustes(x, y, plan, mirrored=mirrored) for mirrored in (False, True)]
    residuals = xp.stack([residual(x, y, plan, pose=pose) for pose in poses])
    both = Affine(xp.stack([pose.matrix for pose in poses]), xp.stack([pose.shift for pose in poses]))
    order = xp.argsort(residuals)
    return both[order], residuals[order]


def _marginals(plan: Any) -> tuple[Any, Any]:
    return (plan.sum(1), plan.sum(0)) if plan.ndim == 2 else (plan, plan)


def _check(x: Any, y: Any, plan: Any) -> None:
    expected = {(len(x), len(y))} | ({(len(x),)} if len(x) == len(y) else set())
    if x.shape[1] != y.shape[1] or tuple(plan.shape) not in expected:
        raise ValueError(
            f"Expected x (n, d), y (m, d) and a plan (n, m), or n = m and weights (n,); found {x.shape}, {y.shape} and "
            f"{plan.shape}."
        )


def _namespace(*values: Any) -> Any:
    return jnp if any(isinstance(value, jax.Array) for value in values) else np
