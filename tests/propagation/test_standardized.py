"""Standardised components, the choice of variable genes, and mixtures of fewer components than places."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

from spatialjax.clustering import tied_mixture
from spatialjax.preprocess import variable_genes
from spatialjax.propagation import standardized_components, strength_for


def test_components_are_those_of_the_standardised_table(rng: np.random.Generator) -> None:
    """Sparse log values of two sections give the scores of the dense table, z-scored in each section."""
    tables = [rng.poisson(2.0, (n, 12)).astype(np.float32) for n in (60, 40)]
    scores = np.concatenate(standardized_components([sp.csr_matrix(t) for t in tables], kind="log1p", number=12))
    dense = np.concatenate([(t - t.mean(0)) / t.std(0) for t in tables])
    np.testing.assert_allclose(scores @ scores.T, dense @ dense.T, atol=1e-3)


def test_a_shift_between_sections_makes_no_component(rng: np.random.Generator) -> None:
    """A section with other means and scales of its genes has the same scores."""
    table = rng.normal(size=(80, 6)).astype(np.float32) + 5.0
    first, second = standardized_components([table, 3.0 * table + 7.0], kind="log1p", number=6)
    np.testing.assert_allclose(first, second, atol=1e-3)


def test_the_scale_of_an_embedding_is_kept(rng: np.random.Generator) -> None:
    """Components that are given are centred only."""
    table = (rng.normal(size=(80, 3)) * [5.0, 2.0, 1.0]).astype(np.float32)
    (scores,) = standardized_components([table], kind="embedding")
    np.testing.assert_allclose(scores.var(0).sum(), table.var(0).sum(), rtol=1e-4)


def test_planted_genes_are_the_variable_ones(rng: np.random.Generator) -> None:
    """Genes that differ between two groups are chosen before genes of the same mean that do not."""
    mean = np.full((300, 100), 3.0)
    mean[:150, :10], mean[150:, :10] = 0.5, 5.5
    values = sp.csr_matrix(np.log1p(rng.poisson(mean)).astype(np.float32))
    np.testing.assert_array_equal(variable_genes([values], number=10, bins=2), np.arange(10))


@pytest.mark.parametrize("used", [2, 3])
def test_components_that_are_not_in_use_stay_empty(rng: np.random.Generator, used: int) -> None:
    """Six places and some of them in use give the labels of a mixture of that number."""
    centres = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])[np.arange(240) % used]
    values = jnp.asarray(centres + rng.normal(size=(240, 2)), jnp.float32)
    found = tied_mixture(jax.random.key(0), values, number=6, used=used, lloyd_steps=10)
    assert not np.asarray(found.probability)[:, used:].any()
    assert len({(int(a), b) for a, b in zip(found.labels, np.arange(240) % used, strict=True)}) == used


def test_the_strength_follows_spots_and_domains() -> None:
    """Twice the spots, twice α; twice the domains, half of it."""
    assert strength_for(3800, 10) == pytest.approx(2.0)
    assert strength_for(3800, 20) == pytest.approx(1.0)
