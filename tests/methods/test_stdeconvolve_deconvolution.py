"""STdeconvolve: types from the spots' own counts, whatever the reference's scale; small shares; numbers of topics."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
import scipy.sparse as sp

from spatialjax.methods import METHODS, run
from spatialjax.tables import Reference, SpotTable

TYPES, GENES, SPOTS = 4, 150, 120


def method(**options: Any) -> Any:
    return METHODS["deconvolution"]["stdeconvolve"](**options)


@cache
def made(effect: float = 0.0) -> tuple[SpotTable, Reference, np.ndarray]:
    """Spots of few types each, cells of unequal depth, and a reference whose genes are off by lognormal factors."""
    rng = np.random.default_rng(4)
    means = rng.gamma(0.4, 4.0, (TYPES, GENES)) + 0.02
    means *= np.array([[0.6], [1.0], [1.5], [2.0]])
    number = rng.multinomial(10, rng.dirichlet(np.full(TYPES, 0.4), SPOTS))
    counts = sp.csr_matrix(rng.poisson(number @ means), dtype=np.float32)
    types = np.repeat(np.arange(TYPES), 25)
    cells = rng.poisson(means[types] * rng.lognormal(0.0, effect, GENES))
    return SpotTable(counts), Reference(sp.csr_matrix(cells, dtype=np.float32), types, list("abcd")), number


def fitted(*, effect: float = 0.0, **options: Any) -> Any:
    spots, reference, _ = made(effect)
    (found,) = run(method(**options), jax.random.key(0), [(spots, reference)])
    return found


def shares() -> np.ndarray:
    number = made()[2]
    return number / number.sum(1, keepdims=True)


def test_types_are_found_in_cells() -> None:
    """Shares of cells, not of counts, though cells of one type have three times the counts of another."""
    found = fitted()
    assert found.status == "done" and bool(found.result.converged)
    values = np.asarray(found.result.values)
    assert np.corrcoef(values.ravel(), shares().ravel())[0, 1] > 0.95
    assert np.abs(values - shares()).mean() < 0.06
    np.testing.assert_allclose(np.asarray(found.result.abundance).sum(1).mean(), 10.0, rtol=0.2)


def test_the_reference_only_names_the_topics() -> None:
    """Another scale of every gene in the reference changes the names of none, and hardly the shares."""
    plain, off = fitted().result, fitted(effect=0.7).result
    assert np.corrcoef(np.asarray(plain.values).ravel(), np.asarray(off.values).ravel())[0, 1] > 0.97


def test_small_shares_are_absent() -> None:
    """None is between 0 and the least share of the counts, and a large least share leaves one type at least."""
    spots, reference, _ = made()
    depth = np.asarray([reference.counts[reference.types == k].sum(1).mean() for k in range(TYPES)])
    for least in (0.05, 0.4):
        counts = np.asarray(fitted(least=least).result.values) * depth
        counts /= counts.sum(1, keepdims=True)
        assert ((counts == 0) | (counts > least - 1e-3)).all()
    one = np.asarray(fitted(least=0.95).result.values)
    assert ((one > 0).sum(1) >= 1).all()
    np.testing.assert_allclose(one.sum(1), 1.0, atol=1e-5)


@pytest.mark.parametrize("topics", [3, 6])
def test_topics_may_be_fewer_or_more_than_types(topics: int) -> None:
    """With fewer a type is nowhere; with more all types are there, and those beyond have joined their like."""
    values = np.asarray(fitted(topics=topics).result.values)
    assert values.shape == (SPOTS, TYPES)
    assert (values.sum(0) > 0).sum() == min(topics, TYPES)
    if topics > TYPES:
        assert np.corrcoef(values.ravel(), shares().ravel())[0, 1] > 0.85


def test_what_cannot_be_used_is_refused() -> None:
    """No topic, and no count."""
    with pytest.raises(ValueError, match="Expected at least one topic, found 0"):
        method(topics=0)
    spots, reference, _ = made()
    with pytest.raises(ValueError, match="Expected spots that show a gene, found none"):
        method().prepare(SpotTable(0 * spots.counts), reference)


def test_topics_that_begin_at_extreme_spots_hang_on_no_key() -> None:
    """Where those that begin at random do, a little; another word for the start is refused."""
    spots, reference, _ = made()
    for start, same in (("extreme", True), ("random", False)):
        found = [run(method(start=start), jax.random.key(seed), [(spots, reference)])[0].result for seed in (0, 1)]
        values = [np.asarray(one.values) for one in found]
        assert np.array_equal(*values) is same
        assert all(np.corrcoef(one.ravel(), shares().ravel())[0, 1] > 0.95 for one in values)
    with pytest.raises(ValueError, match="start"):
        method(start="none")
