"""``minimize`` with and without local tables, ``alternate``, ``solve``."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spatialjax.algorithm import Algorithm, Model, Turn, alternate, fit, minimize, row_source, solve

TARGET = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)


def values_of(data: Any) -> tuple[Any, Any]:
    """Rows and their weights, of a tile or of the whole table."""
    return (data.values, data.core.astype(jnp.float32)) if hasattr(data, "core") else (data, jnp.ones(len(data)))


def factor_model() -> Model:
    """Each row has a value of its own, all share an offset: squared distance to the data."""

    def init(key: Any, data: Any) -> Any:
        size = data.size if hasattr(data, "core") else len(data)
        return {"row": jnp.zeros((size, 2)), "offset": jax.random.normal(key, (2,))}, jnp.float32(0)

    def loss(params: Any, aux: Any, key: Any, data: Any) -> Any:
        values, weights = values_of(data)
        errors = jnp.sum((params["row"] + params["offset"] - values) ** 2, axis=1)
        return (jnp.sum(errors * weights), jnp.sum(weights)), (aux + 1, {"largest": jnp.max(errors * weights)})

    return Model(init, loss, lambda key, params, aux, data: params["row"] + params["offset"])


MODEL = factor_model()


def test_minimize_is_the_optax_loop(key: Any) -> None:
    optimizer = optax.adam(0.05)
    found = fit(minimize(MODEL, optimizer), key, TARGET, max_steps=20)
    params, aux = MODEL.init(jax.random.fold_in(key, 0), TARGET)
    moments, losses = optimizer.init(params), []
    for _ in range(20):
        value = lambda p: (lambda out: out[0][0] / out[0][1])(MODEL.loss(p, aux, key, TARGET))
        loss, slope = jax.value_and_grad(value)(params)
        updates, moments = optimizer.update(slope, moments)
        params = optax.apply_updates(params, updates)
        losses.append(float(loss))
    np.testing.assert_allclose(found.history["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(found.state.params["row"], params["row"], rtol=1e-4, atol=1e-6)
    assert found.state.aux == 20
    assert set(found.history) == {"loss", "largest"}


def test_minimize_takes_optimizers_that_look_at_the_value(key: Any) -> None:
    """A line search (L-BFGS) reaches the minimum of a quadratic in a few steps."""
    found = fit(minimize(MODEL, optax.lbfgs()), key, TARGET, max_steps=15)
    assert found.history["loss"][-1] < 1e-6


def test_local_tables_on_the_whole_data_change_nothing(key: Any) -> None:
    """Adam works by element: one state a row is the same optimizer where every row is seen at every step."""
    plain = fit(minimize(MODEL, optax.adam(0.05)), key, TARGET, max_steps=15)
    local = fit(minimize(MODEL, optax.adam(0.05), local=("row",)), key, TARGET, max_steps=15)
    np.testing.assert_allclose(plain.result, local.result, rtol=1e-5, atol=1e-6)


def test_a_minibatch_moves_only_its_rows_parameters_and_moments(key: Any) -> None:
    """Momentum of rows that were seen before must not move them."""
    source = row_source(jnp.asarray(TARGET), size=3, key=key)
    algorithm = minimize(MODEL, optax.adam(0.1), local=("row",))
    states = [fit(algorithm, key, source, max_steps=steps).state for steps in range(8)]
    for t in range(7):
        shown = np.asarray(source.at(source.arrays, t).rows)
        others = np.setdiff1d(np.arange(len(TARGET)), shown)
        before, after = states[t], states[t + 1]
        np.testing.assert_array_equal(before.params["row"][others], after.params["row"][others])
        assert not np.any(before.params["row"][shown] == after.params["row"][shown])
        for old, new in zip(jax.tree.leaves(before.local_moments), jax.tree.leaves(after.local_moments), strict=True):
            np.testing.assert_array_equal(old[others], new[others])
            assert np.all(np.any((old != new).reshape(len(TARGET), -1), axis=1)[shown])


def test_each_row_is_optimized_as_if_it_were_alone(key: Any) -> None:
    """After s sweeps every row is where s plain Adam steps take it: moments know the visits of their row."""
    model = Model(
        lambda key, data: ({"row": jnp.zeros((data.size, 2))}, None),
        lambda params, aux, key, data: (
            (jnp.sum((params["row"] - data.values) ** 2 * data.core[:, None]), jnp.float32(1)),
            (aux, {}),
        ),
        lambda key, params, aux, data: params["row"],
    )
    source = row_source(jnp.asarray(TARGET), size=4, key=key)
    found = fit(minimize(model, optax.adam(0.1), local=("row",)), key, source, max_steps=3 * source.sweep)
    row, optimizer = jnp.zeros_like(TARGET), optax.adam(0.1)
    moments = optimizer.init(row)
    for _ in range(3):
        updates, moments = optimizer.update(2 * (row - TARGET), moments)
        row = optax.apply_updates(row, updates)
    np.testing.assert_allclose(found.state.params["row"], row, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.result.merge(found.result.tiles), row, rtol=1e-5, atol=1e-6)


def test_local_tables_refuse_accumulated_gradients(key: Any) -> None:
    """Both as the object and hidden inside a chain; without local tables MultiSteps is fine."""
    every_second = optax.MultiSteps(optax.sgd(0.1), every_k_schedule=2)
    with pytest.raises(ValueError, match="MultiSteps"):
        minimize(MODEL, every_second, local=("row",))
    hidden = minimize(MODEL, optax.chain(every_second.gradient_transformation()), local=("row",))
    with pytest.raises(ValueError, match="MultiSteps"):
        fit(hidden, key, TARGET, max_steps=1)
    found = fit(minimize(MODEL, every_second), key, TARGET, max_steps=2)
    np.testing.assert_allclose(found.history["loss"][0], found.history["loss"][1], rtol=1e-6)


def test_start_replaces_named_groups_only(key: Any) -> None:
    algorithm = minimize(MODEL, optax.adam(0.1))
    plain = fit(algorithm, key, TARGET, max_steps=0)
    found = fit(algorithm, key, TARGET, max_steps=0, start={"row": jnp.ones((9, 2))})
    np.testing.assert_array_equal(found.state.params["row"], np.ones((9, 2)))
    np.testing.assert_array_equal(found.state.params["offset"], plain.state.params["offset"])
    with pytest.raises(ValueError, match=r"names of groups among \['offset', 'row'\], found \['rows'\]"):
        fit(algorithm, key, TARGET, max_steps=0, start={"rows": jnp.ones((9, 2))})
    with pytest.raises(ValueError, match="Expected start values of shapes"):
        fit(algorithm, key, TARGET, max_steps=0, start={"row": jnp.ones((8, 2))})
    with pytest.raises(ValueError, match=r"found \['spot'\]"):
        fit(minimize(MODEL, optax.adam(0.1), local=("spot",)), key, TARGET, max_steps=1)


def test_a_tile_without_weight_moves_nothing_and_is_finite(key: Any) -> None:
    """0 / 0 must not reach the gradient."""
    model = Model(
        lambda key, data: ({"w": jnp.ones(2)}, None),
        lambda params, aux, key, data: ((jnp.sum(params["w"] * data), jnp.sum(data)), (aux, {})),
        lambda key, params, aux, data: params["w"],
    )
    found = fit(minimize(model, optax.sgd(0.1)), key, jnp.zeros(2), max_steps=3)
    assert found.status == "running"
    np.testing.assert_array_equal(found.result, np.ones(2))


def saddle(*, every: int, calls: list[int] | None = None) -> Algorithm:
    """Two players on x y: x falls, y rises every few steps."""

    def init(key: Any, data: Any) -> Any:
        return {"x": jnp.float32(1), "y": jnp.float32(1)}, jnp.float32(0)

    def fall(params: Any, aux: Any, key: Any, data: Any) -> Any:
        return (params["x"] * params["y"], 1.0), (aux + 1, {"y": params["y"]})

    def rise(params: Any, aux: Any, key: Any, data: Any) -> Any:
        if calls is not None:
            jax.debug.callback(lambda: calls.append(1))
        return (-params["x"] * params["y"], 1.0), (aux, {})

    return alternate(
        Turn(fall, ("x",), optax.sgd(0.1)),
        (rise, ("y",), optax.sgd(0.2), every),
        init=init,
        readout=lambda key, params, aux, data: params,
    )


def test_alternate_takes_turns_in_order(key: Any) -> None:
    """A turn sees what the turn before has changed; the other groups stay; every third step has the second turn."""
    found = fit(saddle(every=3), key, jnp.ones(1), max_steps=7)
    x, y, first, second = 1.0, 1.0, [], []
    for t in range(7):
        first.append(x * y)
        x -= 0.1 * y
        if t % 3 == 0:
            last = -x * y
            y += 0.2 * x
        second.append(last)
    np.testing.assert_allclose([found.result["x"], found.result["y"]], [x, y], rtol=1e-5)
    np.testing.assert_allclose(found.history["loss0"], first, rtol=1e-5)
    np.testing.assert_allclose(found.history["loss1"], second, rtol=1e-5)
    assert set(found.history) == {"loss0", "loss1", "y0"}
    assert found.state.aux == 7


def test_a_turn_that_is_not_due_does_no_work(key: Any) -> None:
    """Counted where it runs: a select would compute the loss at every step."""
    calls: list[int] = []
    fit(saddle(every=5, calls=calls), key, jnp.ones(1), max_steps=10)
    jax.effects_barrier()
    assert len(calls) == 2


def test_turns_get_keys_of_their_own(key: Any) -> None:
    def loss(params: Any, aux: Any, key: Any, data: Any) -> Any:
        return (params["x"] * 0 + jax.random.normal(key), 1.0), (aux, {})

    algorithm = alternate(
        (loss, ("x",), optax.sgd(0.1), 1),
        (loss, ("x",), optax.sgd(0.1), 1),
        init=lambda key, data: ({"x": jnp.float32(1)}, None),
        readout=lambda *arguments: None,
    )
    history = fit(algorithm, key, jnp.ones(1), max_steps=3).history
    assert not np.any(history["loss0"] == history["loss1"])


def test_alternate_refuses_unknown_groups_and_empty_turns(key: Any) -> None:
    init = lambda key, data: ({"x": jnp.float32(1)}, None)
    loss = lambda params, aux, key, data: ((params["x"], 1.0), (aux, {}))
    with pytest.raises(ValueError, match="every >= 1"):
        alternate((loss, ("x",), optax.sgd(0.1), 0), init=init, readout=loss)
    with pytest.raises(ValueError, match="at least one turn"):
        alternate(init=init, readout=loss)
    with pytest.raises(ValueError, match=r"found \['z'\]"):
        fit(alternate((loss, ("z",), optax.sgd(0.1)), init=init, readout=loss), key, jnp.ones(1), max_steps=1)


def test_solve_is_one_step_and_runs_its_function_once(key: Any) -> None:
    calls: list[int] = []

    def mean(key: Any, data: Any) -> Any:
        jax.debug.callback(lambda: calls.append(1))
        return data.mean(0)

    found = fit(solve(mean), key, TARGET, max_steps=10)
    jax.effects_barrier()
    assert (found.steps, found.status, len(calls)) == (1, "done", 1)
    np.testing.assert_allclose(found.result, TARGET.mean(0), rtol=1e-5)
