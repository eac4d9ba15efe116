"""What a page holds of an atlas: sections, coordinates, columns to colour by, and what has to be said in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from spatialjax.checks import InputError, listed
from spatialjax.viewer.genes import choose_genes
from spatialjax.viewer.packing import MISSING, deflated, deflated_floats, deflated_names, quantise

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

#: Categories that a column to colour by may have at the most: above it nobody tells the colours apart.
MAX_CATEGORIES = 250
#: Whole numbers with at most this many different values are labels.
MAX_WHOLE_LABELS = 30
#: Columns of ``obs`` that the page shows in another way.
SHOWN_ELSEWHERE = ("slice", "original_name")

#: Cells of each section that tell which coordinates the maps start from.
_LANDMARKS = 20
_NEEDED = ("sections", "placed", "component", "z_um", "um_per_unit")


def contents(
    atlas: AnnData,
    *,
    genes: Sequence[str] | None = None,
    max_genes: int = 500,
    max_megabytes: float = 20.0,
    layer: str | None = None,
    spatial_key: str = "spatial",
) -> dict[str, Any]:
    """Everything that the page needs, as values that JSON can hold; cells are sorted by section.

    Parameters
    ----------
    atlas
        A reconstruction's atlas.
    genes, max_genes, max_megabytes
        See :func:`~spatialjax.viewer.genes.choose_genes`.
    layer
        Layer with the expression; ``X`` where left out.
    spatial_key
        Where the given coordinates are, ``obsm[spatial_key]``, in the units of the files; where the maps of the atlas
        do not start from these but from those of another key, that one is shown, see :func:`given_key`.

    Raises
    ------
    InputError
        If this is no atlas of ours, or it has no cells.
    """
    facts = _facts(atlas)
    names = [str(name) for name in facts["sections"]]
    number = _section_of_each_cell(atlas, names)
    order = np.argsort(number, kind="stable")
    count = np.bincount(number, minlength=len(names))
    placed, placed_origin = _centred(np.asarray(atlas.obsm["spatial3d"], np.float64)[order])
    given = _given(atlas, facts, number, given_key(atlas, prefer=spatial_key))
    columns, left_out = _columns(atlas, order)
    notes = _notes(atlas, facts, names, placed)
    if given is None:
        notes.append(f"The atlas holds no given coordinates in obsm[{spatial_key!r}]: there is no view as given.")
    else:
        given, given_origin = _centred(given[order])
    return {
        "format": 1,
        "cells": int(atlas.n_obs),
        "spacing": _spacing(placed if given is None else given, count),
        "sections": [
            {
                "name": name,
                "cells": int(count[i]),
                "placed": bool(facts["placed"][i]),
                "component": int(facts["component"][i]),
                "z": _finite_or_none(facts["z_um"][i]),
            }
            for i, name in enumerate(names)
        ],
        "placed": {"origin": placed_origin, "xyz": deflated_floats(placed)},
        "given": None if given is None else {"origin": given_origin, "xyz": deflated_floats(given)},
        "names": deflated_names(np.asarray(atlas.obs_names, str)[order]),
        "columns": columns,
        "leftOut": left_out,
        "genes": _genes(atlas, order, genes=genes, max_genes=max_genes, max_megabytes=max_megabytes, layer=layer),
        "notes": notes,
    }


def given_key(atlas: AnnData, *, prefer: str = "spatial") -> str | None:
    """The key of ``obsm`` with the coordinates that the sections were given with.

    They are those which the recorded maps (``uns['spatialjax']``) bring to ``obsm['spatial3d']``. Where no section is
    placed, or the record holds no maps, nothing tells, and ``prefer`` is taken if it is there.

    Parameters
    ----------
    atlas
        A reconstruction's atlas.
    prefer
        The key that is taken where several or none of them fit.

    Returns
    -------
    str or None
        The key; None where the atlas does not hold the given coordinates.
    """
    keys = [key for key in (prefer, *atlas.obsm) if key in atlas.obsm and key not in ("spatial3d", "spatial3d_sd")]
    rows, expected, maps = _landmarks(atlas)
    if len(rows) == 0:
        return prefer if prefer in keys else None
    for key in keys:
        values = atlas.obsm[key]
        if not isinstance(values, np.ndarray) or values.ndim != 2 or values.shape[1] < 2:
            continue
        xy = np.asarray(values[rows, :2], np.float64)
        found = np.einsum("nij,nj->ni", maps[0], xy) + maps[1]
        if np.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(np.ptp(expected, axis=0).max() + 1.0)):
            return key
    return None


def _landmarks(atlas: AnnData) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Some cells of each placed section: their rows, their places in the plane, and the map of each one's section."""
    facts = atlas.uns.get("spatialjax", {})
    empty = np.zeros((0, 2))
    if not {"sections", "placed", "matrix_from_units", "shift_from_units"} <= set(facts):
        return np.zeros(0, int), empty, (np.zeros((0, 2, 2)), empty)
    owner = atlas.obs["slice"].astype(str).to_numpy()
    placed = np.atleast_1d(np.asarray(facts["placed"], bool))
    names = [str(name) for name in np.atleast_1d(facts["sections"])]
    chosen = [np.flatnonzero(owner == name)[:_LANDMARKS] if placed[i] else [] for i, name in enumerate(names)]
    rows = np.concatenate([np.asarray(c, int) for c in chosen])
    section = np.repeat(np.arange(len(names)), [len(c) for c in chosen])
    maps = (np.asarray(facts[name], np.float64)[section] for name in ("matrix_from_units", "shift_from_units"))
    return rows, np.asarray(atlas.obsm["spatial3d"], np.float64)[rows, :2], tuple(maps)


