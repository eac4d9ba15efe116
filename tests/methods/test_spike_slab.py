"""The fast sampler against the numpyro model, calibration on data from the model, and what power and genes do."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

from spatialjax.composition import Prior, Signatures, poisson_abundance, sampled
from spatialjax.methods import METHODS, run
from spatialjax.methods.deconvolution.spike_slab import count_model
from spatialjax.metrics.composition import composition_scores, interval_scores
from spatialjax.tables import Reference, SpotTable


@pytest.fixture(scope="module")
def drawn() -> dict[str, Any]:
    """Spots from the model itself: presence, exponential sizes, Poisson counts of 60 genes, about 150 a cell."""
    rng = np.random.default_rng(0)
    means = (rng.gamma(0.5, 5.0, (4, 60)) + 0.05).astype(np.float32)
    present, size = np.array([0.7, 0.5, 0.3, 0.6]), np.array([2.0, 3.0, 2.0, 1.0])
    abundance = (rng.uniform(size=(400, 4)) < present) * rng.exponential(size, (400, 4))
    return {
        "signatures": Signatures(jnp.asarray(means), jnp.full(4, 1e7)),
        "prior": Prior(jnp.asarray(present, jnp.float32), jnp.asarray(size, jnp.float32)),
        "abundance": abundance,
        "counts": jnp.asarray(rng.poisson(abundance @ means), jnp.float32),
    }


def test_nuts_and_the_fast_sampler_agree(drawn: dict[str, Any], optimized: Any) -> None:
    """Means of the proportions within .015 and standard deviations within a quarter, presence beside size by Gibbs.

    Spots of some hundred counts: of 60 counts the quadratic approximation errs by up to .07. The chain is long, as the
    deviations of types that are seldom present differ by up to half between chains of 1,500 draws.
    """
    from numpyro.infer import MCMC, NUTS, DiscreteHMCGibbs

    spots = 4
    counts = drawn["counts"][:spots]
    data = {**drawn, "counts": counts, "power": 1.0}
    chain = MCMC(
        DiscreteHMCGibbs(NUTS(count_model, max_tree_depth=6)), num_warmup=200, num_samples=20_000, progress_bar=False
    )
    with optimized():
        chain.run(jax.random.key(0), data)
    exact = np.asarray(chain.get_samples()["proportions"])
    start, equations, _ = poisson_abundance(counts, drawn["signatures"])
    tile = jax.tree.map(lambda x: jnp.repeat(x, 20, axis=0), (start, equations))
    fast = sampled(jax.random.key(1), *tile, prior=drawn["prior"], power=1.0)
    mean, second = (np.asarray(x).reshape(spots, 20, 4).mean(1) for x in (fast.mean, fast.sd**2 + fast.mean**2))
    sd = np.sqrt(second - mean**2)
    np.testing.assert_allclose(mean, exact.mean(0), atol=0.015)
    unsure = exact.std(0) > 0.01
    assert unsure.sum() > spots
    np.testing.assert_allclose(sd[unsure], exact.std(0)[unsure], rtol=0.25)


def test_intervals_are_calibrated_on_data_from_the_model(drawn: dict[str, Any]) -> None:
    """With the true prior and no tempering nine of ten intervals given presence hold the truth."""
    start, equations, _ = poisson_abundance(drawn["counts"], drawn["signatures"])
    found = sampled(jax.random.key(2), start, equations, prior=drawn["prior"], power=1.0)
    total = drawn["abundance"].sum(1, keepdims=True)
    some = total[:, 0] > 0
    truth = drawn["abundance"][some] / total[some]
    low, high = np.asarray(found.low_present)[some], np.asarray(found.high_present)[some]
    seen = (truth > 0) & np.isfinite(low)
    assert seen.sum() > 0.9 * (truth > 0).sum()
    scores = interval_scores(low, high, truth, estimate=np.asarray(found.mean)[some], counted=seen)
    print(f"coverage {scores.coverage:.3f} of {scores.number}")
    assert 0.87 <= scores.coverage <= 0.93
    assert scores.score < scores.null_score
    absent = np.asarray(found.present)[some][truth == 0]
    assert absent.mean() < 0.35 < np.asarray(found.present)[some][truth > 0].mean()


@pytest.fixture(scope="module")
def mixed() -> tuple[SpotTable, Reference, np.ndarray]:
    """Spots of whole cells whose types vary more than Poisson noise does, at half of the reference's depth."""
    rng = np.random.default_rng(3)
    mean = rng.gamma(0.5, 2.0, (5, 80)) + 0.05
    types = np.repeat(np.arange(5), 40)

    def cells(kind: np.ndarray) -> np.ndarray:
        return rng.poisson(mean[kind] * rng.gamma(3.0, 1 / 3.0, (len(kind), 80)))

    number = rng.multinomial(rng.integers(3, 12, 150), rng.dirichlet(np.full(5, 0.4), 150))
    counts = np.stack([rng.binomial(cells(np.repeat(np.arange(5), row)).sum(0), 0.5) for row in number])
    reference = Reference(sp.csr_matrix(cells(types).astype(np.float32)), types, list("abcde"))
    return SpotTable(sp.csr_matrix(counts.astype(np.float32))), reference, number / number.sum(1, keepdims=True)


