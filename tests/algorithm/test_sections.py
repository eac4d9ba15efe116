"""``joint``: sections that share parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spatialjax.algorithm import Model, Turn, alternate, fit, joint, minimize, unseen

SLOPES, OFFSETS = 2.0, np.float32([0.0, 1.0, -1.0])


def line_model() -> Model:
    """y = slope x + offset on the real points of a section, with a running mean of y."""

    def init(key: Any, data: Any) -> Any:
        return {"slope": jax.random.normal(key), "offset": jax.random.normal(jax.random.fold_in(key, 1))}, jnp.zeros(())

    def loss(params: Any, aux: Any, key: Any, data: Any) -> Any:
        error = (params["slope"] * data["x"] + params["offset"] - data["y"]) ** 2
        weight = jnp.sum(data["mask"])
        mean = jnp.sum(data["y"] * data["mask"]) / weight
        noise = jax.random.normal(key)
        return (jnp.sum(error * data["mask"]), weight), (mean, {"mean": mean, "noise": noise})

    return Model(init, loss, lambda key, params, aux, data: params["slope"] * data["x"] + params["offset"])


MODEL = line_model()


@pytest.fixture(scope="module")
def batch() -> dict[str, Any]:
    """Three sections with 8, 5 and 3 real points of 8 places."""
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    mask = np.arange(8) < np.array([8, 5, 3])[:, None]
    y = (SLOPES * x + OFFSETS[:, None]) * mask
    return {"x": jnp.asarray(x * mask), "y": jnp.asarray(y), "mask": jnp.asarray(mask, jnp.float32)}


def test_scan_with_rematerialisation_equals_vmap(key: Any, batch: Any) -> None:
    """Loss, statistics and gradients, of shared and local groups."""
    found = []
    for how in ("scan", "vmap"):
        model = joint(MODEL, local=("offset",), how=how)
        params, aux = model.init(key, batch)
        assert params["offset"].shape == (3,)
        assert params["slope"].shape == ()
        mean = lambda p, m=model, a=aux: (lambda out: (out[0][0] / out[0][1], out))(m.loss(p, a, key, batch))
        found.append(jax.value_and_grad(mean, has_aux=True)(params))
    for a, b in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_mean_over_unequal_sections_counts_points_not_sections(key: Any, batch: Any) -> None:
    model = joint(MODEL, local=("offset",))
    params, aux = model.init(key, batch)
    (total, weight), (mean, metrics) = model.loss(params, aux, key, batch)
    errors = (params["slope"] * batch["x"] + params["offset"][:, None] - batch["y"]) ** 2 * batch["mask"]
    np.testing.assert_allclose(total, errors.sum(), rtol=1e-5)
    assert weight == 16
    np.testing.assert_allclose(mean, batch["y"].sum() / 16, rtol=1e-5)
    np.testing.assert_allclose(metrics["mean"], mean)


def test_joint_finds_the_shared_slope_and_each_offset(key: Any, batch: Any) -> None:
    model = joint(MODEL, local=("offset",))
    found = fit(minimize(model, optax.adam(0.1)), key, batch, max_steps=300)
    np.testing.assert_allclose(found.state.params["slope"], SLOPES, atol=1e-2)
    np.testing.assert_allclose(found.state.params["offset"], OFFSETS, atol=1e-2)
    np.testing.assert_allclose(found.result * batch["mask"], batch["y"], atol=5e-2)


def test_sections_get_noise_of_their_own(key: Any, batch: Any) -> None:
    model = joint(MODEL)
    params, aux = model.init(key, batch)
    noise = [jax.random.normal(jax.random.fold_in(key, member)) for member in range(3)]
    metrics = model.loss(params, aux, key, batch)[1][1]
    np.testing.assert_allclose(metrics["noise"], np.average(noise, weights=[8, 5, 3]), rtol=1e-5)


def test_unseen_sections_get_the_mean_of_the_local_table(key: Any, batch: Any) -> None:
    """Any number of them, also as many as were fitted; without asking for it, another number is refused."""
    model = joint(MODEL, local=("offset",))
    params = {"slope": jnp.float32(2), "offset": jnp.asarray(OFFSETS + 3)}
    new = unseen(params, ("offset",))
    for count in (1, 2, 3):
        some = jax.tree.map(lambda leaf, c=count: leaf[:c], batch)
        np.testing.assert_allclose(model.readout(key, new, jnp.zeros(()), some), 2 * some["x"] + 3, rtol=1e-5)
    two = jax.tree.map(lambda leaf: leaf[:2], batch)
    with pytest.raises(ValueError, match=r"Expected 2 sections in the local tables, found 3: .*unseen"):
        model.readout(key, params, jnp.zeros(()), two)
    with pytest.raises(ValueError, match=r"local groups among \['offset', 'slope'\], found \['shift'\]"):
        unseen(params, ("shift",))


def test_each_loss_of_alternate_can_be_joint(key: Any, batch: Any) -> None:
    """Slope and offsets in turns reach the same line."""
    model = joint(MODEL, local=("offset",))
    algorithm = alternate(
        Turn(model.loss, ("slope",), optax.adam(0.1)),
        Turn(model.loss, ("offset",), optax.adam(0.1)),
        init=model.init,
        readout=model.readout,
    )
    found = fit(algorithm, key, batch, max_steps=300)
    np.testing.assert_allclose(found.state.params["offset"], OFFSETS, atol=2e-2)
