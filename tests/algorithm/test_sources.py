"""Sources: what a sweep visits, equal draws on device and host, read-outs that merge."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

from spatialjax.algorithm import Algorithm, HostSource, fit, host_row_source, row_source, tile_source
from spatialjax.slices import Neighbors, make_slice
from spatialjax.tiles import Tile, tile

N = 11
TABLE = np.random.default_rng(1).poisson(1.0, (N, 3)).astype(np.float32)


def adder() -> Algorithm:
    """Adds up the columns of the rows it is shown; reads out the sum of each row."""

    def init(key: Any, data: Any, start: Any = None) -> Any:
        return {"total": jnp.zeros(data.values["x"].shape[1]), "visits": jnp.zeros(data.size)}

    def step(key: Any, state: Any, data: Any) -> Any:
        total = state["total"] + jnp.sum(data.values["x"] * data.core[:, None], axis=0)
        visits = state["visits"].at[data.rows].add(data.core.astype(jnp.float32), mode="drop")
        return {"total": total, "visits": visits}, {"rows": data.core.sum()}

    return Algorithm(init, step, lambda key, state, data: data.values["x"].sum(1))


ADDER = adder()


@pytest.fixture(params=["device", "host", "sparse"])
def source(request: pytest.FixtureRequest, key: Any) -> Any:
    if request.param == "device":
        return row_source({"x": jnp.asarray(TABLE)}, size=4, key=key)
    return host_row_source({"x": sp.csr_matrix(TABLE) if request.param == "sparse" else TABLE}, size=4, key=key)


def test_a_sweep_visits_every_row_once(key: Any, source: Any) -> None:
    assert source.sweep == 3
    found = fit(ADDER, key, source, max_steps=source.sweep)
    np.testing.assert_array_equal(found.state["visits"], np.ones(N))
    np.testing.assert_allclose(found.state["total"], TABLE.sum(0), rtol=1e-6)
    np.testing.assert_array_equal(found.history["rows"], [4, 4, 3])


def test_read_outs_merge_into_the_order_of_the_table(key: Any, source: Any) -> None:
    """Also without a step, and each row once although the order is random."""
    found = fit(ADDER, key, source, max_steps=0).result
    assert found.tiles.shape == (3, 4)
    np.testing.assert_array_equal(found.merge(found.tiles), TABLE.sum(1))


def draws(source: Any, steps: int) -> list[np.ndarray]:
    tiles = [source.at(t) if isinstance(source, HostSource) else source.at(source.arrays, t) for t in range(steps)]
    return [np.asarray(one.rows) for one in tiles]


def test_both_sources_draw_the_same_rows_for_a_key_and_new_ones_each_sweep(key: Any) -> None:
    device, host, other = (
        draws(make({"x": TABLE}, size=4, key=k), 6)
        for make, k in ((row_source, key), (host_row_source, key), (row_source, jax.random.key(1)))
    )
    np.testing.assert_array_equal(device, host)
    assert not np.array_equal(device[:3], device[3:])
    assert not np.array_equal(device, other)


def test_two_sources_of_one_shape_share_a_compiled_program(key: Any, count_compilations: Any) -> None:
    fit(ADDER, key, row_source({"x": jnp.asarray(TABLE)}, size=4, key=key), max_steps=4)
    second = row_source({"x": jnp.asarray(TABLE) + 1}, size=4, key=jax.random.key(3))
    with count_compilations() as compiled:
        fit(ADDER, key, second, max_steps=5)
    assert compiled() == 0


def test_a_host_source_does_not_compile_for_each_step_or_each_source(key: Any, count_compilations: Any) -> None:
    fit(ADDER, key, host_row_source({"x": TABLE}, size=4, key=key), max_steps=2)
    second = host_row_source({"x": TABLE * 2}, size=4, key=key)
    with count_compilations() as compiled:
        found = fit(ADDER, key, second, max_steps=3)
    assert compiled() == 0
    np.testing.assert_allclose(found.state["total"], 2 * TABLE.sum(0), rtol=1e-6)


@pytest.mark.parametrize("how", ["map", "vmap"])
def test_members_of_a_list_may_be_sources(key: Any, how: str) -> None:
    """Host sources run one after the other in both modes."""
    members = [
        row_source({"x": jnp.asarray(TABLE)}, size=4, key=key),
        host_row_source({"x": TABLE + 1}, size=4, key=key),
        row_source({"x": jnp.asarray(TABLE) + 2}, size=4, key=key),
    ]
    found = fit(ADDER, key, members, max_steps=3, how=how)
    for i, one in enumerate(found):
        np.testing.assert_allclose(one.state["total"], (TABLE + i).sum(0), rtol=1e-6)
        np.testing.assert_allclose(one.result.merge(one.result.tiles), (TABLE + i).sum(1), rtol=1e-6)


def test_a_source_may_stand_beside_other_data(key: Any) -> None:
    algorithm = Algorithm(
        lambda key, data, start=None: jnp.zeros(3),
        lambda key, state, data: (state + data[1] * jnp.sum(data[0].values, 0), {}),
        lambda key, state, data: state,
    )
    source = row_source(jnp.asarray(TABLE), size=4, key=key)
    found = fit(algorithm, key, (source, jnp.float32(2)), max_steps=3)
    np.testing.assert_allclose(found.state, 2 * TABLE.sum(0), rtol=1e-6)


def test_a_source_of_tiles_reads_out_the_section(key: Any) -> None:
    """Mean over neighbours from tiles with a halo of one hop equals that of the whole section."""
    rng = np.random.default_rng(0)
    index = rng.integers(0, 40, (40, 3)).astype(np.int32)
    section = make_slice(
        rng.normal(size=(40, 2)), rng.uniform(0, 9, (40, 2)), edges=Neighbors(index, np.ones((40, 3), np.float32))
    )

    def smooth(part: Any) -> Any:
        return jnp.sum(part.features[part.edges.index] * part.edges.weight[..., None], axis=1)

    algorithm = Algorithm(
        lambda key, data, start=None: (),
        lambda key, state, data: ((), {}),
        lambda key, state, data: smooth(data.values),
    )
    cut = tile(section, size=12, halo=1)
    found = fit(algorithm, key, tile_source(cut), max_steps=0).result
    np.testing.assert_allclose(found.merge(found.tiles), smooth(section), atol=1e-5)
    from_host = HostSource(lambda t: jax.tree.map(lambda leaf: leaf[t % len(cut.rows)], cut), len(cut.rows))
    found = fit(algorithm, key, from_host, max_steps=0).result
    np.testing.assert_allclose(found.merge(found.tiles), smooth(section), atol=1e-5)


def test_a_vector_as_long_as_a_tile_is_not_taken_for_one_value_a_row(key: Any) -> None:
    """Merging is asked for by name: a gene vector of the tile's length stays as it is."""
    algorithm = Algorithm(
        lambda key, data, start=None: (),
        lambda key, state, data: ((), {}),
        lambda key, state, data: {"row": data.values[:, 0], "gene": jnp.arange(4.0)},
    )
    found = fit(algorithm, key, row_source(jnp.asarray(TABLE), size=4, key=key), max_steps=0).result
    np.testing.assert_array_equal(found.merge(found.tiles["row"]), TABLE[:, 0])
    np.testing.assert_array_equal(found.tiles["gene"], np.tile(np.arange(4.0), (3, 1)))


