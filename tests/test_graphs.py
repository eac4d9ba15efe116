"""Neighbourhoods: builders against brute force, degenerate sections, the jraph padding."""

from __future__ import annotations

import jax
import jraph
import numpy as np
import pytest

from spatialjax import graphs
from spatialjax.slices import Neighbors, make_slice


def pairs_of(table: Neighbors) -> set[tuple[int, int]]:
    """Directed edges of a table."""
    matrix = graphs.adjacency(table).tocoo()
    return set(zip(matrix.row.tolist(), matrix.col.tolist(), strict=True))


def hexagons(width: int, pitch: float = 100.0) -> np.ndarray:
    """A hexagonal lattice of ``width`` × ``width`` spots."""
    i, j = np.meshgrid(np.arange(width), np.arange(width), indexing="ij")
    return pitch * np.stack([j + 0.5 * (i % 2), i * np.sqrt(3) / 2], -1).reshape(-1, 2)


def test_knn_agrees_with_brute_force(rng):
    xy = rng.uniform(0, 1000, (60, 2))
    table = graphs.knn(xy, 5)
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    np.testing.assert_array_equal(table.index, np.argsort(distance, axis=1)[:, :5])
    assert (table.weight == 1).all()


def test_knn_max_distance_leaves_isolated_spots_with_empty_rows(rng):
    xy = np.concatenate([rng.uniform(0, 10, (20, 2)), [[1e4, 1e4]]])
    table = graphs.knn(xy, 4, max_distance=50.0)
    assert table.weight[-1].sum() == 0 and (table.index[-1] == 20).all()
    assert (table.weight[:-1] == 1).all()


def test_knn_of_fewer_spots_than_k_and_of_one_spot():
    table = graphs.knn(np.array([[0.0, 0], [1, 0], [5, 0]]), 6)
    assert table.index.shape == (3, 6)
    np.testing.assert_array_equal(table.weight.sum(1), [2, 2, 2])
    np.testing.assert_array_equal(table.index[0], [1, 2, 0, 0, 0, 0])
    alone = graphs.knn(np.zeros((1, 2)), 3)
    assert alone.weight.sum() == 0 and (alone.index == 0).all()


def test_duplicates_are_neighbours_and_never_their_own(rng):
    xy = np.repeat(rng.uniform(0, 100, (4, 2)), 8, axis=0)
    for table in (graphs.knn(xy, 3), graphs.radius(xy, 1.0), graphs.delaunay(xy)):
        edges = pairs_of(table)
        assert all(a != b for a, b in edges)
        assert {a for a, _ in edges} == set(range(32))
    nearest = graphs.knn(xy, 3).index
    np.testing.assert_array_equal(nearest // 8, np.repeat(np.arange(32) // 8, 3).reshape(32, 3))


def test_symmetric_knn_is_the_union_of_both_directions(rng):
    xy = rng.normal(size=(80, 2))
    one, both = pairs_of(graphs.knn(xy, 4)), pairs_of(graphs.knn(xy, 4, symmetric=True))
    assert both == one | {(b, a) for a, b in one}
    assert both != one


def test_radius_agrees_with_brute_force(rng):
    xy = rng.uniform(0, 100, (50, 3))
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=-1)
    expected = {(a, b) for a, b in np.argwhere(distance <= 30) if a != b}
    assert pairs_of(graphs.radius(xy, 30.0)) == expected


def test_lattices_have_six_and_four_direct_neighbours():
    for xy, degree in ((hexagons(9), 6), (100.0 * np.argwhere(np.ones((9, 9))), 4)):
        count = np.asarray(graphs.lattice(xy).weight).sum(1)
        assert count.max() == degree
        assert np.median(count) == degree


def test_delaunay_cuts_bridges_and_keeps_the_mean_degree(rng):
    left = rng.uniform(0, 1000, (200, 2))
    xy = np.concatenate([left, left + [5000, 0]])
    cut = pairs_of(graphs.delaunay(xy))
    assert not any((a < 200) != (b < 200) for a, b in cut)
    assert any((a < 200) != (b < 200) for a, b in pairs_of(graphs.delaunay(xy, relative_length=None)))
    assert 5.2 < len(cut) / len(xy) < 6.0
    limited = graphs.adjacency(graphs.delaunay(xy, max_length=60.0)).tocoo()
    assert np.linalg.norm(xy[limited.row] - xy[limited.col], axis=1).max() <= 60.0


