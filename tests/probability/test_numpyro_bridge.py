"""Numpyro models through ``fit``: against closed forms, with minibatches, and resumed to the same bits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import handlers
from scipy.special import gammaln

from spatialjax.algorithm import collect, draws, fit, row_source
from spatialjax.probability import (
    count_histogram,
    density,
    elbo,
    laplace,
    map_fit,
    negative_binomial_log_likelihood,
    nuts,
)


def conjugate(data: Any) -> None:
    """Rates of three genes with a Gamma prior: the posterior is a Gamma distribution."""
    rate = numpyro.sample("rate", dist.Gamma(jnp.full(3, 2.0), 0.5))
    numpyro.deterministic("double", 2.0 * rate)
    with numpyro.plate("spots", len(data)):
        numpyro.sample("counts", dist.Poisson(rate).to_event(1), obs=data)


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    return np.random.default_rng(0).poisson([0.5, 4.0, 20.0], (40, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def truth(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shape and rate of the exact posterior."""
    return 2.0 + counts.sum(0), np.full(3, 0.5 + len(counts))


def test_the_potential_is_minus_the_log_density(counts: np.ndarray, truth: Any) -> None:
    """With the Jacobian of the logarithm, up to a constant; and start, constrain and unconstrain belong together."""
    pure = density(conjugate)
    values = pure.start(jax.random.key(0), counts)
    assert not np.asarray(values["rate"]).any()
    shape, rate = truth
    at = [np.array([0.3, 1.0, 2.5]), np.array([-0.5, 1.4, 3.0])]
    found = [float(pure.potential({"rate": jnp.asarray(z)}, counts)) for z in at]
    wanted = [-(shape * z - rate * np.exp(z)).sum() for z in at]
    np.testing.assert_allclose(found[1] - found[0], wanted[1] - wanted[0], rtol=1e-4)
    sites = pure.constrain({"rate": jnp.asarray(at[0])}, counts)
    np.testing.assert_allclose(sites["rate"], np.exp(at[0]), rtol=1e-5)
    np.testing.assert_allclose(sites["double"], 2.0 * np.exp(at[0]), rtol=1e-5)
    back = pure.unconstrain({"rate": sites["rate"]}, counts)
    np.testing.assert_allclose(back["rate"], at[0], rtol=1e-4)


def test_the_point_estimate_is_the_mode(counts: np.ndarray, truth: Any) -> None:
    """Of the logarithm of the rate: shape over rate."""
    found = fit(map_fit(conjugate, optimizer=optax.adam(0.1)), jax.random.key(0), jnp.asarray(counts), max_steps=300)
    np.testing.assert_allclose(found.result["rate"], truth[0] / truth[1], rtol=1e-3)


@pytest.mark.parametrize("how", ["laplace", "elbo"])
def test_spread_agrees_with_the_exact_posterior(counts: np.ndarray, truth: Any, how: str) -> None:
    """Mean, standard deviation and quantiles of independent rates, which mean field can describe."""
    from scipy.stats import gamma

    step = optax.adam(0.05)
    made = laplace(conjugate, optimizer=step) if how == "laplace" else elbo(conjugate, optimizer=step, particles=8)
    steps: Any = (400, 1) if how == "laplace" else 800
    found = fit(made, jax.random.key(1), jnp.asarray(counts), max_steps=steps).result
    exact = gamma(truth[0], scale=1.0 / truth[1])
    np.testing.assert_allclose(found.mean["rate"], exact.mean(), rtol=0.05)
    np.testing.assert_allclose(found.sd["rate"], exact.std(), rtol=0.2)
    np.testing.assert_allclose(found.q95["rate"], exact.ppf(0.95), rtol=0.08)
    np.testing.assert_allclose(found.mean["double"], 2.0 * found.mean["rate"], rtol=1e-5)
    assert found.converged


def test_nuts_draws_from_the_posterior_and_resumes_to_the_same_bits(
    counts: np.ndarray, truth: Any, tmp_path: Any
) -> None:
    """Moments of 600 draws; a run that was stopped in its warm-up ends as if it had not been."""
    made = collect(nuts(conjugate, warmup=200), lambda state: state.z["rate"], draws(600), after=200)
    data, key = jnp.asarray(counts), jax.random.key(2)
    whole = fit(made, key, data, max_steps=800)
    rates = np.exp(np.asarray(whole.result.collected["draws"]))
    np.testing.assert_allclose(rates.mean(0), truth[0] / truth[1], rtol=0.05)
    np.testing.assert_allclose(rates.std(0), np.sqrt(truth[0]) / truth[1], rtol=0.2)
    assert whole.history["accepted"][200:].mean() > 0.6 and not whole.history["diverged"][200:].any()

    def stop(report: Any) -> None:
        if report.steps > 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(made, key, data, max_steps=800, chunk=30, progress=stop, checkpoint=tmp_path)
    again = fit(made, key, data, max_steps=800, checkpoint=tmp_path)
    np.testing.assert_array_equal(again.result.collected["draws"], whole.result.collected["draws"])


