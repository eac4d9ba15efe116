"""Hexagonal convolution: directions from array positions and from coordinates, the seven taps."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from spatialjax import nn
from spatialjax.slices import make_slice


def visium(rows: int = 5, columns: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Array rows and columns of a full array, and coordinates with rows upward."""
    row, place = (part.ravel() for part in np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"))
    column = 2 * place + row % 2
    return row, column, np.stack([50.0 * column, 50.0 * np.sqrt(3) * row], 1)


def test_directions_from_the_array_point_where_they_should() -> None:
    """Place t lies at 60° × t; six neighbours inside, fewer at the edge; the opposite place points back."""
    row, column, xy = visium()
    table = nn.array_directions(row, column)
    used = table.weight > 0
    step = xy[table.index] - xy[:, None]
    angle = np.degrees(np.arctan2(step[..., 1], step[..., 0])) % 360
    wanted = np.broadcast_to(60.0 * np.arange(6), angle.shape)
    np.testing.assert_allclose(angle[used], wanted[used], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(step[used], axis=1), 100.0)
    assert used.sum(1).max() == 6 and used.sum(1).min() == 2
    for i, t in zip(*np.nonzero(used), strict=True):
        assert table.index[table.index[i, t], (t + 3) % 6] == i


@pytest.mark.parametrize("angle", [0.0, 0.2, -0.4])
def test_directions_from_coordinates_agree_with_the_array(angle: float) -> None:
    """The same table from jittered, turned coordinates."""
    row, column, xy = visium()
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = xy @ turn.T + np.random.default_rng(0).normal(size=xy.shape)
    found, wanted = nn.xy_directions(moved), nn.array_directions(row, column)
    np.testing.assert_array_equal(found.index, wanted.index)
    np.testing.assert_array_equal(found.weight, wanted.weight)


def test_a_lattice_with_an_axis_along_y_is_no_tie() -> None:
    """Turned by 90° and a little more or less, as rounding may do: one and the same table, not one turned by 60°."""
    *_, xy = visium()
    tables = []
    for degrees in (89.9, 90.0, 90.1):
        angle = np.deg2rad(degrees)
        tables.append(
            nn.xy_directions(xy @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]))
        )
    for table in tables[1:]:
        np.testing.assert_array_equal(table.index, tables[0].index)


def test_what_has_no_six_directions_is_refused() -> None:
    """A square lattice, two spots in one place, a table of another width."""
    square = np.stack(np.meshgrid(np.arange(6.0), np.arange(6.0)), -1).reshape(-1, 2)
    with pytest.raises(ValueError, match="hexagonal lattice"):
        nn.xy_directions(square)
    with pytest.raises(ValueError, match="one section at a time"):
        nn.array_directions(np.zeros(3, int), np.zeros(3, int))
    section = make_slice(np.ones((4, 2)), np.zeros((4, 2)))
    row, column, _ = visium()
    table = nn.array_directions(row, column)
    narrow = type(table)(table.index[:, :4], table.weight[:, :4])
    with pytest.raises(ValueError, match="six directions"):
        nn.HexagonalConvolution(2).init(jax.random.key(0), section.features, narrow)


def test_a_single_spot_and_a_pair_have_tables() -> None:
    """One spot without neighbours."""
    assert nn.xy_directions(np.zeros((1, 2))).weight.sum() == 0
    assert nn.array_directions(np.array([0]), np.array([0])).index.tolist() == [[0] * 6]


def test_convolution_is_the_sum_over_seven_taps_and_blind_to_padding(key: Any, rng: np.random.Generator) -> None:
    """Loops over spots and directions; values and gradients with a larger capacity."""
    row, column, xy = visium()
    table = nn.array_directions(row, column)
    features = rng.normal(size=(30, 4))
    small = make_slice(features, xy, capacity=31, edges=table)
    large = make_slice(features, xy, capacity=40, edges=table)
    layer = nn.HexagonalConvolution(3)
    params = layer.init(key, small.features, small.edges)
    kernel = np.asarray(params["params"]["kernel"])
    wanted = features @ kernel[0]
    for i in range(30):
        for t in range(6):
            if table.weight[i, t]:
                wanted[i] += features[table.index[i, t]] @ kernel[t + 1]
    np.testing.assert_allclose(layer.apply(params, small.features, small.edges)[:30], wanted, rtol=1e-4, atol=1e-5)

    def loss(params: Any, section: Any) -> Any:
        out = layer.apply(params, section.features, section.edges)
        return (section.weights[:, None] * out**2).sum()

    first, second = (jax.jit(jax.value_and_grad(loss))(params, section) for section in (small, large))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), first, second)


def test_the_taps_tell_directions_apart(key: Any, rng: np.random.Generator) -> None:
    """A turn of the directions by 60° changes the output: a graph convolution could not see it."""
    row, column, _ = visium()
    table = nn.array_directions(row, column)
    turned = type(table)(np.roll(table.index, 1, 1), np.roll(table.weight, 1, 1))
    h = rng.normal(size=(30, 4)).astype(np.float32)
    layer = nn.HexagonalConvolution(3)
    params = layer.init(key, h, table)
    assert np.abs(layer.apply(params, h, table) - layer.apply(params, h, turned)).max() > 0.05
