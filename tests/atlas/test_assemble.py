"""The atlas as AnnData: names, columns and matrices of sections that differ."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from spatialjax.atlas.assemble import PerCell, assemble, in_input_order


def _section(name: str, cells: list[str], matrix: Any, genes: list[str], obs: dict[str, Any]) -> SimpleNamespace:
    adata = anndata.AnnData(matrix, obs=pd.DataFrame(obs, index=cells), var=pd.DataFrame(index=genes))
    order = np.arange(len(cells))[::-1]
    back = lambda values: np.asarray(values)[np.argsort(order)]
    xy = np.zeros((len(cells), 2))
    return SimpleNamespace(name=name, adata=adata, order=order, xy=xy, in_input_order=back)


def _values(sizes: list[int]) -> PerCell:
    return PerCell(
        xyz=[np.arange(3.0 * n).reshape(n, 3) for n in sizes],
        sd=[np.arange(3.0 * n).reshape(n, 3) / 10 for n in sizes],
        overlap=[np.linspace(0, 1, n) for n in sizes],
        domain=np.arange(sum(sizes)) % 2,
        confidence=np.ones(sum(sizes)),
        placed=np.array([True] * len(sizes)),
        component=np.zeros(len(sizes), int),
    )


def _stack() -> SimpleNamespace:
    first = _section(
        "s/1",
        ["x", "y", "z"],
        sp.csr_matrix(np.arange(6, dtype=np.int64).reshape(3, 2)),
        ["g1", "g2"],
        {
            "label": pd.Categorical(["p", "q", "p"]),
            "only first": [1, 2, 3],
            "slice": ["old", "old", "old"],
            "mixed": [1, 2, 3],
            "flag": [True, False, True],
        },
    )
    second = _section(
        "s 2",
        ["y", "w"],
        np.arange(6, dtype=np.float32).reshape(2, 3),
        ["g2", "g0", "g1"],
        {"label": pd.Categorical(["r", None]), "mixed": ["a", "b"], "flag": [False, False]},
    )
    return SimpleNamespace(sections=[first, second])


def test_names_columns_and_matrices_of_unlike_sections(tmp_path: Path) -> None:
    """Sparse int64 and dense float32 with other genes and columns become one atlas that can be written and read."""
    atlas, notes = assemble(_stack(), _values([3, 2]))
    assert atlas.obs_names.tolist() == ["x", "s/1:y", "z", "s 2:y", "w"]
    assert atlas.obs["original_name"].tolist() == ["x", "y", "z", "y", "w"]
    assert atlas.var_names.tolist() == ["g1", "g2"]
    assert atlas.X.toarray().tolist() == [[0, 1], [2, 3], [4, 5], [2, 0], [5, 3]]
    assert atlas.obs["label"].tolist()[:4] == ["p", "q", "p", "r"]
    assert pd.isna(atlas.obs["label"].iloc[4])
    assert atlas.obs["only first"].tolist()[:3] == [1, 2, 3]
    assert atlas.obs["only first"].isna().tolist() == [False] * 3 + [True] * 2
    assert atlas.obs["slice_input"].tolist()[:3] == ["old"] * 3
    assert atlas.obs["slice"].tolist() == ["s/1"] * 3 + ["s 2"] * 2
    assert atlas.obs["mixed"].tolist() == ["1", "2", "3", "a", "b"]
    assert atlas.obs["flag"].dtype == bool
    assert any("slice_input" in note for note in notes)
    assert any("'y'" in note for note in notes)
    atlas.write_h5ad(tmp_path / "atlas.h5ad")
    again = anndata.read_h5ad(tmp_path / "atlas.h5ad")
    assert again.obs_names.tolist() == atlas.obs_names.tolist()
    assert again.obs["label"].isna().sum() == 1


def test_values_come_back_from_the_canonical_order() -> None:
    """Stored row k belongs to input row ``order[k]``: coordinates, overlaps, domains and couplings are put back."""
    stack = _stack()
    atlas, _ = assemble(stack, _values([3, 2]))
    assert atlas.obsm["spatial3d"][:, 0].tolist() == [6.0, 3.0, 0.0, 3.0, 0.0]
    assert np.allclose(atlas.obsm["spatial3d_sd"], atlas.obsm["spatial3d"] / 10)
    assert atlas.obs["overlap"].tolist() == [1.0, 0.5, 0.0, 1.0, 0.0]
    assert atlas.obs["domain3d"].tolist() == ["1", "2", "1", "1", "2"]
    matches = sp.csr_matrix(([1.0, 0.5], ([0, 2], [1, 0])), shape=(3, 2))
    assert in_input_order(stack, (0, 1), matches).toarray().tolist() == [[0, 0.5], [0, 0], [1.0, 0]]


def test_layout_puts_rows_where_they_stood() -> None:
    """Cells of two sections that were mixed in one object come back mixed in the same way."""
    atlas, _ = assemble(_stack(), _values([3, 2]), layout=[np.array([4, 0, 2]), np.array([1, 3])])
    assert atlas.obs["original_name"].tolist() == ["y", "y", "z", "w", "x"]
    assert atlas.obs["slice"].tolist() == ["s/1", "s 2", "s/1", "s 2", "s/1"]
