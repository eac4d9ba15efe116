"""The last step of a method: labels, shares and confidence from an embedding."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatialjax import clustering as cl
from spatialjax.metrics import ari

K, N, CAPACITY = 3, 240, 384


@pytest.fixture(scope="module")
def blobs() -> Any:
    """Padded rows of three overlapping clouds, with rubbish on the padding, and the cloud of each."""
    rng = np.random.default_rng(0)
    truth = rng.choice(K, N, p=[0.5, 0.3, 0.2])
    values = np.full((CAPACITY, 4), 50.0, np.float32)
    values[:N] = 3.5 * np.eye(K, 4)[truth] + rng.normal(size=(N, 4))
    return jnp.asarray(values), jnp.arange(CAPACITY) < N, truth


@pytest.mark.parametrize("by", ["kmeans", "mixture"])
def test_clouds_are_found_and_confident_rows_are_right(key: Any, blobs: Any, by: str) -> None:
    """Above 0.85; shares sum to 1 and are 0 on padding; errors sit where confidence is low; the embedding is given."""
    values, mask, truth = blobs
    found = cl.regions(key, values, mask, number=K, by=by)
    labels = np.asarray(found.labels)[:N]
    assert ari(labels, truth) > 0.85 and bool(found.converged)
    np.testing.assert_allclose(np.asarray(found.probability).sum(1), np.asarray(mask), atol=1e-5)
    assert not np.asarray(found.embedding)[N:].any()
    right = np.array([np.bincount(truth[labels == k]).argmax() for k in range(K)])[labels] == truth
    confidence = np.asarray(found.confidence)[:N]
    assert confidence[right].mean() > confidence[~right].mean() + 0.1


def test_less_shrinkage_minds_the_scale_of_a_column_less(key: Any, blobs: Any) -> None:
    """The columns that tell the clouds apart, made a tenth as large as the noise: lost to a sphere, found without."""
    values, mask, truth = blobs
    noise = jnp.asarray(np.random.default_rng(1).normal(size=(CAPACITY, 2)) * 10.0, jnp.float32)
    scaled = jnp.concatenate([values * 0.1, noise], 1)
    agreement = [
        ari(np.asarray(cl.regions(key, scaled, mask, number=K, shrinkage=each).labels)[:N], truth)
        for each in (0.9, 0.0)
    ]
    assert agreement[1] > max(0.8, agreement[0] + 0.3)


def test_shares_of_kmeans_name_its_labels(key: Any, blobs: Any) -> None:
    """The largest share is the label of k-means, and shares are those of the spherical mixture by its formula."""
    values, mask, _ = blobs
    values = jnp.where(mask[:, None], values, 0)
    found = cl.kmeans(key, values, mask, number=K)
    shares = np.asarray(cl.kmeans_probability(found, values, mask))[:N]
    np.testing.assert_array_equal(shares.argmax(1), np.asarray(found.labels)[:N])
    square = ((np.asarray(values)[:N, None] - np.asarray(found.centres)) ** 2).sum(-1)
    wanted = jax.nn.softmax(-square / (2 * square.min(1).sum() / (N * 4)), 1)
    np.testing.assert_allclose(shares, wanted, atol=1e-4)


def test_equal_rows_have_no_undefined_shares(key: Any) -> None:
    """A section in which nothing varies: finite shares that sum to 1."""
    mask = jnp.arange(24) < 20
    found = cl.regions(key, jnp.ones((24, 2)) * mask[:, None], mask, number=2, by="kmeans")
    np.testing.assert_allclose(np.asarray(found.probability)[:20].sum(1), 1.0, rtol=1e-5)


def test_another_way_is_refused(key: Any) -> None:
    """With the two that there are."""
    with pytest.raises(ValueError, match="'kmeans' or 'mixture', found 'ward'"):
        cl.regions(key, jnp.ones((4, 2)), jnp.ones(4, bool), number=2, by="ward")
