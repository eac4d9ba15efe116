"""Overdispersion of genes by moments, and what it does to the weights of a fit."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from spatialjax.composition import Signatures, gene_overdispersion, normal_equations, poisson_abundance

SPOTS, GENES, TYPES = 1500, 40, 3


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    """Counts whose first half of the genes scatters by φ = 0.5 and whose second half is Poisson."""
    rng = np.random.default_rng(0)
    means = rng.gamma(1.0, 4.0, (TYPES, GENES)) + 0.5
    abundance = rng.exponential(2.0, (SPOTS, TYPES))
    phi = np.where(np.arange(GENES) < GENES // 2, 0.5, 0.0)
    shape = 1.0 / np.maximum(phi, 1e-9)
    level = np.where(phi > 0, rng.gamma(shape, 1.0 / shape, (SPOTS, GENES)), 1.0)
    return {"means": means, "abundance": abundance, "phi": phi, "counts": rng.poisson(abundance @ means * level)}


def test_what_genes_scatter_is_found(drawn: dict[str, np.ndarray]) -> None:
    """Within a sixth of one half for the genes that scatter, near 0 for the others; parts add up to the whole."""
    whole = gene_overdispersion([(drawn["counts"], drawn["abundance"])], drawn["means"])
    halves = [(drawn["counts"][i::2], drawn["abundance"][i::2]) for i in range(2)]
    np.testing.assert_allclose(gene_overdispersion(halves, drawn["means"]), whole, rtol=1e-5)
    scatter = drawn["phi"] > 0
    # Drawn towards what all genes show together: half of the weight where a gene has the median of the squares.
    known = (2 * whole - _common(drawn))[scatter]
    assert abs(np.median(known) - 0.5) < 0.5 / 6
    assert whole[~scatter].max() < whole[scatter].min()


def _common(drawn: dict[str, np.ndarray]) -> float:
    expected = drawn["abundance"] @ drawn["means"]
    return float((((drawn["counts"] - expected) ** 2 - expected).sum()) / (expected**2).sum())


def test_poisson_counts_scatter_by_nothing(drawn: dict[str, np.ndarray]) -> None:
    """Counts of the model itself, and spots that are all empty, give 0."""
    rng = np.random.default_rng(1)
    counts = rng.poisson(drawn["abundance"] @ drawn["means"])
    assert gene_overdispersion([(counts, drawn["abundance"])], drawn["means"]).max() < 0.03
    empty = (np.zeros((5, GENES)), np.zeros((5, TYPES)))
    assert (gene_overdispersion([empty], drawn["means"]) == 0).all()


def test_normal_equations_hold_the_overdispersion(drawn: dict[str, np.ndarray]) -> None:
    """H and h with V = μ + Σ w² b / M + φ μ², gene by gene in numpy."""
    signatures = Signatures(jnp.asarray(drawn["means"], jnp.float32), jnp.array([5.0, 50.0, 500.0]))
    counts, abundance = drawn["counts"][:7], drawn["abundance"][:7]
    found = normal_equations(
        jnp.asarray(counts, jnp.float32), jnp.asarray(abundance, jnp.float32), signatures,
        overdispersion=jnp.asarray(drawn["phi"], jnp.float32),
    )  # fmt: skip
    mean = abundance @ drawn["means"]
    variance = mean + abundance**2 @ (drawn["means"] / np.array([[5.0], [50.0], [500.0]])) + drawn["phi"] * mean**2
    gram = np.einsum("ng,kg,lg->nkl", 1.0 / variance, drawn["means"], drawn["means"])
    np.testing.assert_allclose(np.asarray(found.gram), gram, rtol=2e-4)
    np.testing.assert_allclose(np.asarray(found.target), (counts / variance) @ drawn["means"].T, rtol=2e-4)


def test_genes_that_scatter_speak_more_softly(drawn: dict[str, np.ndarray]) -> None:
    """With their φ the abundances come nearer to the truth than with Poisson noise for all genes."""
    signatures = Signatures(jnp.asarray(drawn["means"], jnp.float32), jnp.full(TYPES, 1e7))
    counts = jnp.asarray(drawn["counts"], jnp.float32)
    plain, _, _ = poisson_abundance(counts, signatures)
    phi = jnp.asarray(drawn["phi"], jnp.float32)
    softer, _, _ = poisson_abundance(counts, signatures, start=plain, overdispersion=phi)
    error, better = (np.sqrt(np.mean((np.asarray(a) - drawn["abundance"]) ** 2)) for a in (plain, softer))
    assert better < 0.8 * error
