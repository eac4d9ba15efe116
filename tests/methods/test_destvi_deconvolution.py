"""DestVI: compositions, the latent state of a type, gene factors and the unknown part of simulated spots."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
import scipy.sparse as sp

from spatialjax.algorithm import fit
from spatialjax.methods import METHODS, run
from spatialjax.metrics.composition import composition_scores
from spatialjax.tables import Reference, SpotTable

TYPES, GENES, SPOTS, STEPS = 3, 50, 96, (1, 300, 500)
OPTIONS = {"genes": GENES, "latent": 3, "widths": (48,), "components": 3, "batch": 48}
#: Gain of the platform of the spots, of the first genes.
GAIN, GAINED = 4.0, 5


@pytest.fixture(scope="module")
def tissue() -> tuple[SpotTable, Reference, np.ndarray]:
    """Type a has two states; five genes show four times as much in the spots."""
    rng = np.random.default_rng(6)
    means = rng.gamma(0.6, 4.0, (TYPES, GENES)) + 0.1
    types = np.repeat(np.arange(TYPES), 60)
    state = rng.normal(size=GENES) * 0.6
    lean = np.where((types == 0) & (np.arange(180) % 2 == 0), 1.0, 0.0)[:, None]
    cells = rng.poisson(means[types] * np.exp(lean * state))
    number = rng.multinomial(8, rng.dirichlet(np.full(TYPES, 0.5), SPOTS))
    gain = np.where(np.arange(GENES) < GAINED, GAIN, 1.0)
    spots = rng.poisson(number @ means * gain)
    reference = Reference(sp.csr_matrix(cells, dtype=np.float32), types, list("abc"))
    return SpotTable(sp.csr_matrix(spots, dtype=np.float32)), reference, number / number.sum(1, keepdims=True)


@pytest.fixture(scope="module")
def trained(tissue: Any) -> Any:
    """The fit that the tests share, with its state, and the result."""
    method = METHODS["deconvolution"]["destvi"](**OPTIONS)
    found = fit(method.algorithm, jax.random.key(0), method.prepare(*tissue[:2]), max_steps=STEPS)
    return found, method.finish(found.result, *tissue[:2])


def test_simulated_spots_are_recovered(trained: Any, tissue: Any) -> None:
    """Above a floor, and with half of the error of one composition for all."""
    scores = composition_scores(np.asarray(trained[1].values), tissue[2])
    null = composition_scores(np.broadcast_to(tissue[2].mean(0), tissue[2].shape), tissue[2])
    assert scores.pearson_all > 0.9 and scores.rmse < 0.5 * null.rmse


def test_the_platform_effect_is_found(trained: Any) -> None:
    """Factors of the genes that the spots show more of stand out, by about as much."""
    factor = np.asarray(trained[0].state.params["genes"]["factor"])
    gap = factor[:GAINED].mean() - factor[GAINED:].mean()
    assert 0.6 * np.log(GAIN) < gap < 1.4 * np.log(GAIN)
    assert factor[:GAINED].min() > np.quantile(factor[GAINED:], 0.7)


def test_both_models_learn(trained: Any) -> None:
    """The negative log-likelihoods of cells and of spots fall, and little is left to no type."""
    cells, spots = trained[0].history[1]["loss"], trained[0].history[2]
    assert cells[-20:].mean() < 0.9 * cells[:5].mean()
    assert spots["counted"][-20:].mean() < 0.8 * spots["counted"][:5].mean()
    assert spots["rest"][-20:].mean() < 0.15


def test_the_prior_holds_the_places_near_the_cells(tissue: Any, trained: Any) -> None:
    """Places found under the prior are likelier than those that the networks begin with."""
    spots = trained[0].history[2]["unlikely"]
    assert spots[-20:].mean() < spots[:5].mean()


def test_known_compositions_are_learnt(trained: Any) -> None:
    """The network comes to find the compositions of the pseudo-spots."""
    missed = trained[0].history[2]["missed"]
    assert missed[-20:].mean() < 0.2 * missed[:5].mean()


def test_without_pseudo_spots_none_are_made(tissue: Any) -> None:
    """Weight 0: the fit does not see any, and a negative weight is refused."""
    method = METHODS["deconvolution"]["destvi"](**OPTIONS, known=0.0)
    found = run(method, jax.random.key(0), [tissue[:2]], max_steps=(1, 20, 20))[0]
    assert "missed" not in found.history[2] and np.isfinite(np.asarray(found.result.values)).all()
    with pytest.raises(ValueError, match="at least 0"):
        METHODS["deconvolution"]["destvi"](known=-1.0)


def test_what_no_type_explains_goes_to_the_rest(tissue: Any, trained: Any) -> None:
    """Spots with as many counts again of an unknown profile: the rest takes much more, and is no type's share."""
    spots, reference, truth = tissue
    rng = np.random.default_rng(8)
    other = np.zeros(GENES)
    other[rng.permutation(np.arange(GAINED, GENES))[:6]] = 1.0 / 6.0
    total = np.asarray(spots.counts.sum(1)).ravel()
    mixed = spots.counts.toarray() + rng.poisson(total[:, None] * other)
    method = METHODS["deconvolution"]["destvi"](**OPTIONS)
    members = (SpotTable(sp.csr_matrix(mixed, dtype=np.float32)), reference)
    found = run(method, jax.random.key(0), [members], max_steps=STEPS)[0]
    assert found.history[2]["rest"][-20:].mean() > 2 * trained[0].history[2]["rest"][-20:].mean() + 0.05
    values = np.asarray(found.result.values)
    np.testing.assert_allclose(values.sum(1), 1.0, atol=1e-4)
    assert composition_scores(values, truth).pearson_all > 0.75


def test_too_few_steps_are_not_called_converged(trained: Any) -> None:
    """The default number of steps was not taken."""
    assert not bool(trained[1].converged)
