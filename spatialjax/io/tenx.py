"""The count matrix that 10x programs write: one HDF5 file, or a folder with a Matrix Market file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse as sp

from spatialjax.checks import InputError
from spatialjax.io.tables import as_text, find, need

if TYPE_CHECKING:
    import pandas as pd


class TenxMatrix(NamedTuple):
    """Counts of gene expression.

    Attributes
    ----------
    counts
        (n, p) raw counts.
    cells
        Barcodes.
    var
        Genes: the index holds symbols, with the id added where two genes have one symbol; columns ``gene_id`` and
        ``symbol``.
    notes
        What was left out.
    """

    counts: sp.csr_matrix
    cells: np.ndarray
    var: pd.DataFrame
    notes: list[str]


def read_matrix(folder: Path, stem: str) -> TenxMatrix:
    """The matrix ``<stem>.h5`` (a prefix is allowed) or the folder ``<stem>``.

    Raises
    ------
    InputError
        If neither is there, or it is not in the format of 10x.
    """
    path = find(folder, f"{stem}.h5", stem, f"*{stem}.h5")
    if path is None:
        path = need(folder, "a count matrix", f"{stem}.h5", stem)
    counts, cells, ids, symbols, types = _read_folder(path) if path.is_dir() else _read_h5(path)
    if counts.shape != (len(cells), len(ids)):
        raise InputError(
            f"Expected a matrix of {len(cells)} barcodes and {len(ids)} features in {path.name!r}, found "
            f"{counts.shape}."
        )
    keep = np.flatnonzero(types == "Gene Expression")
    left = len(ids) - len(keep)
    if len(keep) == 0:
        raise InputError(f"Expected features of type 'Gene Expression' in {path.name!r}, found none.")
    notes = (
        [f"{left} features that are no genes (controls, antibodies) were left out, {len(keep)} kept."] if left else []
    )
    return TenxMatrix(counts[:, keep] if left else counts, cells, _genes(ids[keep], symbols[keep]), notes)


def _read_h5(path: Path) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    import h5py

    with h5py.File(path, "r") as file:
        if "matrix" not in file or "features" not in file["matrix"]:
            raise InputError(
                f"Expected a 10x matrix with features (version 3 or later) in {path.name!r}, found {list(file)}."
            )
        group = file["matrix"]
        genes, barcodes = (int(size) for size in group["shape"][:])
        parts = (group["data"][:], group["indices"][:], group["indptr"][:])
        features = group["features"]
        ids, symbols, types = (as_text(features[key][:]) for key in ("id", "name", "feature_type"))
        return sp.csr_matrix(parts, shape=(barcodes, genes)), as_text(group["barcodes"][:]), ids, symbols, types


def _read_folder(folder: Path) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    import pandas as pd
    from scipy.io import mmread

    matrix = need(folder, "a matrix", "matrix.mtx.gz", "matrix.mtx")
    features = pd.read_csv(
        need(folder, "features", "features.tsv.gz", "features.tsv"), sep="\t", header=None, dtype=str, na_filter=False
    )
    barcodes = pd.read_csv(
        need(folder, "barcodes", "barcodes.tsv.gz", "barcodes.tsv"), sep="\t", header=None, dtype=str
    )
    types = features[2].to_numpy(str) if features.shape[1] > 2 else np.full(len(features), "Gene Expression")
    counts = sp.csr_matrix(mmread(matrix, spmatrix=False).T)
    return counts, barcodes[0].to_numpy(str), features[0].to_numpy(str), features[1].to_numpy(str), types


def _genes(ids: np.ndarray, symbols: np.ndarray) -> pd.DataFrame:
    import pandas as pd

    unique, inverse, counts = np.unique(symbols, return_inverse=True, return_counts=True)
    repeated = counts[inverse] > 1
    names = [f"{s} ({i})" if twice else s for s, i, twice in zip(symbols, ids, repeated, strict=True)]
    return pd.DataFrame({"gene_id": ids, "symbol": symbols}, index=pd.Index(names, dtype=object))
