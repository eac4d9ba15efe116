"""Spots and a reference of single cells, opened for deconvolution: counts of the same genes, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from spatialjax.checks import InputError, listed, nearest, require_counts, value_kind
from spatialjax.io.blocks import RowBlocks, check_blocks, left_in_file
from spatialjax.io.coordinates import read_coordinates
from spatialjax.io.matching import match_genes
from spatialjax.io.matrices import canonical_order, layers_of, library_sizes, take, to_csr
from spatialjax.io.split import label_text, split_by
from spatialjax.tables import Reference, SpotTable

#: Cells below which a type is worth a word.
FEW_CELLS = 10
#: Ratio to every other type that makes a gene a marker.
MARKER = 2.0


@dataclass(frozen=True, eq=False)
class Composed:
    """What a method of the task ``deconvolution`` is given.

    Attributes
    ----------
    spots
        Counts of the shared genes in canonical order.
    reference
        The annotated cells, same genes.
    order
        (n,) row of the input of each spot.
    cells
        (m,) row of the reference as it was given, of each cell.
    genes
        Names of the genes.
    messages
        What was found, assumed or left out.
    """

    spots: SpotTable
    reference: Reference
    order: Int[np.ndarray, " n"]
    cells: Int[np.ndarray, " m"]
    genes: np.ndarray
    messages: list[str]


def open_composed(
    adata: Any,
    reference: Any,
    *,
    cell_type_key: str,
    layer: str | None = None,
    reference_layer: str | None = None,
    slice_key: str | None = None,
    batch_key: str | None = None,
    n_cells: str | float | None = None,
    spatial_key: str = "spatial",
    ignore_case: bool = False,
) -> Composed:
    """Check and match spots and reference, before any long work.

    Parameters
    ----------
    adata, reference
        AnnData objects. Counts of spots that are backed by a file (``anndata.read_h5ad(…, backed="r")``, or an ``X``
        that is ``anndata.io.sparse_dataset`` of a zarr store) stay there and are read in blocks of rows; their spots
        keep the order of the file.
    cell_type_key
        Column of the reference's ``obs`` with the types.
    layer, reference_layer
        Layers with raw counts; ``X`` where left out.
    slice_key
        Column of ``obs`` that names the section of each spot.
    batch_key
        Column of the reference's ``obs`` with the batch of each cell.
    n_cells
        Column of ``obs`` with the number of cells of each spot, or one number for all.
    spatial_key
        Key of ``obsm`` with the coordinates; spots may have none.
    ignore_case
        Whether gene names that differ in upper and lower case alone are the same gene.

    Raises
    ------
    InputError
        If something cannot be used; the message says how to mend it.
    """
    for value, what in ((adata, "the spots"), (reference, "the reference")):
        if not (hasattr(value, "obs") and hasattr(value, "var_names")):
            raise InputError(
                f"Expected an AnnData for {what}, found {type(value).__name__}. Read the file with spatialjax.io.read."
            )
    if adata.n_obs == 0 or reference.n_obs == 0:
        empty = "the spots" if adata.n_obs == 0 else "the reference"
        raise InputError(f"Expected rows in {empty}, found none.")
    codes, names, said = _types(reference, cell_type_key)
    matched = match_genes(adata, reference, ignore_case=ignore_case)
    counts = _counts(adata, layer, "the spots", "layer= (--layer)")
    if stays := left_in_file(counts):
        counts = RowBlocks(counts, np.arange(adata.n_obs), matched.spots)
    else:
        counts = take(counts, columns=matched.spots)
    cells = _counts(reference, reference_layer, "the reference", "reference_layer= (--reference-layer)")
    cells = to_csr(cells, where="the reference")
    found, rows, more = _kept_cells(
        take(cells, columns=matched.reference), codes, names, _batches(reference, batch_key)
    )
    messages = [*matched.messages, *said, *more]
    empty = int(((counts.library_sizes() if stays else library_sizes(counts)) == 0).sum())
    if empty == adata.n_obs:
        raise InputError("Expected counts in the spots, found none in the genes that they share with the reference.")
    if empty:
        messages.append(f"{empty} spots have no count in the shared genes: their rows are NaN.")
    xy = read_coordinates(adata, spatial_key=spatial_key, name="the spots")[0] if spatial_key in adata.obsm else None
    section = _sections(adata, slice_key)
    place = np.arange(adata.n_obs)
    # A file is read in the order that it has.
    if xy is not None and not stays:
        place = canonical_order(xy, counts, np.asarray(adata.obs_names, dtype=str))
        place = place[np.argsort(section[place], kind="stable")]
    number = _cell_numbers(adata, n_cells)
    spots = SpotTable(
        counts if stays else take(counts, rows=place),
        None if xy is None else xy[place],
        section[place].astype(np.int32),
        None if number is None else number[place],
    )
    messages += _without_markers(found)
    return Composed(spots, found, place, rows, matched.names, messages)


def _counts(adata: Any, layer: str | None, what: str, option: str) -> Any:
    """Raw counts, checked: in memory as canonical csr, or left in their file where they are backed by one."""
    layers = layers_of(adata)
    if layer is not None and layer not in layers:
        raise InputError(f"Expected layer {layer!r} in {what}, found the layers {listed(layers, limit=8)}.")
    matrix = adata.X if layer is None else layers[layer]
    if matrix is None:
        raise InputError(f"Expected counts in X of {what}, found none. Give {option}: {listed(layers, limit=8)}.")
    where = f"{'X' if layer is None else f'layer {layer!r}'} of {what}"

    def check(counts: sp.csr_matrix) -> None:
        if value_kind(counts) == "counts":
            return
        others = {name: to_csr(m, where=f"layer {name!r}") for name, m in layers.items() if name != layer}
        try:
            require_counts(counts, what=f"deconvolution, in {what},", layers=others)
        except InputError as error:
            text = str(error)
            if option != "layer= (--layer)":
                text = text.replace("give layer=", "give reference_layer=").replace("(--layer ", "(--reference-layer ")
            raise InputError(text) from None

    if left_in_file(matrix):
        check_blocks(matrix, check, where=where)
        return matrix
    counts = to_csr(matrix, where=where)
    check(counts)
    return counts


def _types(reference: Any, key: str) -> tuple[Int[np.ndarray, " m"], list[str], list[str]]:
    if key not in reference.obs.columns:
        close = nearest(key, reference.obs.columns, number=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise InputError(
            f"Expected cell_type_key={key!r} (--cell-type-key) to be a column of the reference's obs, found the "
            f"columns {listed(reference.obs.columns, limit=20)}.{hint}"
        )
    column = reference.obs[key]
    missing = np.asarray(column.isna())
    raw = [None if gone else value for value, gone in zip(column.astype(object), missing, strict=True)]
    text = [None if value is None or not label_text(value).strip() else label_text(value) for value in raw]
    names = sorted({name for name in text if name is not None})
    _refuse_doubles(names, {value for value in raw if value is not None})
    if len(names) < 2:
        raise InputError(
            f"Expected at least two cell types in obs[{key!r}] of the reference, found {listed(names) or 'none'}."
        )
    if len(names) > reference.n_obs // 2 and len(names) > 50:
        raise InputError(
            f"Expected cell types in obs[{key!r}] of the reference, found {len(names)} values in {reference.n_obs} "
            "cells. Choose a column with types."
        )
    place = {name: i for i, name in enumerate(names)}
    codes = np.array([-1 if name is None else place[name] for name in text])
    without = int((codes < 0).sum())
    messages = [f"{without} cells of the reference have no type and are left out."] if without else []
    return codes, names, messages


def _refuse_doubles(names: Sequence[str], values: set[Any]) -> None:
    """Names that only differ in spaces or in how a number is stored would be two types by accident."""
    seen: dict[str, str] = {}
    for name in names:
        stripped = " ".join(name.split())
        if stripped in seen:
            raise InputError(
                f"Expected different names of cell types, found {seen[stripped]!r} and {name!r}, which differ in "
                "spaces alone. Rename one, or make them one type."
            )
        seen[stripped] = name
    kinds: dict[str, Any] = {}
    for value in values:
        text = label_text(value)
        if text in kinds and type(kinds[text]) is not type(value):
            raise InputError(
                f"Expected different names of cell types, found {text!r} as {type(kinds[text]).__name__} and as "
                f"{type(value).__name__}. Convert the column to text."
            )
        kinds[text] = value


def _kept_cells(
    counts: sp.csr_matrix, codes: Int[np.ndarray, " m"], names: list[str], batch: Int[np.ndarray, " m"] | None
) -> tuple[Reference, Int[np.ndarray, " c"], list[str]]:
    """Cells with a type and a count, of types with such a cell; their rows, and what is to be said."""
    seen = (library_sizes(counts) > 0) & (codes >= 0)
    sizes = np.bincount(codes[seen], minlength=len(names))
    gone = [name for name, size in zip(names, sizes, strict=True) if size == 0]
    if len(names) - len(gone) < 2:
        raise InputError(
            "Expected cells with counts in the shared genes in at least two types of the reference, found them in "
            f"{len(names) - len(gone)}."
        )
    messages = []
    if gone:
        messages.append(f"Types without any count in the shared genes are left out: {listed(gone, limit=10)}.")
    few = [f"{name!r} ({size})" for name, size in zip(names, sizes, strict=True) if 0 < size < FEW_CELLS]
    if few:
        messages.append(
            f"Types with fewer than {FEW_CELLS} cells in the reference: {', '.join(few)}. What is said of them is "
            "unsure."
        )
    empty = int((codes >= 0).sum() - seen.sum())
    if empty:
        messages.append(f"{empty} cells of the reference have no count in the shared genes and are left out.")
    new = np.cumsum(sizes > 0) - 1
    rows = np.flatnonzero(seen)
    kept = [name for name, size in zip(names, sizes, strict=True) if size]
    types = new[codes[rows]].astype(np.int32)
    found = Reference(take(counts, rows=rows), types, kept, None if batch is None else batch[rows])
    return found, rows, messages


def _batches(reference: Any, key: str | None) -> Int[np.ndarray, " m"] | None:
    if key is None:
        return None
    found = np.full(reference.n_obs, -1, np.int32)
    if key not in reference.obs.columns:
        raise InputError(
            f"Expected batch_key={key!r} to be a column of the reference's obs, found the columns "
            f"{listed(reference.obs.columns, limit=20)}."
        )
    for number, part in enumerate(split_by(reference, key)):
        found[part.rows] = number
    return found


def _sections(adata: Any, slice_key: str | None) -> Int[np.ndarray, " n"]:
    section = np.zeros(adata.n_obs, np.int32)
    if slice_key is not None:
        for number, part in enumerate(split_by(adata, slice_key)):
            section[part.rows] = number
    return section


def _cell_numbers(adata: Any, n_cells: str | float | None) -> Float[np.ndarray, " n"] | None:
    if n_cells is None:
        return None
    if isinstance(n_cells, str):
        if n_cells not in adata.obs.columns:
            raise InputError(
                f"Expected n_cells={n_cells!r} (--n-cells) to be a column of obs or a number, found the columns "
                f"{listed(adata.obs.columns, limit=20)}."
            )
        values = np.asarray(adata.obs[n_cells], dtype=float)
    else:
        values = np.full(adata.n_obs, float(n_cells))
    if not np.isfinite(values).all() or (values < 0).any() or not (values > 0).any():
        raise InputError(
            "Expected numbers of cells of at least 0 for n_cells (--n-cells), some above 0, found NaN, infinite or "
            "negative ones, or only zeros."
        )
    return values


def _without_markers(reference: Reference) -> list[str]:
    """Types that no gene tells from every other one."""
    from spatialjax.composition import mean_signatures

    signatures = mean_signatures(reference.counts, reference.types, number=len(reference.names))
    profile = np.asarray(signatures.means, np.float64)
    profile = profile / profile.sum(1, keepdims=True)
    second, first = np.partition(profile, -2, axis=0)[-2:]
    best = profile.argmax(0)
    marked = np.unique(best[(first >= MARKER * second) & (first > 0)])
    bare = [name for i, name in enumerate(reference.names) if i not in marked]
    if not bare:
        return []
    return [
        f"No gene is {MARKER:g} times higher in {listed(bare, limit=8)} than in every other type: these are hard to "
        "tell apart. Consider to merge them with their nearest types."
    ]
