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
