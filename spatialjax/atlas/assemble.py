"""The atlas as one AnnData: every input cell under its own name, in input order, with its place in the tissue."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from spatialjax.checks import listed

if TYPE_CHECKING:
    from spatialjax.atlas.reconstruction import Placement

#: Columns of ``obs`` that the atlas writes; a column of that name in the input is kept as ``<name>_input``.
WRITTEN = ("slice", "original_name", "placed", "component", "overlap", "domain3d", "domain3d_confidence")


@dataclass(frozen=True)
class PerCell:
    """What the steps found for every cell: one array a section, rows in canonical order; domains in one array for all.

    Attributes
    ----------
    xyz
        (n_i, 3) µm.
    sd
        (n_i, 3) standard deviation of the place along each axis, µm, relative to the anchor.
    overlap
        Probability that a next section shows the same place.
    domain, confidence
        Domain number from 0 and its probability, sections one after the other.
    placed, component
        One value a section.
    """

    xyz: Sequence[Float[np.ndarray, "n 3"]]
    sd: Sequence[Float[np.ndarray, "n 3"]]
    overlap: Sequence[Float[np.ndarray, " n"]]
    domain: Int[np.ndarray, " n"]
    confidence: Float[np.ndarray, " n"]
    placed: Bool[np.ndarray, " s"]
    component: Int[np.ndarray, " s"]


def assemble(
    stack: Any, values: PerCell, *, layout: Sequence[Int[np.ndarray, " n"]] | None = None
) -> tuple[anndata.AnnData, list[str]]:
    """Put all sections into one AnnData.

    Genes are those that all sections share; ``layers``, ``obsm`` and ``var`` columns are kept where all sections agree
    on them, every ``obs`` column is kept. The sections themselves are not changed.

    Parameters
    ----------
    stack
        What ``io.open_sections`` returned.
    values
        What the steps found.
    layout
        For each section the row of the atlas that each of its cells takes, in the order of the section's cells; one
        section after the other where left out.

    Returns
    -------
    tuple
        The atlas, and sentences about what had to be renamed.
    """
    sections = stack.sections
    sources = [section.adata.to_memory() if section.adata.isbacked else section.adata for section in sections]
    genes = shared_names(sources)
    rows = rows_of(sections, layout)
    back = np.argsort(rows)
    obs, notes = _observations(sections, sources, values)
    names, renamed = _unique_names([np.asarray(a.obs_names, str) for a in sources], [s.name for s in sections])
    obs.index = pd.Index(names)
    blocks = [a[:, genes] for a in sources]
    atlas = anndata.AnnData(
        _stacked([b.X for b in blocks])[back] if all(b.X is not None for b in blocks) else None,
        obs=obs.iloc[back],
        var=_agreeing_columns([b.var for b in blocks]),
    )
    for name in _common([list(b.layers) for b in blocks]):
        atlas.layers[name] = _stacked([b.layers[name] for b in blocks])[back]
    for name in _common([list(a.obsm) for a in sources]):
        parts = [a.obsm[name] for a in sources]
        if all(isinstance(p, np.ndarray) and p.ndim == 2 and p.shape[1] == parts[0].shape[1] for p in parts):
            atlas.obsm[name] = np.concatenate(parts)[back]
    atlas.obsm["spatial3d"] = np.concatenate(_unsorted(sections, values.xyz))[back]
    atlas.obsm["spatial3d_sd"] = np.concatenate(_unsorted(sections, values.sd))[back]
    return atlas, [*notes, *renamed]


def in_input_order(stack: Any, pair: tuple[int, int], matches: sp.csr_matrix) -> sp.csr_matrix:
    """Soft matches with rows and columns in the order of the input cells instead of the canonical one."""
    source, target = (stack.sections[i].order for i in pair)
    entries = matches.tocoo()
    result = sp.csr_matrix((entries.data, (source[entries.row], target[entries.col])), shape=matches.shape)
    result.sort_indices()
    return result


def describe(
    placements: Sequence[Placement],
    *,
    options: Mapping[str, Any],
    method: str,
    warnings: Sequence[str],
    histology: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What ``uns['spatialjax']`` holds: transforms as arrays with one row a section, options, versions, warnings.

    Names of sections may hold any character, so they are values and never keys.

    Parameters
    ----------
    placements
        Where the sections lie.
    options, method, warnings
        Of the run.
    histology
        See ``features.histology_record``; the record has no such entry where it is None.
    """
    return {
        "sections": np.array([p.name for p in placements], dtype=object),
        "placed": np.array([p.placed for p in placements]),
        "component": np.array([p.component for p in placements]),
        "anchor": np.array([p.anchor or "" for p in placements], dtype=object),
        "matrix": np.stack([p.transform.matrix for p in placements]),
        "shift_um": np.stack([p.transform.shift for p in placements]),
        "angle_deg": np.array([p.angle_deg for p in placements]),
        "mirrored": np.array([p.mirrored for p in placements]),
        "z_um": np.array([p.z for p in placements]),
        "matrix_from_units": np.stack([p.from_units.matrix for p in placements]),
        "shift_from_units": np.stack([p.from_units.shift for p in placements]),
        "um_per_unit": np.array([p.um_per_unit for p in placements]),
        "pose_covariance": np.stack([p.covariance for p in placements]),
        "pose_center_um": np.stack([p.center for p in placements]),
        "warp_um2": np.array([p.warp for p in placements]),
        "units_source": np.array([p.units_source for p in placements], dtype=object),
        "method": method,
        "options": json.dumps(dict(options)),
        "versions": versions(),
        "warnings": np.array(list(warnings), dtype=object),
        **({} if histology is None else {"histology": json.dumps(dict(histology))}),
    }


