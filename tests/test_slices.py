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
from spatialjax.slices import Neighbors, bucket, in_canonical_order, make_slice, section_members, stack, unstack
from spatialjax.tiles import row_keys, tile
from spatialjax.transforms import Affine, identity, rigid

PROPERTY = settings(max_examples=40, deadline=None, derandomize=True, database=None)
ANGLES = st.floats(-np.pi, np.pi)
LENGTHS = st.floats(-1e4, 1e4)
RIGID = st.builds(lambda a, x, y, m: rigid(a, np.array([x, y]), m), ANGLES, LENGTHS, LENGTHS, st.booleans())
POINTS = np.random.default_rng(0).normal(scale=1000.0, size=(7, 2))


@st.composite
def affine_maps(draw: Any) -> Affine:
    """Maps that can be inverted: a rotation, a stretch between 1/4 and 4 along each axis, a rigid map."""
    stretch = np.diag([draw(st.floats(0.25, 4.0)), draw(st.floats(0.25, 4.0))])
    return draw(RIGID).compose(Affine(stretch @ rigid(draw(ANGLES), np.zeros(2)).matrix, np.zeros(2)))


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": 4}, r"capacity above 4 spots \(one padding spot is kept\), found 4"),
        ({"features": np.ones((3, 2))}, "same number of rows, found 3 and 4"),
        ({"features": np.ones(4)}, r"features \(4,\)"),
        ({"xy": np.ones(4)}, r"xy \(4,\)"),
        ({"weights": np.ones(3)}, "4 rows in every array of a slice, found 3"),
        ({"extra": {"label": np.ones(5)}}, "4 rows in every array of a slice, found 5"),
        (
            {"edges": Neighbors(np.zeros((3, 1), np.int32), np.ones((4, 1)))},
            "4 rows in every array of a slice, found 3",
        ),
        (
            {"edges": Neighbors(np.zeros((4, 1), np.int32), np.ones((3, 1)))},
            "4 rows in every array of a slice, found 3",
        ),
    ],
)
def test_arrays_that_disagree_are_refused(options: dict[str, Any], message: str) -> None:
    given = {"features": np.ones((4, 2)), "xy": np.ones((4, 2)), **options}
    with pytest.raises(ValueError, match=message):
        make_slice(given.pop("features"), given.pop("xy"), **given)


def test_making_a_slice_does_not_change_its_inputs() -> None:
    index = np.zeros((4, 1), np.int32)
    features, weights = np.ones((4, 2), np.float32), np.ones(4, np.float32)
    section = make_slice(features, np.ones((4, 2)), edges=Neighbors(index, np.ones((4, 1))), weights=weights)
    assert not index.any()
    features[:], weights[:] = 7, 7
    assert section.features.max() == section.weights.max() == 1


def test_stack_and_unstack_are_inverse() -> None:
    members = [section_of(20, capacity=32, seed=seed) for seed in range(3)]
    batch = stack(members)
    assert batch.xy.shape == (3, 32, 2)
    assert batch.capacity == 32
    for one, back in zip(members, unstack(batch), strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, back)


@given(affine_maps(), affine_maps())
@PROPERTY
def test_composition_applies_the_first_map_first(second: Affine, first: Affine) -> None:
    np.testing.assert_allclose(second.compose(first)(POINTS), second(first(POINTS)), rtol=1e-9, atol=1e-6)


@given(affine_maps())
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


@given(affine_maps(), affine_maps(), affine_maps())
@PROPERTY
def test_maps_form_a_group(a: Affine, b: Affine, c: Affine) -> None:
    """Composition is associative, the identity changes nothing, an inverse turns the order round."""
    far = np.abs(a(b(c(POINTS)))).max()
    for one, other in (
        (a.compose(b).compose(c), a.compose(b.compose(c))),
        (a.compose(identity()), a),
        (identity().compose(a), a),
        (a.inverse().inverse(), a),
        (a.compose(b).inverse(), b.inverse().compose(a.inverse())),
    ):
        np.testing.assert_allclose(one(POINTS), other(POINTS), atol=1e-9 * (1 + far))


def test_a_known_rigid_map() -> None:
    """A quarter turn counter-clockwise after turning y over, then a shift."""
    quarter = rigid(np.pi / 2, np.array([10.0, 0.0]), True)
    np.testing.assert_allclose(quarter(np.array([[1.0, 2.0]])), [[12.0, 1.0]], atol=1e-12)


@pytest.mark.parametrize("xp", [np, jnp])
def test_angles_shifts_and_parities_are_broadcast(xp: Any) -> None:
    """Each member of such a batch has a shift of its own, whatever was given once."""
    angles, shift, center = xp.asarray([0.1, 2.0, -1.0]), xp.asarray([3.0, -4.0]), xp.asarray([1.0, 1.0])
    for batch in (
        rigid(angles, shift, True),
        rigid(angles, shift, center=center),
        rigid(0.1, shift[None] + angles[:, None]),
    ):
        assert isinstance(batch.shift, jax.Array) is (xp is jnp)
        assert (batch.matrix.shape, batch.shift.shape) == ((3, 2, 2), (3, 2))
        assert batch[1].shift.shape == (2,)


def test_a_map_has_the_derivative_of_its_equation() -> None:
    points = jnp.asarray([[1.0, 0.0]])
    slope = jax.jit(jax.grad(lambda angle: rigid(angle, jnp.zeros(2))(points)[0, 1]))(0.0)
    np.testing.assert_allclose(slope, 1.0, rtol=1e-6)


def test_single_precision_stays_single() -> None:
    pose = rigid(np.float32(0.3), np.zeros(2, np.float32), True, center=np.ones(2, np.float32))
    assert pose.matrix.dtype == pose.shift.dtype == np.float32


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


