"""Marker genes: the rank-sum test against scipy, the domains around a domain, filters, meta-genes, Moran's I."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats

from spatialjax import graphs, markers


@pytest.fixture
def halves():
    """120 spots on a square lattice of two halves, 8 genes of counts: gene 0 marks the left half, gene 1 the right."""
    rng = np.random.default_rng(4)
    xy = np.stack(np.divmod(np.arange(120), 12)[::-1], 1).astype(float)
    labels = (xy[:, 0] >= 6).astype(int)
    rate = np.full((120, 8), 2.0)
    rate[labels == 0, 0] *= 6
    rate[labels == 1, 1] *= 6
    return np.log1p(rng.poisson(rate)).astype(np.float32), labels, xy


def test_rank_sum_agrees_with_scipy_ties_included(halves):
    """Score and p-value of every gene, sparse and dense alike; the adjustment is Benjamini–Hochberg's."""
    values, labels, _ = halves
    test = markers.rank_sum(values, labels == 0, labels == 1)
    for gene in range(8):
        p = stats.mannwhitneyu(
            *(values[labels == each, gene].astype(float) for each in (0, 1)), method="asymptotic", use_continuity=False
        ).pvalue
        np.testing.assert_allclose(test.p[gene], p, rtol=1e-6)
    assert test.score[0] > 5 and test.score[1] < -5
    np.testing.assert_allclose(test.adjusted, stats.false_discovery_control(test.p))
    sparse = markers.rank_sum(sp.csr_matrix(values), labels == 0, labels == 1)
    np.testing.assert_allclose(sparse.score, test.score)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix], ids=["dense", "sparse"])
