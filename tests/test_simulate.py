"""The simulated tissue: its truth is consistent, its options do what they say, its key decides everything."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy.spatial import cKDTree

from spatialjax import graphs
from spatialjax.simulate import simulate_tissue


@pytest.fixture(scope="module")
def stack():
    """Three sections without deformation or crop."""
    return simulate_tissue(jax.random.key(3), n_sections=3, spots=400, genes=60)


def test_same_key_same_bits_and_another_key_another_tissue(stack):
    again = simulate_tissue(jax.random.key(3), n_sections=3, spots=400, genes=60)
    other = simulate_tissue(jax.random.key(4), n_sections=3, spots=400, genes=60)
    for a, b in zip(stack.sections, again.sections, strict=True):
        np.testing.assert_array_equal(a.xy, b.xy)
        assert (a.counts != b.counts).nnz == 0
    assert (
        other.sections[0].xy.shape != stack.sections[0].xy.shape or (other.sections[0].xy != stack.sections[0].xy).any()
    )
    old_style = simulate_tissue(jax.random.PRNGKey(3), n_sections=1, spots=400, genes=60)
    np.testing.assert_array_equal(old_style.sections[0].xy, stack.sections[0].xy)


def test_pose_carries_the_slide_onto_the_true_places(stack):
    for number, section in enumerate(stack.sections):
        np.testing.assert_allclose(section.pose(section.xy), section.xyz[:, :2], atol=1e-6)
        assert (section.xyz[:, 2] == stack.z[number]).all()
        assert section.counts.dtype == np.int32 and section.counts.min() >= 0
    pose = stack.true_pose(0, 1)
    source, target = stack.sections[:2]
    np.testing.assert_allclose(target.pose(pose(source.xy)), source.xyz[:, :2], atol=1e-6)


def test_spots_lie_on_the_lattice_and_number_what_was_asked(stack):
    section = stack.sections[0]
    assert graphs.spacing(section.xy).nearest == pytest.approx(100.0)
    assert 300 < len(section.xy) < 500
    cells = simulate_tissue(jax.random.key(0), n_sections=1, spots=400, genes=30, lattice="cells").sections[0].xy
    nearest = cKDTree(cells).query(cells, k=2)[0][:, 1]
    assert nearest.std() > 5.0


def test_sections_have_different_spots_at_equal_places(stack):
    a, b = stack.sections[0].xyz[:, :2], stack.sections[1].xyz[:, :2]
    assert cKDTree(b).query(a)[0].mean() > 10.0


def test_layers_are_all_present_and_agree_between_sections_at_the_same_place(stack):
    a, b = stack.sections[:2]
    assert set(a.domain) == set(range(5))
    distance, match = cKDTree(b.xyz[:, :2]).query(a.xyz[:, :2])
    near = distance < 50
    assert (a.domain[near] == b.domain[match[near]]).mean() > 0.8


def test_expression_follows_the_place_and_not_the_slide(stack):
    """Matched true places share expression; matching by observed coordinates does not."""
    a, b = stack.sections[:2]

    def profile(section):
        values = np.log1p(section.counts.toarray() / np.asarray(section.counts.sum(1)) * 1000)
        smoothed = graphs.smoothing_matrix(graphs.lattice(section.xy)) @ values
        return smoothed - smoothed.mean(0)

    def agreement(xy_a, xy_b):
        match = cKDTree(xy_b).query(xy_a)[1]
        x, y = profile(a), profile(b)[match]
        return (x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum())

    centre_a, centre_b = a.xy - a.xy.mean(0), b.xy - b.xy.mean(0)
    assert agreement(a.xyz[:, :2], b.xyz[:, :2]) > 0.6
    assert agreement(centre_a, centre_b) < 0.5


def test_options_crop_mirror_deform_and_do_not_rotate():
    stack = simulate_tissue(
        jax.random.key(5), n_sections=4, spots=400, genes=20, crop=0.6, mirror_probability=0.0, rotate=False
    )
    size = [len(section.xy) for section in stack.sections]
    assert min(size[1:]) < 0.95 * size[0] and min(size) > 0.5 * size[0]
    assert all(abs(section.pose.angle) < 1e-9 and not section.pose.mirrored for section in stack.sections)
    turned = simulate_tissue(jax.random.key(5), n_sections=3, spots=100, genes=20, mirror_probability=1.0)
    assert all(section.pose.mirrored for section in turned.sections)
    bent = simulate_tissue(jax.random.key(5), n_sections=2, spots=400, genes=20, deformation=30.0)
    for section in bent.sections:
        residual = section.pose(section.xy) - section.xyz[:, :2]
        assert 8.0 < np.sqrt((residual**2).mean()) < 45.0


def test_symmetric_tissue_is_its_own_mirror_image():
    section = simulate_tissue(jax.random.key(6), n_sections=1, spots=400, genes=20, symmetric=True).sections[0]
    place = section.xyz[:, :2]
    distance, twin = cKDTree(place).query(place * [-1, 1])
    near = distance < 25
    assert near.sum() > 20 and (section.domain[near] == section.domain[twin[near]]).mean() > 0.9
    skewed = simulate_tissue(jax.random.key(6), n_sections=1, spots=400, genes=20).sections[0]
    distance, twin = cKDTree(skewed.xyz[:, :2]).query(skewed.xyz[:, :2] * [-1, 1])
    near = distance < 25
    assert (skewed.domain[near] == skewed.domain[twin[near]]).mean() < 0.85


@pytest.mark.parametrize("bad", [{"n_sections": 0}, {"spots": 3}, {"crop": 0.0}, {"lattice": "square"}])
def test_numbers_outside_their_range_are_refused(bad):
    with pytest.raises(ValueError, match="Expected"):
        simulate_tissue(jax.random.key(0), **bad)
