"""NNLS: scipy's weights spot by spot, and what the variance weights are good for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp

from spatialjax.composition import cell_spread, mean_signatures, weighted_nnls
from spatialjax.methods import METHODS, run
from spatialjax.tables import Reference, SpotTable

TYPES, GENES, SPOTS = 4, 50, 30


def made(seed: int, *, noisy: int = 0) -> tuple[SpotTable, Reference, np.ndarray]:
    """Spots of Poisson cells; the first ``noisy`` genes are deep and vary by a large factor from cell to cell."""
    rng = np.random.default_rng(seed)
    means = rng.gamma(0.5, 3.0, (TYPES, GENES)) + 0.05
    means[:, :noisy] = 30.0 + 30.0 * rng.uniform(size=(TYPES, noisy))
    types = np.repeat(np.arange(TYPES), 60)

    def cells(kinds: np.ndarray) -> np.ndarray:
        mean = means[kinds]
        mean[:, :noisy] *= rng.lognormal(-0.72, 1.2, (len(kinds), noisy))
        return rng.poisson(mean)

    number = rng.multinomial(8, rng.dirichlet(np.full(TYPES, 0.6), SPOTS))
    spots = np.stack([cells(np.repeat(np.arange(TYPES), row)).sum(0) for row in number])
    reference = Reference(sp.csr_matrix(cells(types), dtype=np.float32), types, [f"t{k}" for k in range(TYPES)])
    return SpotTable(sp.csr_matrix(spots, dtype=np.float32)), reference, number / number.sum(1, keepdims=True)


def fitted(spots: SpotTable, reference: Reference, **options: object) -> np.ndarray:
    (found,) = run(METHODS["deconvolution"]["nnls"](**options), jax.random.key(0), [(spots, reference)])
    return found.result


def test_weights_are_those_of_scipy() -> None:
    """Abundances of every spot agree with the active-set solver on the same signatures."""
    spots, reference, _ = made(0)
    means = np.asarray(mean_signatures(reference.counts, reference.types, number=TYPES).means, np.float64)
    wanted = np.stack([scipy.optimize.nnls(means.T, row)[0] for row in spots.counts.toarray()])
    assert (wanted == 0).any(), "the case needs weights at the border"
    np.testing.assert_allclose(fitted(spots, reference).abundance, wanted, atol=2e-3)


@pytest.mark.parametrize("weighted", [False, True])
def test_under_the_sum_constraint_cells_account_for_the_counts(weighted: bool) -> None:
    """Each spot's cells would have its counts in all; the truth is found as well as without, where genes agree."""
    spots, reference, truth = made(0)
    found = fitted(spots, reference, constraint="simplex", weighted=weighted)
    signatures = mean_signatures(reference.counts, reference.types, number=TYPES)
    counts = np.asarray(spots.counts.sum(1)).ravel()
    np.testing.assert_allclose(np.asarray(found.abundance) @ np.asarray(signatures.depth), counts, rtol=1e-3)
    free = fitted(spots, reference, weighted=weighted)
    error = [np.abs(each.values - truth).mean() for each in (found, free)]
    assert bool(found.converged) and error[0] < 1.05 * error[1]
    if not weighted:
        means = np.asarray(signatures.means, np.float64)
        # A heavy row for the sum turns the constrained problem into one of the active-set solver.
        heavy = 1e3 * np.asarray(signatures.depth, np.float64) / counts.mean()
        rows = [np.append(row, 1e3 * row.sum() / counts.mean()) for row in spots.counts.toarray().astype(float)]
        wanted = np.stack([scipy.optimize.nnls(np.vstack([means.T, heavy]), row)[0] for row in rows])
        np.testing.assert_allclose(found.abundance, wanted, atol=1e-2)


def test_an_unknown_constraint_is_refused() -> None:
    """One message, which names those that there are."""
    with pytest.raises(ValueError, match="one of positive, simplex, found 'convex'"):
        METHODS["deconvolution"]["nnls"](constraint="convex")


def test_variance_weights_help_where_deep_genes_vary() -> None:
    """Genes that vary much from cell to cell decide plain least squares, not the weighted form."""
    spots, reference, truth = made(1, noisy=6)
    error = {w: np.abs(fitted(spots, reference, weighted=w).values - truth).mean() for w in (False, True)}
    assert error[True] < 0.5 * error[False]


def test_a_gene_of_large_variance_counts_less() -> None:
    """A wrong count in such a gene moves the fit by less than in a steady gene."""
    spots, reference, _ = made(2)
    signatures = mean_signatures(reference.counts, reference.types, number=TYPES)
    spread = cell_spread(reference)
    counts = jnp.asarray(spots.counts.toarray())
    gene = int(np.asarray(signatures.means).sum(0).argmax())
    wrong = counts.at[:, gene].multiply(3.0)
    fit = jax.jit(lambda y, own: weighted_nnls(y, signatures, own)[0])
    moved = []
    for factor in (1.0, 100.0):
        own = spread.replace(cells=spread.cells.at[:, gene].multiply(factor))
        moved.append(jnp.abs(fit(wrong, own) - fit(counts, own)).mean())
    assert moved[1] < 0.2 * moved[0]


def test_variances_are_those_of_the_cells() -> None:
    """Close to numpy's for types with many cells; between batches only where there are several."""
    rng = np.random.default_rng(3)
    types = np.repeat([0, 1], 2000)
    counts = rng.poisson(np.array([[4.0, 9.0], [1.0, 0.0]])[types] * rng.gamma(2.0, 0.5, (4000, 1)))
    reference = Reference(sp.csr_matrix(counts), types, ["a", "b"])
    spread = cell_spread(reference)
    np.testing.assert_allclose(spread.cells[0], counts[types == 0].var(0, ddof=1), rtol=0.1)
    assert not np.asarray(spread.batches).any()
    batch = np.arange(4000) % 4
    shifted = counts * (1 + (batch[:, None] == 0))
    several = cell_spread(Reference(sp.csr_matrix(shifted), types, ["a", "b"], batch))
    means = np.stack([shifted[(types == 0) & (batch == b)].mean(0) for b in range(4)])
    np.testing.assert_allclose(several.batches[0], means.var(0, ddof=1), rtol=1e-4)


def test_few_genes_can_be_chosen() -> None:
    """The most informative half of the genes still finds the composition."""
    spots, reference, truth = made(4)
    found = np.asarray(fitted(spots, reference, genes=25).values)
    assert np.abs(found - truth).mean() < 0.08
    assert np.abs(found - np.asarray(fitted(spots, reference).values)).max() > 1e-3