def _facts(atlas: AnnData) -> dict[str, np.ndarray]:
    facts = atlas.uns.get("spatialjax", {})
    missing = [name for name in _NEEDED if name not in facts]
    missing_fields = [name for name in ("slice", "placed") if name not in atlas.obs]
    if missing or missing_fields or "spatial3d" not in atlas.obsm:
        lacking = [*(f"uns['spatialjax'][{n!r}]" for n in missing), *(f"obs[{n!r}]" for n in missing_fields)]
        lacking += [] if "spatial3d" in atlas.obsm else ["obsm['spatial3d']"]
        raise InputError(
            f"Expected an atlas as `spatialjax reconstruct` writes it, found no {', no '.join(lacking)}: "
            "give atlas.h5ad."
        )
    if atlas.n_obs == 0:
        raise InputError("Expected an atlas with cells, found none: there is nothing to show.")
    return {name: np.atleast_1d(np.asarray(facts[name])) for name in _NEEDED}


def _section_of_each_cell(atlas: AnnData, names: Sequence[str]) -> Int[np.ndarray, " n"]:
    position = {name: i for i, name in enumerate(names)}
    found = np.array([position.get(name, -1) for name in atlas.obs["slice"].astype(str)])
    if (found < 0).any():
        strange = sorted(set(atlas.obs["slice"].astype(str)) - set(names))
        raise InputError(
            f"Expected every obs['slice'] to be in uns['spatialjax']['sections'], found {listed(strange)}: "
            "give the atlas as it was written."
        )
    return found


def _given(
    atlas: AnnData, facts: dict[str, np.ndarray], number: Int[np.ndarray, " n"], spatial_key: str | None
) -> Float[np.ndarray, "n 3"] | None:
    """Coordinates as they were given, in µm, each section at its height."""
    if spatial_key is None:
        return None
    unit = np.asarray(facts["um_per_unit"], np.float64)[number, None]
    height = np.nan_to_num(np.asarray(facts["z_um"], np.float64))[number, None]
    return np.concatenate([np.asarray(atlas.obsm[spatial_key], np.float64)[:, :2] * unit, height], 1)


def _centred(xyz: Float[np.ndarray, "n 3"]) -> tuple[Float[np.ndarray, "n 3"], list[float]]:
    """Coordinates around the middle of their box, which single precision resolves better, and that middle."""
    finite = xyz[np.isfinite(xyz).all(1)]
    origin = np.zeros(3) if len(finite) == 0 else np.round((finite.min(0) + finite.max(0)) / 2, 3)
    return xyz - origin, origin.tolist()


