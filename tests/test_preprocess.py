"""Shared features: normalisation, smoothing, joint components."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.decomposition import PCA

from spatialjax import preprocess


@pytest.fixture
def sections(rng: np.random.Generator) -> tuple[list[sp.csr_matrix], list[np.ndarray]]:
    """Two sections of 90 and 70 spots with two spatial programs in 30 genes."""
    values, places = [], []
    loadings = rng.normal(size=(2, 30))
    for n in (90, 70):
        xy = rng.uniform(0, 1000, (n, 2))
        program = np.stack([np.sin(xy[:, 0] / 200), xy[:, 1] / 500], 1)
        values.append(sp.csr_matrix(rng.poisson(np.exp(0.7 * program @ loadings)).astype(np.int32)))
        places.append(xy)
    return values, places


def test_size_factors_are_relative_to_the_median_and_one_for_empty_spots() -> None:
    counts = np.array([[1, 1], [2, 2], [4, 4], [0, 0]])
    assert preprocess.size_factors(counts).tolist() == [0.5, 1.0, 2.0, 1.0]


def test_log_normalize_matches_the_dense_formula_and_leaves_its_input(sections: tuple) -> None:
    counts = sections[0][0]
    before = counts.copy()
    factors = preprocess.size_factors(counts)
    expected = np.log1p(counts.toarray() / factors[:, None])
    np.testing.assert_allclose(preprocess.log_normalize(counts).toarray(), expected, rtol=1e-5)
    assert (counts != before).nnz == 0
    assert counts.dtype == np.int32


def test_smoothing_rows_sum_to_one_and_a_lone_spot_keeps_its_value() -> None:
    xy = np.concatenate([np.stack(np.meshgrid(range(5), range(5)), -1).reshape(-1, 2), [[500, 500]]]).astype(float)
    operator = preprocess.smoothing_operator(xy)
    np.testing.assert_allclose(operator.sum(1), 1.0, rtol=1e-6)
    assert operator[25].nnz == 1
    assert operator[25, 25] == 1.0


def test_smoothed_places_lie_inside_at_the_border_and_stay_in_the_middle() -> None:
    xy = np.stack(np.meshgrid(range(9), range(9), indexing="ij"), -1).reshape(-1, 2).astype(float)
    places = preprocess.smoothed_places(xy)
    assert places[:, 0].min() > 0.3
    np.testing.assert_allclose(places[40], [4.0, 4.0], atol=0.35)


def test_seen_genes_drops_what_one_section_does_not_show_and_keeps_the_widest(rng: np.random.Generator) -> None:
    first = (rng.uniform(size=(400, 6)) < [1.0, 0.6, 0.5, 0.0, 0.9, 0.0]).astype(float)
    second = (rng.uniform(size=(400, 6)) < [1.0, 0.6, 0.5, 0.9, 0.0, 0.0]).astype(float)
    assert preprocess.seen_genes([first, second]).tolist() == [0, 1, 2]
    assert preprocess.seen_genes([first, second], number=2).tolist() == [0, 1]
    assert preprocess.seen_genes([first, second], least=150).tolist() == [0, 1, 2]
    assert preprocess.seen_genes([first[:120], second[:120]]).tolist() == [0, 1, 2]
    assert len(preprocess.seen_genes([first * 0, second * 0])) == 6


def test_variable_genes_of_counts_are_those_that_vary_beyond_their_mean(rng: np.random.Generator) -> None:
    """Whatever their mean, in every section, and not for the sake of one spot."""
    mean = np.geomspace(0.02, 50.0, 400)
    variable = np.arange(5, 400, 20)
    sections = []
    for spots in (900, 600):
        level = np.where(np.isin(np.arange(400), variable), rng.gamma(0.5, 2.0, (spots, 1)), 1.0)
        counts = rng.poisson(level * mean)
        counts[7, 2] = 400
        sections.append(sp.csr_matrix(counts))
    # A gene of few counts hardly shows that it varies.
    shown = variable[mean[variable] > 1.0]
    find = lambda tables: preprocess.variable_genes(tables, number=len(shown), kind="counts")
    np.testing.assert_array_equal(find(sections), shown)
    np.testing.assert_array_equal(find([each.toarray() for each in sections]), shown)


def test_the_local_quadratic_follows_a_bend_and_passes_over_ties() -> None:
    """Exact on a parabola away from rounding, near a sine, finite where most places are equal."""
    x = np.linspace(-2.0, 2.0, 300)
    np.testing.assert_allclose(preprocess._local_quadratic(x, 1.0 + x - x**2), 1.0 + x - x**2, atol=2e-3)
    np.testing.assert_allclose(preprocess._local_quadratic(x, np.sin(2 * x)), np.sin(2 * x), atol=0.05)
    tied = np.where(np.arange(300) < 250, -1.0, x)
    assert np.isfinite(preprocess._local_quadratic(tied, tied**2)).all()


def test_embedding_equals_the_principal_components_of_the_smoothed_scaled_values(sections: tuple) -> None:
    """The same joint components as scikit-learn's PCA of the dense, smoothed, scaled matrix (to sign)."""
    values, places = sections
    found = preprocess.shared_embedding(values, places, kind="counts", components=3, rounds=3)
    total = np.concatenate([np.asarray(v.sum(1)).ravel() for v in values])
    dense = []
    for v, p in zip(values, places, strict=True):
        log = preprocess.log_normalize(v, target=float(np.median(total))).toarray().astype(float)
        operator = preprocess.smoothing_operator(p).toarray().astype(float)
        smooth = operator @ operator @ operator @ log
        dense.append(smooth - smooth.mean(0))
    joint = np.concatenate(dense)
    expected = PCA(3, svd_solver="full").fit_transform(joint / joint.std(0))
    joined = np.concatenate(found)
    for c in range(3):
        assert abs(np.corrcoef(joined[:, c], expected[:, c])[0, 1]) > 0.9999
    np.testing.assert_allclose(joined.std(0), expected.std(0), rtol=1e-3)


