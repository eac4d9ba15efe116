"""Domain and expression scores on tiny cases."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from spatialjax import metrics


def test_ari_and_nmi_of_equal_relabelled_and_independent_partitions():
    labels = ["x", "x", "y", "y"]
    assert metrics.ari(labels, [1, 1, 0, 0]) == 1.0
    assert metrics.nmi(labels, [1, 1, 0, 0]) == pytest.approx(1.0)
    assert metrics.ari(labels, [0, 1, 0, 1]) == pytest.approx(-0.5)
    assert metrics.nmi(labels, [0, 1, 0, 1]) == pytest.approx(0.0, abs=1e-9)


def test_chaos_by_hand_and_larger_for_mixed_domains(rng):
    line = np.stack([np.arange(4.0), np.zeros(4)], 1)
    unit = 1 / np.arange(4.0).std()
    assert metrics.chaos(line, [0, 0, 1, 1]) == pytest.approx(unit)
    assert metrics.chaos(line, [0, 1, 0, 1]) == pytest.approx(2 * unit)
    assert metrics.chaos(line, [0, 0, 0, 1]) == pytest.approx(unit)
    assert np.isnan(metrics.chaos(line, [0, 1, 2, 3]))


def test_pas_of_halves_of_noise_and_of_duplicates(rng):
    xy = rng.uniform(size=(400, 2))
    halves = (xy[:, 0] > 0.5).astype(int)
    assert metrics.pas(xy, halves) < 0.05
    assert metrics.pas(xy, rng.integers(0, 4, 400)) > 0.8
    assert metrics.pas(np.zeros((30, 2)), np.zeros(30)) == 0.0
    with pytest.raises(ValueError, match="more than 10"):
        metrics.pas(xy[:10], halves[:10])


def test_section_mixing_is_one_for_shared_domains_and_zero_for_domains_of_one_section():
    """By hand in between: one domain of both sections, one of the first alone."""
    section = np.repeat(["a", "b"], 6)
    assert metrics.section_mixing([0, 1, 2] * 4, section) == pytest.approx(1.0)
    assert metrics.section_mixing([0] * 6 + [1] * 6, section) == pytest.approx(0.0, abs=1e-12)
    labels = [0] * 3 + [1] * 9
    third = -(np.log(1 / 3) / 3 + 2 * np.log(2 / 3) / 3)
    assert metrics.section_mixing(labels, section) == pytest.approx(0.75 * third / np.log(2))
    assert np.isnan(metrics.section_mixing(labels, ["a"] * 12))


def test_neighbour_mixing_falls_as_sections_move_apart(rng):
    """Near 1 for one cloud, 0 for two that lie apart, between for a shift; unequal sections too."""
    section = np.repeat([0, 1, 2], [300, 200, 100])
    cloud = rng.normal(size=(600, 4))
    apart = lambda shift: metrics.neighbour_mixing(cloud + shift * section[:, None], section)
    assert 0.9 < apart(0.0) <= 1.0
    assert apart(0.0) > apart(1.0) + 0.2 > apart(3.0)
    assert apart(50.0) == 0.0
    assert np.isnan(metrics.neighbour_mixing(cloud, np.zeros(600)))
    with pytest.raises(ValueError, match="more than 30"):
        metrics.neighbour_mixing(cloud[:30], section[:30])


def test_gene_correlation_agrees_with_numpy_dense_and_sparse(rng):
    a = rng.poisson(1.0, (50, 4)).astype(np.int32)
    b = a + rng.poisson(2.0, (50, 4)).astype(np.int32)
    b[:, 3] = 1
    expected = [np.corrcoef(a[:, g], b[:, g])[0, 1] for g in range(3)]
    for x, y in ((a, b), (sp.csr_matrix(a), b), (a, sp.csc_matrix(b)), (sp.csr_array(a), sp.csr_matrix(b))):
        found = metrics.gene_correlation(x, y)
        np.testing.assert_allclose(found[:3], expected)
        assert np.isnan(found[3])
    with pytest.raises(ValueError, match="same spots"):
        metrics.gene_correlation(a, b[:, :2])
