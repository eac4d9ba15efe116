"""Spoint: its two turns, what the discrepancy does, simulated spots."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
import scipy.sparse as sp

from spatialjax.algorithm import fit
from spatialjax.composition import drawn_cells, summed_cells
from spatialjax.methods import METHODS, run
from spatialjax.metrics.composition import composition_scores
from spatialjax.tables import Reference, SpotTable

TYPES, GENES, SPOTS, STEPS = 3, 45, 80, (1, 250, 300)
OPTIONS = {"genes": 15, "pseudo_spots": 1000, "latent": 12, "width": 48, "dropout": 0.2, "batch": 64}


@pytest.fixture(scope="module")
def tissue() -> tuple[SpotTable, Reference, np.ndarray]:
    """Sums of four to ten cells, at half of the depth."""
    rng, key = np.random.default_rng(4), jax.random.key(4)
    means = rng.gamma(0.5, 4.0, (TYPES, GENES)) + 0.05
    types = np.repeat(np.arange(TYPES), 40)
    own, other = (sp.csr_matrix(rng.poisson(means[types]), dtype=np.float32) for _ in range(2))
    cells = drawn_cells(key, rng.dirichlet(np.full(TYPES, 0.5), SPOTS), low=4, high=10)
    made = summed_cells(key, own, types, cells=cells).counts.toarray()
    spots = SpotTable(sp.csr_matrix(rng.binomial(made.astype(int), 0.5), dtype=np.float32))
    return spots, Reference(other, types, list("abc")), cells / cells.sum(1, keepdims=True)


def trained(tissue: Any, seed: int = 0, **options: Any) -> Any:
    method = METHODS["deconvolution"]["spoint"](**{**OPTIONS, **options})
    return run(method, jax.random.key(seed), [tissue[:2]], max_steps=STEPS)[0]


@pytest.fixture(scope="module")
def found(tissue: Any) -> Any:
    """The run that the tests share."""
    return trained(tissue)


def test_simulated_spots_are_recovered(found: Any, tissue: Any) -> None:
    """Above a floor, and with half of the error of one composition for all."""
    scores = composition_scores(np.asarray(found.result.values), tissue[2])
    null = composition_scores(np.broadcast_to(tissue[2].mean(0), tissue[2].shape), tissue[2])
    assert scores.pearson_all > 0.9 and scores.rmse < 0.5 * null.rmse


def test_both_turns_learn(found: Any) -> None:
    """The auto-encoder, the compositions of pseudo-spots, and the features rebuilt from them."""
    cells, network = found.history[1]["loss"], found.history[2]
    assert cells[-20:].mean() < 0.9 * cells[:5].mean()
    assert network["loss"][-20:].mean() < network["loss"][:5].mean() - 0.1
    assert network["matched"][-20:].mean() < network["matched"][:5].mean()


def test_the_discrepancy_brings_both_kinds_of_rows_together() -> None:
    """Features of spots that lie beside those of pseudo-spots: latent places are apart at first, and not at the end."""
    rng = np.random.default_rng(9)
    shares = rng.dirichlet(np.ones(TYPES), 300).astype(np.float32)
    turn = rng.normal(size=(TYPES, 6)).astype(np.float32)
    features, beside = shares @ turn, (shares @ turn)[:100] + 1.5
    spots = {"values": beside, "number": np.int32(100)}
    data = {"mixed": features, "shares": shares, "spots": spots, "counts": np.zeros(1)}
    method = METHODS["deconvolution"]["spoint"](latent=6, width=24, dropout=0.0, batch=64, match=5.0, match_rate=1e-3)
    apart = fit(method.algorithm.second.second, jax.random.key(0), data, max_steps=300).history["apart"]
    assert apart[-20:].mean() < 0.4 * apart[:5].mean() and apart[:5].mean() > 0.1


def test_small_shares_are_none(found: Any) -> None:
    """Nothing between 0 and a hundredth; some types are absent somewhere."""
    values = np.asarray(found.result.values)
    assert (values == 0).any() and values[values > 0].min() >= 0.01


def test_abundance_gives_the_counts_of_the_spot_back(found: Any, tissue: Any) -> None:
    """At the depth of the reference."""
    spots, reference, _ = tissue
    depth = np.array([reference.counts[np.asarray(reference.types) == k].sum(1).mean() for k in range(TYPES)])
    total = np.asarray(spots.counts.sum(1)).ravel()
    np.testing.assert_allclose(np.asarray(found.result.abundance) @ depth, total, rtol=1e-3)


def test_too_few_steps_are_not_called_converged(found: Any) -> None:
    """The default number of turns was not taken."""
    assert not bool(found.result.converged)
