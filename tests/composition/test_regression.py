"""Signatures of a reference of several batches: against known effects, stationarity, and the case of one batch."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats

from spatialjax.composition import BatchedSignatures, batch_signatures, mean_signatures
from spatialjax.tables import Reference

TYPES, GENES, BATCHES = 4, 80, 3
DEPTH = np.array([0.6, 1.0, 1.6])
#: Share of the cells of each type in each batch: types and batches go together.
FREQUENCY = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.34, 0.33, 0.33]])


@cache
def batched() -> tuple[Reference, dict[str, np.ndarray]]:
    """Negative binomial cells of four types in three batches."""
    rng = np.random.default_rng(0)
    truth = {
        "means": rng.gamma(0.6, 4.0, (TYPES, GENES)) + 0.1,
        "effect": rng.lognormal(0.0, 0.4, (BATCHES, GENES)),
        "overdispersion": rng.uniform(0.1, 1.0, GENES),
    }
    types = np.repeat(np.arange(TYPES), 150)
    batch = np.array([rng.choice(BATCHES, p=FREQUENCY[k]) for k in types])
    mean = DEPTH[batch][:, None] * truth["effect"][batch] * truth["means"][types]
    phi = truth["overdispersion"]
    counts = rng.poisson(mean * rng.gamma(1.0 / phi, phi, mean.shape))
    return Reference(sp.csr_matrix(counts, dtype=np.float32), types, list("abcd"), batch), truth


@cache
def fitted() -> BatchedSignatures:
    return batch_signatures(batched()[0])


def error(means: Any) -> float:
    """Root mean squared error of the logarithm, up to a factor that the types share."""
    off = np.log(np.asarray(means)) - np.log(batched()[1]["means"])
    return float(np.sqrt(np.square(off - off.mean(0)).mean()))


def test_signatures_are_without_the_batches() -> None:
    """Nearer to the truth than plain means by a third at least; depths, effects and overdispersion are found too."""
    found, (reference, truth) = fitted(), batched()
    assert bool(found.converged)
    plain = mean_signatures(reference.counts, reference.types, number=TYPES)
    assert error(found.signatures.means) < 0.67 * error(plain.means)
    np.testing.assert_allclose(found.depth / found.depth.mean(), DEPTH / DEPTH.mean(), rtol=0.15)
    wanted = np.log(truth["effect"]) - np.log(truth["effect"]).mean(0)
    assert np.corrcoef(np.log(np.asarray(found.gene_effect)).ravel(), wanted.ravel())[0, 1] > 0.9
    assert np.corrcoef(found.overdispersion, truth["overdispersion"])[0, 1] > 0.85
    np.testing.assert_allclose(np.mean(found.overdispersion), truth["overdispersion"].mean(), rtol=0.15)


def test_no_signature_fits_better() -> None:
    """The gradient of the log posterior with respect to the logarithm of each signature vanishes at the fit."""
    found, reference = batch_signatures(batched()[0], tolerance=1e-6, rounds=2000), batched()[0]
    counts, phi = jnp.asarray(reference.counts.toarray()), found.overdispersion
    factor = (found.depth[:, None] * found.gene_effect)[reference.batch]
    shown = np.asarray(reference.counts.sum(0)).ravel()
    # Half a cell of the pooled profile, at the mean depth of the type.
    depth = np.asarray([reference.counts[reference.types == k].sum(1).mean() for k in range(TYPES)])
    borrowed = jnp.asarray(0.5 * depth[:, None] * shown / shown.sum())

    def posterior(log_means: Any) -> Any:
        mean = factor * jnp.exp(log_means)[reference.types]
        fit = counts * jnp.log(mean) - (counts + 1.0 / phi) * jnp.log1p(phi * mean)
        return fit.sum() + (borrowed * log_means - (borrowed + 0.5 / phi) * jnp.log1p(phi * jnp.exp(log_means))).sum()

    slope = np.asarray(jax.grad(posterior)(jnp.log(found.signatures.means)))
    bend = np.asarray(found.signatures.means) * 150 / (1.0 + np.asarray(phi * found.signatures.means))
    assert np.abs(slope / bend).max() < 5e-3


def test_one_batch_has_no_effects() -> None:
    """Effects of 1, and the signatures of plain means."""
    reference = batched()[0]
    found = batch_signatures(Reference(reference.counts, reference.types, reference.names))
    np.testing.assert_array_equal(found.depth, 1.0)
    np.testing.assert_array_equal(found.gene_effect, 1.0)
    plain = mean_signatures(reference.counts, reference.types, number=TYPES)
    np.testing.assert_allclose(found.signatures.means, plain.means, rtol=1e-3)


def test_names_of_batches_carry_no_meaning_and_other_batches_do_not_matter_to_a_balanced_reference() -> None:
    """Renumbered batches give the same; a batch at random, hence without an effect, leaves signatures as they are."""
    reference = batched()[0]
    other = Reference(reference.counts, reference.types, reference.names, 7 - 2 * reference.batch)
    again = batch_signatures(other)
    np.testing.assert_allclose(again.signatures.means, fitted().signatures.means, rtol=1e-4)
    np.testing.assert_allclose(again.depth[::-1], fitted().depth, rtol=1e-4)
    dealt = Reference(reference.counts, reference.types, reference.names, np.arange(600) % 2)
    plain = batch_signatures(Reference(reference.counts, reference.types, reference.names))
    off = np.log(np.asarray(batch_signatures(dealt).signatures.means / plain.signatures.means))
    assert stats.scoreatpercentile(np.abs(off), 95) < 0.03


def test_what_cannot_be_used_is_refused() -> None:
    """A type without a cell, and a strength of 0."""
    reference = batched()[0]
    with pytest.raises(ValueError, match="found a type without"):
        batch_signatures(Reference(reference.counts, reference.types, [*reference.names, "e"], reference.batch))
    with pytest.raises(ValueError, match="Expected strength above 0, found 0"):
        batch_signatures(reference, strength=0.0)
