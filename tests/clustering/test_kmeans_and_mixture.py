"""k-means and the tied mixture against scikit-learn, under masks, weights, permutations and degenerate rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from spatialjax.clustering import kmeans, nearest_centre, responsibilities, tied_mixture, tied_mixtures
from spatialjax.metrics import ari

N, K, P = 300, 4, 5
PAD = 384


def blobs(distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Elongated groups of unequal size; the smaller the distance, the more they overlap."""
    rng = np.random.default_rng(3)
    truth = rng.choice(K, N, p=[0.4, 0.3, 0.2, 0.1])
    shape = np.eye(P) + 0.4 * rng.normal(size=(P, P))
    means = distance * rng.normal(size=(K, P))
    return (means[truth] + rng.normal(size=(N, P)) @ shape).astype(np.float32), truth


def padded(values: np.ndarray) -> tuple[jnp.ndarray, jnp.ndarray]:
    return jnp.asarray(np.pad(values, ((0, PAD - N), (0, 0)))), jnp.arange(PAD) < N


@pytest.mark.parametrize("distance", [6.0, 1.0], ids=["easy", "hard"])
def test_kmeans_is_as_good_as_scikit_learn(key, distance):
    """Inertia within one part in a thousand of ten starts of scikit-learn; its own figures agree with its centres."""
    values, truth = blobs(distance)
    found = kmeans(key, *padded(values), number=K)
    peer = KMeans(K, n_init=10, random_state=0).fit(values)
    assert float(found.inertia) <= 1.001 * peer.inertia_ and bool(found.converged)
    labels = np.asarray(found.labels)
    again, distance2 = nearest_centre(jnp.asarray(values), found.centres)
    np.testing.assert_array_equal(labels[:N], again)
    assert float(distance2.sum()) == pytest.approx(float(found.inertia), rel=1e-4)
    assert not labels[N:].any() and (np.diff(np.bincount(labels[:N], minlength=K)) <= 0).all()
    if distance > 5:
        assert ari(labels[:N], truth) > 0.99


@pytest.mark.parametrize("distance", [6.0, 1.0], ids=["easy", "hard"])
def test_the_mixture_is_as_likely_as_that_of_scikit_learn(key, distance):
    """Without shrinkage: the likelihood of scikit-learn's tied mixture with ten starts, by its own score, or better."""
    values, truth = blobs(distance)
    found = tied_mixture(key, *padded(values), number=K, shrinkage=0.0, starts=10, steps=300, tolerance=1e-6)
    peer = GaussianMixture(K, covariance_type="tied", n_init=10, max_iter=300, tol=1e-6, random_state=0).fit(values)
    assert float(found.log_likelihood) >= peer.score(values) - 2e-3
    judge = GaussianMixture(K, covariance_type="tied")
    judge.weights_, judge.means_ = np.asarray(found.weights, float), np.asarray(found.means, float)
    judge.covariances_ = np.asarray(found.covariance, float)
    judge.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(judge.covariances_))
    assert judge.score(values) == pytest.approx(float(found.log_likelihood), abs=2e-3)
    np.testing.assert_allclose(judge.predict_proba(values), found.probability[:N], atol=5e-3)
    assert not np.asarray(found.probability[N:]).any() and bool(found.converged)
    if distance > 5:
        assert ari(found.labels[:N], truth) > 0.99


def test_shrinkage_pulls_the_covariance_towards_a_sphere(key):
    """Full shrinkage gives one variance; the trace stays about that of the free covariance."""
    values, _ = blobs(6.0)
    options = {"number": K, "starts": 10, "steps": 300, "tolerance": 1e-6}
    free = tied_mixture(key, *padded(values), shrinkage=0.0, **options).covariance
    round_ = tied_mixture(key, *padded(values), shrinkage=1.0, **options).covariance
    np.testing.assert_allclose(round_, np.eye(P) * round_[0, 0], atol=1e-5)
    assert float(jnp.trace(round_)) == pytest.approx(float(jnp.trace(free)), rel=0.02)


def test_a_permutation_of_rows_permutes_the_labels(key):
    """Same key, rows shuffled, padding in between and more of it: the same clusters for the same rows."""
    values, _ = blobs(1.0)
    order = np.random.default_rng(0).permutation(PAD)
    rows, mask = padded(values)
    for fit in (lambda *a: kmeans(key, *a, number=K).labels, lambda *a: tied_mixture(key, *a, number=K).labels):
        first, second = np.asarray(fit(rows, mask)), np.asarray(fit(rows[order], mask[order]))
        np.testing.assert_array_equal(first[order], second)


def test_weights_count_like_repeated_rows(key):
    """A weight of 2 for half of the rows and copies of them give one clustering."""
    values, _ = blobs(6.0)
    double = np.arange(N) < 84
    rows, _ = padded(values)
    weighted = kmeans(key, rows, jnp.asarray(np.pad(1.0 + double, (0, PAD - N)).astype(np.float32)), number=K)
    copies = np.concatenate([values, values[double]])
    copied = kmeans(key, jnp.asarray(copies), jnp.ones(PAD, bool), number=K)
    assert float(weighted.inertia) == pytest.approx(float(copied.inertia), rel=1e-4)
    assert ari(weighted.labels[:N], copied.labels[:N]) == 1.0


def test_members_at_once_are_members_one_by_one(key):
    """A batch with its own masks against a loop; rows that were not fitted get the probabilities of the fitted ones."""
    values, _ = blobs(6.0)
    rows, mask = padded(values)
    keys = jax.random.split(key, 2)
    batch, masks = jnp.stack([rows, rows * 2.0]), jnp.stack([mask, mask.at[:40].set(False)])
    found = tied_mixtures(keys, batch, masks, number=K)
    alone = [tied_mixture(k, v, m, number=K) for k, v, m in zip(keys, batch, masks, strict=True)]
    for i, member in enumerate(alone):
        np.testing.assert_allclose(found.probability[i], member.probability, atol=1e-3)
    again = responsibilities(alone[0], rows)
    np.testing.assert_allclose(again[:N], alone[0].probability[:N], atol=1e-3)
    shared = tied_mixtures(keys, rows, mask, number=K)
    assert shared.labels.shape == (2, PAD)


def test_a_fit_on_some_rows_labels_all(key):
    """With far fewer fitted rows the easy groups are still found, padding is never fitted on."""
    values, truth = blobs(6.0)
    found = tied_mixture(key, *padded(values), number=K, starts=10, fitted_rows=100)
    assert ari(found.labels[:N], truth) > 0.97


def test_degenerate_rows_stay_finite(key):
    """Equal rows, more clusters than distinct rows, and no rows at all: finite, no cluster invented."""
    rows, mask = padded(np.ones((N, P), np.float32))
    found = kmeans(key, rows, mask, number=K)
    assert not np.asarray(found.labels).any() and float(found.inertia) == 0.0
    for members in (mask, jnp.zeros(PAD, bool)):
        mixture = tied_mixture(key, rows, members, number=K)
        assert np.isfinite(np.asarray(mixture.probability)).all() and np.isfinite(np.asarray(mixture.means)).all()


def test_a_second_call_of_one_shape_compiles_nothing(key, count_compilations):
    """Keys, values and masks are data."""
    rows, mask = padded(blobs(6.0)[0])
    other, rest = jax.random.split(key)
    moved, fewer = rows + 1.0, mask.at[0].set(False)
    kmeans(key, rows, mask, number=K)
    tied_mixture(key, rows, mask, number=K)
    with count_compilations() as compiled:
        kmeans(other, moved, fewer, number=K)
        tied_mixture(rest, moved, fewer, number=K)
    assert compiled() == 0