def test_delaunay_of_a_line_of_two_spots_and_of_one_spot():
    line = np.stack([np.array([3.0, 0, 1, 2]), np.zeros(4)], 1)
    assert pairs_of(graphs.delaunay(line)) == {(1, 2), (2, 1), (2, 3), (3, 2), (3, 0), (0, 3)}
    assert pairs_of(graphs.delaunay(line[:2])) == {(0, 1), (1, 0)}
    assert pairs_of(graphs.delaunay(line[:1])) == set()


def test_delaunay_does_not_depend_on_a_large_offset(rng):
    xy = rng.uniform(0, 1000, (100, 2))
    assert pairs_of(graphs.delaunay(xy + 1e7)) == pairs_of(graphs.delaunay(xy))


def test_cross_slice_finds_the_nearest_of_the_other_section(rng):
    a, b = rng.uniform(0, 100, (30, 3)), rng.uniform(0, 100, (40, 3))
    table = graphs.cross_slice(a, b, 2, max_distance=25.0)
    distance = np.linalg.norm(a[:, None] - b[None], axis=-1)
    expected = {(i, j) for i in range(30) for j in np.argsort(distance[i])[:2] if distance[i, j] <= 25}
    matrix = graphs.adjacency(table, columns=40).tocoo()
    assert set(zip(matrix.row, matrix.col, strict=True)) == expected
    assert graphs.cross_slice(a, b[:1], 3).index.shape == (30, 3)
    with pytest.raises(ValueError, match="equal dimension"):
        graphs.cross_slice(a, b[:, :2], 2)


def test_smoothing_matrix_averages_rows_and_keeps_isolated_spots(rng):
    xy = np.concatenate([rng.uniform(0, 10, (20, 2)), [[1e4, 0]]])
    matrix = graphs.smoothing_matrix(graphs.knn(xy, 4, max_distance=100.0))
    np.testing.assert_allclose(np.asarray(matrix.sum(1)).ravel(), 1.0)
    values = rng.normal(size=21)
    expected = (values[:20] + values[graphs.knn(xy, 4).index[:20]].sum(1)) / 5
    np.testing.assert_allclose((matrix @ values)[:20], expected)
    assert (matrix @ values)[20] == values[20]


def test_spacing_of_lattices_random_points_and_one_spot(rng):
    found = graphs.spacing(hexagons(20))
    assert found.nearest == pytest.approx(100.0)
    assert found.pitch == pytest.approx(100 * np.sqrt(np.pi / 6))
    assert graphs.spacing(rng.uniform(0, 1000, (4000, 2))).pitch == pytest.approx(1000 / np.sqrt(4000), rel=0.06)
    assert graphs.spacing(np.repeat(hexagons(20), 2, axis=0)) == found
    assert np.isnan(graphs.spacing(np.zeros((3, 2))).nearest)
    assert graphs.spacing(np.array([[0.0, 0], [7, 0]])).nearest == 7.0


def test_steps_of_a_lattice_count_a_place_once_and_are_what_costs_and_units_use(rng):
    """Doublets are one place; one place has no step; the median is ``Spacing.nearest`` and the pitch of transport."""
    from spatialjax.transport import pitch

    xy = np.array([[0.0, 0], [0, 0], [0, 0], [3, 0], [6, 0]])
    assert graphs.lattice_steps(xy).tolist() == [3, 3, 3]
    assert graphs.lattice_steps(xy[:3]).shape == (0,) and pitch(xy[:3]) == 1.0
    cells = rng.uniform(0, 1000, (300, 2))
    assert np.median(graphs.lattice_steps(cells)) == graphs.spacing(cells).nearest == pitch(cells, cells[:1])


def test_permuting_the_spots_permutes_the_neighbours(rng):
    xy = rng.uniform(0, 1000, (80, 2))
    order = rng.permutation(80)
    for build in (
        lambda xy: graphs.knn(xy, 5, symmetric=True),
        lambda xy: graphs.radius(xy, 150.0),
        graphs.delaunay,
    ):
        expected = {(a, b) for a, b in pairs_of(build(xy))}
        assert {(int(order[a]), int(order[b])) for a, b in pairs_of(build(xy[order]))} == expected


@pytest.mark.parametrize("xy", [np.zeros((0, 2)), np.zeros(4), np.array([[0.0, np.nan]])])
def test_bad_coordinates_are_refused_with_one_message(xy):
    with pytest.raises(ValueError, match="Expected"):
        graphs.knn(xy, 2)


