"""Tangram: its map in blocks, its loss in plain terms, its modes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

from spatialjax.algorithm import fit
from spatialjax.composition import predicted
from spatialjax.methods import METHODS, run
from spatialjax.tables import Reference, SpotTable

TYPES, GENES, SPOTS = 3, 40, 36


@pytest.fixture(scope="module")
def tissue() -> tuple[SpotTable, Reference, np.ndarray]:
    """Spots of three types; the reference has one type far too often."""
    rng = np.random.default_rng(0)
    means = rng.gamma(0.4, 3.0, (TYPES, GENES)) + 0.02
    types = np.repeat(np.arange(TYPES), [60, 12, 12])
    number = rng.multinomial(8, rng.dirichlet(np.full(TYPES, 0.4), SPOTS))
    spots = SpotTable(sp.csr_matrix(rng.poisson(number @ means), dtype=np.float32))
    reference = Reference(sp.csr_matrix(rng.poisson(means[types]), dtype=np.float32), types, list("abc"))
    return spots, reference, number / number.sum(1, keepdims=True)


def fitted(tissue: Any, *, steps: int = 400, **options: Any) -> Any:
    method = METHODS["deconvolution"]["tangram"](genes=12, **options)
    return run(method, jax.random.key(0), [tissue[:2]], max_steps=steps)[0]


def correlation(found: Any, truth: np.ndarray) -> float:
    return float(np.corrcoef(np.asarray(found.result.values).ravel(), truth.ravel())[0, 1])


@pytest.mark.parametrize("block", [3, 64])
def test_blocks_change_neither_prediction_nor_gradient(block: int) -> None:
    """Against the whole map at once, with masked spots and a row that stands for no cell."""
    rng = np.random.default_rng(1)
    logits = jnp.asarray(rng.normal(size=(11, 7)), jnp.float32)
    values = jnp.asarray(rng.gamma(1.0, size=(11, 4)), jnp.float32).at[10].set(0.0)
    weights, mask = jnp.ones(11).at[10].set(0.0), jnp.arange(7) < 5
    pull = jnp.asarray(rng.normal(size=(7, 4)), jnp.float32)

    def whole(logits: Any) -> Any:
        shares = jax.nn.softmax(jnp.where(mask, logits, -jnp.inf), axis=1)
        entropy = -jnp.where(mask, shares * jnp.log(jnp.where(mask, shares, 1.0)), 0.0).sum(1)
        return shares.T @ values, weights @ shares, (weights * entropy).sum()

    def total(made: Any) -> Any:
        return (made[0] * pull).sum() + jnp.square(made[1]).sum() + 0.3 * made[2]

    def blocks(logits: Any) -> Any:
        return tuple(predicted(logits, values, weights, mask=mask, block=block))

    for found, wanted in zip(jax.jit(blocks)(logits), whole(logits), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    slopes = [jax.jit(jax.grad(lambda x, f=f: total(f(x))))(logits) for f in (blocks, whole)]
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=1e-4, atol=1e-6)
    assert not np.asarray(slopes[0])[:, 5:].any()


def test_the_loss_is_cosines_density_and_entropy(tissue: Any) -> None:
    """The first loss, at a uniform map, in plain numpy."""
    options = {"weight_spots": 0.5, "weight_entropy": 0.01, "frequencies": "reference"}
    method = METHODS["deconvolution"]["tangram"](genes=12, **options)
    data = method.prepare(*tissue[:2])
    found = fit(method.algorithm, jax.random.key(0), data, max_steps=1)
    seen, density = np.asarray(data["counts"], float)[:SPOTS], np.asarray(data["density"], float)[:SPOTS]
    made = np.full((TYPES, SPOTS), 1 / SPOTS).T @ np.asarray(data["values"], float)

    def cosine(axis: int) -> float:
        size = np.linalg.norm(made, axis=axis) * np.linalg.norm(seen, axis=axis)
        return float(((made * seen).sum(axis) / size).mean())

    wanted = -cosine(0) - 0.5 * cosine(1) + (density * np.log(density * SPOTS)).sum() + 0.01 * TYPES * np.log(SPOTS)
    np.testing.assert_allclose(found.history["loss"][0], wanted, rtol=1e-4)


def test_types_are_as_frequent_as_the_spots_say(tissue: Any) -> None:
    """A type that is frequent in the reference alone does not fill the spots, unless that is asked for."""
    truth = tissue[2]
    found = {name: fitted(tissue, frequencies=name) for name in ("fitted", "pooled", "reference", "coded")}
    off = {name: float(np.nanmean(np.asarray(f.result.values)[:, 0])) - truth[:, 0].mean() for name, f in found.items()}
    assert correlation(found["fitted"], truth) > 0.93 and correlation(found["pooled"], truth) > 0.9
    assert abs(off["fitted"]) < 0.05 and abs(off["pooled"]) < 0.1 < off["reference"]
    np.testing.assert_allclose(np.asarray(found["coded"].result.abundance).sum(0), 1.0, rtol=1e-3)


def test_the_density_is_met_by_counts_or_by_cells(tissue: Any) -> None:
    """With types of unequal depth: by default the counts that the cells bring lie as the counts of the spots do."""
    spots, reference, _ = tissue
    factor = np.array([1.0, 6.0, 2.0])[reference.types]
    deep = Reference(sp.csr_matrix(reference.counts.multiply(factor[:, None])), reference.types, reference.names)
    depth = np.asarray([deep.counts[reference.types == k].sum(1).mean() for k in range(TYPES)])
    total = np.asarray(spots.counts.sum(1)).ravel()
    gap = {}
    for density in ("depth", "counts"):
        found = fitted((spots, deep), density=density, weight_density=50.0, frequencies="reference")
        cells = np.asarray(found.result.abundance, np.float64)
        for unit, amount in (("depth", cells @ depth), ("counts", cells.sum(1))):
            gap[density, unit] = float(np.abs(amount / amount.sum() - total / total.sum()).sum())
    assert gap["depth", "depth"] < 0.02 < 0.1 < gap["depth", "counts"]
    assert gap["counts", "counts"] < 0.02 < 0.1 < gap["counts", "depth"]


def test_cells_are_all_placed_once(tissue: Any) -> None:
    """The abundances of a type sum to its cells; the composition is found."""
    found = fitted(tissue, mode="cells", frequencies="reference")
    np.testing.assert_allclose(np.asarray(found.result.abundance).sum(0), [60, 12, 12], rtol=1e-3)
    assert correlation(fitted(tissue, mode="cells"), tissue[2]) > 0.8


def test_the_filter_chooses_as_many_cells_as_asked_for(tissue: Any) -> None:
    """Of the 84 cells of the reference, 30."""
    found = fitted(tissue, mode="constrained", cells=30.0, frequencies="reference")
    assert abs(float(np.asarray(found.result.abundance).sum()) - 30.0) < 1.5


def test_the_loss_falls_and_options_are_checked(tissue: Any) -> None:
    """Each term that is switched off is no part of it; wrong words are refused."""
    loss = fitted(tissue, density=None, steps=60).history["loss"]
    assert loss[-1] < loss[0] and loss.min() >= -1.0
    for bad in ({"mode": "spots"}, {"density": "cells"}, {"frequencies": "even"}):
        with pytest.raises(ValueError, match="Expected"):
            METHODS["deconvolution"]["tangram"](**bad)
