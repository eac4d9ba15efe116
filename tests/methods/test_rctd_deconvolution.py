"""RCTD: its likelihood against quadrature of scipy, its optimum, its platform effect and its σ."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.sparse as sp
from scipy import stats

from spatialjax.composition import (
    fold_genes,
    lognormal_abundance,
    mean_profiles,
    poisson_lognormal,
    pooled_composition,
)
from spatialjax.composition.lognormal import BACKGROUND, saturated
from spatialjax.methods import METHODS, run
from spatialjax.tables import Reference, SpotTable

TYPES, GENES, SPOTS = 4, 120, 60


def log_mixture(count: float, log_mean: float, sigma: float) -> float:
    """``log E[Poisson(y; μ e^ε)]`` by adaptive quadrature around the mode."""

    def log_integrand(error: float) -> float:
        return stats.poisson.logpmf(count, np.exp(log_mean + error)) + stats.norm.logpdf(error, scale=sigma)

    mode = scipy.optimize.minimize_scalar(lambda e: -log_integrand(e), bracket=(-sigma, sigma)).x
    peak = log_integrand(mode)
    width = 1.0 / np.sqrt(np.exp(log_mean + mode) + sigma**-2)
    total = scipy.integrate.quad(lambda e: np.exp(log_integrand(e) - peak), mode - 14 * width, mode + 14 * width)[0]
    return peak + np.log(total)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.2])
def test_the_likelihood_and_its_derivatives_are_those_of_adaptive_quadrature(sigma: float) -> None:
    """Small and large counts, far below, at and far above their mean."""
    counts = np.array([0, 0, 1, 1, 7, 7, 60, 60, 900, 900, 9000], float)
    log_mean = np.array([-5, 2, -4, 1.5, 0, 3, 3, 5, 6, 7.5, 9], float)
    found = poisson_lognormal(jnp.asarray(counts, jnp.float32), jnp.asarray(log_mean, jnp.float32), sigma)
    step = 0.02
    low, at, high = (
        np.array([log_mixture(y, m + d, sigma) for y, m in zip(counts, log_mean, strict=True)])
        for d in (-step, 0.0, step)
    )
    value = found.value + saturated(jnp.asarray(counts, jnp.float32))
    np.testing.assert_allclose(value, at, rtol=2e-3, atol=2e-3)
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


def test_no_abundances_fit_better() -> None:
    """A general optimizer with bounds, begun at the fit and elsewhere, finds no higher likelihood, spot by spot."""
    rng = np.random.default_rng(0)
    means = rng.gamma(0.6, 2.0, (3, 40)).astype(np.float32)
    truth = np.array([[4.0, 0.0, 3.0], [0.0, 0.5, 9.0]])
    counts = rng.poisson(truth @ means * rng.lognormal(0.0, 0.5, (2, 40))).astype(np.float32)
    fit = jax.jit(lambda y: lognormal_abundance(y, jnp.asarray(means), 0.5, steps=100, tolerance=1e-5))
    fitted = fit(counts)

    @jax.jit
    def cost(w: Any, y: Any) -> Any:
        return -poisson_lognormal(y, jnp.log(w @ means + BACKGROUND), 0.5).value.sum()

    slope = jax.jit(jax.grad(cost))
    for row, found in zip(counts, np.asarray(fitted.abundance), strict=True):
        starts = (found, np.full(3, 2.0))
        best = min(
            scipy.optimize.minimize(
                lambda w, y=row: float(cost(w, y)), x0, jac=lambda w, y=row: np.asarray(slope(w, y), float),
                bounds=[(0, None)] * 3,
            ).fun
            for x0 in starts
        )  # fmt: skip
        assert float(cost(found, row)) <= best + 0.02
    assert bool(fitted.settled.all())
    # A spot does not hang on the others, and one without counts has nothing.
    other = fit(np.stack([np.zeros(40, np.float32), counts[0]]))
    np.testing.assert_allclose(other.abundance[1], fitted.abundance[0], rtol=1e-4, atol=1e-4)
    assert not other.abundance[0].any()


@cache
def platform_set() -> tuple[SpotTable, Reference, np.ndarray, np.ndarray]:
    """Spots whose genes are off by factors of their own, and by lognormal errors with σ = 0.3 in each spot."""
    rng = np.random.default_rng(2)
    means = rng.gamma(0.5, 30.0, (TYPES, GENES)) + 0.2
    types = np.repeat(np.arange(TYPES), 80)
    effect = rng.lognormal(-0.32, 0.8, GENES)
    number = rng.multinomial(12, rng.dirichlet(np.array([1.0, 0.6, 0.4, 0.3]), SPOTS))
    error = rng.lognormal(-0.045, 0.3, (SPOTS, GENES))
    counts = rng.poisson(number @ means * effect * error)
    reference = Reference(sp.csr_matrix(rng.poisson(means[types]), dtype=np.float32), types, list("abcd"))
    return SpotTable(sp.csr_matrix(counts, dtype=np.float32)), reference, number / number.sum(1, keepdims=True), effect


def fitted(**options: Any) -> Any:
    spots, reference = platform_set()[:2]
    (found,) = run(METHODS["deconvolution"]["rctd"](**options), jax.random.key(0), [(spots, reference)])
    return found


def test_what_is_platform_effect_is_no_error() -> None:
    """The composition is found; the σ chosen by likelihood is that of the errors, and larger without the effect."""
    truth = platform_set()[2]
    with_effect, without = fitted(), fitted(platform=False)
    error = [float(np.sqrt(np.mean((f.result.values - truth) ** 2))) for f in (with_effect, without)]
    assert error[0] < 0.06 and error[0] < 1.1 * error[1]
    sigma = [float(f.history[0]["sigma"][-1]) for f in (with_effect, without)]
    assert 0.2 < sigma[0] < 0.5 < sigma[1]
    assert bool(with_effect.result.converged)


def test_the_pooled_composition_gives_the_factors_of_the_genes() -> None:
    """Ratios of observed and expected shares agree with the true factors."""
    spots, reference, truth, effect = platform_set()
    profiles, total = mean_profiles(reference), np.asarray(spots.counts.sum(0)).ravel()
    genes = fold_genes(profiles, fold=0.5, least=0.000125)
    weight = pooled_composition(total[genes], profiles.shares[:, genes])
    cells = weight / profiles.depth
    np.testing.assert_allclose(cells / cells.sum(), truth.mean(0), atol=0.1)
    ratio = np.log(total / total.sum() / (weight @ profiles.shares))
    assert np.corrcoef(ratio, np.log(effect))[0, 1] > 0.95


def test_genes_are_chosen_by_fold_and_not_by_chance() -> None:
    """A gene of one type is chosen, genes alike in all types are not, nor one that a type's single cell shows once."""
    rng = np.random.default_rng(3)
    types = np.array([0] * 100 + [1] * 100 + [2])
    mean = np.full((3, 30), 20.0)
    mean[1, 4] = 90.0
    counts = rng.poisson(mean[types])
    counts[:, 9], counts[-1, 9] = 0, 2
    found = fold_genes(mean_profiles(Reference(sp.csr_matrix(counts), types, list("abc"))), fold=0.75, least=0.0002)
    assert 4 in found and len(found) < 4
    with pytest.raises(ValueError, match="found a type without"):
        mean_profiles(Reference(sp.csr_matrix(counts), types, list("abcd")))