def tiled(data: Any) -> None:
    """A common mean, and an effect of each spot; likelihood and local terms of a tile are scaled to all spots."""
    common = numpyro.sample("common", dist.Normal(0.0, 10.0))
    tile = data["tile"]
    scale = tile.size / jnp.maximum(tile.core.sum(), 1)
    with handlers.scale(scale=scale), handlers.mask(mask=tile.core), numpyro.plate("spots", len(tile.rows)):
        effect = numpyro.sample("effect", dist.Normal(common, 1.0))
        numpyro.sample("seen", dist.Normal(effect, 0.5), obs=tile.values)


@pytest.mark.parametrize("size", [16, 64])
def test_minibatches_give_the_answer_of_the_full_batch(size: int) -> None:
    """Mean and spread of the shared site, and a posterior for each spot, whatever the tiles."""
    seen = jnp.asarray(np.random.default_rng(1).normal(3.0, 1.1, 64), jnp.float32)
    made = elbo(tiled, optimizer=optax.adam(optax.exponential_decay(0.05, 300, 0.5)), local=("effect",), particles=4)
    data = {"tile": row_source(seen, size=size, key=jax.random.key(3))}
    found = fit(made, jax.random.key(4), data, max_steps=1500).result
    exact = 3.0
    common = np.asarray(found.tiles.mean["common"])
    exact = float(seen.mean())
    np.testing.assert_allclose(common, exact, atol=0.25)
    effect = np.asarray(found.merge(found.tiles.mean["effect"]))
    # Given the common mean, an effect is a weighted mean of it (precision 1) and of what was seen (precision 4).
    np.testing.assert_allclose(effect, (common.mean() + 4.0 * np.asarray(seen)) / 5.0, atol=0.25)
    spread = np.asarray(found.merge(found.tiles.sd["effect"]))
    np.testing.assert_allclose(spread.mean(), np.sqrt(1.0 / 5.0), rtol=0.15)


def test_discrete_sites_and_unknown_names_are_refused(counts: np.ndarray) -> None:
    """One message each, which names the site."""

    def discrete(data: Any) -> None:
        numpyro.sample("present", dist.Bernoulli(0.5))
        numpyro.sample("seen", dist.Normal(0.0, 1.0), obs=data)

    with pytest.raises(ValueError, match="found discrete ones: present"):
        fit(map_fit(discrete), jax.random.key(0), jnp.zeros(3), max_steps=1)
    with pytest.raises(ValueError, match="found rates"):
        fit(map_fit(conjugate, local=("rates",)), jax.random.key(0), jnp.asarray(counts), max_steps=1)


def test_the_histogram_gives_the_negative_binomial_likelihood() -> None:
    """Value and gradients of the likelihood written out, sparse or dense."""
    import scipy.sparse as sp

    rng = np.random.default_rng(2)
    counts = rng.negative_binomial(2.0, 0.2, (50, 7)).astype(np.float32)
    mean, r = rng.uniform(1.0, 15.0, (50, 7)), rng.uniform(0.5, 5.0, 7)
    histogram = count_histogram(sp.csr_matrix(counts))
    np.testing.assert_array_equal(histogram, count_histogram(counts))
    found = negative_binomial_log_likelihood(
        jnp.asarray(counts), jnp.asarray(mean), jnp.asarray(r), histogram=jnp.asarray(histogram)
    )
    wanted = gammaln(counts + r) - gammaln(r) + counts * np.log(mean / (mean + r)) + r * np.log(r / (mean + r))
    np.testing.assert_allclose(found, wanted.sum(), rtol=1e-5)
    slope = jax.grad(
        lambda r: negative_binomial_log_likelihood(counts, jnp.asarray(mean), r, histogram=jnp.asarray(histogram))
    )(jnp.asarray(r))
    from scipy.special import digamma

    exact = digamma(counts + r) - digamma(r) + np.log(r / (mean + r)) + 1.0 - (counts + r) / (mean + r)
    np.testing.assert_allclose(slope, exact.sum(0), rtol=2e-3, atol=1e-2)
    with pytest.raises(ValueError, match="at most 4096"):
        count_histogram(np.array([[5000]]))
