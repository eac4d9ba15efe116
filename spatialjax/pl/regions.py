"""Domains of sections that are not aligned, beside how sure they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spatialjax.checks import InputError, listed
from spatialjax.pl.drawing import INK, category_colors, category_legend, dots, panels_of, quiet, short_name

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure


def of_sections(adata: AnnData, key: str, *, slice_key: str | None, spatial_key: str) -> Figure:
    """One row a section: its domains, and the confidence of each cell.

    Parameters
    ----------
    adata
        ``tl.domains(…).adata``.
    key
        Column of ``obs`` with the domains.
    slice_key
        Column of ``obs`` that names the section of each cell.
    spatial_key
        Where the coordinates are, ``obsm[spatial_key]``.

    Raises
    ------
    InputError
        If the domains, the sections or the coordinates are not there.
    """
    for column in (key, f"{key}_confidence", *([] if slice_key is None else [slice_key])):
        if column not in adata.obs:
            raise InputError(
                f"Expected obs[{column!r}], found {listed(adata.obs.columns, limit=12)}: run tl.domains first, or name "
                "its key_added and the column of the sections."
            )
    if spatial_key not in adata.obsm:
        raise InputError(f"Expected coordinates in obsm[{spatial_key!r}], found {listed(adata.obsm, limit=8)}.")
    names = np.full(adata.n_obs, "") if slice_key is None else np.asarray(adata.obs[slice_key].astype(str))
    sections = list(dict.fromkeys(names))
    column = adata.obs[key].astype("category")
    colors, sure = category_colors(column), np.asarray(adata.obs[f"{key}_confidence"], float)
    figure, panels = panels_of(2 * len(sections), columns=2, size=3.4)
    for number, name in enumerate(sections):
        rows = names == name
        xy = np.asarray(adata.obsm[spatial_key], float)[rows, :2]
        left, right = panels[2 * number : 2 * number + 2]
        dots(left, xy, color=colors[rows])
        drawn = dots(right, xy, color=sure[rows], cmap="viridis", limits=(0.0, 1.0))
        for panel, what in ((left, "domains"), (right, "confidence")):
            panel.set_title(short_name(f"{name} {what}".strip()), fontsize=9, loc="left", color=INK)
            panel.set_aspect("equal")
            panel.invert_yaxis()
            panel.set_xticks([])
            panel.set_yticks([])
            quiet(panel)
    bar = figure.colorbar(drawn, ax=panels, shrink=0.6, aspect=30, pad=0.01, location="bottom")
    bar.set_label("confidence: share of the members that agree, or probability of the domain", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    category_legend(figure, column, title="domain")
    return figure