@pytest.mark.parametrize("capacity", [16, 24])
def test_graphs_tuple_sums_the_neighbours_and_padding_touches_no_real_spot(rng, capacity):
    xy = rng.uniform(0, 10, (10, 2))
    table = graphs.knn(xy, 4, max_distance=4.0)
    features = rng.normal(size=(10, 3)).astype(np.float32)
    graph = jax.jit(graphs.to_graphs_tuple)(make_slice(features, xy, capacity=capacity, edges=table))
    messages = graph.nodes["features"][graph.senders] * graph.edges["weight"][:, None]
    total = jax.ops.segment_sum(messages, graph.receivers, capacity)
    np.testing.assert_allclose(total[:10], graphs.adjacency(table) @ features, atol=1e-5)
    real = int(graph.n_edge[0])
    assert real == int(table.weight.sum()) < 40
    assert (graph.senders[real:] == capacity - 1).all() and (graph.receivers[real:] == capacity - 1).all()
    assert graph.n_node.tolist() == [10, capacity - 10] and int(graph.n_edge.sum()) == 4 * capacity
    assert int(jraph.get_number_of_padding_with_graphs_nodes(graph)) == capacity - 10
    assert jraph.get_edge_padding_mask(graph).tolist() == [place < real for place in range(4 * capacity)]
    offset = xy[graph.senders[:real]] - xy[graph.receivers[:real]]
    np.testing.assert_allclose(graph.edges["offset"][:real], offset, atol=1e-5)


def test_graphs_tuple_needs_edges_and_one_section(rng):
    section = make_slice(np.zeros((3, 1)), np.arange(6.0).reshape(3, 2))
    with pytest.raises(ValueError, match="neighbour table"):
        graphs.to_graphs_tuple(section)


def test_sections_put_together_get_graphs_of_their_own_that_never_meet(rng):
    """Interleaved rows of two sections on one place: the edges are those of each section alone."""
    xy = rng.uniform(0, 10, (20, 2))
    number = np.arange(20) % 2
    joined = make_slice(np.zeros((20, 1)), xy, capacity=24, extra={"section": number.astype(np.int32)})
    joined = graphs.within_sections(joined, lambda own: graphs.knn(own, 3))
    found = pairs_of(joined.edges)
    for each in range(2):
        rows = np.flatnonzero(number == each)
        alone = {(int(rows[i]), int(rows[j])) for i, j in pairs_of(graphs.knn(xy[rows], 3))}
        assert {pair for pair in found if number[pair[0]] == each} == alone
    np.testing.assert_array_equal(joined.edges.index[20:], np.repeat(np.arange(20, 24)[:, None], 3, 1))


def test_a_section_that_brings_its_graph_keeps_it(rng):
    """Edges of the caller, e.g. across sections, are used as they are; without a number there is one section."""
    xy = rng.uniform(0, 10, (12, 2)).astype(np.float32)
    table = graphs.knn(xy, 2)
    given = make_slice(np.zeros((12, 1)), xy, edges=table)
    assert graphs.within_sections(given, lambda own: graphs.knn(own, 5)) is given
    bare = graphs.within_sections(make_slice(np.zeros((12, 1)), xy), lambda own: graphs.knn(own, 2))
    assert pairs_of(bare.edges) == pairs_of(table)


def test_a_reach_in_pitches_finds_the_same_neighbours_whatever_the_unit(rng):
    """Six on a hexagonal lattice, eight on a square one, about eight at random; none for a lone spot."""
    column, row = (each.ravel() for each in np.meshgrid(np.arange(15.0), np.arange(15.0)))
    inside = (np.abs(column - 7) < 5) & (np.abs(row - 7) < 5)
    hexagonal = np.stack([column + 0.5 * (row % 2), row * np.sqrt(3) / 2], 1)
    for lattice, count in ((hexagonal, 6), (np.stack([column, row], 1), 8)):
        for unit in (1e-3, 137.0):
            degree = graphs.scaled_radius(unit * lattice, 1.6).weight.sum(1)
            assert (degree[inside] == count).all()
    random = rng.uniform(0, 1, (3000, 2))
    assert abs(graphs.scaled_radius(random, 1.6).weight.sum(1).mean() - 8.0) < 0.8
    assert not graphs.scaled_radius(np.zeros((1, 2)), 1.6).weight.any()
