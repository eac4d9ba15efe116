"""The Poisson-lognormal family: scipy's quadrature, derivatives, draws, and a model that is fitted with it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
import pytest
import scipy.integrate
import scipy.optimize
from scipy import stats

from spatialjax.algorithm import fit
from spatialjax.probability import (
    PoissonLogNormal,
    map_fit,
    poisson_lognormal,
    poisson_lognormal_log_prob,
)
from spatialjax.probability.lognormal import saturated

MEANS = (1e-3, 1e-2, 0.3, 1.0, 30.0, 1e3, 1e4)


def log_mixture(count: float, log_mean: float, sigma: float) -> float:
    """``log E[Poisson(y; μ e^ε)]`` by adaptive quadrature around the mode."""

    def log_integrand(error: float) -> float:
        return stats.poisson.logpmf(count, np.exp(log_mean + error)) + stats.norm.logpdf(error, scale=sigma)

    slope = lambda e: count - np.exp(min(log_mean + e, 700.0)) - e / sigma**2
    reach = abs(slope(0.0)) * sigma**2 + 1.0
    mode = scipy.optimize.brentq(slope, -reach, reach, xtol=1e-13)
    peak = log_integrand(mode)
    # Where few counts are expected the integrand falls to the left as the normal does, however narrow its top is.
    ends = mode - 14 * sigma, mode + 14 * sigma
    top = mode + np.array([-4, 4]) / np.sqrt(np.exp(log_mean + mode) + sigma**-2)
    total = scipy.integrate.quad(lambda e: np.exp(log_integrand(e) - peak), *ends, points=top, limit=200)[0]
    return peak + np.log(total)


def counts_of(mean: float, sigma: float) -> np.ndarray:
    """None, one, two, and counts far below, at and far above the mean."""
    error = sigma * stats.norm.ppf([0.001, 0.3, 0.7, 0.999])
    return np.unique(np.concatenate([[0, 1, 2], np.floor(mean * np.exp(error))]))


@pytest.mark.parametrize("sigma", [0.05, 0.4, 1.0, 2.0])
def test_the_log_probability_is_that_of_adaptive_quadrature(sigma: float) -> None:
    """For means from 0.001 to 10,000, counts in both tails too, in nats; with more places it is closer."""
    given = [(y, np.log(mean)) for mean in MEANS for y in counts_of(mean, sigma)]
    counts, log_mean = np.array(given).T
    wanted = [log_mixture(y, m, sigma) for y, m in given]
    for nodes, off in ((8, 3e-3), (16, 2e-4)):
        found = poisson_lognormal_log_prob(counts, jnp.asarray(log_mean, jnp.float32), sigma, nodes=nodes)
        np.testing.assert_allclose(found, wanted, atol=off, rtol=3e-6)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.2])
def test_slope_and_curvature_are_those_of_adaptive_quadrature(sigma: float) -> None:
    """Small and large counts, far below, at and far above their mean."""
    counts = np.array([0, 0, 1, 1, 7, 7, 60, 60, 900, 900, 9000], float)
    log_mean = np.array([-5, 2, -4, 1.5, 0, 3, 3, 5, 6, 7.5, 9], float)
    found = poisson_lognormal(jnp.asarray(counts, jnp.float32), jnp.asarray(log_mean, jnp.float32), sigma)
    step = 0.02
    low, at, high = (
        np.array([log_mixture(y, m + d, sigma) for y, m in zip(counts, log_mean, strict=True)])
        for d in (-step, 0.0, step)
    )
    np.testing.assert_allclose(found.slope, (high - low) / (2 * step), rtol=1e-2, atol=2e-3)
    np.testing.assert_allclose(found.curvature, (2 * at - high - low) / step**2, rtol=2e-2, atol=1e-3)


def test_the_derivatives_are_those_of_the_value() -> None:
    """By automatic differentiation of the value; a small error brings the Poisson law back."""
    counts, log_mean = jnp.array([0.0, 1.0, 5.0, 40.0]), jnp.array([-2.0, 0.5, 1.0, 3.5])
    value = lambda m: poisson_lognormal(counts, m, 0.6).value.sum()
    found = poisson_lognormal(counts, log_mean, 0.6)
    np.testing.assert_allclose(jax.grad(value)(log_mean), found.slope, rtol=5e-3, atol=2e-3)
    poisson = poisson_lognormal(counts, log_mean, 0.02)
    np.testing.assert_allclose(poisson.slope, counts - jnp.exp(log_mean), rtol=0.03, atol=2e-3)
    np.testing.assert_allclose(poisson.curvature, jnp.exp(log_mean), rtol=0.05, atol=2e-3)


def test_gradients_under_jit_and_vmap_are_those_of_adaptive_quadrature() -> None:
    """In log μ and in σ, once and twice; the counts, which are whole, have none."""
    counts, log_mean, sigma = np.array([0.0, 3.0, 80.0, 80.0]), np.array([-1.0, 2.0, 3.0, 4.4]), np.full(4, 0.7)
    one = lambda m, s, y: poisson_lognormal_log_prob(y, m, s)
    slopes = jax.jit(jax.vmap(jax.grad(one, argnums=(0, 1, 2))))(*map(jnp.float32, (log_mean, sigma, counts)))
    step = 1e-3
    each = [(y, m, s) for y, m, s in zip(counts, log_mean, sigma, strict=True)]
    wanted = [(log_mixture(y, m + step, s) - log_mixture(y, m - step, s)) / (2 * step) for y, m, s in each]
    np.testing.assert_allclose(slopes[0], wanted, rtol=2e-3, atol=1e-3)
    wanted = [(log_mixture(y, m, s + step) - log_mixture(y, m, s - step)) / (2 * step) for y, m, s in each]
    np.testing.assert_allclose(slopes[1], wanted, rtol=2e-3, atol=1e-3)
    assert not slopes[2].any()
    bend = jax.vmap(jax.grad(jax.grad(one)))(*map(jnp.float32, (log_mean, sigma, counts)))
    curvature = poisson_lognormal(jnp.float32(counts), jnp.float32(log_mean), 0.7, nodes=16).curvature
    np.testing.assert_allclose(bend, -curvature, rtol=5e-3)


def test_the_poisson_probability_of_the_mean_is_scipys() -> None:
    """From no count to millions, where the terms of the sum are far larger than the sum."""
    counts = np.array([0, 1, 2, 9, 15, 16, 17, 300, 2e4, 5e6])
    np.testing.assert_allclose(saturated(jnp.asarray(counts, jnp.float32)), stats.poisson.logpmf(counts, counts), 3e-6)


def test_draws_have_the_moments_of_the_family(key: Any) -> None:
    """Shape of the draws, mean and variance, against the errors and counts of 40,000 draws."""
    family = PoissonLogNormal(jnp.log(jnp.array([[0.5], [20.0]])), jnp.array([0.3, 0.6]))
    assert family.batch_shape == (2, 2)
    drawn = np.asarray(family.sample(key, (40_000,)), float)
    assert drawn.shape == (40_000, 2, 2)
    np.testing.assert_allclose(drawn.mean(0), family.mean, rtol=0.03)
    np.testing.assert_allclose(drawn.var(0), family.variance, rtol=0.1)
    shares = np.exp(family.log_prob(np.arange(60)[:, None, None]))[:, 0, 1]
    seen = np.bincount(drawn[:, 0, 1].astype(int), minlength=60)[:60] / len(drawn)
    np.testing.assert_allclose(seen, shares, atol=0.01)
    np.testing.assert_allclose(shares.sum(), 1.0, atol=1e-3)


def test_a_model_is_fitted_with_it() -> None:
    """The point estimate of log μ and σ of 400 counts is that of a general optimizer of scipy's on the same density."""

    def model(data: Any) -> None:
        middle = numpyro.sample("middle", numpyro.distributions.Normal(0.0, 10.0))
        sigma = numpyro.sample("sigma", numpyro.distributions.HalfNormal(1.0))
        with numpyro.plate("spots", len(data)):
            numpyro.sample("counts", PoissonLogNormal(middle, sigma), obs=data)

    rng = np.random.default_rng(0)
    counts = rng.poisson(np.exp(1.5 + 0.8 * rng.normal(size=400)))
    found = fit(map_fit(model, optimizer=optax.adam(0.05)), jax.random.key(0), jnp.asarray(counts), max_steps=300)
    value, times = np.unique(counts, return_counts=True)
    error = np.linspace(-8.0, 8.0, 1601)

    def cost(at: np.ndarray) -> float:
        middle, sigma = at[0], np.exp(at[1])
        # The mode is that of log σ.
        prior = stats.norm.logpdf(middle, scale=10.0) + stats.halfnorm.logpdf(sigma) + at[1]
        chance = stats.poisson.pmf(value[:, None], np.exp(middle + sigma * error)) @ stats.norm.pdf(error) * 0.01
        return -prior - times @ np.log(chance)

    best = scipy.optimize.minimize(cost, [1.0, -0.5], method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-3}).x
    np.testing.assert_allclose(found.result["middle"], best[0], atol=0.01)
    np.testing.assert_allclose(found.result["sigma"], np.exp(best[1]), atol=0.01)
    assert abs(best[0] - 1.5) < 0.2 and abs(np.exp(best[1]) - 0.8) < 0.15
