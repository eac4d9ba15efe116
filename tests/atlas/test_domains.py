"""The 3D graph and the cross-section domains."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from spatialjax.atlas.domains import find_domains, graph3d
from spatialjax.atlas.placing import Placed
from spatialjax.graphs import adjacency
from spatialjax.transforms import Affine


def _stack(
    number: int, *, placed: list[bool], values: list[np.ndarray] | None = None
) -> tuple[SimpleNamespace, Placed]:
    grid = np.stack(np.meshgrid(np.arange(12.0), np.arange(10.0)), -1).reshape(-1, 2) * 100
    values = [np.random.default_rng(i).normal(size=(120, 3)) for i in range(number)] if values is None else values
    sections = [SimpleNamespace(xy=grid, pitch=100.0, values=each) for each in values]
    xyz = tuple(
        np.column_stack([grid, np.full(len(grid), 10.0 * i)]) if ok else np.full((len(grid), 3), np.nan)
        for i, ok in enumerate(placed)
    )
    poses = Affine(np.tile(np.eye(2), (number, 1, 1)), np.zeros((number, 2)))
    flags = np.array(placed)
    return SimpleNamespace(sections=sections, kind="embedding"), Placed(poses, flags, np.where(flags, 0, -1), xyz)


def test_graph_joins_only_next_sections_of_one_frame() -> None:
    """An unplaced section has neighbours of its own only; its two placed neighbours are joined over it."""
    stack, placed = _stack(4, placed=[True, True, False, True])
    tissue = graph3d(stack, placed)
    assert np.bincount(np.asarray(tissue.extra["section"])[:480]).tolist() == [120] * 4
    graph = adjacency(tissue.edges)[:480, :480]
    block = lambda i, j: graph[120 * i : 120 * (i + 1), 120 * j : 120 * (j + 1)].nnz
    assert (graph != graph.T).nnz == 0
    assert graph.diagonal().sum() == 0
    assert block(0, 1) > 0
    assert block(1, 3) > 0
    assert block(0, 3) == block(2, 0) == block(2, 1) == block(2, 3) == 0
    assert all(block(i, i) > 0 for i in range(4))


def test_known_number_of_bands_is_found_and_labels_are_ordered_by_size() -> None:
    """Three clear bands of unequal size through three sections give three domains, the largest first."""
    rng = np.random.default_rng(0)
    band = np.digitize(np.tile(np.arange(12) * 100.0, 10), [350.0, 550.0])
    centres = np.array([[0.0, 6.0], [6.0, 0.0], [-6.0, -6.0]])
    embeddings = [centres[band] + 0.3 * rng.normal(size=(120, 2)) for _ in range(3)]
    stack, placed = _stack(3, placed=[True] * 3, values=embeddings)
    graph = graph3d(stack, placed)
    sharp = find_domains(embeddings, graph, rng=np.random.default_rng(1), rounds=0)
    assert sharp.number == 3
    assert min(sharp.criterion, key=sharp.criterion.get) == 3
    found = find_domains(embeddings, graph, number=3, rng=np.random.default_rng(1))
    assert found.criterion == {}
    sizes = np.bincount(found.labels)
    assert (np.diff(sizes) <= 0).all()
    agreement = [np.bincount(found.labels[np.tile(band, 3) == b]).max() for b in range(3)]
    assert sum(agreement) >= 0.9 * len(found.labels)
    assert ((found.confidence > 1 / 3) & (found.confidence <= 1 + 1e-9)).all()


@pytest.mark.parametrize("number", [1, 2])
def test_features_without_any_difference_give_one_domain(number: int) -> None:
    """Constant features do not break the mixture; no more domains are made than there are distinct values."""
    stack, placed = _stack(2, placed=[True] * 2)
    found = find_domains([np.ones((120, 3))] * 2, graph3d(stack, placed), number=number, rng=np.random.default_rng(0))
    assert found.number == 1
    assert (found.labels == 0).all()
