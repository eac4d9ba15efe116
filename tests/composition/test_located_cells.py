"""Places of cells from a softmax that is never whole: against the whole one, in any order of the blocks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialjax.composition import located, nowhere, place_features, places

CELLS, SPOTS = 9, 23
NEVER = -1e30


@pytest.fixture(scope="module")
def table() -> tuple[Any, np.ndarray, np.ndarray]:
    """Log weights over three orders of magnitude, places of the spots far from the origin, and two sections."""
    rng = np.random.default_rng(0)
    log_weights = rng.normal(0.0, 4.0, (CELLS, SPOTS)).astype(np.float32)
    log_weights[0] += 300.0
    log_weights[1] -= 300.0
    log_weights[:, 5] = NEVER
    return jnp.asarray(log_weights), rng.uniform(0, 500, (SPOTS, 2)) + 1e4, np.arange(SPOTS) % 2


def streamed(log_weights: Any, features: Any, middle: Any, *, blocks: list[int], kept: int = 4) -> Any:
    known = nowhere(CELLS, kept=kept, features=features.shape[1])
    for first, last in zip([0, *blocks], [*blocks, SPOTS], strict=True):
        known = located(known, log_weights[:, first:last], jnp.asarray(features[first:last]), first=first)
    return jax.tree.map(np.asarray, places(known, jnp.asarray(middle)))


@pytest.mark.parametrize("blocks", [[], [1, 8, 9]])
def test_blocks_give_what_the_whole_softmax_gives(table: Any, blocks: list[int]) -> None:
    """Probabilities, leading spots, section, place, spread, entropy and evidence, by numpy on the whole table."""
    log_weights, xy, section = table
    features, middle = place_features(xy, section)
    found = streamed(log_weights, features, middle, blocks=blocks)
    weights = np.asarray(log_weights, np.float64)
    shares = np.exp(weights - weights.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    order = np.argsort(-shares, axis=1)[:, :4]
    np.testing.assert_array_equal(found.spots, order)
    np.testing.assert_allclose(found.probabilities, np.take_along_axis(shares, order, 1), rtol=1e-4)
    mass = np.stack([shares[:, section == q].sum(1) for q in range(2)], 1)
    np.testing.assert_array_equal(found.section, mass.argmax(1))
    given = shares * (section[None] == mass.argmax(1)[:, None])
    given /= given.sum(1, keepdims=True)
    expected = given @ xy
    np.testing.assert_allclose(found.position, expected, atol=0.05)
    squares = (given * np.square(xy[None] - expected[:, None]).sum(-1)).sum(1)
    np.testing.assert_allclose(found.sd, np.sqrt(squares), rtol=1e-2, atol=1.0)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(1)
    np.testing.assert_allclose(found.entropy, entropy, atol=1e-4)
    np.testing.assert_allclose(
        found.evidence, weights.max(1) + np.log(np.exp(weights - weights.max(1, keepdims=True)).sum(1)), rtol=1e-5
    )


def test_fewer_spots_than_are_kept_and_no_spot_at_all(table: Any) -> None:
    """Places without a spot are -1 with probability 0; a cell without any spot has finite numbers."""
    log_weights, xy, section = table
    features, middle = place_features(xy, section)
    few = jnp.where(jnp.arange(SPOTS) < 2, log_weights, NEVER).at[3].set(NEVER)
    found = streamed(few, features, middle, blocks=[10], kept=6)
    assert (found.spots[:, 2:] == -1).all() and not found.probabilities[:, 2:].any()
    assert (found.spots[3] == -1).all() and all(np.isfinite(leaf).all() for leaf in found)


def test_sections_have_middles_of_their_own() -> None:
    """Features tell the section, and places count from its middle."""
    xy = np.array([[0.0, 0.0], [2.0, 0.0], [100.0, 50.0]])
    features, middle = place_features(xy, np.array([0, 0, 1]))
    np.testing.assert_allclose(middle, [[1.0, 0.0], [100.0, 50.0]])
    np.testing.assert_allclose(
        features, [[1, -1, 0, 1, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0, 0]]
    )
    np.testing.assert_allclose(place_features(xy, None)[1], [xy.mean(0)], rtol=1e-6)
