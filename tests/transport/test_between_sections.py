"""What fused transport of two sections is made of."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from spatialjax.slices import make_slice
from spatialjax.transport import expression_cost, factored_distances, pitch, real_spots, scattered
from spatialjax.transport.costs import dense
from spatialjax.transport.sections import row_divergence


@pytest.mark.parametrize(("spots", "rank", "error"), [(400, 32, 6e-3), (400, 64, 3e-3), (20, 32, 1e-6)])
def test_thin_distances_are_close_to_the_distances(spots: int, rank: int, error: float) -> None:
    """Root mean squared error in units of the extent; exact where the rank suffices; 0 on padding."""
    points = np.random.default_rng(0).uniform(0, 1, (spots, 2))
    mask = np.arange(spots + 8) % (spots + 8) < spots
    thin = factored_distances(points, mask, rank=rank)
    assert thin.left.shape == (spots + 8, rank) and thin.left.dtype == jnp.float32
    found = np.asarray(dense(thin))
    assert np.sqrt(np.mean((found[:spots, :spots] - cdist(points, points)) ** 2)) < error
    assert not found[spots:].any()


def test_real_spots_go_back_to_their_places() -> None:
    """What ``real_spots`` takes, ``scattered`` puts back, whatever the mask."""
    section = make_slice(np.arange(12.0).reshape(4, 3), np.arange(8.0).reshape(4, 2), capacity=6)
    section = section.replace(mask=jnp.asarray([True, False, True, True, False, False]))
    features, xy = real_spots(section)
    assert features.dtype == np.float64 and features.shape == (3, 3) and xy.shape == (3, 2)
    mask = np.asarray(section.mask)
    back = scattered(features, mask, np.ones(3, bool))
    np.testing.assert_array_equal(back[mask], features)
    assert not back[~mask].any()


def test_the_pitch_is_that_of_all_sections() -> None:
    """Median of nearest distances; 1 where no section has two spots."""
    line = np.stack([np.arange(5.0) * 3, np.zeros(5)], 1)
    assert pitch(line, 2 * line[:2]) == 3.0
    assert pitch(line[:1], line[:1]) == 1.0


def test_divergence_of_rows_on_both_sides() -> None:
    """The written-out divergence, the same on the host and on the device; never negative, 0 for a row with itself."""
    rng = np.random.default_rng(0)
    x, y = rng.poisson(3.0, (7, 5)).astype(float), rng.poisson(3.0, (6, 5)).astype(float)
    p, q = ((v + 0.01) / (v + 0.01).sum(1, keepdims=True) for v in (x, y))
    expected = np.array([[np.sum(u * np.log(u / v)) for v in q] for u in p])
    np.testing.assert_allclose(row_divergence(x, y), expected, rtol=1e-9)
    np.testing.assert_allclose(expression_cost(x, y, kind="kl"), expected, rtol=1e-9)
    device = jax.jit(row_divergence)(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    np.testing.assert_allclose(device, expected, rtol=1e-3, atol=1e-5)
    assert np.abs(np.diag(row_divergence(x, x))).max() < 1e-12 and expected.min() >= 0
