"""Pictures of an atlas: every function takes the AnnData that ``tl.reconstruct`` returns and gives a matplotlib figure.

Lengths are in µm. Figures are made without ``pyplot``, so nothing global changes: show them in a notebook or save them
with ``figure.savefig``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from spatialjax.checks import InputError, one_of
from spatialjax.pl.compositions import composition, composition_calibration
from spatialjax.pl.drawing import (
    INK,
    category_colors,
    category_legend,
    dot_area,
    dots,
    map_frame,
    panels_of,
    quiet,
    round_length,
    scale_bar,
    short_name,
)
from spatialjax.pl.regions import of_sections

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure

__all__ = [
    "PAIR_COLORS",
    "composition",
    "composition_calibration",
    "domains",
    "gene",
    "marker_gene",
    "overlap",
    "overlay",
    "stack",
    "uncertainty",
]

#: Colours of the two sections of an overlay, told apart by colour-blind readers too.
PAIR_COLORS = ("#0072b2", "#e69f00")
_MISSING = "#d0d0d0"


def overlay(atlas: AnnData, *, pairs: Sequence[tuple[str, str]] | None = None, spatial_key: str = "spatial") -> Figure:
    """Successive sections on top of each other, as they were given and as they were placed.

    Parameters
    ----------
    atlas
        A reconstruction's atlas.
    pairs
        Names of the sections of each row; all successive ones that lie in one frame where left out.
    spatial_key
        Where the given coordinates are, ``obsm[spatial_key]``.

    Returns
    -------
    Figure
        One row a pair: on the left the given coordinates in µm, on the right the atlas.

    Raises
    ------
    InputError
        If no two sections lie in one frame, or a name is unknown.
    """
    names = _section_names(atlas)
    pairs = (
        _successive(atlas) if pairs is None else [tuple(one_of(n, names, "section") for n in pair) for pair in pairs]
    )
    if not pairs:
        raise InputError("Expected at least two sections in one frame, found none: nothing can be laid on each other.")
    figure, panels = panels_of(2 * len(pairs), columns=4 if len(pairs) > 1 else 2, size=3.1)
    for number, pair in enumerate(pairs):
        for part, title in ((0, "as given"), (1, "placed")):
            panel = panels[2 * number + part]
            for name, color in zip(pair, PAIR_COLORS, strict=True):
                xy = _given(atlas, name, spatial_key) if part == 0 else atlas.obsm["spatial3d"][_rows(atlas, name), :2]
                dots(panel, xy, color=color, alpha=0.55)
            panel.set_title(title, fontsize=8, loc="right", color="#777777")
            map_frame(panel)
        panels[2 * number].set_title(
            f"{short_name(pair[0])} · {short_name(pair[1])}", fontsize=9, loc="left", color=INK
        )
    return figure


def gene(atlas: AnnData, name: str | None = None, *, layer: str | None = None) -> Figure:
    """One gene in all placed sections, in the common frame and on one colour scale.

    Parameters
    ----------
    atlas
        A reconstruction's atlas.
    name
        A name in ``var_names``; :func:`marker_gene` where left out.
    layer
        Layer to read; ``X`` where left out.

    Returns
    -------
    Figure
        One panel a section; the colour is ``log(1 + value)``, cut at the 99th percentile.
    """
    name = marker_gene(atlas, layer=layer) if name is None else one_of(name, list(atlas.var_names), "gene")
    values = _expression(atlas, name, layer)
    top = max(float(np.percentile(values, 99)), 1e-6)
    return _each_section(
        atlas, values, cmap="magma", limits=(min(float(values.min()), 0.0), top), label=f"{name}, log(1 + value)"
    )


def overlap(atlas: AnnData) -> Figure:
    """For every spot the probability that a next section shows the same place (0: seen in this section only).

    Parameters
    ----------
    atlas
        A reconstruction's atlas.
    """
    return _each_section(
        atlas,
        np.asarray(atlas.obs["overlap"], float),
        cmap="viridis",
        limits=(0.0, 1.0),
        label="probability of overlap",
    )


def uncertainty(atlas: AnnData) -> Figure:
    """For every spot the standard deviation of its place in the plane, µm, relative to the anchor.

    Parameters
    ----------
    atlas
        A reconstruction's atlas.
    """
    spread = np.sqrt((np.asarray(atlas.obsm["spatial3d_sd"], float)[:, :2] ** 2).sum(1))
    known = spread[np.isfinite(spread)]
    high = float(np.quantile(known, 0.99)) if known.size else 1.0
    return _each_section(
        atlas,
        spread,
        cmap="magma",
        limits=(0.0, max(high, 1e-9)),
        label="standard deviation of the place, µm",
    )


def domains(
    adata: AnnData, key: str | None = None, *, slice_key: str | None = None, spatial_key: str = "spatial"
) -> Figure:
    """The domains of an atlas, one panel a section; or those that ``tl.domains`` found, with their confidence.

    Parameters
    ----------
    adata
        A reconstruction's atlas, or ``tl.domains(…).adata``.
    key
        Name that was given as ``key_added``; where left out ``"domain3d"`` of an atlas, else ``"domain"``.
    slice_key
        Column of ``obs`` that names the section of each cell, where there are several and it is no atlas.
    spatial_key
        Where the coordinates are, where it is no atlas.

    Raises
    ------
    InputError
        If there are no domains of that name.
    """
    if key is not None or "domain3d" not in adata.obs:
        return of_sections(adata, key or "domain", slice_key=slice_key, spatial_key=spatial_key)
    names = _placed_names(adata)
    figure, panels = panels_of(len(names), columns=min(4, len(names)), size=3.1)
    colors = category_colors(adata.obs["domain3d"])
    for name, panel in zip(names, panels, strict=False):
        rows = _rows(adata, name)
        dots(panel, adata.obsm["spatial3d"][rows, :2], color=colors[rows])
        panel.set_title(short_name(name), fontsize=9, loc="left", color=INK)
    _same_limits(panels, adata, names)
    category_legend(figure, adata.obs["domain3d"], title="domain")
    return figure


def stack(atlas: AnnData) -> Figure:
    """The tissue from above, from the front, from the side and from an angle, coloured by domain.

    Parameters
    ----------
    atlas
        A reconstruction's atlas.

    Returns
    -------
    Figure
        Heights are stretched where the stack is much thinner than wide; the titles say how much.
    """
    from matplotlib.figure import Figure

    rows = np.flatnonzero(_main_rows(atlas))
    xyz, colors = atlas.obsm["spatial3d"][rows], category_colors(atlas.obs["domain3d"])[rows]
    extent = np.ptp(xyz, axis=0)
    wide, high = max(extent[:2].max(), 1e-9), extent[2]
    stretch = round_length(0.6 * wide / high) if 0 < high < 0.3 * wide else 1.0
    note = f", heights × {stretch:g}" if stretch != 1 else ""
    figure = Figure(figsize=(12.4, 5.2), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(1.15, 1.0, 1.25))
    above = figure.add_subplot(grid[:, 0])
    dots(above, xyz[:, :2], color=colors)
    above.set_title("from above", fontsize=9, loc="left", color=INK)
    map_frame(above)
    for line, axis, title in ((0, 0, "from the front"), (1, 1, "from the side")):
        panel = figure.add_subplot(grid[line, 1])
        dots(panel, np.column_stack([xyz[:, axis], xyz[:, 2]]), color=colors, count=len(rows))
        panel.set_title(title + note, fontsize=9, loc="left", color=INK)
        panel.set_xlabel(f"{'xy'[axis]}, µm", fontsize=8)
        panel.set_ylabel("z, µm", fontsize=8)
        panel.set_aspect(stretch)
        panel.margins(y=0.15)
        quiet(panel)
    panel = figure.add_subplot(grid[:, 2], projection="3d")
    panel.scatter(xyz[:, 0], xyz[:, 1], xyz[:, 2] * stretch, c=colors, s=dot_area(len(rows)) * 0.5, linewidths=0)
    panel.set_box_aspect([max(extent[0], 1e-9), max(extent[1], 1e-9), max(high * stretch, 0.02 * wide)], zoom=1.2)
    panel.view_init(elev=20, azim=-60)
    panel.invert_yaxis()
    panel.set_axis_off()
    panel.set_title("from an angle" + note, fontsize=9, loc="left", color=INK)
    category_legend(figure, atlas.obs["domain3d"], title="domain")
    return figure


def marker_gene(atlas: AnnData, *, layer: str | None = None) -> str:
    """The gene whose ``log(1 + value)`` differs most between the domains, for its size.

    Among genes seen in at least a tenth of the cells (all genes where there is none): the largest share of variance
    that lies between domains.

    Parameters
    ----------
    atlas
        A reconstruction's atlas.
    layer
        Layer to read; ``X`` where left out.
    """
    if atlas.n_vars == 0 or (layer is None and atlas.X is None):
        raise InputError("Expected an atlas with genes, found none: there is no gene to show.")
    values = sp.csr_matrix(atlas.X if layer is None else atlas.layers[layer], dtype=np.float64)
    values.data = np.log1p(np.maximum(values.data, 0.0))
    group = np.asarray(atlas.obs["domain3d"].cat.codes)
    member = sp.csr_matrix((np.ones(len(group)), (group, np.arange(len(group)))))
    size = np.asarray(member.sum(1))
    sums = (member @ values).toarray()
    mean = sums.sum(0) / len(group)
    between = (sums**2 / np.maximum(size, 1)).sum(0) / len(group) - mean**2
    total = np.asarray(values.multiply(values).sum(0)).ravel() / len(group) - mean**2
    seen = np.diff(values.tocsc().indptr) >= 0.1 * len(group)
    share = np.where((total > 0) & (seen | ~seen.any()), between / np.where(total > 0, total, 1.0), -1.0)
    return str(atlas.var_names[int(share.argmax())])


def _expression(atlas: AnnData, name: str, layer: str | None) -> np.ndarray:
    column = atlas[:, [name]]
    values = column.X if layer is None else column.layers[layer]
    values = np.asarray(values.toarray() if sp.issparse(values) else values, float).ravel()
    return np.log1p(values) if values.min() >= 0 else values


def _section_names(atlas: AnnData) -> list[str]:
    return [str(name) for name in atlas.obs["slice"].cat.categories]


def _placed_names(atlas: AnnData) -> list[str]:
    placed = set(atlas.obs["slice"][np.asarray(atlas.obs["placed"], bool)].astype(str))
    if not placed:
        raise InputError("Expected at least one placed section, found none: there is nothing to show.")
    return [name for name in _section_names(atlas) if name in placed]


def _rows(atlas: AnnData, name: str) -> np.ndarray:
    return np.flatnonzero(np.asarray(atlas.obs["slice"].astype(str)) == name)


def _main_rows(atlas: AnnData) -> np.ndarray:
    """Cells of the largest component."""
    component = np.asarray(atlas.obs["component"])
    _placed_names(atlas)
    return component == np.bincount(component[component >= 0]).argmax()


def _successive(atlas: AnnData) -> list[tuple[str, str]]:
    component = np.asarray(atlas.obs["component"])
    last: dict[int, str] = {}
    pairs = []
    for name in _placed_names(atlas):
        label = int(component[_rows(atlas, name)[0]])
        if label in last:
            pairs.append((last[label], name))
        last[label] = name
    return pairs


def _given(atlas: AnnData, name: str, spatial_key: str) -> np.ndarray:
    if spatial_key not in atlas.obsm:
        raise InputError(
            f"Expected obsm[{spatial_key!r}], found {list(atlas.obsm)}: name the key of the given coordinates."
        )
    facts = atlas.uns["spatialjax"]
    unit = float(np.asarray(facts["um_per_unit"])[list(map(str, facts["sections"])).index(name)])
    return np.asarray(atlas.obsm[spatial_key], float)[_rows(atlas, name), :2] * unit


def _each_section(atlas: AnnData, values: np.ndarray, *, cmap: str, limits: tuple[float, float], label: str) -> Figure:
    names = _placed_names(atlas)
    figure, panels = panels_of(len(names), columns=min(4, len(names)), size=3.1)
    for name, panel in zip(names, panels, strict=False):
        rows = _rows(atlas, name)
        shown = values[rows]
        points = atlas.obsm["spatial3d"][rows, :2]
        dots(panel, points[~np.isfinite(shown)], color=_MISSING)
        drawn = dots(panel, points[np.isfinite(shown)], color=shown[np.isfinite(shown)], cmap=cmap, limits=limits)
        panel.set_title(short_name(name), fontsize=9, loc="left", color=INK)
    _same_limits(panels, atlas, names)
    bar = figure.colorbar(drawn, ax=panels, shrink=0.7, aspect=30, pad=0.01)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    return figure


def _same_limits(panels: Sequence[Any], atlas: AnnData, names: Sequence[str]) -> None:
    """One window for all sections of a frame, with room for the bar below."""
    component = np.asarray(atlas.obs["component"])
    for name, panel in zip(names, panels, strict=False):
        xy = atlas.obsm["spatial3d"][component == component[_rows(atlas, name)[0]], :2]
        low, high = xy.min(0), xy.max(0)
        edge = 0.04 * max((high - low).max(), 1e-9)
        panel.set_xlim(low[0] - edge, high[0] + edge)
        panel.set_ylim(high[1] + 4 * edge, low[1] - edge)
        panel.set_aspect("equal")
        quiet(panel)
        scale_bar(panel)