@jax.jit
def smooth(batch: Any) -> Any:
    """Two rounds of smoothing of each section of a batch, and the gradient of their weighted sum of squares."""

    def total(scale: Any, part: Any) -> Any:
        values = part.features * scale
        for _ in range(2):
            values = jnp.tanh(jnp.sum(values[part.edges.index] * part.edges.weight[..., None], axis=1))
        return jnp.sum(values**2 * part.weights[:, None]), values

    return jax.vmap(jax.grad(total, has_aux=True), in_axes=(None, 0))(1.0, batch)


@pytest.mark.parametrize(("hops", "exact"), [(2, True), (1, False)])
def test_a_halo_as_wide_as_the_read_out_looks_is_exact(hops: int, exact: bool) -> None:
    """Two rounds of smoothing need two hops; one hop leaves an error, and the gradient agrees as well."""
    section = section_of(50, capacity=64)
    cut = tile(section, size=12, halo=hops, capacity=64)
    whole_slope, whole = smooth(jax.tree.map(lambda leaf: leaf[None], section))
    slopes, parts = smooth(cut.values)
    assert np.allclose(cut.scatter(parts), whole[0] * section.mask[:, None], atol=1e-5) == exact
    assert np.allclose(whole_slope[0], slopes.sum(), rtol=1e-4) == exact


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


def strip(n: int = 20) -> Any:
    """Spots on a line, each the neighbour of the next and the one before."""
    index = np.clip(np.stack([np.arange(n) - 1, np.arange(n) + 1], 1), 0, n - 1).astype(np.int32)
    weight = (index != np.arange(n)[:, None]).astype(np.float32)
    xy = np.stack([np.arange(n) * 10.0, np.zeros(n)], 1)
    extra = {"label": np.arange(n)}
    return make_slice(np.arange(n)[:, None] + 1.0, xy, edges=Neighbors(index, weight), extra=extra)


def test_a_halo_counts_hops_and_neighbours_are_re_indexed() -> None:
    """The halo of a stretch of a line is two spots at either end; edges that leave the tile weigh nothing."""
    tiles = tile(strip(), size=5, halo=2)
    for rows, core, part in zip(tiles.rows, tiles.core, unstack(tiles.values), strict=True):
        own = np.sort(rows[core])
        shown = np.sort(rows[part.mask])
        np.testing.assert_array_equal(shown, np.arange(max(own[0] - 2, 0), min(own[-1] + 3, 20)))
        np.testing.assert_array_equal(part.extra["label"][part.mask], rows[part.mask])
        np.testing.assert_array_equal(part.features[part.mask, 0], rows[part.mask] + 1)
        used = part.edges.weight > 0
        place = np.broadcast_to(np.arange(len(rows))[:, None], used.shape)
        assert (np.abs(rows[part.edges.index] - rows[place])[used] == 1).all()
        np.testing.assert_array_equal(part.edges.index[~used], place[~used])
        ends = (shown[0] > 0) + (shown[-1] < 19)
        assert used.sum() == 2 * len(shown) - 2
        assert ends >= 1
        assert (rows[~part.mask] == tiles.size).all()


def test_tiles_of_a_plane_are_compact() -> None:
    """A square of 64 spots in 4 tiles gives quarters, not stripes."""
    xy = np.stack(np.meshgrid(np.arange(8.0), np.arange(8.0)), -1).reshape(-1, 2)
    tiles = tile(make_slice(xy, xy), size=16, halo=0)
    assert len(tiles.rows) == 4
    for part in unstack(tiles.values):
        np.testing.assert_array_equal(np.ptp(part.xy[part.mask], axis=0), [3, 3])


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


def test_a_result_that_cropping_does_not_know_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Alignment.*Embedding.*found dict: add it to PER_SPOT"):
        crop({"values": jnp.ones(8)}, 5)


def test_members_name_the_section_of_each_real_spot():
    """Numbers need not be consecutive, padding belongs to no section, and without numbers there is one section."""
    number = np.array([7, 2, 7], np.int32)
    both = make_slice(np.zeros((3, 1)), np.zeros((3, 2)), capacity=5, extra={"section": number})
    np.testing.assert_array_equal(section_members(both), [[0, 1], [1, 0], [0, 1], [0, 0], [0, 0]])
    alone = make_slice(np.zeros((3, 1)), np.zeros((3, 2)), capacity=5)
    np.testing.assert_array_equal(section_members(alone)[:, 0], [1, 1, 1, 0, 0])


def test_the_canonical_order_does_not_depend_on_the_order_of_the_caller():
    """A permuted section is sorted to the same arrays, edges with it, and the places lead back; padding stays last."""
    rng = np.random.default_rng(3)
    xy, values = rng.integers(0, 3, (12, 2)).astype(float), rng.normal(size=(12, 2))
    index = (np.arange(12)[:, None] + [1, 2]) % 12
    number = (np.arange(12) % 2).astype(np.int32)
    order = rng.permutation(12)
    back = np.argsort(order)
    weight = np.ones((12, 2), np.float32)
    one = make_slice(values, xy, capacity=16, edges=Neighbors(index, weight), extra={"section": number})
    moved = Neighbors(back[index[order]], weight)
    two = make_slice(values[order], xy[order], capacity=16, edges=moved, extra={"section": number[order]})
    (first, place), (second, _) = in_canonical_order(one), in_canonical_order(two)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(np.asarray(first.features)[place], one.features)
    assert first.mask[:12].all() and (np.diff(np.asarray(first.extra["section"])[:12]) >= 0).all()
