"""The ground floor: padding, maps of the plane, tiles with halos, cropping of results."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spatialjax.results import Alignment, Embedding, crop
from spatialjax.slices import Neighbors, bucket, make_slice, stack, unstack
from spatialjax.tiles import row_keys, tile
from spatialjax.transforms import Affine, identity, rigid

PROPERTY = settings(max_examples=40, deadline=None, derandomize=True)
ANGLES = st.floats(-np.pi, np.pi)
LENGTHS = st.floats(-1e4, 1e4)
RIGID = st.builds(lambda a, x, y, m: rigid(a, np.array([x, y]), m), ANGLES, LENGTHS, LENGTHS, st.booleans())
POINTS = np.random.default_rng(0).normal(scale=1000.0, size=(7, 2))


def section_of(n: int = 50, *, capacity: int | None = None, seed: int = 0) -> Any:
    """A random section whose neighbours are its four nearest spots."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, 100, (n, 2))
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=-1) + 1e9 * np.eye(n)
    index = np.argsort(distance, axis=1)[:, :4].astype(np.int32)
    edges = Neighbors(index, rng.uniform(0.5, 1, index.shape).astype(np.float32))
    extra = {"label": np.arange(n), "image": rng.normal(size=(n, 2, 3))}
    return make_slice(rng.normal(size=(n, 3)), xy, capacity=capacity, edges=edges, extra=extra)


@given(st.integers(0, 200_000))
@PROPERTY
def test_a_bucket_is_larger_than_its_section_and_wastes_at_most_half(size: int) -> None:
    capacity = bucket(size)
    assert capacity > size
    assert capacity <= max(8, 1.5 * size + 2)
    assert bucket(capacity - 1) == capacity


def test_padding_holds_zeros_and_neighbours_only_of_itself() -> None:
    section = section_of(20, capacity=32)
    assert section.capacity == 32
    assert int(section.mask.sum()) == 20
    for leaf in (section.features, section.xy, section.weights, *section.extra.values(), section.edges.weight):
        assert not np.asarray(leaf[20:]).any()
    np.testing.assert_array_equal(section.edges.index[20:], np.repeat(np.arange(20, 32)[:, None], 4, axis=1))
    assert np.all(np.asarray(section.edges.index[:20]) < 20)
    assert section.features.dtype == section.xy.dtype == section.weights.dtype == np.float32


def test_wrong_shapes_are_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="found 3 and 4"):
        make_slice(np.ones((3, 1)), np.ones((4, 2)))
    with pytest.raises(ValueError, match="above 4 spots"):
        make_slice(np.ones((4, 1)), np.ones((4, 2)), capacity=4)
    with pytest.raises(ValueError, match="Expected 4 rows"):
        make_slice(np.ones((4, 1)), np.ones((4, 2)), extra={"a": np.ones(3)})


def test_stack_and_unstack_are_inverse() -> None:
    members = [section_of(20, capacity=32, seed=seed) for seed in range(3)]
    batch = stack(members)
    assert batch.xy.shape == (3, 32, 2)
    assert batch.capacity == 32
    for one, back in zip(members, unstack(batch), strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, back)


@given(RIGID, RIGID)
@PROPERTY
def test_composition_applies_the_first_map_first(second: Affine, first: Affine) -> None:
    np.testing.assert_allclose(second.compose(first)(POINTS), second(first(POINTS)), atol=1e-7)


@given(RIGID)
@PROPERTY
def test_the_inverse_undoes_a_map_from_both_sides(pose: Affine) -> None:
    for there_and_back in (pose.inverse().compose(pose), pose.compose(pose.inverse())):
        np.testing.assert_allclose(there_and_back(POINTS), POINTS, atol=1e-6)
    np.testing.assert_allclose(pose.inverse()(pose(POINTS)), POINTS, atol=1e-6)


@given(RIGID, RIGID)
@PROPERTY
def test_rigid_maps_keep_distances_and_parities_multiply(first: Affine, second: Affine) -> None:
    both = second.compose(first)
    before, after = (np.linalg.norm(p[:, None] - p[None], axis=-1) for p in (POINTS, both(POINTS)))
    np.testing.assert_allclose(after, before, atol=1e-6)
    assert bool(both.mirrored) == (bool(first.mirrored) != bool(second.mirrored))


@given(ANGLES, LENGTHS, LENGTHS, st.booleans())
@PROPERTY
def test_rigid_has_the_angle_parity_and_centre_it_was_given(angle: float, x: float, y: float, mirrored: bool) -> None:
    """The centre moves by the shift alone, and the linear part is rotation after mirroring."""
    center, shift = np.array([x, y]), np.array([y, -x])
    pose = rigid(angle, shift, mirrored, center=center)
    assert bool(pose.mirrored) == mirrored
    assert np.cos(pose.angle - angle) == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(pose(center[None])[0], center + shift, atol=1e-6)
    c, s, sign = np.cos(angle), np.sin(angle), -1 if mirrored else 1
    np.testing.assert_allclose(pose.matrix, [[c, -s * sign], [s, c * sign]], atol=1e-12)