def test_embedding_made_in_blocks_equals_the_one_made_at_once(sections: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tissue that does not fit in memory gets the same features."""
    whole = preprocess.shared_embedding(*sections, kind="counts", components=4)
    monkeypatch.setattr(preprocess, "_KEPT", 10)
    monkeypatch.setattr(preprocess, "_BLOCK", 32)
    blocks = preprocess.shared_embedding(*sections, kind="counts", components=4)
    for a, b in zip(whole, blocks, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)


@pytest.mark.parametrize("form", [sp.csc_matrix, sp.csr_array, lambda m: m.toarray(), lambda m: m.astype(np.float64)])
def test_embedding_does_not_depend_on_the_storage(sections: tuple, form: object) -> None:
    values, places = sections
    first = preprocess.shared_embedding(values, places, kind="counts", components=4)
    second = preprocess.shared_embedding([form(v) for v in values], places, kind="counts", components=4)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_categories_and_fewer_features_than_components(rng: np.random.Generator) -> None:
    """One column a type: as many components as there are independent columns, finite values."""
    xy = rng.uniform(0, 100, (60, 2))
    types = np.eye(3)[(xy[:, 0] // 34).astype(int)]
    (found,) = preprocess.shared_embedding([types], [xy], kind="categories", components=12)
    assert found.shape == (60, 3)
    assert np.isfinite(found).all()


def test_a_constant_feature_and_an_empty_spot_are_legal(sections: tuple) -> None:
    values, places = sections
    dense = values[0].toarray().astype(float)
    dense[:, 0] = 7.0
    dense[5] = 0.0
    found = preprocess.shared_embedding([dense, values[1].toarray().astype(float)], places, kind="float", components=4)
    assert all(np.isfinite(f).all() for f in found)
