"""Components by section, and host work on the real spots of a padded section."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA

from spatialjax import graphs
from spatialjax import propagation as pr
from spatialjax.slices import make_slice


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 5)) @ rng.normal(size=(5, 12)) + rng.normal(size=12)


def test_principal_components_are_those_of_scikit_learn(values: np.ndarray) -> None:
    """Up to sign; the sign is fixed, so that a permutation of the rows permutes the scores."""
    found = pr.principal_components(values, 4)
    wanted = PCA(4, svd_solver="full").fit_transform(values)
    np.testing.assert_allclose(np.abs(found), np.abs(wanted), atol=1e-4)
    order = np.random.default_rng(1).permutation(len(values))
    np.testing.assert_allclose(pr.principal_components(values[order], 4), found[order], atol=1e-4)
    axes, _ = pr.principal_axes(values, 4)
    assert (axes[np.abs(axes).argmax(0), np.arange(4)] > 0).all()


def test_a_shift_of_one_section_leaves_the_components(values: np.ndarray) -> None:
    """Interleaved sections: a constant on the spots of one changes nothing, where the sections are told."""
    section = np.arange(60) % 2 + 5
    shifted = values + 30.0 * (section == 5)[:, None]
    np.testing.assert_allclose(
        pr.principal_components(shifted, 3, section=section),
        pr.principal_components(values, 3, section=section),
        atol=1e-3,
    )
    assert np.abs(pr.principal_components(shifted, 1) - pr.principal_components(values, 1)).max() > 10
    centred = pr.centred_by_section(shifted, section)
    np.testing.assert_allclose([centred[section == each].mean(0) for each in (5, 6)], 0, atol=1e-12)


def test_fewer_columns_than_asked_for(values: np.ndarray) -> None:
    """All there are."""
    assert pr.principal_components(values[:, :2], 5).shape == (60, 2)
    assert pr.principal_components(values[:3], 5).shape == (3, 3)


def test_work_on_real_spots_does_not_see_padding(values: np.ndarray) -> None:
    """The function gets rows, graph and further values without padding; its result lies on the real spots."""
    xy = np.random.default_rng(2).uniform(size=(60, 2))
    seen: list[Any] = []

    def compute(spots: Any) -> Any:
        seen.append(spots)
        return pr.neighbour_mean(spots.edges, spots.features)

    found = []
    for capacity in (64, 96):
        section = make_slice(values, xy, capacity=capacity, edges=graphs.knn(xy, 4), extra={"section": np.arange(60)})
        one = pr.from_real_spots(section, compute)
        assert one.features.shape == (capacity, 12) and one.edges is None
        assert not np.asarray(one.features)[60:].any()
        found.append(np.asarray(one.features)[:60])
    np.testing.assert_array_equal(*found)
    assert seen[0].mask.all() and len(seen[0].mask) == 60
    np.testing.assert_array_equal(seen[1].extra["section"], np.arange(60))
    np.testing.assert_array_equal(seen[1].edges.index, graphs.knn(xy, 4).index)
    np.testing.assert_allclose(found[0], pr.neighbour_mean(graphs.knn(xy, 4), values.astype(np.float32)), rtol=1e-5)


def test_real_spots_may_lie_anywhere() -> None:
    """A hole in the mask: edges to it are dropped, the others keep their ends."""
    xy = np.arange(6.0)[:, None] * [1.0, 0.0]
    section = make_slice(np.arange(6.0)[:, None], xy, capacity=8, edges=graphs.knn(xy, 2))
    holed = section.replace(mask=section.mask.at[2].set(False))

    def sums(spots: Any) -> Any:
        return (spots.edges.weight[..., None] * spots.features[spots.edges.index]).sum(1)

    found = np.asarray(pr.from_real_spots(holed, sums).features)[:, 0]
    whole = np.asarray(pr.from_real_spots(section, sums).features)[:, 0]
    reached = [(section.edges.weight * (section.edges.index == 2))[i].sum() for i in range(6)]
    wanted = whole[:6] - 2.0 * np.asarray(reached)
    np.testing.assert_allclose(np.delete(found[:6], 2), np.delete(wanted, 2))
    assert found[2] == 0
