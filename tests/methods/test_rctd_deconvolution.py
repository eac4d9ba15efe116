"""RCTD: the optimum of its likelihood, its platform effect and its σ."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp

from spatialjax.composition import (
    fold_genes,
    lognormal_abundance,
    mean_profiles,
    pooled_composition,
)
from spatialjax.composition.lognormal import BACKGROUND
from spatialjax.methods import METHODS, run
from spatialjax.probability import poisson_lognormal
from spatialjax.tables import Reference, SpotTable

TYPES, GENES, SPOTS = 4, 120, 60


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
