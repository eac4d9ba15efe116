"""Topics: against scikit-learn's allocation, the bound, the first profiles, the assignment and the choice of genes."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import LatentDirichletAllocation

from spatialjax.algorithm import fit
from spatialjax.composition import lda, matched_types, overdispersed_genes, pure_profiles

ROWS, EMPTY, GENES, TOPICS, ALPHA, ETA = 90, 20, 50, 3, 0.3, 0.1


@cache
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts, shares and profiles of the model itself."""
    rng = np.random.default_rng(0)
    profiles = rng.dirichlet(np.full(GENES, 0.15), TOPICS)
    shares = rng.dirichlet(np.full(TOPICS, ALPHA), ROWS)
    depth = rng.integers(150, 500, ROWS)
    counts = np.stack([rng.multinomial(d, s @ profiles) for d, s in zip(depth, shares, strict=True)])
    return counts.astype(np.float32), shares, profiles


def run(start: np.ndarray, concentration: float | None = ALPHA, max_steps: int = 400) -> Any:
    """Our allocation of the counts, with rows without any below them."""
    counts = np.concatenate([drawn()[0], np.zeros((EMPTY, GENES), np.float32)])
    data = {"counts": jnp.asarray(counts), "start": jnp.asarray(start, jnp.float32)}
    made = lda(concentration=concentration, smoothing=ETA, tolerance=1e-6, visits=200, settled=1e-5)
    return fit(made, jax.random.key(0), data, max_steps=max_steps)


@cache
def ours(concentration: float | None = ALPHA) -> Any:
    return run(pure_profiles(drawn()[0], TOPICS), concentration)


@cache
def theirs() -> LatentDirichletAllocation:
    made = LatentDirichletAllocation(
        TOPICS, doc_topic_prior=ALPHA, topic_word_prior=ETA, max_iter=150, random_state=0, max_doc_update_iter=200,
        mean_change_tol=1e-4,
    )  # fmt: skip
    return made.fit(drawn()[0])


def test_the_bound_is_as_good_as_that_of_scikit_learn() -> None:
    """Perplexity of the same counts within half a percent, by the same formula."""
    found, counts = ours().result, drawn()[0]
    assert float(found.perplexity) < 1.005 * theirs().perplexity(counts)
    # Their formula at our parameters gives our number.
    model, state = theirs(), ours().state
    before, model.components_ = model.components_, np.asarray(state["words"])
    model.exp_dirichlet_component_ = np.exp(_log_expected(model.components_)).astype(np.float32)
    wanted = model.perplexity(counts)
    model.components_, model.exp_dirichlet_component_ = before, np.exp(_log_expected(before)).astype(np.float32)
    np.testing.assert_allclose(float(found.perplexity), wanted, rtol=1e-3)


def _log_expected(parameters: np.ndarray) -> np.ndarray:
    from scipy.special import psi

    return psi(parameters) - psi(parameters.sum(1, keepdims=True))


def test_begun_at_their_profiles_a_step_stays_there() -> None:
    """Shares of the rows are those that scikit-learn reads out, and its profiles hardly move."""
    counts, model = drawn()[0], theirs()
    found = run(model.components_ - ETA, max_steps=1)
    np.testing.assert_allclose(found.result.shares[:ROWS], model.transform(counts), atol=2e-3)
    profiles = model.components_ / model.components_.sum(1, keepdims=True)
    np.testing.assert_allclose(found.result.profiles, profiles, atol=1e-3)


def test_the_truth_is_found_and_the_bound_rises() -> None:
    """Shares and profiles of the model, up to the order of the topics; each step raises the bound."""
    found, (_, shares, profiles) = ours(), drawn()
    order = matched_types(np.asarray(found.result.profiles), profiles)
    np.testing.assert_array_equal(np.sort(order), np.arange(TOPICS))
    back = np.argsort(order)
    assert np.abs(np.asarray(found.result.shares)[:ROWS, back] - shares).mean() < 0.03
    assert np.abs(np.asarray(found.result.profiles)[back] - profiles).mean() < 2e-3
    assert found.status == "done" and bool(found.result.converged)
    assert (np.diff(found.history["loss"]) < 1e-5).all()


def test_the_concentration_is_learnt() -> None:
    """Near that of the draws, and where the bound is largest."""
    found = ours(None).result
    assert 0.6 * ALPHA < float(found.concentration) < 1.6 * ALPHA
    assert float(found.bound) >= float(ours().result.bound) - 0.5


def test_rows_without_counts_are_at_the_prior() -> None:
    """Topics alike; that they change nothing else is what the comparison with scikit-learn shows, which has none."""
    for found in (ours().result, ours(None).result):
        np.testing.assert_allclose(found.shares[ROWS:], 1.0 / TOPICS, atol=1e-6)


def test_first_profiles_are_those_of_extreme_rows_in_any_order() -> None:
    """Each topic is near one of them, and the order of the rows changes nothing."""
    counts, _, profiles = drawn()
    found = pure_profiles(counts, TOPICS)
    order = matched_types(found, profiles)
    for topic, kind in enumerate(order):
        assert np.corrcoef(found[topic], profiles[kind])[0, 1] > 0.9
    shuffled = pure_profiles(counts[np.random.default_rng(1).permutation(ROWS)], TOPICS)
    np.testing.assert_allclose(shuffled, found, rtol=1e-6)


def test_topics_are_named_one_to_one_and_those_beyond_join_their_like() -> None:
    """A permutation is found whatever the depth; a fourth topic goes to the type that it is a copy of."""
    profiles = drawn()[2]
    order = np.array([2, 0, 1])
    scaled = profiles[order] * np.array([[5.0], [1.0], [0.1]])
    np.testing.assert_array_equal(matched_types(scaled, profiles), order)
    np.testing.assert_array_equal(matched_types(scaled[:2], profiles), order[:2])
    more = np.concatenate([scaled, 0.7 * profiles[[1]] + 0.3 * profiles[[0]]])
    np.testing.assert_array_equal(matched_types(more, profiles), [*order, 1])


@pytest.mark.parametrize("seed", [0, 1])
def test_genes_that_vary_between_rows_are_chosen(seed: int) -> None:
    """Those whose level changes from row to row, and few of the others; rare genes are left out."""
    rng = np.random.default_rng(seed)
    mean = rng.lognormal(0.5, 0.8, 300)
    factor = np.ones((200, 300))
    factor[:, :40] = rng.lognormal(0.0, 1.0, (200, 40))
    counts = rng.poisson(mean * factor)
    counts[:, 290:] = 0
    counts[:4, 290:] = 50
    found = overdispersed_genes(counts)
    assert np.isin(np.arange(40), found).mean() > 0.9
    assert np.isin(np.arange(40, 290), found).mean() < 0.05
    assert not (found >= 290).any()
    assert len(overdispersed_genes(counts, number=10)) == 10