def test_calibrated_intervals_hold_where_cells_vary(mixed: Any) -> None:
    """The plain posterior does not know how much cells differ; the pseudo-spots do."""
    spots, reference, truth = mixed
    (found,) = run(METHODS["deconvolution"]["spike_slab"](), jax.random.key(4), [(spots, reference)])
    result = found.result
    there = truth > 0
    said = interval_scores(result.low, result.high, truth, estimate=result.values, counted=there)
    print(f"coverage {said.coverage:.3f}, score {said.score:.3f}, constant width {said.null_score:.3f}")
    assert 0.83 <= said.coverage <= 0.98
    assert composition_scores(result.values, truth).pearson > 0.85
    brier = np.mean((result.present - there) ** 2)
    assert brier < 0.8 * there.mean() * (1.0 - there.mean())


def test_fewer_genes_are_the_informative_ones(mixed: Any) -> None:
    """Half of the genes lose little; all that vary are used where more are asked for than there are."""
    spots, reference, truth = mixed
    errors = []
    for genes in (None, 40, 500):
        made = METHODS["deconvolution"]["spike_slab"](uncertainty=False, genes=genes)
        (found,) = run(made, jax.random.key(5), [(spots, reference)])
        errors.append(composition_scores(found.result.values, truth).rmse)
        assert found.result.sd is None
    assert errors[0] == errors[2]
    assert errors[1] < 1.5 * errors[0]


def test_genes_alike_in_all_types_are_left_out_of_a_shallow_reference() -> None:
    """Where the reference hardly shows a gene, what differs by chance alone would mislead."""
    rng = np.random.default_rng(6)
    base = rng.gamma(0.5, 0.12, 1500)
    mean = np.tile(base, (4, 1))
    mean[rng.integers(0, 4, 200), np.arange(200)] *= 8.0
    types = np.repeat(np.arange(4), 30)
    reference = Reference(sp.csr_matrix(rng.poisson(mean[types]).astype(np.float32)), types, list("abcd"))
    number = rng.multinomial(rng.integers(5, 15, 120), rng.dirichlet(np.full(4, 0.5), 120))
    spots = SpotTable(sp.csr_matrix(rng.poisson(number @ mean).astype(np.float32)))
    truth = number / number.sum(1, keepdims=True)
    errors = []
    for genes in (None, 10**6):
        made = METHODS["deconvolution"]["spike_slab"](uncertainty=False, genes=genes)
        (found,) = run(made, jax.random.key(7), [(spots, reference)])
        errors.append(composition_scores(found.result.values, truth).rmse)
    print(f"RMSE {errors[0]:.3f}, with all genes {errors[1]:.3f}")
    assert errors[0] < 0.9 * errors[1]