def test_all_domains_at_once_equal_one_domain_after_another(halves, form):
    """Every figure of every domain, spots without a domain left out; fewer than two domains are refused."""
    values, _, xy = halves
    values = np.insert(values, 3, 0.0, axis=1)
    labels = np.where(xy[:, 1] > 8, -1, xy[:, 0].astype(int) // 4)
    found = markers.each_domain_genes(form(values), labels, seen=0.5, fold_change=1.1)
    assert list(found) == [0, 1, 2]
    for domain, each in found.items():
        alone = markers.domain_genes(form(values), labels, domain, seen=0.5, fold_change=1.1)
        for mine, theirs in zip(each, alone, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)
    assert any(each.passed.any() for each in found.values())
    with pytest.raises(ValueError, match="two groups"):
        markers.each_domain_genes(form(values), np.where(labels == 0, 0, -1))


def test_a_constant_gene_is_no_marker():
    """A gene without variation has score 0 and p = 1, not NaN."""
    values = np.ones((10, 2))
    values[:5, 1] = 2.0
    test = markers.rank_sum(values, np.arange(10) < 5, np.arange(10) >= 5)
    assert test.score[0] == 0 and test.p[0] == 1 and np.isfinite(test.adjusted).all()


def test_groups_must_be_two(halves):
    """An empty group, or a spot in both, is said with the numbers."""
    values, labels, _ = halves
    with pytest.raises(ValueError, match="found 0 and"):
        markers.rank_sum(values, labels == 7, labels == 1)
    with pytest.raises(ValueError, match="60 of them in both"):
        markers.rank_sum(values, labels == 1, labels >= 0)


def test_the_false_discovery_rate_is_held_without_signal():
    """Of 2,000 genes that say nothing, hardly one passes at 5 %."""
    values = np.random.default_rng(0).normal(size=(60, 2000))
    test = markers.rank_sum(values, np.arange(60) < 25, np.arange(60) >= 25)
    assert (test.adjusted < 0.05).sum() <= 2
    assert abs((test.p < 0.05).mean() - 0.05) < 0.02


def test_domain_genes_are_those_of_the_simulation(halves):
    """Gene 0 marks the left half and gene 1 the right one; nothing else passes the filters."""
    values, labels, _ = halves
    assert markers.domain_genes(values, labels, 0).ranked.tolist() == [0]
    assert markers.domain_genes(sp.csr_matrix(values), labels, 1).ranked.tolist() == [1]
    found = markers.domain_genes(values, labels, 0)
    expected = np.exp(values[labels == 0, 0].mean() - values[labels == 1, 0].mean())
    np.testing.assert_allclose(found.fold_change[0], expected, rtol=1e-5)
    assert not markers.domain_genes(values, labels, 0, fold_change=100.0).passed.any()
    assert not markers.domain_genes(values, labels, 0, seen=1.0).passed.any()
    with pytest.raises(ValueError, match="domain 5"):
        markers.domain_genes(values, labels, 5)


def test_only_domains_in_touch_are_neighbours():
    """Of three stripes the outer two do not touch: each has the middle one as its neighbour."""
    xy = np.stack(np.divmod(np.arange(180), 18)[::-1], 1).astype(float)
    labels = (xy[:, 0] // 6).astype(int)
    table = markers.around(xy)
    assert 8 <= table.weight.sum(1).mean() <= 12.5
    assert markers.neighbouring_domains(labels, table, 0, share=0.3) == [1]
    assert markers.neighbouring_domains(labels, table, 1, share=0.3) == [0, 2]
    assert markers.neighbouring_domains(labels, table, 1, share=0.3, most=1) == [0]
    assert markers.neighbouring_domains(labels, table, 0, share=50.0) == []
    unlabelled = np.where(labels == 1, -1, labels)
    assert markers.neighbouring_domains(unlabelled, table, 0, share=0.0) == []


def test_around_a_few_spots_are_all_others():
    """Fewer spots than neighbours asked for, and spots at one place."""
    assert (markers.around(np.arange(8.0).reshape(4, 2)).weight.sum(1) == 3).all()
    stacked = markers.around(np.repeat(np.arange(40.0).reshape(20, 2), 2, axis=0))
    assert stacked.weight.sum(1).min() >= 1


def test_a_meta_gene_marks_the_domain_better_than_its_start():
    """Two weak markers and one gene of the rest: the combination separates better than the start gene."""
    rng = np.random.default_rng(1)
    labels = (np.arange(200) < 60).astype(int)
    values = rng.gamma(2.0, 0.5, (200, 6))
    values[labels == 1, 0] += 0.5
    values[labels == 1, 2] += 0.7
    values[labels == 0, 4] += 0.7
    found = markers.meta_gene(values, labels, 1, start=0)
    assert found.added[:2] == (0, 2) and found.removed[0] == 4

    def separation(column):
        return markers.rank_sum(column[:, None], labels == 1, labels == 0).score[0]

    assert separation(found.values) > separation(values[:, 0]) + 2.0
    assert found.values.min() == 0.0
    sparse = markers.meta_gene(sp.csr_matrix(values), labels, 1, start=0)
    assert sparse.added == found.added and sparse.removed == found.removed
    assert markers.meta_gene(values, labels, 1, start=0, rounds=0).added == (0,)
    with pytest.raises(ValueError, match="domain 9"):
        markers.meta_gene(values, labels, 9, start=0)


def test_morans_i_against_the_double_sum():
    """The formula written out, a constant column, and a graph without edges."""
    rng = np.random.default_rng(2)
    adjacency = graphs.adjacency(graphs.knn(rng.uniform(size=(30, 2)), 4)).toarray()
    values = np.concatenate([rng.normal(size=(30, 2)), np.full((30, 1), 3.0)], 1)
    found = markers.morans_i(values, sp.csr_matrix(adjacency))
    for column in range(2):
        x = values[:, column] - values[:, column].mean()
        expected = 30 / adjacency.sum() * (adjacency * np.outer(x, x)).sum() / (x**2).sum()
        np.testing.assert_allclose(found[column], expected)
    assert found[2] == 0
    assert not markers.morans_i(values, sp.csr_matrix((30, 30))).any()
    with pytest.raises(ValueError, match="30 spots"):
        markers.morans_i(values, sp.csr_matrix((29, 29)))
