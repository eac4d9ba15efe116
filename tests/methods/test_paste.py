"""PASTE against POT on the authors' problem, and the pose that it gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import ot
import pytest
from scipy.spatial.distance import cdist

from spatialjax.methods.alignment.paste import CARD, paste
from spatialjax.methods.card import run
from spatialjax.slices import Slice, make_slice
from spatialjax.transforms import rigid

#: Objectives of the authors' code on consecutive Stahl breast sections, with the filters of their tutorial.
PUBLISHED = (2.3706, 2.4122, 2.4249)


def sections(seed: int, sizes: tuple[int, int] = (60, 54), *, mirrored: bool = False) -> tuple[Any, ...]:
    """Counts and points (unit spacing) of two samplings of one tissue, the second one turned, and the true map."""
    rng = np.random.default_rng(seed)
    pose = rigid(2.0, np.array([3.0, -1.0]), mirrored=mirrored)
    grid = np.stack(np.divmod(np.arange(80), 10), 1).astype(float)
    points = [grid[np.sort(rng.choice(80, size, replace=False))] + 0.05 * rng.normal(size=(size, 2)) for size in sizes]
    wave, phase = rng.normal(size=(2, 30)) * 0.35, rng.uniform(0, 6, 30)
    counts = [rng.poisson(4 * np.exp(np.sin(xy @ wave + phase))).astype(float) for xy in points]
    return counts, [points[0], pose(points[1])], pose


def pair(counts: Any, points: Any, *, capacity: int = 64) -> tuple[Slice, Slice]:
    return tuple(make_slice(x, xy, capacity=capacity) for x, xy in zip(counts, points, strict=True))


def pot(counts: Any, points: Any, *, alpha: float = 0.1) -> float:
    """What the authors' code computes: POT's conditional gradient on their cost."""
    p, q = ((x + 0.01) / (x + 0.01).sum(1, keepdims=True) for x in counts)
    cost = np.array([[np.sum(u * np.log(u / v)) for v in q] for u in p])
    inner = [cdist(xy, xy) for xy in points]
    masses = [np.full(len(xy), 1 / len(xy)) for xy in points]
    log = ot.gromov.fused_gromov_wasserstein(cost, *inner, *masses, loss_fun="square_loss", alpha=alpha, log=True)[1]
    return float(log["fgw_dist"])


def align(members: list[Any], **options: Any) -> list[Any]:
    return [fit.result for fit in run(paste(unit=1.0, **options), jax.random.key(0), members)]


def test_the_objective_is_that_of_pot_or_lower() -> None:
    """Five pairs, equal and unequal sizes: never above POT by more than 1e-4, and equal or lower in each."""
    data = [sections(seed, (60, 60 - 3 * seed)) for seed in range(5)]
    found = align([pair(counts, points) for counts, points, _ in data])
    for result, (counts, points, _) in zip(found, data, strict=True):
        assert bool(result.converged) and float(result.error) < 1e-9
        assert float(result.objective) <= pot(counts, points) * (1 + 1e-4)


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_pose_is_found_in_both_parities(mirrored: bool) -> None:
    """The better parity comes first, and is the true one; the other is there; without polish the pose is close too."""
    counts, points, truth = sections(3, mirrored=mirrored)
    for exact in (True, False):
        result = align([pair(counts, points)], exact=exact)[0]
        assert [bool(result.poses[i].mirrored) for i in range(2)] == [mirrored, not mirrored]
        assert result.evidence[0] > result.evidence[1]
        error = np.linalg.norm(np.asarray(result.transform(points[0].astype(np.float32))) - truth(points[0]), axis=1)
        assert np.median(error) < 0.5


def test_padding_and_order_change_nothing_but_places() -> None:
    """More capacity, or permuted spots: the same objective and, in its place, the same plan."""
    counts, points, _ = sections(1)
    plain = align([pair(counts, points)])[0]
    larger = align([pair(counts, points, capacity=72)])[0]
    order = np.random.default_rng(0).permutation(60)
    mixed = align([pair([counts[0][order], counts[1]], [points[0][order], points[1]])])[0]
    real = np.s_[:60, :54]
    for other, plan in ((larger, larger.plan[real]), (mixed, mixed.plan[real][np.argsort(order)])):
        np.testing.assert_allclose(other.objective, plain.objective, rtol=1e-9)
        assert np.abs(plan - plain.plan[real]).sum() < 1e-5
        np.testing.assert_allclose(other.transform.matrix, plain.transform.matrix, atol=1e-5)
    assert not larger.overlap[60:].any() and larger.overlap[:60].all() and larger.plan[60:].sum() == 0


def test_units_do_not_matter_by_default() -> None:
    """Without ``unit`` the spots' pitch is the unit: coordinates in µm and in spacings give one plan."""
    counts, points, _ = sections(2)
    one, other = (
        run(paste(), jax.random.key(0), [pair(counts, [factor * xy for xy in points])])[0].result
        for factor in (1.0, 128.0)
    )
    np.testing.assert_allclose(one.objective, other.objective, rtol=1e-5)
    np.testing.assert_allclose(one.evidence * 128.0, other.evidence, rtol=1e-4)


