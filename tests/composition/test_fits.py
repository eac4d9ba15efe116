"""Non-negative fits: against scipy, against the truth, and what a spot without counts gets."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp

from spatialjax.composition import (
    Signatures,
    differing_genes,
    gene_information,
    informative_genes,
    mean_signatures,
    nnls,
    normal_equations,
    poisson_abundance,
)


@pytest.fixture(scope="module")
def mixture() -> tuple[Signatures, np.ndarray, np.ndarray]:
    """Signatures of five types, true abundances of 40 spots with absent types, and Poisson counts."""
    rng = np.random.default_rng(0)
    means = rng.gamma(0.5, 2.0, (5, 300)).astype(np.float32)
    abundance = rng.gamma(2.0, 2.0, (40, 5)) * (rng.uniform(size=(40, 5)) < 0.6)
    abundance[0] = 0.0
    return Signatures(jnp.asarray(means), jnp.full(5, 1e6)), abundance, rng.poisson(abundance @ means)


@pytest.mark.parametrize("shared", [True, False])
def test_nnls_agrees_with_scipy(shared: bool) -> None:
    """One Gram matrix for all rows, or one for each: the weights of scipy's active-set solver."""
    rng = np.random.default_rng(1)
    designs = rng.uniform(size=(1 if shared else 6, 30, 4))
    designs = np.broadcast_to(designs, (6, 30, 4))
    aims = rng.normal(size=(6, 30))
    gram = np.einsum("ngk,ngl->nkl", designs, designs)
    target = np.einsum("ngk,ng->nk", designs, aims)
    found = nnls(jnp.asarray(gram[0] if shared else gram), jnp.asarray(target), sweeps=2000, tolerance=1e-7)
    wanted = [scipy.optimize.nnls(d, y)[0] for d, y in zip(designs, aims, strict=True)]
    assert (np.asarray(wanted) == 0).any(), "the case needs weights at the border"
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_two_newton_steps_reach_the_poisson_optimum(mixture: tuple) -> None:
    """The likelihood of the fit is within a hundredth of a nat a spot of what a long run of EM reaches."""
    signatures, _, counts = mixture
    means = np.asarray(signatures.means, np.float64)
    abundance, _, moved = poisson_abundance(jnp.asarray(counts, jnp.float32), signatures)
    best = np.ones((len(counts), 5))
    for _ in range(5000):
        best *= (counts / np.maximum(best @ means, 1e-12)) @ means.T / means.sum(1)

    def likelihood(w: np.ndarray) -> np.ndarray:
        mu = np.maximum(w @ means, 1e-9)
        return (counts * np.log(mu) - mu).sum(1)

    short = (likelihood(best) - likelihood(np.asarray(abundance, np.float64)))[1:]
    assert short.max() < 0.5 and short.mean() < 0.05
    assert np.median(moved) < 0.05


def test_abundances_count_cells(mixture: tuple) -> None:
    """Fitted abundances agree with the true ones within what their own information allows."""
    signatures, truth, counts = mixture
    abundance, equations, _ = poisson_abundance(jnp.asarray(counts, jnp.float32), signatures)
    spread = np.sqrt(np.diagonal(np.linalg.inv(np.asarray(equations.gram)[1:] + 1e-9 * np.eye(5)), axis1=1, axis2=2))
    score = (np.asarray(abundance) - truth)[1:] / spread
    assert 0.5 < np.std(score[truth[1:] > 1]) < 1.4
    assert not np.asarray(abundance[0]).any(), "a spot without counts has no cell"


def test_large_tables_of_pairs_are_not_formed(mixture: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """Type by type gives the same normal equations as the table of pairs."""
    from spatialjax.composition import poisson

    signatures, truth, counts = mixture
    data = jnp.asarray(counts, jnp.float32), jnp.asarray(truth, jnp.float32) + 0.01
    whole = normal_equations(*data, signatures)
    monkeypatch.setattr(poisson, "LARGEST_TABLE", 0)
    by_type = normal_equations(*data, signatures)
    np.testing.assert_allclose(by_type.gram, whole.gram, rtol=2e-5)


def test_few_cells_make_a_signature_less_certain(mixture: tuple) -> None:
    """What is unknown of a signature lowers the information of its genes."""
    signatures, truth, counts = mixture
    data = jnp.asarray(counts, jnp.float32), jnp.asarray(truth, jnp.float32) + 0.5
    sure = normal_equations(*data, signatures).gram
    unsure = normal_equations(*data, signatures.replace(cells=jnp.full(5, 2.0))).gram
    assert (jnp.diagonal(unsure, axis1=1, axis2=2) < jnp.diagonal(sure, axis1=1, axis2=2)).all()


def test_signatures_are_means_drawn_to_the_pool() -> None:
    """Sparse or dense counts; the mean of many cells, and the shape of the pool for a type with one."""
    rng = np.random.default_rng(2)
    counts, types = rng.poisson(3.0, (101, 30)), np.array([0] * 100 + [1])
    found = mean_signatures(sp.csr_matrix(counts), types, number=2)
    again = mean_signatures(counts, types, number=2)
    np.testing.assert_allclose(found.means, again.means, rtol=1e-6)
    np.testing.assert_allclose(found.means[0], counts[:100].mean(0), rtol=0.02)
    assert (np.asarray(found.means) > 0).all()
    np.testing.assert_allclose(found.depth, [counts[:100].sum(1).mean(), counts[100].sum()], rtol=1e-4)
    with pytest.raises(ValueError, match="found a type without"):
        mean_signatures(counts, types, number=3)


def test_informative_genes_are_those_that_differ() -> None:
    """Genes of one type come first, genes alike in all types never."""
    means = np.full((3, 10), 2.0, np.float32)
    means[0, 4], means[2, 7] = 40.0, 15.0
    signatures = Signatures(jnp.asarray(means), jnp.ones(3))
    assert informative_genes(signatures, 2).tolist() == [4, 7]
    assert (gene_information(signatures) >= -1e-12).all()


def test_genes_that_differ_by_chance_are_left_out() -> None:
    """Of 500 genes alike in four types hardly one is kept, of 50 that differ nearly all; depth makes no difference."""
    rng = np.random.default_rng(5)
    rate = np.full((4, 550), 3.0)
    rate[rng.integers(0, 4, 50), np.arange(50)] = 30.0
    totals = rng.poisson(rate * np.array([[0.5], [1.0], [2.0], [4.0]])).astype(float)
    kept = differing_genes(totals)
    assert (kept < 50).sum() >= 45
    assert (kept >= 50).sum() <= 5


def test_the_fit_is_differentiable_in_the_counts(mixture: tuple) -> None:
    """Gradients are finite, also for a spot without counts."""
    signatures, _, counts = mixture

    def total(y: jax.Array) -> jax.Array:
        return normal_equations(y, jnp.ones((len(counts), 5)), signatures).target.sum()

    assert jnp.isfinite(jax.grad(total)(jnp.asarray(counts, jnp.float32))).all()
