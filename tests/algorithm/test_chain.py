"""Chains: phases one after the other, with a handover on the host."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialjax.algorithm import Algorithm, Chain, fit


def _step(key: Any, state: Any, data: Any) -> Any:
    state = state + 0.1 * (data["y"] - state) + 0.01 * jax.random.normal(key, state.shape)
    return state, {"loss": jnp.mean((state - data["y"]) ** 2)}


DESCENT = Algorithm(
    lambda key, data, start=None: jnp.zeros_like(data["y"]) if start is None else start,
    _step,
    lambda key, state, data: state,
)


def same(a: Any, b: Any) -> bool:
    """Whether two fits agree in every bit."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in pairs)


def targets(*sizes: int) -> list[Any]:
    return [{"y": jnp.linspace(0.0, 1.0 + i, size)} for i, size in enumerate(sizes)]


def shrink(fitted: Any, data: Any) -> Any:
    """A handover that changes the shapes: the larger half of the values, started where the first phase ended."""
    kept = np.sort(np.argsort(np.asarray(fitted.result))[-2:])
    return {"y": np.asarray(data["y"])[kept]}, np.asarray(fitted.result)[kept]


def test_a_chain_is_its_phases_one_after_the_other(key: Any) -> None:
    """Each phase runs as alone with its own key; the handover changes shapes; lists work member by member."""
    data = targets(5, 3)
    chain = Chain(DESCENT, shrink, DESCENT)
    found = fit(chain, key, data, max_steps=(4, 3))
    for i, one in enumerate(data):
        own = jax.random.fold_in(key, i)
        first = fit(DESCENT, jax.random.fold_in(own, 0), one, max_steps=4)
        after, start = shrink(first, one)
        second = fit(DESCENT, jax.random.fold_in(own, 1), after, max_steps=3, start=start)
        assert same(found[i].result, second.result)
        assert same(found[i].history, (first.history, second.history))
        assert found[i].steps == (4, 3)


def test_the_handover_may_call_scikit_learn_and_change_shapes(key: Any) -> None:
    """Two centres of the first result are the data and the start of the second phase, in a list too."""
    from sklearn.cluster import KMeans

    def cluster(fitted: Any, data: Any) -> Any:
        means = KMeans(2, n_init=1, random_state=0).fit(np.asarray(fitted.result)[:, None]).cluster_centers_
        return {"y": means[:, 0].astype(np.float32)}, jnp.zeros(2)

    labels: list[str] = []
    chain = Chain(DESCENT, cluster, DESCENT)
    found = fit(
        chain, key, targets(5, 3), max_steps=(30, 80), how="vmap", progress=lambda report: labels.append(report.label)
    )
    for one, data in zip(found, targets(5, 3), strict=True):
        assert one.result.shape == (2,)
        assert one.status == "running"
        assert float(data["y"].min()) < float(one.result.min()) < float(one.result.max()) < float(data["y"].max())
    assert list(dict.fromkeys(labels)) == [f"member {i} of 2, phase {j} of 2" for i in (1, 2) for j in (1, 2)]


def test_chains_nest_and_want_one_budget_a_phase(key: Any) -> None:
    def again(fitted: Any, data: Any) -> Any:
        return data, None

    left = fit(Chain(Chain(DESCENT, shrink, DESCENT), again, DESCENT), key, targets(5)[0], max_steps=(2, 0, 4))
    right = fit(Chain(DESCENT, shrink, Chain(DESCENT, again, DESCENT)), key, targets(5)[0], max_steps=(2, 0, 4))
    assert left.steps == (2, 0, 4)
    assert same(left._replace(status=0), right._replace(status=0))
    for wrong in (5, (2, 3), [2, 0, 4]):
        with pytest.raises(ValueError, match="a tuple of 3 numbers, one a phase"):
            fit(Chain(Chain(DESCENT, shrink, DESCENT), again, DESCENT), key, targets(5)[0], max_steps=wrong)


def test_a_chain_stops_where_a_phase_is_not_finite(key: Any) -> None:
    """The handover must not see the rubbish."""

    def handover(fitted: Any, data: Any) -> Any:
        raise AssertionError("the handover saw a failed phase")

    with pytest.warns(RuntimeWarning):
        found = fit(Chain(DESCENT, handover, DESCENT), key, {"y": jnp.full(3, jnp.nan)}, max_steps=(5, 5))
    assert (found.status, found.result, found.steps) == ("not finite", None, (1,))
