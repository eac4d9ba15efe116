"""Adaptors and combinators against references by hand: numpy, loops over the rows, the whole section in one piece."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spatialjax.algorithm import (
    Algorithm,
    Model,
    collect,
    draws,
    fit,
    host_row_source,
    joint,
    minimize,
    moments,
    reduce_tiles,
    row_source,
    tile_source,
    until,
)
from spatialjax.graphs import knn
from spatialjax.slices import Slice, make_slice, stack, unstack
from spatialjax.tiles import tile

ROWS, FACTORS, GENES = 11, 2, 5
KINDS, PULL = 3, 0.4
FIRST_MEANS = np.array([[-2.0, -2.0], [0.0, 0.0], [2.0, 2.0]])


def factor_model() -> Model:
    """``y ≈ codes @ genes`` on a tile of rows: codes are a local table, genes are shared."""

    def init(key: Any, data: Any) -> Any:
        one, two = jax.random.split(key)
        codes = jax.random.normal(one, (data.size, FACTORS))
        return {"codes": codes, "genes": jax.random.normal(two, (FACTORS, GENES))}, ()

    def loss(params: Any, aux: Any, key: Any, data: Any) -> Any:
        miss = ((params["codes"] @ params["genes"] - data.values["y"]) ** 2).sum(1)
        return (jnp.where(data.core, miss, 0).sum(), data.core.sum().astype(jnp.float32)), (aux, {})

    return Model(init, loss, lambda key, params, aux, data: params["codes"] @ params["genes"])


class Adam:
    """Adam as Kingma and Ba wrote it, for the rows that it is given; each row counts its own time."""

    def __init__(self, shape: tuple[int, ...], rate: float) -> None:
        self.m, self.v, self.t, self.rate = np.zeros(shape), np.zeros(shape), np.zeros((shape[0], 1)), rate

    def move(self, x: np.ndarray, slope: np.ndarray, rows: Any) -> None:
        self.t[rows] += 1
        self.m[rows] = 0.9 * self.m[rows] + 0.1 * slope
        self.v[rows] = 0.999 * self.v[rows] + 0.001 * slope**2
        m, v = self.m[rows] / (1 - 0.9 ** self.t[rows]), self.v[rows] / (1 - 0.999 ** self.t[rows])
        x[rows] -= self.rate * m / (np.sqrt(v) + 1e-8)


@pytest.mark.parametrize("host", [False, True])
def test_local_and_shared_groups_follow_a_dense_reference(key: Any, rng: np.random.Generator, host: bool) -> None:
    """Minibatches over 3.x sweeps, of a source on the device and on the host: losses, parameters, visits, read-out."""
    y = rng.normal(size=(ROWS, GENES)).astype(np.float32)
    make = host_row_source if host else row_source
    source: Any = make({"y": y}, size=4, key=jax.random.key(7))
    algorithm = minimize(factor_model(), optax.adam(0.05), local=("codes",))
    found = fit(algorithm, key, source, max_steps=10)

    begin = fit(algorithm, key, source, max_steps=0).state.params
    codes, genes = (np.array(begin[name], np.float64) for name in ("codes", "genes"))
    own, common, losses = Adam(codes.shape, 0.05), Adam(genes.shape, 0.05), []
    for t in range(10):
        rows = np.asarray((source.at(t) if host else source.at(source.arrays, t)).rows)
        rows = rows[rows < ROWS]
        miss = codes[rows] @ genes - y[rows]
        losses.append((miss**2).sum() / len(rows))
        slopes = 2 * miss @ genes.T / len(rows), 2 * codes[rows].T @ miss / len(rows)
        own.move(codes, slopes[0], rows)
        common.move(genes, slopes[1], slice(None))
    assert 2 < own.t.min() < own.t.max() < 5
    np.testing.assert_array_equal(found.state.local_moments[0].count, own.t[:, 0])
    np.testing.assert_allclose(found.history["loss"], losses, rtol=1e-4)
    np.testing.assert_allclose(found.state.params["codes"], codes, atol=2e-5)
    np.testing.assert_allclose(found.state.params["genes"], genes, atol=2e-5)
    np.testing.assert_allclose(found.result.merge(found.result.tiles), codes @ genes, atol=2e-4)


def section_model() -> Model:
    """Regression of the first feature on the rest, with a slope for all sections and an offset for each."""

    def init(key: Any, data: Slice) -> Any:
        one, two = jax.random.split(key)
        slope = jax.random.normal(one, (data.features.shape[-1] - 1,))
        return {"slope": slope, "offset": {"value": jax.random.normal(two)}}, {"mean": jnp.float32(0)}

    def predict(params: Any, data: Slice) -> Any:
        return data.features[:, 1:] @ params["slope"] + params["offset"]["value"]

    def loss(params: Any, aux: Any, key: Any, data: Slice) -> Any:
        miss = predict(params, data) - data.features[:, 0] + 0.1 * jax.random.normal(key)
        total, weight = (data.weights * miss**2).sum(), data.weights.sum()
        mean = (data.weights * data.features[:, 0]).sum() / weight
        return (total, weight), ({"mean": mean}, {"bias": (data.weights * miss).sum() / weight})

    return Model(init, loss, lambda key, params, aux, data: predict(params, data))


@pytest.mark.parametrize("how", ["scan", "vmap"])
def test_joint_is_a_loop_over_unequal_sections(
    key: Any, rng: np.random.Generator, strict_numerics: None, how: Any
) -> None:
    """Loss, gradients of both groups, statistics and metrics: sums over the sections divided by the sum of weights."""
    sections = stack([make_slice(rng.normal(size=(n, 4)), rng.normal(size=(n, 2)), capacity=16) for n in (5, 9, 13)])
    model = section_model()
    shared = joint(model, ("offset",), how=how)
    params, aux = jax.jit(shared.init)(key, sections)
    assert len(np.unique(params["offset"]["value"])) == 3

    def together(params: Any) -> Any:
        (total, weight), rest = shared.loss(params, aux, key, sections)
        return total / weight, rest

    def one_by_one(params: Any) -> Any:
        total = weight = mean = bias = jnp.float32(0)
        for number, section in enumerate(unstack(sections)):
            own = {"slope": params["slope"], "offset": {"value": params["offset"]["value"][number]}}
            (part, size), (new, metrics) = model.loss(own, aux, jax.random.fold_in(key, number), section)
            total, weight = total + part, weight + size
            mean, bias = mean + size * new["mean"], bias + size * metrics["bias"]
        return total / weight, ({"mean": mean / weight}, {"bias": bias / weight})

    found, wanted = (jax.jit(jax.value_and_grad(f, has_aux=True))(params) for f in (together, one_by_one))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, wanted)
    assert np.all(np.abs(np.asarray(found[1]["offset"]["value"])) > 1e-3)


def two_hops() -> Model:
    """Two layers that average over neighbours, so that a spot sees the spots two hops away."""

    def near(values: Any, data: Slice) -> Any:
        weight = data.edges.weight[..., None]
        return (values[data.edges.index] * weight).sum(-2) / (weight.sum(-2) + 1e-6)

    def init(key: Any, data: Slice) -> Any:
        one, two = jax.random.split(key)
        genes = data.features.shape[-1]
        return {"in": jax.random.normal(one, (genes, 4)), "out": jax.random.normal(two, (4, genes))}, ()

    def predict(params: Any, data: Slice) -> Any:
        return near(jnp.tanh(near(data.features, data) @ params["in"]), data) @ params["out"]

    def loss(params: Any, aux: Any, key: Any, data: Slice) -> Any:
        miss = ((predict(params, data) - data.features) ** 2).mean(-1)
        return ((data.weights * miss).sum(), data.weights.sum()), (aux, {})

    return Model(init, loss, lambda key, params, aux, data: predict(params, data))


@pytest.fixture
def graph(rng: np.random.Generator) -> Slice:
    """90 scattered spots in random order with five neighbours each."""
    xy = rng.uniform(0, 1000, (90, 2))
    return make_slice(rng.normal(size=(90, 3)), xy, edges=knn(xy, 5))


@pytest.mark.parametrize(("halo", "exact"), [(2, True), (1, False)])
def test_the_gradient_of_tiles_is_that_of_the_section(key: Any, graph: Slice, halo: int, exact: bool) -> None:
    """To rounding (1e-7 to 2e-7 of its size) with a halo as wide as the model looks; a narrower one misses 5 %."""
    model = two_hops()
    params, _ = jax.jit(model.init)(key, graph)
    tiles = jax.tree.map(jnp.asarray, tile(graph, size=16, halo=halo))

    def slope(model: Model, data: Any) -> Any:
        def mean(params: Any) -> Any:
            (total, weight), _ = model.loss(params, (), key, data)
            return total / weight

        return jax.jit(jax.grad(mean))(params)

    whole, parts = slope(model, graph), slope(joint(model), tiles.values)
    size = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(whole))
    miss = max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), whole, parts))) / size
    assert miss < 1e-6 if exact else miss > 1e-3


def test_readouts_of_tiles_come_back_in_the_order_of_the_section(key: Any, graph: Slice) -> None:
    """A run over a source of tiles reads out every real spot as the whole section does."""
    model = two_hops()
    by_tile = Model(
        lambda key, data: model.init(key, data.values),
        lambda params, aux, key, data: model.loss(params, aux, key, data.values),
        lambda key, params, aux, data: model.readout(key, params, aux, data.values),
    )
    found = fit(minimize(by_tile, optax.sgd(0.01)), key, tile_source(tile(graph, size=16, halo=2)), max_steps=9)
    whole = np.asarray(jax.jit(model.readout)(key, found.state.params, (), graph))
    merged, real = np.asarray(found.result.merge(found.result.tiles)), np.asarray(graph.mask)
    np.testing.assert_allclose(merged[real], whole[real], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(merged[~real], 0)


def potts() -> Algorithm:
    """EM of a Gaussian mixture whose labels are drawn to those of the neighbours in the step before."""

    def init(key: Any, data: Any) -> Any:
        tables = {"label": jnp.zeros(data.size, jnp.int32), "visits": jnp.zeros(data.size)}
        return jnp.asarray(FIRST_MEANS, jnp.float32), tables

    def statistics(key: Any, means: Any, rows: Any, part: Any) -> Any:
        section = part.values
        shown = jax.nn.one_hot(rows["label"], KINDS)
        support = (shown[section.edges.index] * section.edges.weight[..., None]).sum(1)
        likelihood = -((section.features[:, None] - means[None]) ** 2).sum(-1)
        label = jnp.argmax(likelihood + PULL * support, -1).astype(jnp.int32)
        member = jax.nn.one_hot(label, KINDS) * section.weights[:, None]
        changed = (section.weights * jnp.where(label == rows["label"], 0.0, 1.0)).sum()
        sums = {"count": member.sum(0), "total": member.T @ section.features, "changed": changed}
        return sums, {"label": label, "visits": rows["visits"] + 1}

    def update(key: Any, means: Any, sums: Any) -> Any:
        means = sums["total"] / jnp.maximum(sums["count"], 1)[:, None]
        return means, {"changed": sums["changed"], "done": sums["changed"] == 0}

    def readout(key: Any, means: Any, tables: Any, data: Any) -> Any:
        return {"means": means, **tables}

    return reduce_tiles(init, statistics, update, readout=readout)


POTTS = potts()


@pytest.fixture
def bands(rng: np.random.Generator) -> Slice:
    """70 spots in three bands of different means, blurred so that the neighbours matter; rows in random order."""
    xy = rng.uniform(0, 900, (70, 2))
    means = np.array([-1.0, 0.0, 1.0])[(xy[:, 0] // 300).astype(int)]
    return make_slice(means[:, None] + rng.normal(0, 0.5, (70, 2)), xy, edges=knn(xy, 5), capacity=96)


def potts_by_hand(section: Slice) -> tuple[np.ndarray, np.ndarray, int]:
    """The same EM in numpy on the whole section: the labels of all spots at once, from the old labels."""
    real = np.asarray(section.mask)
    features = np.asarray(section.features, np.float64)[real]
    index, weight = np.asarray(section.edges.index)[real], np.asarray(section.edges.weight)[real]
    means, labels = FIRST_MEANS, np.zeros(len(features), int)
    for steps in range(1, 100):
        support = (np.eye(KINDS)[labels[index]] * weight[..., None]).sum(1)
        new = np.argmax(-((features[:, None] - means) ** 2).sum(-1) + PULL * support, 1)
        means = np.stack([features[new == kind].mean(0) for kind in range(KINDS)])
        if np.array_equal(new, labels):
            return labels, means, steps
        labels = new
    raise AssertionError("the reference did not settle")


@pytest.mark.parametrize(("size", "tiles"), [(7, 10), (20, 4), (70, 1)])
def test_sums_over_tiles_are_those_of_numpy_on_the_section(
    key: Any, bands: Slice, strict_numerics: None, size: int, tiles: int
) -> None:
    """Labels of scattered rows in the order of the section, means and steps; each spot is visited once a step."""
    parts = tile(bands, size=size, halo=1)
    assert len(parts.rows) == tiles
    labels, means, steps = potts_by_hand(bands)
    assert steps > 4
    found = fit(POTTS, key, parts, max_steps=50)
    assert (found.status, found.steps) == ("done", steps)
    np.testing.assert_array_equal(found.result["label"][:70], labels)
    np.testing.assert_array_equal(found.result["label"][70:], 0)
    np.testing.assert_allclose(found.result["means"], means, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.result["visits"], np.where(bands.mask, steps, 0))


def test_sums_over_tiles_need_the_halo(key: Any, bands: Slice) -> None:
    """Without it a spot at a border misses neighbours: the agreement above is not a matter of course."""
    whole, bare = (fit(POTTS, key, tile(bands, size=7, halo=h), max_steps=50).result["means"] for h in (1, 0))
    assert np.abs(np.asarray(whole) - np.asarray(bare)).max() > 1e-3


def test_running_moments_far_from_zero(key: Any, strict_numerics: None) -> None:
    """Around 1,000 with a standard deviation of 0.05 a sum of squares in float32 would have no digit left."""

    def step(key: Any, state: Any, data: Any) -> Any:
        x = 1000 + 0.05 * jax.random.normal(key)
        return {"x": x}, {"x": x}

    walk = Algorithm(lambda key, data, start=None: {"x": jnp.float32(0)}, step, lambda key, state, data: state["x"])
    found = fit(collect(walk, lambda state: {"place": state["x"]}, moments(), every=2, after=9), key, (), max_steps=400)
    seen = found.history["x"][10::2].astype(np.float64)
    assert abs(np.square(seen.astype(np.float32)).mean() - np.square(seen.mean(dtype=np.float32)) - seen.var()) > 1e-3
    assert int(found.result.collected["count"]) == len(seen) == 195
    np.testing.assert_allclose(found.result.collected["mean"]["place"], seen.mean(), rtol=2e-7)
    np.testing.assert_allclose(found.result.collected["variance"]["place"], seen.var(ddof=1), rtol=1e-2)


def test_until_and_collect_wrap_each_other(key: Any) -> None:
    """Each member of a list stops by itself and has collected up to there, under map and vmap, either way round."""

    def step(key: Any, state: Any, data: Any) -> Any:
        state = jnp.maximum(0.5 * state, data)
        return state, {"loss": state}

    decay = Algorithm(lambda key, data, start=None: jnp.float32(1), step, lambda key, state, data: state)
    inside = until(collect(decay, lambda state: state, moments()), 4)
    outside = collect(until(decay, 4), lambda state: state.inner, moments())
    for algorithm in (inside, outside):
        for how in ("map", "vmap"):
            fits = fit(algorithm, key, [jnp.float32(2.0**-3), jnp.float32(2.0**-6)], max_steps=60, how=how)
            assert [f.steps for f in fits] == [7, 10]
            for f in fits:
                assert int(f.result.collected["count"]) == f.steps
                np.testing.assert_allclose(f.result.collected["mean"], f.history["loss"].mean(), rtol=1e-5)


def test_collect_and_draws_refuse_what_they_cannot_run() -> None:
    nothing = Algorithm(lambda *_, start=None: (), lambda key, state, data: (state, {}), lambda *_: ())
    with pytest.raises(ValueError, match="every=0 and after=0"):
        collect(nothing, lambda state: state, moments(), every=0)
    with pytest.raises(ValueError, match="every=1 and after=-1"):
        collect(nothing, lambda state: state, moments(), after=-1)
    with pytest.raises(ValueError, match="size >= 1, found 0"):
        draws(0)