def versions() -> dict[str, str]:
    """Versions of this package and of what it stands on."""
    import platform
    from importlib.metadata import version

    import spatialjax

    names = ("jax", "jaxlib", "numpy", "scipy", "scikit-learn", "anndata", "pandas")
    return {"spatialjax": spatialjax.__version__, "python": platform.python_version()} | {n: version(n) for n in names}


def shared_names(sources: Sequence[anndata.AnnData]) -> list[str]:
    """Names of the genes that all sections have, in the order of the first one."""
    common = set(sources[0].var_names).intersection(*(set(a.var_names) for a in sources[1:]))
    return [gene for gene in sources[0].var_names if gene in common]


def rows_of(sections: Sequence[Any], layout: Sequence[np.ndarray] | None) -> Int[np.ndarray, " n"]:
    """Row of the atlas of each cell, one section after the other.

    Parameters
    ----------
    sections
        Of the stack.
    layout
        As for :func:`assemble`.
    """
    if layout is None:
        return np.arange(sum(len(s.xy) for s in sections))
    return np.concatenate([np.asarray(rows) for rows in layout])


def _unsorted(sections: Sequence[Any], values: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [section.in_input_order(found) for section, found in zip(sections, values, strict=True)]


def _observations(
    sections: Sequence[Any], sources: Sequence[anndata.AnnData], values: PerCell
) -> tuple[pd.DataFrame, list[str]]:
    frames = [a.obs.copy() for a in sources]
    taken = sorted({str(c) for frame in frames for c in frame.columns} & set(WRITTEN))
    notes = [f"The column obs[{name!r}] of the input is kept as obs['{name}_input']." for name in taken]
    frames = [frame.rename(columns={name: f"{name}_input" for name in taken}) for frame in frames]
    obs = _joined(frames)
    sizes = [len(s.xy) for s in sections]
    ends = np.cumsum(sizes)[:-1]
    names = [s.name for s in sections]
    number = int(values.domain.max()) + 1
    labels = [str(i + 1) for i in range(number)]
    domain = np.concatenate(_unsorted(sections, np.split(values.domain, ends)))
    obs["slice"] = pd.Categorical.from_codes(np.repeat(np.arange(len(names)), sizes), categories=names)
    obs["original_name"] = np.concatenate([np.asarray(a.obs_names, str) for a in sources])
    obs["placed"] = np.repeat(np.asarray(values.placed, bool), sizes)
    obs["component"] = np.repeat(np.asarray(values.component), sizes)
    obs["overlap"] = np.concatenate(_unsorted(sections, values.overlap))
    obs["domain3d"] = pd.Categorical.from_codes(domain, categories=labels)
    obs["domain3d_confidence"] = np.concatenate(_unsorted(sections, np.split(values.confidence, ends)))
    return obs, notes


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All rows and all columns, each column of a kind that can be written to a file."""
    columns = list(dict.fromkeys(c for frame in frames for c in frame.columns))
    sizes = [len(frame) for frame in frames]
    joined = {str(c): _joined_column([f[c] if c in f.columns else None for f in frames], sizes) for c in columns}
    return pd.DataFrame(joined, index=pd.RangeIndex(sum(sizes)))


def _joined_column(parts: Sequence[pd.Series | None], sizes: Sequence[int]) -> Any:
    present = [p for p in parts if p is not None]
    labels = [isinstance(p.dtype, pd.CategoricalDtype) for p in present]
    if all(labels) and all(p.dtype == present[0].dtype for p in present) and len(present) == len(parts):
        return pd.Categorical.from_codes(np.concatenate([p.cat.codes for p in parts]), dtype=present[0].dtype)
    filled = [
        pd.Series(np.full(size, np.nan), dtype=object) if part is None else part.astype(object)
        for part, size in zip(parts, sizes, strict=True)
    ]
    merged = pd.concat(filled, ignore_index=True)
    if not any(labels) and all(pd.api.types.is_bool_dtype(p.dtype) for p in present) and not merged.isna().any():
        return merged.astype(bool).to_numpy()
    if not any(labels) and all(pd.api.types.is_numeric_dtype(p.dtype) for p in present):
        numbers = pd.to_numeric(merged)
        return numbers.to_numpy()
    text = merged.where(merged.isna(), merged.map(str))
    return pd.Categorical(text) if any(labels) or merged.isna().any() else text.to_numpy()


def _agreeing_columns(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    first = tables[0]
    kept = [c for c in first.columns if all(c in t.columns and t[c].equals(first[c]) for t in tables[1:])]
    return first[kept].copy()


def _common(lists: Sequence[Sequence[str]]) -> list[str]:
    return [name for name in lists[0] if all(name in other for other in lists[1:])]


def _stacked(blocks: Sequence[Any]) -> Any:
    if any(sp.issparse(block) for block in blocks):
        return sp.vstack([sp.csr_matrix(block) for block in blocks], format="csr")
    return np.concatenate([np.asarray(block) for block in blocks])


def _unique_names(names: Sequence[np.ndarray], sections: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Names of all cells; the section's name goes before those that occur in several sections."""
    flat = np.concatenate(names)
    unique, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    repeated = counts[inverse] > 1
    if not repeated.any():
        return flat, []
    owner = np.repeat(np.asarray(sections, dtype=object), [len(n) for n in names])
    separator = ":"
    while True:
        result = np.array(
            [f"{o}{separator}{n}" if r else n for o, n, r in zip(owner, flat, repeated, strict=True)], dtype=object
        )
        if len(np.unique(result.astype(str))) == len(result):
            break
        separator += ":"
    note = (
        f"{int(repeated.sum())} cells carry a name that occurs in several sections ({listed(unique[counts > 1])}): "
        "the name of "
        "the section was put before it; obs['original_name'] keeps the old one."
    )
    return result, [note]
