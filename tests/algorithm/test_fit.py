"""The loop: keys, chunks, lists, status, compiled programs, what it refuses."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialjax.algorithm import Algorithm, Progress, fit
from spatialjax.algorithm import loop as loop_module
from spatialjax.slices import make_slice


def noisy_descent(rate: float = 0.1, goal: float = 1e-3, traces: list[str] | None = None) -> Algorithm:
    """Noisy relaxation towards the data; done when the mean squared distance is below ``goal``."""

    def init(key: Any, data: Any, start: Any = None) -> Any:
        x = jax.random.normal(key, data["y"].shape) if start is None else start
        return {"x": x, "count": 0}

    def step(key: Any, state: Any, data: Any) -> Any:
        if traces is not None:
            traces.append("step")
        x = state["x"] + rate * (data["y"] - state["x"]) + 0.01 * jax.random.normal(key, state["x"].shape)
        loss = jnp.mean((x - data["y"]) ** 2)
        return {"x": x, "count": state["count"] + 1}, {"loss": loss, "done": loss < goal}

    return Algorithm(init, step, lambda key, state, data: state["x"])


DESCENT = noisy_descent()


def same(a: Any, b: Any) -> bool:
    """Whether two fits agree in every bit."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in pairs)


def targets(*sizes: int) -> list[Any]:
    return [{"y": jnp.linspace(0.0, 1.0 + i, size)} for i, size in enumerate(sizes)]


def test_a_run_is_a_plain_loop_with_keys_of_the_step_number(key: Any) -> None:
    """The compiled loop does what ten lines of Python do: init, steps with folded keys, stop when done."""
    data = targets(5)[0]
    found = fit(DESCENT, key, data, max_steps=80)
    state, losses = DESCENT.init(jax.random.fold_in(key, 0), data), []
    for t in range(80):
        state, info = DESCENT.step(jax.random.fold_in(jax.random.fold_in(key, 1), t), state, data)
        losses.append(float(info["loss"]))
        if info["done"]:
            break
    assert found.status == "done"
    assert found.steps == len(losses) == len(found.history["loss"]) < 80
    np.testing.assert_allclose(found.history["loss"], losses, rtol=1e-4)
    np.testing.assert_allclose(found.result, state["x"], rtol=1e-4, atol=1e-6)
    assert set(found.history) == {"loss"}


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_the_chunk_length_changes_no_bit(key: Any, chunk: int) -> None:
    data = targets(5)[0]
    assert same(fit(DESCENT, key, data, max_steps=60), fit(DESCENT, key, data, max_steps=60, chunk=chunk))


def test_the_step_is_traced_once_and_a_second_call_of_the_shape_compiles_nothing(
    key: Any, count_compilations: Any
) -> None:
    """Also with another budget, another chunk, another key and numpy data."""
    traces: list[str] = []
    algorithm = noisy_descent(traces=traces)
    first, second = targets(6, 6)
    fit(algorithm, key, first, max_steps=30)
    assert traces == ["step"]
    with count_compilations() as compiled:
        fit(algorithm, key, second, max_steps=20, chunk=3)
        fit(algorithm, key, jax.tree.map(np.asarray, first), max_steps=30)
    assert traces == ["step"]
    assert compiled() == 0


