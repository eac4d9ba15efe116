"""Layers and losses together under ``minimize`` and ``joint``."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from spatialjax import graphs, losses, nn
from spatialjax.algorithm import Model, fit, joint, minimize
from spatialjax.slices import make_slice, stack

ENCODER = nn.TiedAttentionAutoencoder(hidden=16, latent=3)
BLOCK = nn.DenseBlock(4, dropout=0.1)


def model() -> Model:
    """A tied auto-encoder beside a dense block with batch statistics in ``aux``."""

    def init(key: Any, data: Any) -> Any:
        variables = BLOCK.init(key, data.features[:, :3], data.weights)
        params = {"encoder": ENCODER.init(key, data.features, data.edges), "block": variables["params"]}
        return params, variables["batch_stats"]

    def loss(params: Any, aux: Any, key: Any, data: Any) -> Any:
        out = ENCODER.apply(params["encoder"], data.features, data.edges)
        total, weight = losses.tied_reconstruction(
            data.features, out.decoded, out.kernel, weight=data.weights, projected=out.projected
        )
        state = {"params": params["block"], "batch_stats": aux}
        h, moved = BLOCK.apply(state, out.latent, data.weights, train=True, key=key, mutable=["batch_stats"])
        smooth, _ = losses.smoothness(h, data.edges, data.weights)
        return (total + 1e-3 * smooth, weight), (moved["batch_stats"], {"smoothness": smooth})

    def readout(key: Any, params: Any, aux: Any, data: Any) -> Any:
        del key, aux
        return ENCODER.apply(params["encoder"], data.features, data.edges).latent

    return Model(init, loss, readout)


def test_a_model_of_layers_trains_on_two_sections_together(key: Any) -> None:
    """The loss falls, batch statistics move, and latent columns come out for both sections."""
    rng = np.random.default_rng(0)
    sections = []
    for n in (40, 50):
        xy = rng.uniform(0, 600, (n, 2))
        pattern = np.sin(xy / 100.0) @ rng.normal(size=(2, 8))
        sections.append(make_slice(pattern, xy, capacity=64, edges=graphs.knn(xy, 4)))
    found = fit(minimize(joint(model()), optax.adam(1e-2)), key, stack(sections), max_steps=60)
    history = found.history["loss"]
    assert history[-1] < 0.6 * history[0] and np.isfinite(history).all()
    assert float(jnp.abs(found.state.aux["BatchNorm_0"]["mean"]).max()) > 0
    assert found.result.shape == (2, 64, 3)
