"""Sections of an atlas, or of an aligned pair, with their places and labels as numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from spatialjax import checks
from spatialjax.checks import InputError, listed

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Labelled:
    """One section of an atlas, as the transfer sees it.

    Attributes
    ----------
    name
        Name of the section.
    rows
        Its rows of the table of cells.
    xy
        Places in the common frame.
    z
        Height.
    frame
        Sections with the same number share a frame; -1 where not placed.
    spread
        Standard deviation of a cell's place along one axis.
    codes
        Label of each cell, -1 for none.
    """

    name: str
    rows: Int[np.ndarray, " n"]
    xy: Float[np.ndarray, "n 2"]
    z: float
    frame: int
    spread: float
    codes: Int[np.ndarray, " n"]


def from_atlas(atlas: AnnData, key: str) -> tuple[list[Labelled], list[str]]:
    """The sections of an atlas with their labels, and the names of the labels.

    Parameters
    ----------
    atlas
        What a reconstruction returned or wrote.
    key
        Column of ``obs`` with the labels; missing values and empty texts are no label.

    Raises
    ------
    InputError
        If it is no atlas, or has no such column.
    """
    sections = sections_of(atlas)
    codes, names = coded(atlas, key)
    return [replace(s, codes=codes[s.rows]) for s in sections], names


def sections_of(atlas: AnnData) -> list[Labelled]:
    """The sections of an atlas, without labels.

    Raises
    ------
    InputError
        If it is no atlas.
    """
    import pandas as pd

    missing = [f"obs[{c!r}]" for c in ("slice", "placed", "component") if c not in atlas.obs.columns]
    missing += [] if "spatial3d" in atlas.obsm else ["obsm['spatial3d']"]
    if missing:
        raise InputError(f"Expected an atlas made by reconstruct, found an AnnData without {listed(missing)}.")
    xyz = np.asarray(atlas.obsm["spatial3d"], np.float64)
    sd = np.asarray(atlas.obsm["spatial3d_sd"], np.float64)[:, :2] if "spatial3d_sd" in atlas.obsm else None
    owner = atlas.obs["slice"].astype(str).to_numpy()
    placed, component = atlas.obs["placed"].to_numpy(), atlas.obs["component"].to_numpy()
    sections = []
    for name in pd.unique(owner):
        rows = np.flatnonzero(owner == name)
        first = rows[0]
        spread = 0.0 if sd is None or not placed[first] else float(np.sqrt(np.mean(sd[rows] ** 2)))
        frame = int(component[first]) if placed[first] else -1
        sections.append(
            Labelled(str(name), rows, xyz[rows, :2], float(xyz[first, 2]), frame, spread, np.full(len(rows), -1))
        )
    return sections


def from_pair(
    coordinates: Float[np.ndarray, "n 2"],
    source: AnnData,
    target: AnnData,
    *,
    key: str,
    spatial_key: str = "spatial",
    spread: float = 0.0,
) -> tuple[list[Labelled], list[str]]:
    """Two aligned sections, called ``source`` and ``target``, and the names of the labels.

    Parameters
    ----------
    coordinates
        Places of the source's cells in the frame of the target.
    source, target
        The two sections; labels may be in either.
    key
        Column of ``obs`` with the labels; a section without it has none.
    spatial_key
        Key of ``obsm`` with the coordinates of the target.
    spread
        Standard deviation of the place of a source cell along one axis, in the units of the target.

    Raises
    ------
    InputError
        If neither section has the column.
    """
    given = [coded(a, key) if key in a.obs.columns else None for a in (source, target)]
    if given == [None, None]:
        coded(source, key)
    names = sorted({name for found in given if found is not None for name in found[1]})
    codes = [
        np.full(a.n_obs, -1) if found is None else np.array([*map(names.index, found[1]), -1], int)[found[0]]
        for a, found in zip((source, target), given, strict=True)
    ]
    places = [np.asarray(coordinates, np.float64), np.asarray(target.obsm[spatial_key], np.float64)[:, :2]]
    rows = np.split(np.arange(source.n_obs + target.n_obs), [source.n_obs])
    both = zip(("source", "target"), rows, places, (0.0, 1.0), codes, strict=True)
    return [Labelled(name, r, xy, z, 0, spread / np.sqrt(2), c) for name, r, xy, z, c in both], names


def coded(adata: AnnData, key: str) -> tuple[Int[np.ndarray, " n"], list[str]]:
    """Labels of a column of ``obs`` as numbers, -1 for none, and their names."""
    if key not in adata.obs.columns:
        close = checks.nearest(key, adata.obs.columns, number=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise InputError(f"Expected labels in obs[{key!r}], found {listed(adata.obs.columns, limit=20)}.{hint}")
    import pandas as pd

    values = adata.obs[key].astype(object)
    values = values.where(values.notna() & (values.astype(str) != ""), None)
    column = pd.Categorical(values.map(lambda v: None if v is None else str(v)))
    return np.asarray(column.codes, int), [str(c) for c in column.categories]