def test_the_chunk_length_follows_the_clock_without_compiling(
    key: Any, count_compilations: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks grow on a fast step, at most eightfold; a slow clock brings a single step."""
    algorithm, data = noisy_descent(goal=0.0), targets(6)[0]
    seen: list[int] = []
    fit(algorithm, key, data, max_steps=1)
    with count_compilations() as compiled:
        fit(algorithm, key, data, max_steps=600, progress=lambda report: seen.append(report.steps))
    assert compiled() == 0
    assert seen[0] == 0
    assert seen[-1] == 600
    assert max(np.diff(seen)) > 8
    assert loop_module._next_length(100, 2.0) == 50
    assert loop_module._next_length(100, 1e-6) == 800
    assert loop_module._next_length(3, 60.0) == 1
    assert loop_module._next_length(1000, 1e-6) == loop_module.LARGEST_CHUNK


def test_progress_reports_label_steps_budget_and_last_information(key: Any) -> None:
    seen: list[Progress] = []
    found = fit(DESCENT, key, targets(4, 5), max_steps=20, chunk=20, progress=seen.append)
    assert [report.label for report in seen] == ["member 1 of 2"] * 2 + ["member 2 of 2"] * 2
    assert [report.steps for report in seen] == [0, 20, 0, 20]
    assert seen[0].info == {}
    assert seen[-1].max_steps == 20
    assert seen[-1].info["loss"] == found[1].history["loss"][-1]


def test_a_list_equals_a_loop_in_every_bit_and_keeps_its_order(key: Any) -> None:
    """Unequal members: each has its own key, counter and status."""
    data = targets(5, 3, 5)
    together = fit(DESCENT, key, data, max_steps=60, how="map")
    alone = [fit(DESCENT, jax.random.fold_in(key, i), one, max_steps=60) for i, one in enumerate(data)]
    assert all(same(a, b) for a, b in zip(together, alone, strict=True))
    assert len({one.steps for one in together}) > 1


def test_vmap_equals_map_to_tolerance_and_stops_each_member_by_itself(key: Any) -> None:
    data = targets(5, 3, 5)
    one_by_one, together = (fit(DESCENT, key, data, max_steps=60, how=how, chunk=9) for how in ("map", "vmap"))
    for a, b in zip(one_by_one, together, strict=True):
        assert (a.steps, a.status) == (b.steps, b.status)
        np.testing.assert_allclose(a.history["loss"], b.history["loss"], rtol=2e-4)
        np.testing.assert_allclose(a.result, b.result, atol=2e-5)


def test_a_leaf_that_all_members_share_is_stored_once(key: Any) -> None:
    """Under vmap the program receives the shared reference without a member axis."""
    shared = jnp.ones((50, 3))
    shapes: list[Any] = []

    def step(key: Any, state: Any, data: Any) -> Any:
        return state + data["own"].sum() + data["shared"].sum(), {}

    algorithm = Algorithm(lambda key, data, start=None: jnp.float32(0), step, lambda key, state, data: state)
    members = [{"own": jnp.ones(4) * i, "shared": shared} for i in range(3)]
    original = loop_module.advance

    def spy(program: Any, run: Any, inputs: Any, *, stop: Any) -> Any:
        shapes.append([leaf.shape for leaf in inputs.leaves])
        return original(program, run, inputs, stop=stop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module, "advance", spy)
        found = fit(algorithm, key, members, max_steps=1, how="vmap")
    assert shapes == [[(3, 4), (50, 3)]]
    np.testing.assert_allclose([one.result for one in found], [150.0, 154.0, 158.0])


def test_a_tuple_is_one_run_on_coupled_data(key: Any) -> None:
    algorithm = Algorithm(
        lambda key, data, start=None: jnp.float32(0),
        lambda key, state, data: (state + data[0].sum() * data[1].sum(), {}),
        lambda key, state, data: state,
    )
    assert fit(algorithm, key, (jnp.ones(2), jnp.ones(3)), max_steps=2).result == 12


def test_an_empty_list_has_no_fits(key: Any) -> None:
    assert fit(DESCENT, key, [], max_steps=3) == []


@pytest.mark.parametrize("how", ["map", "vmap"])
def test_a_member_that_is_not_finite_stops_at_once_and_the_others_go_on(key: Any, how: str) -> None:
    data = [*targets(5, 5), {"y": jnp.full(5, jnp.nan)}]
    with pytest.warns(RuntimeWarning, match="Member 2 of the list is not finite after 1 steps"):
        found = fit(DESCENT, key, data, max_steps=60, how=how)
    assert [one.status for one in found] == ["done", "done", "not finite"]
    assert found[2].steps == 1
    clean = fit(DESCENT, key, data[:2], max_steps=60, how=how)
    assert found[0].steps == clean[0].steps
    np.testing.assert_allclose(found[0].result, clean[0].result, atol=2e-5)


def test_done_does_not_hide_a_failure(key: Any) -> None:
    """A step that says "done" with a NaN loss is not finite, not done."""
    algorithm = Algorithm(
        lambda key, data, start=None: jnp.float32(0),
        lambda key, state, data: (state, {"loss": jnp.float32(jnp.nan), "done": True}),
        lambda key, state, data: state,
    )
    with pytest.warns(RuntimeWarning):
        assert fit(algorithm, key, jnp.ones(1), max_steps=5).status == "not finite"


def test_a_nan_in_the_final_state_is_noticed_although_every_number_was_finite(key: Any) -> None:
    algorithm = Algorithm(
        lambda key, data, start=None: jnp.zeros(2),
        lambda key, state, data: (state.at[0].set(jnp.log(-data.sum())), {"loss": 1.0}),
        lambda key, state, data: state,
    )
    with pytest.warns(RuntimeWarning):
        assert fit(algorithm, key, jnp.ones(2), max_steps=1).status == "not finite"


def test_an_infinite_state_is_not_a_failure(key: Any) -> None:
    """Log-domain potentials and "best so far" may be infinite."""
    algorithm = Algorithm(
        lambda key, data, start=None: jnp.full(2, -jnp.inf),
        lambda key, state, data: (state, {"loss": 1.0}),
        lambda key, state, data: state,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit(algorithm, key, jnp.ones(2), max_steps=3).status == "running"


@pytest.mark.parametrize("how", ["map", "vmap"])
def test_no_step_still_reads_out(key: Any, how: str) -> None:
    found = fit(DESCENT, key, targets(5, 5), max_steps=0, how=how)
    assert [one.steps for one in found] == [0, 0]
    assert [one.status for one in found] == ["running", "running"]
    assert found[0].result.shape == (5,)
    assert found[0].history == {}


def test_start_replaces_the_initial_values_for_each_member(key: Any) -> None:
    data = targets(5, 5)
    starts = [jnp.zeros(5), jnp.ones(5)]
    for how in ("map", "vmap"):
        found = fit(DESCENT, key, data, max_steps=0, start=starts, how=how)
        assert [float(one.result[0]) for one in found] == [0.0, 1.0]


def test_inputs_survive_the_run(key: Any) -> None:
    """The state is donated; what the caller gave must not be, even where init hands it on as it is."""
    algorithm = Algorithm(
        lambda key, data, start=None: (data, data, start),
        lambda key, state, data: (jax.tree.map(lambda x: x + 1, state), {}),
        lambda key, state, data: state,
    )
    data, start = jnp.zeros(4), jnp.ones(4)
    found = fit(algorithm, key, data, max_steps=3, start=start, chunk=1)
    np.testing.assert_array_equal(data, np.zeros(4))
    np.testing.assert_array_equal(start, np.ones(4))
    np.testing.assert_array_equal(found.state[0], np.full(4, 3))
    np.testing.assert_array_equal(found.result[2], np.full(4, 4))
    again = fit(algorithm, key, np.zeros(4), max_steps=1, start=found.state[0])
    np.testing.assert_array_equal(again.result[2], np.full(4, 4))
    np.testing.assert_array_equal(found.state[0], np.full(4, 3))


def test_python_numbers_in_the_state_do_not_drift(key: Any) -> None:
    """A weak type from init or step is no TypeError of the while loop, under strict promotion too."""
    algorithm = Algorithm(
        lambda key, data, start=None: {"a": 0.5, "n": 0},
        lambda key, state, data: ({"a": state["a"] * 2, "n": 1}, {"value": 3}),
        lambda key, state, data: state["a"],
    )
    assert fit(algorithm, key, jnp.ones(1), max_steps=2).result == 2.0


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda key, s, d: ({"a": s["a"] * 1.5}, {}), r"state\['a'\], int32\(2,\), found float32\(2,\): cast it"),
        (lambda key, s, d: ({"a": s["a"][:1]}, {}), r"state\['a'\], int32\(2,\), found int32\(1,\)"),
        (lambda key, s, d: ({"b": s["a"]}, {}), "state of the structure it was given"),
        (lambda key, s, d: (s, s["a"]), r"\(state, dict of numbers\)"),
        (lambda key, s, d: (s, {"loss": s["a"]}), r"one number in info\['loss'\], found an array of shape \(2,\)"),
    ],
)
def test_a_step_that_breaks_its_contract_gets_one_clear_message(key: Any, step: Any, message: str) -> None:
    """A drifting type or shape of the state, another structure, information that is no dict of numbers."""
    algorithm = Algorithm(lambda key, data, start=None: {"a": jnp.arange(2)}, step, lambda key, state, data: state)
    with pytest.raises(TypeError, match=message):
        fit(algorithm, key, None, max_steps=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": -1}, "whole and >= 0, found -1"),
        ({"max_steps": 2.5}, "whole and >= 0, found 2.5"),
        ({"max_steps": (3, 4)}, "one number"),
        ({"max_steps": 3, "how": "pmap"}, "'map', 'vmap' or None"),
        ({"max_steps": 3, "chunk": 0}, "chunk between 1 and"),
        ({"max_steps": 3, "start": [None]}, "a list of 2 entries"),
    ],
)
def test_wrong_options_are_refused(key: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(DESCENT, key, targets(3, 3), **options)


def test_members_of_equal_data_differ_by_their_key(key: Any) -> None:
    first, second = fit(DESCENT, key, targets(5) * 2, max_steps=3, how="vmap")
    assert np.abs(first.result - second.result).max() > 1e-3


@pytest.mark.parametrize("how", ["map", "vmap"])
def test_a_second_list_of_the_same_buckets_compiles_nothing(key: Any, count_compilations: Any, how: str) -> None:
    """Other values, another key and budget; and a new shape does compile, so that the count can be believed."""
    fit(DESCENT, key, targets(5, 3, 5), max_steps=4, how=how)
    others = [{"y": np.asarray(one["y"]) + 1} for one in targets(5, 3, 5)]
    with count_compilations() as compiled:
        fit(DESCENT, jax.random.key(9), others, max_steps=9, how=how)
    assert compiled() == 0
    with count_compilations() as compiled:
        fit(DESCENT, key, [{"y": jnp.ones(5 if how == "vmap" else 9)}], max_steps=0, how=how)
    assert compiled() > 0


def test_progress_under_vmap_shows_the_last_step_of_each_member(key: Any) -> None:
    """Not the empty places behind the end of a member that stopped before the others."""
    seen: list[Progress] = []
    data = [{"y": jnp.zeros(5)}, {"y": jnp.full(5, 50.0)}]
    start = [jnp.full(5, 0.1), jnp.zeros(5)]
    found = fit(DESCENT, key, data, max_steps=40, chunk=40, start=start, how="vmap", progress=seen.append)
    assert found[0].steps < found[1].steps
    np.testing.assert_array_equal(seen[-1].info["loss"], [one.history["loss"][-1] for one in found])


def test_normal_draws_are_stable_under_padding(key: Any) -> None:
    """Real spots see the same noise whatever the capacity that their section is padded to."""
    noisy = Algorithm(
        lambda key, section, start=None: section.features,
        lambda key, state, section: (state + jax.random.normal(key, state.shape) * section.mask[:, None], {}),
        lambda key, state, section: state,
    )
    padded = [make_slice(np.zeros((5, 2)), np.zeros((5, 2)), capacity=capacity) for capacity in (8, 12)]
    small, large = (
        one.result for one in fit(noisy, key, padded[:1], max_steps=2) + fit(noisy, key, padded[1:], max_steps=2)
    )
    assert (small[:5] != 0).all()
    np.testing.assert_array_equal(small[:5], large[:5])


def test_an_interrupt_from_a_callback_comes_through_without_a_checkpoint(key: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(DESCENT, key, targets(3)[0], max_steps=5, progress=partial(_interrupt, 1), chunk=1)


def _interrupt(after: int, report: Progress) -> None:
    if report.steps >= after:
        raise KeyboardInterrupt
