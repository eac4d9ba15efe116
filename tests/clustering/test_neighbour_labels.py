"""Votes, Potts fields and Leiden communities."""

from __future__ import annotations

import random
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

from spatialjax import clustering as cl
from spatialjax import graphs
from spatialjax.slices import Neighbors


@pytest.fixture(scope="module")
def halves():
    """A square lattice whose left and right halves differ, its table, and labels with a tenth flipped."""
    rng = np.random.default_rng(2)
    x, y = np.meshgrid(np.arange(20.0), np.arange(20.0))
    truth = (x.ravel() > 9.5).astype(np.int32)
    noisy = np.where(rng.uniform(size=400) < 0.1, 1 - truth, truth)
    return graphs.lattice(np.stack([x.ravel(), y.ravel()], 1)), truth, noisy


def test_votes_correct_lone_labels_and_keep_masked_ones(halves):
    """Accuracy rises; a masked spot neither changes nor votes."""
    table, truth, noisy = halves
    refined = np.asarray(cl.refine(jnp.asarray(noisy), table, number=2, rounds=2))
    assert (refined == truth).mean() > (noisy == truth).mean() + 0.05
    mask = np.arange(400) != 45
    flipped = truth.copy()
    flipped[45] = 1 - truth[45]
    kept = np.asarray(cl.refine(jnp.asarray(flipped), table, number=2, mask=jnp.asarray(mask)))
    np.testing.assert_array_equal(kept, flipped)
    assert float(cl.votes(jnp.asarray(flipped), table, number=2, mask=jnp.asarray(mask))[44].sum()) == 3.0


def test_the_strict_rule_by_hand():
    """Six neighbours: relabelled at own < 3 and other > 3, its own vote counted; a split vote keeps it."""
    index = np.broadcast_to(np.arange(1, 7), (7, 6))
    table = Neighbors(
        index, np.where(np.arange(7)[:, None] == 0, 1.0, 0.0).astype(np.float32) * np.ones((7, 6), np.float32)
    )
    cases = {(1, 1, 1, 1, 1, 0): 1, (1, 1, 1, 1, 0, 0): 0, (1, 1, 1, 2, 2, 2): 0, (1, 1, 1, 1, 2, 2): 1}
    for around, expected in cases.items():
        labels = jnp.array([0, *around], jnp.int32)
        assert int(cl.refine(labels, table, number=3, rule="strict")[0]) == expected
    tie = jnp.array([0, 1, 1, 1, 2, 2, 2], jnp.int32)
    assert int(cl.refine(tie, table, number=3, rule="majority")[0]) == 1
    own = jnp.array([0, 1, 1, 1, 0, 0, 0], jnp.int32)
    assert int(cl.refine(own, table, number=3, rule="majority")[0]) == 0


def energy(labels, evidence, table, beta):
    """From the definition, every edge once."""
    joined = (labels[table.index] == labels[:, None]) * table.weight
    return -evidence[np.arange(len(labels)), labels].sum() - 0.5 * beta * joined.sum()


@pytest.mark.parametrize("method", ["icm", "mean_field"])
def test_a_field_finds_the_halves(halves, method):
    """Accuracy from noisy evidence, converged, the energy below that of the start; padding is left alone."""
    table, truth, noisy = halves
    evidence = np.log(np.where(np.arange(2) == noisy[:, None], 0.9, 0.1)).astype(np.float32)
    field = cl.potts(jnp.asarray(evidence), table, beta=1.5, method=method)
    labels = np.asarray(field.labels)
    assert bool(field.converged) and (labels == truth).mean() > 0.98
    assert energy(labels, evidence, table, 1.5) < energy(noisy, evidence, table, 1.5)
    mask = np.arange(400) < 380
    cut = cl.potts(jnp.asarray(evidence), table, beta=1.5, method=method, mask=jnp.asarray(mask))
    assert not np.asarray(cut.probability)[380:].any() and np.isfinite(np.asarray(cut.probability)).all()


def test_icm_ends_where_no_single_change_helps(halves):
    """A local minimum: no spot alone lowers the energy."""
    table, _, noisy = halves
    evidence = np.log(np.where(np.arange(2) == noisy[:, None], 0.9, 0.1)).astype(np.float32)
    labels = np.asarray(cl.potts(jnp.asarray(evidence), table, beta=0.7, method="icm").labels)
    local = evidence + 0.7 * np.asarray(cl.votes(jnp.asarray(labels), table, number=2))
    assert (local[np.arange(400), labels] >= local.max(1) - 1e-6).all()


def test_the_strength_is_where_the_pseudo_likelihood_peaks(halves):
    """Against a grid; larger for coherent labels than for noise, which has hardly any."""
    table, truth, noisy = halves
    labels = jnp.asarray(noisy)
    found = float(cl.pseudo_likelihood_beta(labels, table, number=2))
    poll = np.asarray(cl.votes(labels, table, number=2))
    grid = np.linspace(0, 5, 2001)
    own = poll[np.arange(400), noisy]
    score = [(b * own - np.log(np.exp(b * poll).sum(1))).sum() for b in grid]
    assert found == pytest.approx(grid[int(np.argmax(score))], abs=0.005)
    shuffled = jnp.asarray(np.random.default_rng(0).permutation(noisy))
    assert float(cl.pseudo_likelihood_beta(shuffled, table, number=2)) < 0.2 < found
    assert float(cl.potts(jax.nn.one_hot(labels, 2), table).beta) == pytest.approx(found, rel=1e-5)


def cliques(count: int, size: int = 8) -> sp.csr_matrix:
    """Complete graphs, joined in pairs by ``size`` edges and in a ring by single ones."""
    block = sp.block_diag([np.ones((size, size)) - np.eye(size)] * count).tolil()
    for i in range(count):
        a, b = i * size, ((i + 1) % count) * size + 1
        block[a, b] = block[b, a] = 1
        if i % 2 == 0:
            for j in range(size):
                block[a + j, a + size + j] = block[a + size + j, a + j] = 1
    return block.tocsr()


def test_leiden_finds_a_target_count_and_leaves_random_states_alone(key):
    """Cliques at a given count, coarser and finer; one key one answer; Python's own random state is not used."""
    pytest.importorskip("igraph", reason="no igraph: install spatialjax[cluster]")
    graph = cliques(6)
    state = random.getstate()
    found = cl.leiden(key, graph, number=6)
    assert random.getstate() == state
    assert found.converged and found.number == 6
    assert len({tuple(found.labels[i * 8 : i * 8 + 8]) for i in range(6)}) == 6
    np.testing.assert_array_equal(found.labels, cl.leiden(key, graph, resolution=found.resolution).labels)
    fewer = cl.leiden(key, graph, number=3)
    assert fewer.converged and fewer.number == 3 and fewer.resolution < found.resolution
    impossible = cl.leiden(key, sp.csr_matrix((5, 5)), number=2, tries=4)
    assert not impossible.converged and impossible.number == 5
    with pytest.raises(ValueError, match="between 1 and 48 communities"):
        cl.leiden(key, graph, number=49)


def test_leiden_without_igraph_says_how_to_get_it(key, monkeypatch):
    """The message names the extra."""
    monkeypatch.setitem(sys.modules, "igraph", None)
    with pytest.raises(ImportError, match=r"spatialjax\[cluster\]"):
        cl.leiden(key, cliques(2))
