"""Order and gaps: planted swaps and gaps are found, clean stacks raise no alarm."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy.spatial import cKDTree

from spatialjax import graphs
from spatialjax.registration.order import check_order
from spatialjax.simulate import simulate_tissue


def similarities(rng, z, *, quality=0.03, noise=0.015, reach=6.0) -> dict[tuple[int, int], float]:
    """Similarity of neighbours and next neighbours at true heights ``z``; ``quality`` varies between sections."""
    level = 1 + quality * rng.normal(size=len(z))
    pairs = [(i, i + lag) for lag in (1, 2) for i in range(len(z) - lag)]
    fall = {(i, j): 0.8 * level[i] * level[j] * np.exp(-abs(z[i] - z[j]) / reach) for i, j in pairs}
    return {pair: value + noise * rng.normal() for pair, value in fall.items()}


def measured(stack) -> dict[tuple[int, int], float]:
    """Mean correlation of smoothed log expression at matched true places."""
    profiles = []
    for section in stack.sections:
        values = np.log1p(section.counts.toarray() / np.asarray(section.counts.sum(1)) * 1000)
        smooth = graphs.smoothing_matrix(graphs.lattice(section.xy)) @ values
        profiles.append((smooth - smooth.mean(0)) / smooth.std(0))
    found = {}
    for lag in (1, 2):
        for i in range(len(profiles) - lag):
            a, b = stack.sections[i].xyz[:, :2], stack.sections[i + lag].xyz[:, :2]
            distance, match = cKDTree(b).query(a)
            near = distance < stack.pitch
            found[i, i + lag] = float((profiles[i][near] * profiles[i + lag][match[near]]).mean())
    return found


@pytest.mark.parametrize("n", [4, 6, 12])
def test_clean_stacks_raise_no_alarm(n):
    """60 stacks, flat and falling similarity, even and poor sections."""
    alarms = 0
    for seed in range(20):
        for quality, reach in ((0.0, 1e9), (0.03, 20.0), (0.08, 6.0)):
            rng = np.random.default_rng(seed)
            alarms += len(check_order(similarities(rng, np.arange(n), quality=quality, reach=reach), np.arange(n)))
    assert alarms == 0


def test_one_failed_pair_or_one_poor_section_is_no_alarm():
    alarms = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        failed = similarities(rng, np.arange(8), reach=20.0)
        pair = list(failed)[rng.integers(len(failed))]
        failed[pair] = 0.05
        poor = similarities(rng, np.arange(8), reach=20.0)
        section = int(rng.integers(8))
        poor = {pair: value * (0.6 if section in pair else 1.0) for pair, value in poor.items()}
        alarms += check_order(failed, np.arange(8)) + check_order(poor, np.arange(8))
    assert not alarms


def test_swapped_neighbours_are_found():
    """Inside the stack at least nine times in ten, and never another pair than the swapped one."""
    inside = []
    for seed in range(14):
        rng = np.random.default_rng(seed)
        place = seed % 7
        true = np.arange(8.0)
        true[[place, place + 1]] = true[[place + 1, place]]
        found = check_order(similarities(rng, true), np.arange(8))
        assert all(f.kind == "swap" and f.sections == (place, place + 1) for f in found)
        if 0 < place < 6:
            inside.append(len(found))
    assert np.mean(inside) >= 0.9
    clear = similarities(np.random.default_rng(0), np.array([1.0, 0, 2, 3, 4, 5]), quality=0.0, noise=0.004)
    assert [f.sections for f in check_order(clear, np.arange(6))] == [(0, 1)]


def test_a_gap_far_wider_than_stated_is_found_inside_the_stack():
    for seed in range(8):
        rng = np.random.default_rng(seed)
        place = 1 + seed % 5
        found = check_order(similarities(rng, np.arange(8) + 4.0 * (np.arange(8) > place)), np.arange(8))
        assert [(f.kind, f.sections) for f in found] == [("gap", (place, place + 1))]


def test_sections_may_come_in_any_order_of_height(rng):
    """Pairs and heights are given by section number, neighbours are found by height."""
    z = np.array([3.0, 0.0, 5.0, 1.0, 4.0, 2.0, 6.0, 7.0])
    ladder = np.argsort(z)
    true = np.arange(8.0)
    true[[2, 3]] = true[[3, 2]]
    table = {tuple(int(ladder[p]) for p in pair): v for pair, v in similarities(rng, true).items()}
    (found,) = check_order(table, z, names=[f"slice {i}" for i in range(8)])
    assert found.kind == "swap" and found.sections == (int(ladder[2]), int(ladder[3]))
    assert "slice 5" in found.sentence and "slice 0" in found.sentence and found.evidence > 8


def test_simulated_tissue_clean_and_with_a_swap():
    """Sections 150 µm apart in a tissue 1.7 mm wide: no alarm as cut, the swap when two sections change places."""
    for seed in range(4):
        stack = simulate_tissue(jax.random.key(seed), n_sections=7, spots=250, genes=60, gap=150.0, crop=0.8)
        assert check_order(measured(stack), stack.z) == []
    order = [0, 1, 3, 2, 4, 5, 6]
    swapped = type(stack)(tuple(stack.sections[i] for i in order), stack.genes, stack.z, stack.pitch)
    assert [(f.kind, f.sections) for f in check_order(measured(swapped), swapped.z)] == [("swap", (2, 3))]


def test_few_sections_and_missing_pairs_say_nothing():
    assert check_order({(0, 1): 0.5, (1, 2): 0.1, (0, 2): 0.6}, np.arange(3)) == []
    assert check_order({}, np.arange(6)) == []
    assert check_order({(i, i + 1): np.nan for i in range(5)}, np.arange(6)) == []
    with pytest.raises(ValueError, match="Expected pairs"):
        check_order({(0, 9): 0.5}, np.arange(4))
