"""The features of a stack: shared genes, an embedding in ``obsm``, or the categories of a column of ``obs``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp

from spatialjax.checks import InputError, counts_hint, listed, nearest, value_kind
from spatialjax.io.genes import shared_genes
from spatialjax.io.matrices import in_memory, layers_of, take, to_csr
from spatialjax.io.split import label_text

#: What the features of a stack are.
Kind = Literal["counts", "log1p", "float", "embedding", "categories"]


class Features(NamedTuple):
    """Features of all sections, rows in the order of the input.

    Attributes
    ----------
    values
        One (n_i, p) matrix a section: csr float32, or dense float32 for an embedding and for dense floats.
    kind
        What they are.
    names
        (p,) names of the genes, components or categories.
    messages
        What is worth saying aloud.
    """

    values: list[Any]
    kind: Kind
    names: np.ndarray
    messages: list[str]


def read_features(
    adatas: Sequence[Any], names: Sequence[str], *, feature_key: str | None, layer: str | None
) -> Features:
    """The features of all sections.

    Parameters
    ----------
    adatas
        The sections.
    names
        Their names.
    feature_key
        A key of ``obsm`` (an embedding that the sections share) or a column of ``obs`` (categories); genes where left
        out.
    layer
        The layer that holds the expression; ``X`` where left out.

    Raises
    ------
    InputError
        If the key or the layer is missing, the genes are not shared, or the values are of different kinds.
    """
    if feature_key is None:
        return _expression(adatas, names, layer)
    if layer is not None:
        raise InputError("Expected feature_key= (--feature-key) or layer= (--layer), found both. Give one of them.")
    where = [
        "obsm" if feature_key in adata.obsm else "obs" if feature_key in adata.obs.columns else None for adata in adatas
    ]
    if None in where or len(set(where)) > 1:
        position = where.index(None) if None in where else 0
        there = [*adatas[position].obsm.keys(), *adatas[position].obs.columns]
        close = nearest(feature_key, there, number=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise InputError(
            f"Expected {feature_key!r} in obsm (an embedding) or obs (categories) of every section, found in "
            f"{names[position]!r}: obsm {listed(adatas[position].obsm.keys(), limit=8)}; obs "
            f"{listed(adatas[position].obs.columns, limit=12)}.{hint}"
        )
    return (_embedding if where[0] == "obsm" else _categories)(adatas, names, feature_key)


def _expression(adatas: Sequence[Any], names: Sequence[str], layer: str | None) -> Features:
    genes = shared_genes(adatas, names)
    values = []
    for adata, name in zip(adatas, names, strict=True):
        layers = layers_of(adata)
        if layer is not None and layer not in layers:
            raise InputError(
                f"Expected layer {layer!r} in section {name!r}, found the layers {listed(layers, limit=8)}."
            )
        matrix = adata.X if layer is None else layers[layer]
        where = f"{'X' if layer is None else f'layer {layer!r}'} of section {name!r}"
        if matrix is None:
            raise InputError(
                f"Expected values in {where}, found none. Give layer= (--layer), one of "
                f"{listed(layers, limit=8)}, or feature_key= (--feature-key)."
            )
        values.append(take(to_csr(matrix, where=where), columns=adata.var_names.get_indexer(genes)))
    kind = _common_kind(adatas, names, values)
    messages = [f"{len(genes)} genes are shared by all sections; values of kind {kind!r}."]
    smallest = min(adata.n_vars for adata in adatas)
    if len(genes) < 0.5 * smallest:
        messages.append(f"Only {len(genes)} of the {smallest} genes of the smallest panel are in every section.")
    size = sum(v.shape[0] * v.shape[1] for v in values)
    if kind == "float" and sum(v.nnz for v in values) > 0.5 * size:
        values = [v.toarray() for v in values]
    if kind == "float":
        messages += _own_components(values, names)
    return Features(values, kind, genes, messages)


def _common_kind(adatas: Sequence[Any], names: Sequence[str], values: Sequence[Any]) -> Kind:
    kinds = [value_kind(v) for v in values]
    seen = {kind for kind, v in zip(kinds, values, strict=True) if v.nnz}
    if len(seen) == 1:
        return seen.pop()
    if "counts" in kinds and set(kinds) != {"counts"}:
        other = next(i for i, kind in enumerate(kinds) if kind != "counts")
        counts = kinds.index("counts")
        layers = {key: to_csr(m, where=f"layer {key!r}") for key, m in layers_of(adatas[other]).items()}
        held = [key for key, matrix in layers.items() if value_kind(matrix) == "counts"]
        if held and not all(held[0] in layers_of(adata) for adata in adatas):
            hint = f"Layer {held[0]!r} of {names[other]!r} holds counts: set its X to them, or give all that layer."
        else:
            hint = counts_hint(layers)
        raise InputError(
            f"Expected one kind of values in all sections, found counts in {names[counts]!r} and {kinds[other]!r} "
            f"values in {names[other]!r}. {hint}"
        )
    return "float" if "float" in kinds else kinds[0]


def _embedding(adatas: Sequence[Any], names: Sequence[str], key: str) -> Features:
    values = []
    for adata, name in zip(adatas, names, strict=True):
        where = f"obsm[{key!r}] of section {name!r}"
        dense = to_csr(in_memory(adata.obsm[key]), where=where).toarray()
        values.append(dense)
    widths = [v.shape[1] for v in values]
    if len(set(widths)) > 1:
        low, high = int(np.argmin(widths)), int(np.argmax(widths))
        raise InputError(
            f"Expected obsm[{key!r}] with the same columns in all sections, found {widths[low]} in {names[low]!r} and "
            f"{widths[high]} in {names[high]!r}. Compute one embedding of all sections together."
        )
    columns = np.array([f"{key}{i}" for i in range(widths[0])], dtype=str)
    messages = [f"Features: obsm[{key!r}], {widths[0]} components.", *_own_components(values, names)]
    return Features(values, "embedding", columns, messages)


def _own_components(values: Sequence[Any], names: Sequence[str]) -> list[str]:
    """Say it where the columns are principal components that each section has for itself."""
    own = []
    for matrix, name in zip(values, names, strict=True):
        if sp.issparse(matrix) or matrix.shape[1] < 3 or len(matrix) <= matrix.shape[1]:
            continue
        covariance = np.cov(matrix.astype(np.float64), rowvar=False)
        scale = np.sqrt(np.maximum(np.diag(covariance), np.finfo(float).tiny))
        correlation = np.abs(covariance / scale[:, None] / scale)[~np.eye(len(scale), dtype=bool)]
        if correlation.max() < 1e-3:
            own.append(name)
    if len(own) < 2:
        return []
    return [
        f"The features of {listed(own)} are uncorrelated within each section, as principal components of one section "
        "alone are: such components do not correspond between sections. Compute them of all sections together."
    ]


def _categories(adatas: Sequence[Any], names: Sequence[str], key: str) -> Features:
    labels = [_labels(adata.obs[key], key=key, name=name) for adata, name in zip(adatas, names, strict=True)]
    seen = Counter(label for column in labels for label in {x for x in column if x is not None})
    needed = min(2, len(adatas))
    shared = sorted(label for label, count in seen.items() if count >= needed)
    if not shared:
        raise InputError(
            f"Expected categories in obs[{key!r}] that sections share, found "
            f"{listed(sorted(set(labels[0]) - {None}))} in {names[0]!r} and {listed(sorted(set(labels[-1]) - {None}))} "
            f"in {names[-1]!r}."
        )
    place = {label: i for i, label in enumerate(shared)}
    values, messages = [], [f"Features: {len(shared)} categories of obs[{key!r}] that two sections or more share."]
    for column, name in zip(labels, names, strict=True):
        rows = np.array([i for i, label in enumerate(column) if label in place], dtype=np.int64)
        columns = np.array([place[column[i]] for i in rows], dtype=np.int64)
        ones = np.ones(len(rows), np.float32)
        values.append(take(sp.csr_matrix((ones, (rows, columns)), shape=(len(column), len(shared)))))
        missing = sum(label is None for label in column)
        other = len(column) - len(rows) - missing
        if missing or other:
            messages.append(
                f"Section {name!r}: {missing} cells have no label and {other} one that no other section has; they are "
                "kept without a category."
            )
    return Features(values, "categories", np.array(shared, dtype=str), messages)


def _labels(column: Any, *, key: str, name: str) -> list[str | None]:
    """Labels as text, None where there is none; whole numbers lose their decimal point."""
    missing = np.asarray(column.isna())
    labels = [None if gone else label_text(label) for label, gone in zip(column.astype(object), missing, strict=True)]
    used = {label for label in labels if label is not None}
    numbers = [
        x
        for x, gone in zip(column.astype(object), missing, strict=True)
        if not gone and isinstance(x, float | np.floating)
    ]
    if any(x % 1 != 0 for x in numbers) or (len(used) == len(labels) and len(used) > 2):
        raise InputError(
            f"Expected categories in obs[{key!r}] of section {name!r}, found {len(used)} different values in "
            f"{len(labels)} cells ({listed(sorted(used), limit=3)}). Choose a column with cell types or clusters."
        )
    return labels
