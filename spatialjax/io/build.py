"""What every platform reader ends with: one AnnData whose ``uns["spatialjax"]`` says how long a unit is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from spatialjax.checks import InputError, listed
from spatialjax.io.units import Scale

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def build(
    counts: sp.csr_matrix,
    *,
    cells: Sequence[str] | np.ndarray,
    var: pd.DataFrame,
    table: pd.DataFrame,
    columns: tuple[str, str],
    spatial_key: str,
    scale: Scale | None,
    platform: str,
    notes: Sequence[str] = (),
) -> AnnData:
    """One section from a matrix and a table of its cells.

    Parameters
    ----------
    counts
        (n, p) raw counts.
    cells
        Names of the rows of ``counts``.
    var
        Table of the genes, its index their names.
    table
        Table of cells with their names as its index; it may hold more cells, in any order.
    columns
        The columns of ``table`` with x and y.
    spatial_key
        Key of ``obsm`` that the coordinates go to.
    scale
        Unit of the coordinates, or None where the platform does not say.
    platform
        Name of the platform.
    notes
        What was left out on the way; the door says it aloud.

    Raises
    ------
    InputError
        If a row of ``counts`` is not in ``table``, or a column is missing.
    """
    import anndata

    absent = [column for column in columns if column not in table.columns]
    if absent:
        raise InputError(
            f"Expected the columns {listed(columns)} in the cell table of {platform}, found "
            f"{listed(table.columns, limit=12)}."
        )
    cells = np.asarray(cells, dtype=str)
    position = table.index.get_indexer(cells) if table.index.is_unique else None
    if position is None:
        raise InputError(f"Expected every cell once in the cell table of {platform}, found repeated names.")
    if (position < 0).any():
        missing = cells[position < 0]
        raise InputError(
            f"Expected every cell of the matrix in the cell table of {platform}, found {len(missing)} of {len(cells)} "
            f"without a place: {listed(missing)}. Do both come from the same run?"
        )
    obs = table.iloc[position]
    obs.index = cells
    adata = anndata.AnnData(counts, obs=obs.drop(columns=list(columns)), var=var)
    adata.obsm[spatial_key] = obs[list(columns)].to_numpy(np.float64)
    remember(adata, scale=scale, spatial_key=spatial_key, platform=platform, notes=notes)
    return adata


def remember(adata: Any, *, scale: Scale | None, spatial_key: str, platform: str, notes: Sequence[str] = ()) -> None:
    """Write what is known of the unit, and what was left out, to ``adata.uns["spatialjax"]``."""
    own: dict[str, Any] = {"platform": platform, "spatial_key": spatial_key, "notes": list(notes)}
    if scale is not None:
        own |= {"um_per_unit": float(scale.um_per_unit), "units_source": scale.source}
    adata.uns["spatialjax"] = own
