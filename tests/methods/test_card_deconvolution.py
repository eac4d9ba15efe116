"""CARD: its updates against the gradient of its objective, and what the neighbourhood is good for."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

from spatialjax.checks import InputError
from spatialjax.graphs import adjacency
from spatialjax.methods import METHODS, run
from spatialjax.methods.deconvolution import card
from spatialjax.slices import Neighbors
from spatialjax.tables import Reference, SpotTable

TYPES, GENES, SIDE = 3, 60, 20


def layered(seed: int, *, depth: float, sections: int = 1) -> tuple[SpotTable, Reference, np.ndarray]:
    """Spots on a grid whose composition changes smoothly, with few counts each where ``depth`` is small."""
    rng = np.random.default_rng(seed)
    means = rng.gamma(0.5, 2.0, (TYPES, GENES)) + 0.02
    types = np.repeat(np.arange(TYPES), 60)
    xy = np.tile(np.stack(np.divmod(np.arange(SIDE * SIDE), SIDE), 1) * 100.0, (sections, 1))
    section = np.repeat(np.arange(sections), SIDE * SIDE)
    place = xy[:, 0] / xy[:, 0].max()
    share = np.exp(-0.5 * ((place[:, None] - np.linspace(0, 1, TYPES)) / 0.25) ** 2)
    share = share / share.sum(1, keepdims=True)
    counts = rng.poisson(depth * share @ means)
    reference = Reference(sp.csr_matrix(rng.poisson(4 * means[types]), dtype=np.float32), types, list("abc"))
    return SpotTable(sp.csr_matrix(counts, dtype=np.float32), xy, section), reference, share


def error(name: str, spots: SpotTable, reference: Reference, truth: np.ndarray) -> float:
    (found,) = run(METHODS["deconvolution"][name](), jax.random.key(0), [(spots, reference)])
    values = np.asarray(found.result.values)
    return float(np.sqrt(np.nanmean((values - truth) ** 2)))


def test_the_neighbourhood_helps_spots_with_few_counts() -> None:
    """Closer to a smooth truth than least squares spot by spot."""
    spots, reference, truth = layered(0, depth=0.1)
    assert error("card", spots, reference, truth) < 0.75 * error("nnls", spots, reference, truth)


def test_places_without_meaning_do_not_help() -> None:
    """Shuffled coordinates take the advantage away: it comes from the neighbourhood."""
    spots, reference, truth = layered(0, depth=0.1)
    order = np.random.default_rng(1).permutation(len(truth))
    shuffled = SpotTable(spots.counts, spots.xy[order], spots.section)
    assert error("card", spots, reference, truth) < 0.9 * error("card", shuffled, reference, truth)


def prepared(sections: int = 1) -> tuple[dict[str, Any], dict[str, Any]]:
    """Data of the second phase, and a state with random weights."""
    spots, reference, _ = layered(2, depth=3.0, sections=sections)
    data = METHODS["deconvolution"]["card"]().prepare(spots, reference)
    table = card._products(jax.random.key(0), {"tile": data["tile"].at(0)})
    places = len(data["neighbours"].index)
    table = {name: np.zeros((places, *leaf.shape[1:]), np.float32) for name, leaf in table.items()} | {
        name: np.asarray(leaf)[:places] for name, leaf in table.items()
    }
    rng = np.random.default_rng(3)
    n = int(data["number"])
    weights = np.zeros((places, TYPES), np.float32)
    weights[:n] = rng.gamma(2.0, 0.2, (n, TYPES))
    state = {"weights": weights, "mean": np.full(TYPES, 0.3), "spread": np.array([0.5, 1.0, 2.0]), "variance": 0.2}
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), state)
    return jax.tree.map(jnp.asarray, {**{k: v for k, v in data.items() if k != "tile"}, **table}), state


def test_the_update_lowers_its_objective_and_stands_where_the_gradient_does() -> None:
    """The quadratic of likelihood and prior falls with the update; V moves against its gradient, entry by entry."""
    data, state = prepared()
    n, phi = int(data["number"]), 0.7
    matrix = adjacency(Neighbors(data["neighbours"].index[:n], data["neighbours"].weight[:n])).toarray()
    precision = np.diag(matrix.sum(1)) - phi * matrix
    gram, cross = np.asarray(data["gram"], float), np.asarray(data["cross"][:n], float)

    def cost(v: np.ndarray) -> float:
        off = v - state["mean"]
        prior = sum(off[:, k] @ precision @ off[:, k] / (2 * state["spread"][k]) for k in range(TYPES))
        return ((v @ gram) * v).sum() / (2 * 0.2) - (v * cross).sum() / 0.2 + prior

    before = np.asarray(state["weights"][:n], float)
    moved = jax.jit(card._update)(state, data, phi=phi, log_determinant=0.0)
    after = np.asarray(moved["weights"][:n], float)
    assert cost(after) < cost(before)
    gradient = (before @ gram - cross) / 0.2 + precision @ (before - state["mean"]) / state["spread"]
    assert (np.sign(before - after) == np.sign(gradient))[np.abs(gradient) > 1e-2].all()
    off = after - np.asarray(moved["mean"])
    distance = np.array([off[:, k] @ precision @ off[:, k] for k in range(TYPES)])
    np.testing.assert_allclose(moved["spread"], (0.5 * distance + 0.5 * n) / (0.5 * n + 2.0), rtol=1e-4)
    residual = np.asarray(data["square"][:n]).sum() - 2 * (after * cross).sum() + ((after @ gram) * after).sum()
    np.testing.assert_allclose(moved["variance"], residual / n / float(data["genes"]), rtol=1e-3)
    assert not np.asarray(moved["weights"][n:]).any()


def test_the_objective_never_falls() -> None:
    """Over the updates of a whole run, at the best φ."""
    spots, reference, _ = layered(4, depth=2.0)
    (found,) = run(METHODS["deconvolution"]["card"](), jax.random.key(0), [(spots, reference)])
    loss = found.history[1]["loss"]
    assert len(loss) > 5 and (np.diff(loss) <= 1e-4 * np.abs(loss[1:])).all()
    assert bool(found.result.converged)


def test_the_determinant_and_the_kernel_are_those_of_dense_matrices() -> None:
    """Symmetric, within sections only; the log determinant agrees with numpy's."""
    data, _ = prepared(sections=2)
    n = int(data["number"])
    matrix = adjacency(Neighbors(data["neighbours"].index[:n], data["neighbours"].weight[:n])).toarray()
    np.testing.assert_allclose(matrix, matrix.T)
    half = SIDE * SIDE
    assert not matrix[:half, half:].any() and (matrix.sum(1) > 0).all()
    wanted = [np.linalg.slogdet(np.diag(matrix.sum(1)) - phi * matrix)[1] for phi in card._PHI]
    np.testing.assert_allclose(data["log_determinants"], wanted, rtol=1e-4)


def test_places_are_needed() -> None:
    """Without coordinates the message says so."""
    spots, reference, _ = layered(5, depth=2.0)
    with pytest.raises(InputError, match="coordinates"):
        METHODS["deconvolution"]["card"]().prepare(SpotTable(spots.counts), reference)
