"""Convolution on a hexagonal lattice, one weight matrix for each direction."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spatialjax import graphs
from spatialjax.slices import Neighbors

#: Steps (row, column) to the six neighbours in the array of Visium, counter-clockwise from east with rows upward.
_ARRAY_STEPS = np.array([(0, 2), (1, 1), (1, -1), (0, -2), (-1, -1), (-1, 1)])
#: Where direction 0 is looked for, 30° to either side; not at 0, where a lattice with an axis along y would be a tie.
_AIM = np.deg2rad(5.0)


class HexagonalConvolution(nn.Module):
    """Convolution with seven taps: y_i = W₀h_i + Σ_t W_t h_{neighbour t of i} + b (HexCNN; Gao et al. 2022).

    Attributes
    ----------
    features
        Width of the output.
    use_bias
        Whether a bias is added.
    """

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, h: Float[Array, "n p"], directions: Neighbors) -> Float[Array, "n q"]:
        """Convolve.

        Parameters
        ----------
        h
            Values of the spots.
        directions
            (n, 6) table whose place ``t`` holds the neighbour in direction ``t``, weight 0 where there is none; from
            :func:`array_directions` or :func:`xy_directions`.

        Raises
        ------
        ValueError
            If the table does not have six places.
        """
        if directions.index.shape[-1] != 6:
            raise ValueError(
                f"Expected a table of six directions, found {directions.index.shape[-1]} places: build it with "
                "nn.array_directions or nn.xy_directions."
            )
        initial = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", in_axis=(0, 1), out_axis=2)
        kernel = self.param("kernel", initial, (7, h.shape[-1], self.features))
        taps = jnp.asarray(directions.weight)[..., None] * jnp.asarray(h)[directions.index]
        out = h @ kernel[0] + jnp.einsum("ntp,tpq->nq", taps, kernel[1:])
        return out + self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else out


def array_directions(row: Int[np.ndarray, "n"], column: Int[np.ndarray, "n"]) -> Neighbors:
    """The six neighbours by direction from the array positions of Visium (``array_row``, ``array_col``).

    Parameters
    ----------
    row, column
        Array position of each spot: neighbours in a row are two columns apart, rows are shifted by one.

    Returns
    -------
    Neighbors
        (n, 6), place ``t`` at angle 60° × t from the columns' axis; weight 0 and the spot itself where there is none.

    Raises
    ------
    ValueError
        If two spots have one position.
    """
    place = np.stack([np.asarray(row, np.int64), np.asarray(column, np.int64)], 1)
    numbers = {tuple(position): i for i, position in enumerate(place.tolist())}
    if len(numbers) != len(place):
        raise ValueError(
            f"Expected one spot at each array position, found {len(place)} spots at {len(numbers)} positions: give one "
            "section at a time."
        )
    wanted = (place[:, None] + _ARRAY_STEPS).tolist()
    index = np.array([[numbers.get(tuple(position), -1) for position in six] for six in wanted]).reshape(-1, 6)
    return _directions(index)


def xy_directions(xy: Float[np.ndarray, "n 2"], *, tolerance: float = 1.2) -> Neighbors:
    """The six neighbours by direction from the coordinates of a hexagonal lattice.

    Direction 0 is the axis of the lattice that lies between −25° and 35° from the x axis, so that lattices with an axis
    along x or along y are both far from a tie. Sections that were turned against each other by more need
    ``array_directions`` to agree on directions.

    Parameters
    ----------
    xy
        Coordinates, µm.
    tolerance
        Longest edge in lattice constants.

    Returns
    -------
    Neighbors
        (n, 6); of two neighbours in one direction the nearer one is kept.

    Raises
    ------
    ValueError
        If the neighbours do not lie in six directions (a square lattice, cells at random).
    """
    xy = np.asarray(xy, np.float64)
    table = graphs.lattice(xy, tolerance=tolerance)
    rows, places = np.nonzero(table.weight)
    columns = table.index[rows, places]
    index = np.full((len(xy), 6), -1)
    if len(rows):
        step = xy[columns] - xy[rows]
        angle = np.arctan2(step[:, 1], step[:, 0])
        mean = np.exp(6j * angle).mean()
        if abs(mean) < 0.5:
            raise ValueError(
                f"Expected a hexagonal lattice, found neighbours in directions that six axes explain to {abs(mean):.2f}"
                " (1 is a perfect lattice): use a graph convolution."
            )
        first = np.angle(mean * np.exp(-6j * _AIM)) / 6 + _AIM
        turn = np.rint((angle - first) / (np.pi / 3)).astype(int) % 6
        index[rows[::-1], turn[::-1]] = columns[::-1]
    return _directions(index)


def _directions(index: Any) -> Neighbors:
    """A table from neighbours by direction, −1 where there is none."""
    real = index >= 0
    own = np.arange(len(index))[:, None]
    return Neighbors(np.where(real, index, own).astype(np.int32), real.astype(np.float32))
