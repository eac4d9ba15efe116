"""The composition of spots over the tissue, and how stated uncertainty compares with a known truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from spatialjax.checks import InputError, listed
from spatialjax.metrics.calibration import reliability
from spatialjax.pl.drawing import INK, dots, panels_of, quiet, short_name
from spatialjax.tables import stored_names

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure

#: Types that are drawn where none are named.
MOST_TYPES = 12
#: What can be drawn, the ending of its key, and the words for it.
SHOWN: dict[str, tuple[str, str]] = {
    "mean": ("", "share of the cells"),
    "sd": ("_sd", "standard deviation of the share"),
    "q05": ("_q05", "lower end of the 90 % interval"),
    "q95": ("_q95", "upper end of the 90 % interval"),
    "presence": ("_presence", "probability that the type is there"),
}


def composition(
    adata: AnnData,
    *,
    types: Sequence[str] | None = None,
    show: Literal["mean", "sd", "q05", "q95", "presence"] = "mean",
    key: str = "proportions",
    slice_key: str | None = None,
    spatial_key: str = "spatial",
) -> Figure:
    """One panel for each cell type and section: its share in every spot, or how sure that is.

    Parameters
    ----------
    adata
        ``tl.deconvolve(…).adata``.
    types
        Names of the types, as the reference or as the tables have them; the twelve most frequent ones where left out.
    show
        What the colour says.
    key
        Name that was given as ``key_added``.
    slice_key
        Column of ``obs`` that names the section of each spot, where there are several.
    spatial_key
        Where the coordinates are, ``obsm[spatial_key]``.

    Raises
    ------
    InputError
        If the tables, a type, the sections or the coordinates are not there.
    """
    if show not in SHOWN:
        raise InputError(f"Expected show= to be one of {listed(SHOWN, limit=8)}, found {show!r}.")
    ending, words = SHOWN[show]
    for name in (key, f"{key}{ending}"):
        if name not in adata.obsm:
            raise InputError(
                f"Expected obsm[{name!r}], found {listed(adata.obsm, limit=8)}: run tl.deconvolve first, or name its "
                "key_added; intervals need uncertainty=True."
            )
    if spatial_key not in adata.obsm:
        raise InputError(f"Expected coordinates in obsm[{spatial_key!r}], found {listed(adata.obsm, limit=8)}.")
    if slice_key is not None and slice_key not in adata.obs:
        raise InputError(f"Expected obs[{slice_key!r}], found {listed(adata.obs.columns, limit=12)}.")
    table = adata.obsm[f"{key}{ending}"]
    frequent = adata.obsm[key].mean().sort_values(ascending=False).index[:MOST_TYPES]
    given = given_names(adata, key)
    stored = {name: column for column, name in given.items()}
    chosen = list(frequent) if types is None else [stored.get(name, name) for name in types]
    unknown = [name for name in chosen if name not in table.columns]
    if unknown or not chosen:
        raise InputError(f"Expected types among {listed(table.columns, limit=30)}, found {listed(unknown) or 'none'}.")
    names = np.full(adata.n_obs, "") if slice_key is None else np.asarray(adata.obs[slice_key].astype(str))
    sections = list(dict.fromkeys(names))
    xy = np.asarray(adata.obsm[spatial_key], float)[:, :2]
    figure, panels = panels_of(len(chosen) * len(sections), columns=min(4, len(chosen)), size=2.6)
    top = 1.0 if show == "presence" else float(np.nanmax(table[chosen].to_numpy(), initial=0.0)) or 1.0
    places = [(name, section) for section in sections for name in chosen]
    drawn: Any = None
    for panel, (name, section) in zip(panels, places, strict=True):
        rows = names == section
        values = table[name].to_numpy(float)[rows]
        dots(panel, xy[rows][np.isnan(values)], color="#d0d0d0", count=int(rows.sum()))
        seen = ~np.isnan(values)
        drawn = dots(
            panel, xy[rows][seen], color=values[seen], cmap="viridis", limits=(0.0, top), count=int(rows.sum())
        )
        panel.set_title(short_name(f"{section} {given[name]}".strip()), fontsize=9, loc="left", color=INK)
        panel.set_aspect("equal")
        panel.invert_yaxis()
        panel.set_xticks([])
        panel.set_yticks([])
        quiet(panel)
    bar = figure.colorbar(drawn, ax=panels, shrink=0.6, aspect=30, pad=0.01, location="bottom")
    bar.set_label(words, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    return figure


def given_names(adata: AnnData, key: str) -> dict[str, str]:
    """Names of the types as the reference has them, by the columns of the tables: a file cannot hold every name.

    Parameters
    ----------
    adata
        ``tl.deconvolve(…).adata``.
    key
        Name that was given as ``key_added``.
    """
    columns = [str(name) for name in adata.obsm[key].columns]
    told = [str(name) for name in adata.uns.get(key, {}).get("types", columns)]
    # Tables whose columns somebody left out or put in another order speak for themselves.
    ours = stored_names(told) == columns
    return dict(zip(columns, told if ours else columns, strict=True))


def composition_calibration(adata: AnnData, truth: Any, *, key: str = "proportions", bins: int = 10) -> Figure:
    """How often intervals hold a known truth by the size of the estimate, and how often types called present are there.

    Parameters
    ----------
    adata
        ``tl.deconvolve(…).adata``, with uncertainty.
    truth
        DataFrame with the true shares, one row a spot and one column a type, named as the reference or as the tables
        have it; of simulated spots, say.
    key
        Name that was given as ``key_added``.
    bins
        Groups of equal size, by the estimate.

    Raises
    ------
    InputError
        If there is no uncertainty, or spots or types of the truth are others.
    """
    needed = [key, *(f"{key}_{name}" for name in ("q05", "q95", "presence"))]
    missing = [name for name in needed if name not in adata.obsm]
    if missing:
        raise InputError(
            f"Expected obsm[{missing[0]!r}], found {listed(adata.obsm, limit=8)}: run tl.deconvolve first."
        )
    tables = [adata.obsm[name] for name in needed]
    if set(truth.columns) != set(tables[0].columns):
        truth = truth.rename(columns={name: column for column, name in given_names(adata, key).items()})
    if set(truth.columns) != set(tables[0].columns) or not truth.index.isin(tables[0].index).all():
        raise InputError(
            f"Expected the spots of adata and the types {listed(tables[0].columns, limit=20)} in truth, found "
            f"{listed(truth.columns, limit=20)}."
        )
    estimate, low, high, presence = (t.loc[truth.index, truth.columns].to_numpy(float).ravel() for t in tables)
    true = truth.to_numpy(float).ravel()
    seen = np.isfinite(estimate)
    there = np.flatnonzero(seen & (true > 0))
    there = there[np.argsort(estimate[there], kind="stable")]
    parts = [part for part in np.array_split(there, bins) if len(part)]
    held = [np.mean((low[part] <= true[part]) & (true[part] <= high[part])) for part in parts]
    figure, (left, right) = panels_of(2, columns=2, size=3.4)
    left.axhline(0.9, color="#bbbbbb", linewidth=1)
    left.plot([np.median(estimate[part]) for part in parts], held, "o-", color="#0072b2", markersize=4)
    left.set_ylim(0.0, 1.02)
    left.set_xlabel("estimated share", fontsize=8)
    left.set_ylabel("share of the intervals that hold the truth", fontsize=8)
    left.set_title("types that are there", fontsize=9, loc="left", color=INK)
    told = reliability(presence[seen], true[seen] > 0, bins=bins)
    right.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
    right.plot(told.predicted, told.observed, "o-", color="#0072b2", markersize=4)
    right.set_xlabel("stated probability of presence", fontsize=8)
    right.set_ylabel("how often the type is there", fontsize=8)
    right.set_title("presence", fontsize=9, loc="left", color=INK)
    for panel in (left, right):
        quiet(panel)
    return figure