def test_maps_work_in_batches_and_on_both_kinds_of_arrays() -> None:
    """numpy stays float64 on the host; jax arrays stay jax arrays, also under jit."""
    angles, shifts = np.linspace(0, 3, 4), np.arange(8.0).reshape(4, 2)
    mirrored = np.array([False, True, False, True])
    batch = rigid(angles, shifts, mirrored)
    assert batch.matrix.dtype == np.float64
    for i in range(4):
        one = rigid(angles[i], shifts[i], mirrored[i])
        np.testing.assert_allclose(batch[i](POINTS), one(POINTS))
        np.testing.assert_allclose(batch(POINTS)[i], one(POINTS))
    traced = jax.jit(lambda a, s, m: rigid(a, s, m).inverse())(angles, shifts, mirrored)
    assert isinstance(traced.matrix, jax.Array)
    np.testing.assert_allclose(traced.matrix, batch.inverse().matrix, atol=1e-6)
    np.testing.assert_array_equal(identity(3)(np.ones((2, 3))), np.ones((2, 3)))


@pytest.mark.parametrize(("size", "halo"), [(50, 0), (13, 1), (7, 2), (1, 1)])
def test_tiles_own_every_real_spot_once(size: int, halo: int) -> None:
    section = section_of(50, capacity=64)
    cut = tile(section, size=size, halo=halo)
    assert sorted(cut.rows[cut.core].tolist()) == list(range(50))
    assert cut.core.sum(1).max() <= size
    assert np.all(cut.rows[~cut.values.mask] == section.capacity)
    np.testing.assert_array_equal(cut.values.weights > 0, cut.core)
    assert not cut.values.mask[:, -1].any()
    real = cut.values.mask
    for name in ("features", "xy"):
        np.testing.assert_array_equal(
            getattr(cut.values, name)[real], np.asarray(getattr(section, name))[cut.rows[real]]
        )
    np.testing.assert_array_equal(cut.values.extra["image"][real], np.asarray(section.extra["image"])[cut.rows[real]])
    assert np.all(np.asarray(cut.values.edges.index) < cut.values.capacity)


@pytest.mark.parametrize(("hops", "exact"), [(2, True), (1, False)])
def test_a_halo_as_wide_as_the_read_out_looks_is_exact(hops: int, exact: bool) -> None:
    """Two rounds of smoothing need two hops; one hop leaves an error, and the gradient agrees as well."""
    section = section_of(50, capacity=64)

    def smooth(scale: Any, part: Any) -> Any:
        values = part.features * scale
        for _ in range(2):
            values = jnp.tanh(jnp.sum(values[part.edges.index] * part.edges.weight[..., None], axis=1))
        return values

    def total(scale: Any, part: Any) -> Any:
        return jnp.sum(smooth(scale, part) ** 2 * part.weights[:, None])

    cut = tile(section, size=12, halo=hops)
    merged = cut.scatter(jax.vmap(lambda part: smooth(1.0, part))(cut.values))
    assert np.allclose(merged, smooth(1.0, section) * section.mask[:, None], atol=1e-5) == exact
    whole = jax.grad(total)(1.0, section)
    parts = jax.vmap(lambda part: jax.grad(total)(1.0, part))(cut.values).sum()
    assert np.allclose(whole, parts, rtol=1e-4) == exact


def test_noise_keyed_by_row_is_the_same_in_core_and_halo(key: Any) -> None:
    cut = tile(section_of(50, capacity=64), size=12, halo=1)
    noise = np.asarray(jax.vmap(lambda rows: jax.vmap(jax.random.normal)(row_keys(key, rows)))(cut.rows))
    table = np.asarray(cut.scatter(jnp.asarray(noise)))
    assert np.any(cut.values.mask & ~cut.core)
    np.testing.assert_array_equal(noise[cut.values.mask], table[cut.rows[cut.values.mask]])


def test_scatter_keeps_rows_that_no_tile_owns() -> None:
    cut = tile(section_of(10, capacity=16), size=4, halo=0)
    onto = cut.scatter(jnp.zeros(cut.rows.shape), jnp.ones(16))
    np.testing.assert_array_equal(onto, np.arange(16) >= 10)
    first = jax.tree.map(lambda leaf: leaf[0], cut)
    np.testing.assert_array_equal(first.gather(jnp.arange(16))[first.core], first.rows[first.core])


def test_tiles_refuse_what_they_cannot_cut() -> None:
    section = section_of(20, capacity=32)
    with pytest.raises(ValueError, match="build its graph first"):
        tile(section.replace(edges=None), size=5, halo=1)
    with pytest.raises(ValueError, match="one section"):
        tile(stack([section, section]), size=5, halo=0)
    with pytest.raises(ValueError, match="size >= 1 and halo >= 0"):
        tile(section, size=0, halo=0)
    with pytest.raises(ValueError, match="capacity above 20 spots"):
        tile(section, size=20, halo=0, capacity=20)
    with pytest.raises(ValueError, match="at least one real spot"):
        tile(section.replace(mask=jnp.zeros(32, bool)), size=5, halo=0)


def test_cropping_cuts_per_spot_fields_only() -> None:
    """A plan of n = m = capacity and a pose table as long as the capacity stay whole."""
    poses = rigid(np.zeros(8), np.zeros((8, 2)))
    result = Alignment(
        poses, np.zeros(8), np.arange(8.0), np.ones((8, 8)), np.float32(1), np.float32(0), np.bool_(True)
    )
    cropped = crop(result, 5)
    assert cropped.overlap.shape == (5,)
    assert cropped.evidence.shape == (8,)
    assert cropped.plan.shape == (8, 8)
    assert cropped.poses.matrix.shape == (8, 2, 2)
    np.testing.assert_array_equal(result.transform.matrix, np.eye(2))
    assert crop(Embedding(np.zeros((8, 3)), np.bool_(True)), 5).values.shape == (5, 3)
