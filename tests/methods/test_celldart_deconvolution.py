"""CellDART: its two players in turns, its values, simulated spots of another platform."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
import scipy.sparse as sp

from spatialjax.algorithm import fit
from spatialjax.composition import drawn_cells, summed_cells
from spatialjax.methods import METHODS, run
from spatialjax.methods.deconvolution.celldart import spread
from spatialjax.metrics.composition import composition_scores
from spatialjax.tables import Reference, SpotTable

TYPES, GENES, SPOTS, STEPS = 3, 45, 90, (1, 250, 900)
OPTIONS = {"genes": 15, "pseudo_spots": 2000, "widths": (64, 16), "judge": 16, "batch": 128}


@pytest.fixture(scope="module")
def tissue() -> tuple[SpotTable, Reference, np.ndarray]:
    """Sums of eight to ten cells drawn like the mixtures, counted on a platform with other gains of the genes."""
    rng, key = np.random.default_rng(3), jax.random.key(3)
    means = rng.gamma(0.5, 4.0, (TYPES, GENES)) + 0.05
    types = np.repeat(np.arange(TYPES), 40)
    own, other = (sp.csr_matrix(rng.poisson(means[types]), dtype=np.float32) for _ in range(2))
    cells = drawn_cells(key, np.full((SPOTS, TYPES), 1 / TYPES), low=8, high=10)
    made = summed_cells(key, own, types, cells=cells).counts.toarray() * np.exp(0.5 * rng.normal(size=GENES))
    spots = SpotTable(sp.csr_matrix(rng.poisson(made), dtype=np.float32))
    return spots, Reference(other, types, list("abc")), cells / cells.sum(1, keepdims=True)


def trained(tissue: Any, *, steps: Any = STEPS, **options: Any) -> Any:
    method = METHODS["deconvolution"]["celldart"](**OPTIONS, **options)
    return run(method, jax.random.key(0), [tissue[:2]], max_steps=steps)[0]


@pytest.fixture(scope="module")
def adapted(tissue: Any) -> Any:
    """With the adversary."""
    return trained(tissue)


@pytest.fixture(scope="module")
def left(tissue: Any) -> Any:
    """Without: the judge looks on."""
    return trained(tissue, adversary=0.0)


def test_the_judge_goes_to_chance_while_the_compositions_stay_learnt(adapted: Any, left: Any) -> None:
    """Left alone the judge tells the two kinds of rows apart; against the network it ends near log 2."""
    chance, last = np.log(2.0), slice(-150, None)
    against, alone = adapted.history[2], left.history[2]
    assert alone["judge"][last].mean() < 0.6 * chance and alone["right"][last].mean() > 0.85
    assert against["judge"][last].mean() > 0.85 * chance and against["right"][last].mean() < 0.65
    assert against["kl"][last].mean() < 0.3 * adapted.history[1]["loss"][:10].mean()


def test_each_player_moves_its_own_groups(tissue: Any) -> None:
    """One step of the pretraining leaves the judge as it was; a step of the players moves all groups."""
    method = METHODS["deconvolution"]["celldart"](**OPTIONS)
    data, key = method.prepare(*tissue[:2]), jax.random.key(0)
    states = [fit(method.algorithm, key, data, max_steps=(1, 5, steps)).state for steps in (0, 1)]
    pretrained = fit(method.algorithm.second.first, key, draws(method, data), max_steps=5).state.params
    start = fit(method.algorithm.second.first, key, draws(method, data), max_steps=0).state.params
    assert moved(start, pretrained) == {"encoder", "types"}
    assert moved(states[0].params, states[1].params) == {"encoder", "types", "judge"}


def draws(method: Any, data: Any) -> Any:
    """The data of the pretraining."""
    first = fit(method.algorithm.first, jax.random.key(1), data, max_steps=1)
    return method.algorithm.handover(first, data)[0]


def moved(before: Any, after: Any) -> set[str]:
    """Groups of which some value differs."""
    differ = jax.tree.map(lambda a, b: bool((np.asarray(a) != np.asarray(b)).any()), before, after)
    return {name for name, group in differ.items() if any(jax.tree.leaves(group))}


def test_simulated_spots_are_recovered(adapted: Any, tissue: Any) -> None:
    """Compositions like those of the mixtures, on another platform: above a floor and far above one for all."""
    found = composition_scores(np.asarray(adapted.result.values), tissue[2])
    null = composition_scores(np.broadcast_to(tissue[2].mean(0), tissue[2].shape), tissue[2])
    assert found.pearson_all > 0.75 and found.rmse < 0.75 * null.rmse


def test_a_type_with_more_counts_is_not_counted_more_often(tissue: Any) -> None:
    """Cells of one type are read five times as deep: shares of cells, not of counts (.89, .83, .75) are found."""
    rng = np.random.default_rng(5)
    means = np.eye(2).repeat(12, axis=1) * 3.0 + 0.1
    means[1] *= 5.0
    types = np.repeat([0, 1], 40)
    cells = np.repeat([[3, 5], [4, 4], [5, 3]], 20, axis=0)
    spots = SpotTable(sp.csr_matrix(rng.poisson(cells @ means), dtype=np.float32))
    reference = Reference(sp.csr_matrix(rng.poisson(means[types]), dtype=np.float32), types, ["a", "b"])
    found = trained((spots, reference))
    shares = np.asarray(found.result.values)[:, 1].reshape(3, 20).mean(1)
    np.testing.assert_allclose(shares, [0.625, 0.5, 0.375], atol=0.08)
    np.testing.assert_allclose(np.asarray(found.result.abundance).sum(1).mean(), 8.0, rtol=0.12)


def test_rows_are_spread_from_zero_to_one() -> None:
    """The depth of a row hardly matters; a row of equal values is 0, and not NaN."""
    rows = np.array([[0, 3, 9], [0, 300, 900], [4, 4, 4], [0, 0, 0]], np.float32)
    found = np.asarray(spread(rows))
    np.testing.assert_allclose(found[:2, [0, 2]], [[0, 1], [0, 1]], atol=1e-6)
    np.testing.assert_allclose(found[0, 1], np.log(4) / np.log(10), rtol=1e-5)
    assert not found[2:].any()
