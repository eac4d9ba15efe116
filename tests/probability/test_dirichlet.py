"""Dirichlet distributions: fits against a general optimizer of scipy's, shares against their Beta distributions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from numpyro import distributions as dist
from scipy import special, stats

from spatialjax.probability import (
    beta_quantile,
    dirichlet_posterior,
    expected_log_shares,
    fit_dirichlet,
    fit_dirichlet_multinomial,
    symmetric_step,
)

#: Few types in a spot, types alike, and shares that hardly vary.
TRUTHS = ([0.1, 0.05, 0.4, 2.0], [1.0, 1.2, 0.8, 1.0], [50.0, 200.0, 20.0, 80.0])


def drawn(truth: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Compositions of 300 spots, and 3 to 39 cells drawn of each."""
    rng = np.random.default_rng(0)
    shares = np.maximum(rng.dirichlet(truth, 300), 1e-6)
    shares /= shares.sum(1, keepdims=True)
    return shares, np.stack([rng.multinomial(d, p) for d, p in zip(rng.integers(3, 40, 300), shares, strict=True)])


def best(cost: Any, start: np.ndarray) -> np.ndarray:
    """α at the least cost, by scipy."""
    found = scipy.optimize.minimize(lambda u: cost(np.exp(u)), np.log(start), method="BFGS", options={"gtol": 1e-8})
    return np.exp(found.x)


@pytest.mark.parametrize("truth", TRUTHS)
def test_the_fit_to_compositions_is_that_of_a_general_optimizer(truth: list[float]) -> None:
    """α, and its mean log likelihood, which is that of numpyro's distribution; few Newton steps are enough."""
    shares, _ = drawn(truth)
    found = jax.jit(fit_dirichlet)(jnp.asarray(shares, jnp.float32))
    logs = np.log(shares).mean(0)
    cost = lambda a: special.gammaln(a).sum() - special.gammaln(a.sum()) - (a - 1.0) @ logs
    np.testing.assert_allclose(found.concentration, best(cost, np.array(truth)), rtol=2e-3)
    if min(truth) > 0.5:  # else many shares are below the least
        np.testing.assert_allclose(found.concentration, truth, rtol=0.3)
    told = dist.Dirichlet(found.concentration).log_prob(jnp.asarray(shares, jnp.float32)).mean()
    np.testing.assert_allclose(found.log_likelihood, told, rtol=1e-3)
    assert bool(found.converged) and int(found.steps) < 12


@pytest.mark.parametrize("truth", TRUTHS[:2])
def test_the_fit_to_counts_is_that_of_a_general_optimizer(truth: list[float]) -> None:
    """Although most counts of a type are 0; and the likelihood is numpyro's but for the coefficients."""
    _, counts = drawn(truth)
    depth = counts.sum(1)

    def cost(a: np.ndarray) -> float:
        each = special.gammaln(a + counts) - special.gammaln(a)
        return -(each.sum() + (special.gammaln(a.sum()) - special.gammaln(a.sum() + depth)).sum()) / len(counts)

    found = jax.jit(fit_dirichlet_multinomial)(jnp.asarray(counts, jnp.float32))
    np.testing.assert_allclose(found.concentration, best(cost, np.array(truth)), rtol=2e-3)
    coefficients = special.gammaln(depth + 1) - special.gammaln(counts + 1).sum(1)
    told = dist.DirichletMultinomial(found.concentration, depth).log_prob(counts) - coefficients
    np.testing.assert_allclose(found.log_likelihood, told.mean(), rtol=1e-4)
    assert bool(found.converged)


def test_counts_that_vary_by_chance_alone_have_a_large_concentration() -> None:
    """A multinomial is the limit; a type that is nowhere is at the lower end, and the mean composition is right."""
    counts = np.random.default_rng(1).multinomial(20, [0.2, 0.3, 0.5, 0.0], 400)
    found = np.asarray(fit_dirichlet_multinomial(jnp.asarray(counts, jnp.float32)).concentration)
    assert found.sum() > 300.0 and found[3] < 0.02
    np.testing.assert_allclose(found / found.sum(), [0.2, 0.3, 0.5, 0.0], atol=0.02)


def test_one_concentration_for_all_parts() -> None:
    """The same from compositions by steps of its logarithm, and no other α is likelier."""
    shares, counts = drawn(TRUTHS[1])
    logs = np.log(shares).mean()
    cost = lambda a: -(special.gammaln(4 * a[0]) - 4 * special.gammaln(a[0]) + 4 * (a[0] - 1) * logs)
    wanted = best(cost, np.array([1.0]))[0]
    found = fit_dirichlet(jnp.asarray(shares, jnp.float32), symmetric=True)
    np.testing.assert_allclose(found.concentration, np.full(4, wanted), rtol=1e-3)
    alpha = jnp.float32(0.2)
    for _ in range(8):
        alpha = symmetric_step(alpha, jnp.float32(logs), number=4)
    np.testing.assert_allclose(alpha, wanted, rtol=1e-3)
    several = fit_dirichlet_multinomial(jnp.asarray(counts, jnp.float32), symmetric=True).concentration
    assert np.ptp(several) == 0 and 0.7 < float(several[0]) < 1.4


def test_rows_that_are_masked_do_not_count() -> None:
    """What stands in free places changes nothing, of several tissues mapped at once; where they count it does."""
    shares, counts = (table[:60] for table in drawn(TRUTHS[0]))
    mask = np.stack([np.arange(60) < 40, np.arange(60) < 40, np.arange(60) < 60])
    for fit, table in ((fit_dirichlet, shares), (fit_dirichlet_multinomial, counts)):
        rows = np.stack([np.where(mask[0][:, None], table, 0), table, table])
        found = jax.vmap(lambda x, m, fit=fit: fit(x, mask=m))(jnp.asarray(rows, jnp.float32), jnp.asarray(mask))
        np.testing.assert_allclose(found.concentration[0], found.concentration[1], rtol=1e-5)
        assert not np.allclose(found.concentration[1], found.concentration[2], rtol=0.01)
        assert bool(found.converged.all())


def test_a_posterior_says_of_each_share_what_its_beta_distribution_does() -> None:
    """Mean, standard deviation and ends of the 90 % interval, for rows from nearly nothing to certainty."""
    alpha = np.array([[0.05, 0.3, 4.0], [1.0, 1.0, 1.0], [30.0, 500.0, 2.0]])
    found = jax.jit(dirichlet_posterior)(jnp.asarray(alpha, jnp.float32))
    exact = stats.beta(alpha, alpha.sum(1, keepdims=True) - alpha)
    np.testing.assert_allclose(found.mean["shares"], exact.mean(), rtol=1e-5)
    np.testing.assert_allclose(found.sd["shares"], exact.std(), rtol=1e-4)
    np.testing.assert_allclose(found.q05["shares"], exact.ppf(0.05), atol=2e-4)
    np.testing.assert_allclose(found.q95["shares"], exact.ppf(0.95), atol=2e-4)
    assert bool(found.converged)
    np.testing.assert_allclose(beta_quantile(jnp.float32(2.0), jnp.float32(5.0), probability=0.5), 0.26445, atol=1e-4)


def test_expected_logarithms_are_those_of_draws(key: Any) -> None:
    """Of 20,000 draws of numpyro's."""
    alpha = jnp.array([0.8, 3.0, 6.0])
    shares = dist.Dirichlet(alpha).sample(key, (20_000,))
    np.testing.assert_allclose(np.log(shares).mean(0), expected_log_shares(alpha), atol=0.05)
