"""The coordinates of a section out of ``obsm``, with its depth where a third column holds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from spatialjax.checks import InputError, finite_coordinates, listed, nearest, one_of, shared_places
from spatialjax.io.matrices import in_memory

#: Pairs of columns of ``obs`` that often hold coordinates.
_COLUMNS = (
    ("x", "y"),
    ("X", "Y"),
    ("x_centroid", "y_centroid"),
    ("center_x", "center_y"),
    ("CenterX_global_px", "CenterY_global_px"),
    ("pixel_x", "pixel_y"),
    ("pxl_col_in_fullres", "pxl_row_in_fullres"),
    ("array_col", "array_row"),
)


def read_coordinates(adata: Any, *, spatial_key: str, name: str) -> tuple[Float[np.ndarray, "n 2"], float | None]:
    """Coordinates (float64) and depth of a section, in the units of the input.

    Parameters
    ----------
    adata
        One section.
    spatial_key
        Key of ``obsm``.
    name
        Name of the section.

    Returns
    -------
    tuple
        (n, 2) coordinates, and the third column where it is there and constant, else None.

    Raises
    ------
    InputError
        If the key is missing, the values are no numbers, not finite, or not two-dimensional.
    """
    if spatial_key not in adata.obsm:
        raise InputError(missing_key(adata, spatial_key, name))
    where = f"obsm[{spatial_key!r}] of section {name!r}"
    raw = in_memory(adata.obsm[spatial_key])
    raw = raw.toarray() if hasattr(raw, "toarray") else raw
    try:
        xy = np.array(raw, dtype=np.float64) + 0.0
    except (TypeError, ValueError) as error:
        raise InputError(f"Expected numbers in {where}, found values of type {raw.dtype}.") from error
    if xy.ndim != 2 or xy.shape[1] not in (2, 3):
        raise InputError(f"Expected two columns (x, y) in {where}, found an array of shape {xy.shape}.")
    finite_coordinates(xy, cells=np.asarray(adata.obs_names, dtype=str), where=where)
    if xy.shape[1] == 2:
        return xy, None
    depth = xy[:, 2]
    if np.ptp(depth) > 0:
        raise InputError(
            f"Expected two columns (x, y), or a third one that is the same for the whole section (its z), in {where}; "
            f"found a third column from {depth.min():.6g} to {depth.max():.6g}. Split the volume with slice_key= "
            "(--slice-key), or keep two columns."
        )
    return np.ascontiguousarray(xy[:, :2]), float(depth[0])


def check_distinct(
    xy: Float[np.ndarray, "n 2"], *, cells: Sequence[str] | np.ndarray, name: str, duplicates: str
) -> str | None:
    """Refuse cells at exactly the same place, or say how many there are where they are allowed.

    Parameters
    ----------
    xy
        (n, 2) coordinates.
    cells
        Names of the cells.
    name
        Name of the section.
    duplicates
        ``"error"`` or ``"allow"``.
    """
    one_of(duplicates, ("error", "allow"), "option duplicates")
    same = shared_places(xy)
    if not same.any():
        return None
    found = f"{int(same.sum())} of {len(xy)} cells at the coordinates of another cell"
    if duplicates == "allow":
        return f"Section {name!r} has {found}; allowed as asked."
    several = " If the file holds several sections, give slice_key= (--slice-key)." if same.mean() > 0.2 else ""
    raise InputError(
        f"Expected one cell at a place in section {name!r}, found {found}: {listed(np.asarray(cells)[same])}. Remove "
        f"them, or give duplicates='allow' (--duplicates allow) if they are real.{several}"
    )


def missing_key(adata: Any, key: str, name: str) -> str:
    """The message for coordinates that are not there: it lists what is, and proposes the likeliest."""
    keys = list(adata.obsm.keys())
    message = f"Expected coordinates in obsm[{key!r}] of section {name!r}, found the keys {listed(keys, limit=8)}."
    close = nearest(key, keys, number=1) or [k for k in keys if "spatial" in k.casefold() or "coord" in k.casefold()]
    if close:
        return f"{message} Did you mean spatial_key={close[0]!r} (--spatial-key {close[0]})?"
    for pair in _COLUMNS:
        if set(pair) <= set(adata.obs.columns):
            return (
                f"{message} obs has the columns {pair[0]!r} and {pair[1]!r}: set adata.obsm[{key!r}] = "
                f"adata.obs[[{pair[0]!r}, {pair[1]!r}]].to_numpy() if they are the coordinates."
            )
    return f"{message} Put the coordinates of the cells there."