def test_unused_places_hold_zeros_and_no_row(key: Any, source: Any) -> None:
    last = source.at(2) if isinstance(source, HostSource) else source.at(source.arrays, 2)
    assert isinstance(last, Tile)
    assert last.size == N
    np.testing.assert_array_equal(np.asarray(last.rows) == N, ~np.asarray(last.core))
    assert not np.asarray(last.values["x"])[~np.asarray(last.core)].any()


def test_sources_of_different_sweeps_or_kinds_are_refused(key: Any) -> None:
    short, long = (row_source(jnp.ones((n, 1)), size=4, key=key) for n in (4, 8))
    host = host_row_source({"x": np.ones((4, 1))}, size=4, key=key)
    with pytest.raises(ValueError, match=r"sweeps of one length, found \[1, 2\]"):
        fit(ADDER, key, (short, long), max_steps=1)
    with pytest.raises(ValueError, match="all on the device or all on the host"):
        fit(ADDER, key, (short, host), max_steps=1)
    with pytest.raises(ValueError, match="same number of rows"):
        row_source({"a": jnp.ones((3, 1)), "b": jnp.ones((4, 1))}, size=2, key=key)
    with pytest.raises(ValueError, match="at least one row"):
        host_row_source({"a": np.ones((3, 1))}, size=0, key=key)