def test_a_plan_that_says_nothing_is_told() -> None:
    """Spots that are all alike, weighed by expression alone: collapsed, not converged, warned of; others are not."""
    counts, points, _ = sections(0)
    with pytest.warns(RuntimeWarning, match="no better than the product"):
        found = align([pair([np.ones_like(x) for x in counts], points)], alpha=0.0)[0]
    assert bool(found.collapsed) and not bool(found.converged)
    for exact in (True, False):
        assert not bool(align([pair(counts, points)], exact=exact)[0].collapsed)


def test_the_euclidean_dissimilarity_takes_any_features() -> None:
    """Negative features are fine with ``"euclidean"`` and told with ``"kl"``; options are checked."""
    counts, points, _ = sections(0)
    features = [np.log1p(x) - 1 for x in counts]
    assert np.isfinite(float(align([pair(features, points)], dissimilarity="euclidean")[0].objective))
    with pytest.raises(ValueError, match="negative values"):
        align([pair(features, points)])
    with pytest.raises(ValueError, match="same genes"):
        align([pair([counts[0], counts[1][:, :5]], points)])
    with pytest.raises(ValueError, match="alpha"):
        paste(alpha=1.5)
    with pytest.raises(ValueError, match="dissimilarity"):
        paste(dissimilarity="cosine")


@pytest.mark.real
def test_the_published_objectives_are_reached(data_path: Path) -> None:
    """Stahl breast sections, filters of the authors' tutorial: their objectives, or lower ones."""
    file = data_path / "stahl_breast_4slices" / "paste_slices.h5ad"
    if not file.is_file():
        pytest.skip("no Stahl breast sections in the folder of real data")
    import anndata

    table = anndata.read_h5ad(file)
    filtered = []
    for name in sorted(table.obs["slice"].unique()):
        one = table[table.obs["slice"] == name]
        counts = one.X.toarray().astype(float)
        genes = counts.sum(0) >= 15
        spots = counts[:, genes].sum(1) >= 100
        filtered.append((counts[spots], np.asarray(one.obsm["spatial"], float)[spots], genes))
    members = []
    for (x, p, g), (y, q, h) in zip(filtered[:-1], filtered[1:], strict=True):
        members.append(pair([x[:, g & h], y[:, g & h]], [p, q], capacity=384))
    for result, published in zip(align(members), PUBLISHED, strict=True):
        assert bool(result.converged)
        assert published * (1 - 5e-3) < float(result.objective) <= published + 1e-4


def test_the_card_says_what_is_returned() -> None:
    """The card and the method agree on the steps."""
    assert paste().max_steps == CARD.default_steps and paste() is paste()
