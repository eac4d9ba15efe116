"""Losses of compositions against their formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import entropy

from spatialjax import losses

SHARES = np.array([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7], [1.0, 0.0, 0.0]], np.float32)
LOGITS = np.array([[0.3, -1.0, 2.0], [0.0, 0.0, 0.0], [4.0, 1.0, -3.0]], np.float32)


def test_composition_kl_is_the_divergence_and_skips_padding() -> None:
    """Against scipy, with shares of 0; a row of weight 0 changes nothing, even where it holds NaN."""
    wanted = [entropy(p, np.exp(q) / np.exp(q).sum()) for p, q in zip(SHARES, LOGITS, strict=True)]
    total, weight = losses.composition_kl(LOGITS, SHARES, jnp.array([1.0, 2.0, 0.0]))
    assert float(total) == pytest.approx(wanted[0] + 2 * wanted[1], rel=1e-5) and float(weight) == 3.0
    broken = jnp.asarray(LOGITS).at[2].set(jnp.nan)
    assert float(losses.composition_kl(broken, SHARES, jnp.array([1.0, 2.0, 0.0]))[0]) == pytest.approx(float(total))


def test_composition_kl_is_least_at_the_truth() -> None:
    """Zero there, and with no gradient."""
    truth = jnp.array([[0.2, 0.3, 0.5]])
    value, slope = jax.jit(jax.value_and_grad(lambda z: losses.composition_kl(z, truth, jnp.ones(1))[0]))(
        jnp.log(truth)
    )
    assert abs(float(value)) < 1e-6 and float(jnp.abs(slope).max()) < 1e-6


def test_kl_minus_cosine_in_plain_terms() -> None:
    """Positive values: mean of t log(t / q) less the cosine; the same values give −1."""
    rng = np.random.default_rng(0)
    a, b = rng.gamma(2.0, size=(2, 5, 4)).astype(np.float32)
    t, q = b / b.sum(1, keepdims=True), a / a.sum(1, keepdims=True)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    wanted = (t * np.log(t / q)).mean(1) - cosine
    assert float(losses.kl_minus_cosine(a, b, jnp.ones(5))[0]) == pytest.approx(wanted.sum(), rel=1e-4)
    assert float(losses.kl_minus_cosine(b, b, jnp.ones(5))[0]) == pytest.approx(-5.0, abs=1e-4)


def test_kl_minus_cosine_bears_values_of_both_signs() -> None:
    """Finite value and gradient where sums are 0 or below, which a division by the sum would not bear."""
    target = jnp.array([[1.0, -1.0, 0.0], [-2.0, -1.0, -0.5]])
    prediction = jnp.array([[0.5, -0.5, 0.0], [0.0, 0.0, 0.0]])
    graded = jax.jit(jax.value_and_grad(lambda x: losses.kl_minus_cosine(x, target, jnp.ones(2))[0]))
    value, slope = graded(prediction)
    assert np.isfinite(float(value)) and np.isfinite(np.asarray(slope)).all()