def _spacing(xyz: Float[np.ndarray, "n 3"], count: Int[np.ndarray, " s"]) -> float:
    """Median distance to the next cell of the same section, µm: the natural size of a dot."""
    found = []
    for rows in np.split(np.arange(len(xyz)), np.cumsum(count)[:-1]):
        points = xyz[rows[np.isfinite(xyz[rows]).all(1)], :2]
        if len(points) > 1:
            chosen = points[:: max(1, len(points) // 500)]
            distance = cKDTree(points).query(chosen, k=2)[0][:, 1]
            found.append(distance[distance > 0])
    distances = np.concatenate(found) if found else np.zeros(0)
    return round(float(np.median(distances)), 4) if len(distances) else 1.0


def _columns(atlas: AnnData, order: Int[np.ndarray, " n"]) -> tuple[list[dict[str, Any]], list[str]]:
    """Columns to colour by, those of the atlas first, and sentences on those that cannot be shown."""
    found: dict[str, dict[str, Any]] = {}
    left_out = []
    if "spatial3d_sd" in atlas.obsm:
        spread = np.sqrt((np.asarray(atlas.obsm["spatial3d_sd"], np.float64) ** 2).sum(1))[order]
        top = float(np.percentile(spread[np.isfinite(spread)], 99)) if np.isfinite(spread).any() else 0.0
        found["uncertainty"] = _numbers(
            "uncertainty of the position", spread, unit="µm, one sd", limits=(0.0, top if top > 0 else 1.0)
        )
    for name in map(str, atlas.obs.columns):
        if name in SHOWN_ELSEWHERE or (name == "component" and atlas.obs[name].nunique() < 2):
            continue
        packed = _column(name, atlas.obs[name].iloc[order])
        if isinstance(packed, str):
            left_out.append(packed)
        else:
            found[name] = packed
    ours = ("domain3d", "uncertainty", "overlap", "domain3d_confidence")
    first = [found.pop(name) | {"ours": True} for name in ours if name in found]
    return first + [column | {"ours": False} for column in found.values()], left_out


def _column(name: str, values: pd.Series) -> dict[str, Any] | str:
    """One column, packed, or why it is not shown."""
    kind = values.dtype.kind if isinstance(values.dtype, np.dtype) else "O"
    if kind == "f" or (kind in "iu" and values.nunique() > MAX_WHOLE_LABELS):
        limits = (0.0, 1.0) if name in ("overlap", "domain3d_confidence") else None
        return _numbers(name, np.asarray(values, np.float64), limits=limits)
    if kind in "mM":
        return f"{name!r} holds times."
    labels = values.astype("category").cat.remove_unused_categories()
    categories = [str(category) for category in labels.cat.categories]
    if len(categories) > MAX_CATEGORIES:
        return f"{name!r} has {len(categories):,} different values; at most {MAX_CATEGORIES} can be told apart."
    codes = np.asarray(labels.cat.codes, np.int64)
    packed = np.where(codes < 0, MISSING, codes).astype(np.uint8)
    return {"name": name, "kind": "labels", "categories": categories, "codes": deflated(packed.tobytes())}


def _numbers(
    name: str, values: Float[np.ndarray, " n"], *, unit: str = "", limits: tuple[float, float] | None = None
) -> dict[str, Any]:
    packed = quantise(values, limits=limits)
    return {
        "name": name,
        "kind": "numbers",
        "unit": unit,
        "low": packed.low,
        "high": packed.high,
        "limits": list(packed.limits),
        "codes": deflated(packed.codes.tobytes()),
    }


def _genes(
    atlas: AnnData,
    order: Int[np.ndarray, " n"],
    *,
    genes: Sequence[str] | None,
    max_genes: int,
    max_megabytes: float,
    layer: str | None,
) -> dict[str, Any]:
    values = atlas.X if layer is None else atlas.layers[layer]
    values = values.to_memory() if hasattr(values, "to_memory") else values
    domains = np.full(len(order), -1)
    if "domain3d" in atlas.obs:
        domains = np.asarray(atlas.obs["domain3d"].astype("category").cat.codes, int)[order]
    choice = choose_genes(
        None if values is None else values[order],
        list(atlas.var_names),
        domains,
        asked=genes or (),
        max_genes=max_genes,
        max_megabytes=max_megabytes,
    )
    return {
        "held": choice.held,
        "others": deflated_names(choice.others),
        "scale": choice.scale,
        "sentence": choice.sentence,
    }


def _notes(atlas: AnnData, facts: dict[str, np.ndarray], names: Sequence[str], xyz: np.ndarray) -> list[str]:
    """What a reader of the picture has to know."""
    notes = []
    unplaced = [name for name, placed in zip(names, facts["placed"], strict=True) if not placed]
    absent = int((~np.isfinite(xyz).all(1)).sum())
    if absent:
        where = f" ({listed(unplaced)})" if unplaced else ""
        notes.append(
            f"{absent:,} of {len(xyz):,} cells have no place in the tissue{where}: no evidence supports one. "
            "They are shown only as given."
        )
    frames: dict[int, list[str]] = {}
    for name, component, placed in zip(names, facts["component"], facts["placed"], strict=True):
        if placed:
            frames.setdefault(int(component), []).append(name)
    if len(frames) > 1:
        groups = "; ".join(listed(group) for group in frames.values())
        notes.append(
            f"The sections fall into {len(frames)} groups that nothing joins ({groups}). Each group has a frame of its "
            "own: where one lies against another means nothing. The largest is shown first."
        )
    if "spatial3d_sd" not in atlas.obsm:
        notes.append("The atlas holds no obsm['spatial3d_sd']: the uncertainty of the positions is not known.")
    return notes


def _finite_or_none(value: Any) -> float | None:
    return float(value) if np.isfinite(float(value)) else None
