"""``until``, ``collect`` and ``reduce_tiles``."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialjax.algorithm import Algorithm, Chain, Reducer, collect, draws, fit, moments, reduce_tiles, until
from spatialjax.slices import Neighbors, make_slice
from spatialjax.tiles import row_keys, tile


def decay() -> Algorithm:
    """Falls geometrically to a floor that differs between members."""

    def step(key: Any, state: Any, data: Any) -> Any:
        state = jnp.maximum(0.5 * state, data["floor"])
        return state, {"loss": state, "other": -state}

    return Algorithm(lambda key, data, start=None: jnp.float32(1), step, lambda key, state, data: state)


def walk() -> Algorithm:
    """Independent standard normal draws."""
    return Algorithm(
        lambda key, data, start=None: jnp.zeros(2),
        lambda key, state, data: (jax.random.normal(key, (2,)), {"x": 0.0}),
        lambda key, state, data: state,
    )


DECAY, WALK = decay(), walk()
#: Halved from 1, the floor 2^-k is first reached after k steps.
MEMBERS = [{"floor": jnp.float32(2.0**-k)} for k in (3, 6, 4)]


@pytest.mark.parametrize("how", ["map", "vmap"])
@pytest.mark.parametrize("chunk", [1, 50])
def test_until_stops_each_member_by_itself_whatever_the_chunk(key: Any, how: str, chunk: int) -> None:
    """Three steps without a fall after the floor: not at the end of a chunk."""
    found = fit(until(DECAY, 3), key, MEMBERS, max_steps=50, how=how, chunk=chunk)
    assert [one.steps for one in found] == [6, 9, 7]
    assert {one.status for one in found} == {"done"}
    assert [float(one.result) for one in found] == [2.0**-3, 2.0**-6, 2.0**-4]


def test_until_counts_only_falls_beyond_the_tolerance(key: Any) -> None:
    """Halving is a fall of 50 %: with a tolerance of 60 % only the first step counts as one."""
    assert fit(until(DECAY, 1, tolerance=0.6), key, MEMBERS[1], max_steps=50).steps == 2
    assert fit(until(DECAY, 1, tolerance=0.4), key, MEMBERS[1], max_steps=50).steps == 7


def test_until_watches_the_number_it_is_told_and_keeps_an_own_end(key: Any) -> None:
    ends = Algorithm(DECAY.init, lambda key, state, data: (state, {"loss": 1.0, "done": True}), DECAY.readout)
    assert fit(until(ends, 10), key, MEMBERS[0], max_steps=50).steps == 1
    assert fit(until(DECAY, 4, monitor="other"), key, MEMBERS[1], max_steps=50).steps == 5
    with pytest.raises(ValueError, match=r"one of \['loss', 'other'\], found 'elbo'"):
        fit(until(DECAY, 2, monitor="elbo"), key, MEMBERS[0], max_steps=1)
    with pytest.raises(ValueError, match="patience >= 1"):
        until(DECAY, 0)


def test_phases_of_a_chain_are_wrapped_one_by_one(key: Any) -> None:
    chain = Chain(until(DECAY, 3), lambda fitted, data: ({"floor": data["floor"] / 4}, None), until(DECAY, 3))
    found = fit(chain, key, MEMBERS, max_steps=(50, 50))
    assert [one.steps for one in found] == [(6, 8), (9, 11), (7, 9)]


@pytest.mark.parametrize(("every", "after"), [(1, 0), (3, 0), (2, 5)])
def test_collect_sees_the_states_it_should(key: Any, every: int, after: int) -> None:
    """Draws and moments agree with the states of shorter runs."""
    states = np.stack([fit(WALK, key, jnp.ones(1), max_steps=t).state for t in range(1, 13)])
    seen = states[after:][every - 1 :: every]
    stored = fit(collect(WALK, lambda s: s, draws(20), every=every, after=after), key, jnp.ones(1), max_steps=12).result
    np.testing.assert_array_equal(stored.collected["draws"][: len(seen)], seen)
    assert stored.collected["count"] == len(seen)
    np.testing.assert_array_equal(stored.result, states[-1])
    running = fit(collect(WALK, lambda s: s, moments(), every=every, after=after), key, jnp.ones(1), max_steps=12)
    np.testing.assert_allclose(running.result.collected["mean"], seen.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(running.result.collected["variance"], seen.var(0, ddof=1), rtol=1e-4)


def test_draws_keep_the_latest_in_order(key: Any) -> None:
    states = np.stack([fit(WALK, key, jnp.ones(1), max_steps=t).state for t in range(1, 8)])
    kept = fit(collect(WALK, lambda s: s, draws(4)), key, jnp.ones(1), max_steps=7).result.collected
    np.testing.assert_array_equal(kept["draws"], states[3:])
    assert kept["count"] == 7


def test_collect_does_no_work_in_between(key: Any) -> None:
    calls: list[int] = []

    def update(memory: Any, value: Any) -> Any:
        jax.debug.callback(lambda: calls.append(1))
        return memory + value

    reducer = Reducer(lambda value: value * 0, update, lambda memory: memory)
    fit(collect(WALK, lambda s: s, reducer, every=5), key, jnp.ones(1), max_steps=11)
    jax.effects_barrier()
    assert len(calls) == 2


def grid_section(capacity: int) -> Any:
    """A 7 x 9 grid of two noisy halves with four neighbours a spot."""
    rng = np.random.default_rng(0)
    xy = np.stack(np.meshgrid(np.arange(9), np.arange(7)), -1).reshape(-1, 2)
    n = len(xy)
    distance = np.abs(xy[:, None] - xy[None]).sum(-1)
    index = np.argsort(distance + 99 * np.eye(n), axis=1, kind="stable")[:, :4]
    weight = (np.take_along_axis(distance, index, 1) == 1).astype(np.float32)
    features = (xy[:, :1] > 4) * 2.0 + rng.normal(0, 0.7, (n, 1))
    edges = Neighbors(np.where(weight > 0, index, np.arange(n)[:, None]).astype(np.int32), weight)
    return make_slice(features, xy, capacity=capacity, edges=edges, extra={"row": np.arange(n)})


def potts() -> Algorithm:
    """Two Gaussian classes with a Potts prior: conditional modes of the labels, then the means."""

    def init(key: Any, data: Any) -> Any:
        tiles = data[0]
        first = (tiles.values.features[..., 0] > 1.5).astype(jnp.int32)
        return jnp.array([0.0, 1.5]), {"label": tiles.scatter(first)}

    def statistics(key: Any, means: Any, rows: Any, data: Any) -> Any:
        part, strength = data
        section = part.values
        energy = (section.features - means) ** 2
        same = rows["label"][section.edges.index][..., None] == jnp.arange(2)
        energy = energy - strength * jnp.sum(same * section.edges.weight[..., None], axis=1)
        noise = jax.vmap(jax.random.normal)(row_keys(key, part.rows))
        label = jnp.argmin(energy + 1e-3 * noise[:, None] * jnp.arange(2), axis=1).astype(jnp.int32)
        member = (label[:, None] == jnp.arange(2)) * part.core[:, None]
        sums = (jnp.sum(member, 0), jnp.sum(member * section.features, 0))
        changed = jnp.sum((label != rows["label"]) & part.core)
        return (*sums, changed), {"label": label}

    def update(key: Any, means: Any, sums: Any) -> Any:
        count, total, changed = sums
        return total / jnp.maximum(count, 1), {"changed": changed, "done": changed == 0}

    return reduce_tiles(init, statistics, update, readout=lambda key, means, tables, data: (means, tables["label"]))


POTTS = potts()


@pytest.mark.parametrize("size", [63, 20, 7])
def test_sums_over_tiles_do_not_depend_on_the_cut(key: Any, size: int) -> None:
    """Labels equal and means to rounding those of the section in one piece; noise keyed by row; it finishes."""
    section = grid_section(64)
    whole = fit(POTTS, key, (tile(section, size=63, halo=0), jnp.float32(0.5)), max_steps=30)
    cut = tile(section, size=size, halo=1)
    assert len(cut.rows) >= 63 // size
    found = fit(POTTS, key, (cut, jnp.float32(0.5)), max_steps=30)
    assert found.status == whole.status == "done"
    np.testing.assert_array_equal(found.result[1], whole.result[1])
    np.testing.assert_allclose(found.result[0], whole.result[0], rtol=1e-5)
    np.testing.assert_array_equal(found.history["changed"], whole.history["changed"])
    assert found.history["changed"][0] > 0


def test_tiles_read_the_old_table_only(key: Any) -> None:
    """Each row takes the value of its left neighbour: one step moves values by one place, not along a whole row."""
    n = 12
    index = np.maximum(np.arange(n) - 1, 0)[:, None].astype(np.int32)
    xy = np.stack([np.arange(n), np.zeros(n)], 1)
    section = make_slice(np.zeros((n, 1)), xy, capacity=n + 1, edges=Neighbors(index, np.ones((n, 1), np.float32)))
    shift = reduce_tiles(
        lambda key, data: ((), jnp.arange(n + 1.0)),
        lambda key, shared, rows, part: (jnp.sum(part.core), rows[part.values.edges.index[:, 0]]),
        lambda key, shared, sums: (shared, {"count": sums}),
        readout=lambda key, shared, table, data: table[:n],
    )
    found = fit(shift, key, tile(section, size=3, halo=1), max_steps=1)
    np.testing.assert_array_equal(found.result, index[:, 0])
    np.testing.assert_array_equal(found.history["count"], [n])
    assert fit(shift, key, tile(section, size=3, halo=1), max_steps=0, start=((), jnp.zeros(n + 1))).result.sum() == 0
