"""Distances between the distributions of two groups of spots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from spatialjax.losses.spots import Loss, Weight


def mmd(
    samples: tuple[Float[Array, "n z"], Float[Array, "m z"]],
    weights: tuple[Weight, Float[Array, "m"] | Bool[Array, "m"]],
    *,
    bandwidths: Sequence[float] = (0.25, 0.5, 1.0, 2.0, 4.0),
    block: int = 512,
) -> Loss:
    """Squared maximum mean discrepancy with a mean of Gaussian kernels (Gretton et al. 2012; Li et al. 2015).

    The kernels are exp(−‖x − y‖² / (2 b s)) with s the mean squared distance within both groups together (no
    gradient), so the scale comes from the data. At least 0; kernels are made by blocks, never
    n × m, but time grows with (n + m)².

    Parameters
    ----------
    samples
        Values of the two groups of spots.
    weights
        Weights of their spots, 0 on padding.
    bandwidths
        The factors b.
    block
        Spots in a block.

    Returns
    -------
    tuple
        Discrepancy × the weight of both groups, and that weight; 0 where one of them is empty.
    """
    (x, y), (a, b) = samples, [jnp.asarray(w, jnp.float32) for w in weights]
    size_x, size_y = a.sum(), b.sum()
    x, y = (jnp.where((w != 0)[:, None], v, 0.0) for v, w in ((x, a), (y, b)))
    share_x, share_y = a / jnp.maximum(size_x, 1e-12), b / jnp.maximum(size_y, 1e-12)
    centre = 0.5 * (share_x @ x + share_y @ y)
    spread = 0.5 * (share_x @ ((x - centre) ** 2).sum(-1) + share_y @ ((y - centre) ** 2).sum(-1))
    scale = jax.lax.stop_gradient(jnp.maximum(4.0 * spread, 1e-12))
    joint = jnp.concatenate([x - centre, y - centre])
    charge = jnp.concatenate([share_x, -share_y])
    value = _energy(joint, charge, scale * jnp.asarray(bandwidths, jnp.float32), block=block)
    both = (size_x > 0) & (size_y > 0)
    weight = size_x + size_y
    return jnp.where(both, value, 0.0) * weight, jnp.where(both, weight, 0.0)


def _energy(z: Any, charge: Any, widths: Any, *, block: int) -> Any:
    """Σ_ij c_i c_j mean_b exp(−‖z_i − z_j‖² / b), by blocks."""
    n = z.shape[0]
    block = min(block, n)
    blocks = -(-n // block)
    z = jnp.pad(z, ((0, blocks * block - n), (0, 0))).reshape(blocks, block, -1)
    charge = jnp.pad(charge, (0, blocks * block - n)).reshape(blocks, block)

    @jax.checkpoint
    def row_block(total: Any, row: Any) -> Any:
        mine, my_charge = row

        @jax.checkpoint
        def add(total: Any, column: Any) -> Any:
            theirs, their_charge = column
            square = (mine**2).sum(-1)[:, None] + (theirs**2).sum(-1)[None] - 2.0 * mine @ theirs.T
            kernel = jnp.exp(-jnp.maximum(square, 0.0)[..., None] / widths).mean(-1)
            return total + my_charge @ kernel @ their_charge, None

        return jax.lax.scan(add, total, (z, charge))[0], None

    return jax.lax.scan(row_block, jnp.zeros((), z.dtype), (z, charge))[0]
