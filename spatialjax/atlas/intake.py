"""The sections of a run in the order of the tissue, and where their cells stood in the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from spatialjax.checks import InputError, listed, nearest
from spatialjax.io import SectionStack, open_sections
from spatialjax.io.histology import with_histology
from spatialjax.io.split import Part, as_list, natural, split

if TYPE_CHECKING:
    from anndata import AnnData

    from spatialjax.atlas.composed import SpotsBesideCells


@dataclass(frozen=True, eq=False)
class Intake:
    """Opened sections.

    Attributes
    ----------
    stack
        The sections, sorted by depth.
    layout
        For each section of the stack the row of each of its cells in the input, all objects one after the other.
    beside
        Counts of all spots beside a reference of single cells, see ``composed.with_reference``; None without one.
    """

    stack: SectionStack
    layout: tuple[Int[np.ndarray, " n"], ...]
    beside: SpotsBesideCells | None = None


def open_in_order(
    adatas: AnnData | Sequence[AnnData] | Mapping[str, AnnData],
    *,
    names: Sequence[str] | None = None,
    order_by: str | None = None,
    slice_key: str | None = None,
    histology: str | None = None,
    **door: Any,
) -> Intake:
    """Open sections in the order given, by depth, or by a column.

    Parameters
    ----------
    adatas
        A list, a dict from name to section, or one object that ``slice_key`` splits.
    names
        Names of the sections.
    order_by
        Column of ``obs`` with one value in each section; numbers in names count as numbers (``s2`` before ``s10``).
    slice_key
        Column of ``obs`` that names the section of each cell.
    histology
        Key of ``obsm`` with columns of the sections' pictures, see ``io.histology.with_histology``.
    **door
        Passed to ``io.open_sections``.

    Raises
    ------
    InputError
        If the input cannot be used.
    """
    if isinstance(adatas, Mapping):
        if names is not None:
            raise InputError("Expected names as the keys of the dict or as names=, found both. Leave one out.")
        names, adatas = list(adatas), list(adatas.values())
    objects = as_list(adatas)
    starts = np.concatenate([[0], np.cumsum([a.n_obs for a in objects])]).astype(int)
    if order_by is not None:
        if door.get("z") is not None:
            raise InputError("Expected z= (--z) or order_by= (--order-by), found both. Give the one that you know.")
        parts = _ordered(split(objects, names, slice_key), order_by)
        names = [part.name for part in parts]
        if slice_key is None:
            objects, starts = [objects[p.source] for p in parts], starts[[p.source for p in parts]]
    stack = with_histology(open_sections(objects, names=names, slice_key=slice_key, **door), histology)
    if order_by is not None:
        stack.messages.append(f"Order by obs[{order_by!r}]: {listed(stack.names, limit=20)}.")
    return Intake(stack, tuple(starts[section.source] + section.rows for section in stack.sections))


def _ordered(parts: list[Part], column: str) -> list[Part]:
    keys = []
    for part in parts:
        if column not in part.adata.obs.columns:
            close = nearest(column, part.adata.obs.columns, number=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise InputError(
                f"Expected order_by={column!r} (--order-by) to be a column of obs in every section, found "
                f"{listed(part.adata.obs.columns, limit=20)} in section {part.name!r}.{hint}"
            )
        values = part.adata.obs[column].dropna().unique()
        if len(values) != 1:
            raise InputError(
                f"Expected one value of obs[{column!r}] in each section to order them by, found {len(values)} in "
                "section "
                f"{part.name!r}. Choose a column that is the same for all cells of a section, or give z= (--z)."
            )
        keys.append(natural(values[0]))
    if len(set(keys)) < len(keys):
        raise InputError(
            f"Expected a different value of obs[{column!r}] in each section, found repeats: the order is not known. "
            "Give "
            "z= (--z) instead."
        )
    return [parts[i] for i in sorted(range(len(parts)), key=lambda i: keys[i])]
