"""The part of the report on the cell types of the spots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spatialjax import pl
from spatialjax.atlas.composed import KEY
from spatialjax.atlas.markup import picture, section, table
from spatialjax.pl.compositions import given_names

if TYPE_CHECKING:
    from anndata import AnnData

#: Types with a column in the table, and types and sections with a map.
_IN_TABLE, _DRAWN, _SECTIONS = 10, 4, 6


def composition_part(atlas: AnnData) -> str:
    """Mean shares of the most frequent types in each section, and maps of the leading ones; empty without a reference.

    Parameters
    ----------
    atlas
        A reconstruction's atlas.
    """
    if KEY not in atlas.obsm or KEY not in atlas.uns:
        return ""
    shares = atlas.obsm[KEY]
    frequent = list(shares.mean().sort_values(ascending=False, kind="stable").index)
    by_section = shares.groupby(np.asarray(atlas.obs["slice"].astype(str)), sort=False).mean()
    names = [str(name) for name in atlas.obs["slice"].cat.categories if str(name) in by_section.index]
    kept = frequent[:_IN_TABLE]
    rows = [
        [name, *("–" if np.isnan(value) else f"{value:.1%}" for value in by_section.loc[name, kept])] for name in names
    ]
    given = given_names(atlas, KEY)
    facts, left = atlas.uns[KEY], len(frequent) - len(kept)
    more = f" {left} rarer types are in the tables." if left > 0 else ""
    text = (
        "<p class='caption'>Mean share of the cells of each section, by the default method of the task, for all "
        f"sections at once, on {int(facts['n_genes']):,} genes that they share with the reference.{more} Shares of "
        "each spot, their spread and 90 % intervals are in <code>obsm['proportions']</code> and the tables beside it."
        "</p>"
    )
    shown = table(["section", *(given[name] for name in kept)], rows)
    return section("Cell types", shown + text + _maps(atlas, names, frequent[:_DRAWN]))


def _maps(atlas: AnnData, names: list[str], types: list[str]) -> str:
    placed = [name for name in names if bool(np.asarray(atlas.obs["placed"])[(atlas.obs["slice"] == name)].all())]
    if not placed:
        return ""
    shown = [placed[i] for i in np.unique(np.linspace(0, len(placed) - 1, min(len(placed), _SECTIONS)).astype(int))]
    rest = f" {len(shown)} of {len(placed)} sections are shown." if len(shown) < len(placed) else ""
    part = atlas[np.isin(np.asarray(atlas.obs["slice"].astype(str)), shown)]
    return picture(
        lambda: pl.composition(part, types=types, slice_key="slice", spatial_key="spatial3d"),
        f"Share of the most frequent types in every spot, in the frame of the atlas. A type should stay in its place "
        f"from section to section.{rest}",
        "Shares of the most frequent cell types in the placed sections",
    )
