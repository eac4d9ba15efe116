"""Which cells make a section: one object each, or a column of ``obs``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int

from spatialjax import checks
from spatialjax.checks import InputError, listed


@dataclass(frozen=True)
class Part:
    """The cells of one section.

    Attributes
    ----------
    name
        Name of the section.
    adata
        The object as given, or a view of the rows that ``slice_key`` picked.
    source
        Which of the given objects it comes from.
    rows
        Row of that object for each row of ``adata``.
    """

    name: str
    adata: Any
    source: int
    rows: Int[np.ndarray, " n"]


def as_list(adatas: Any) -> list[Any]:
    """The objects as a list; one alone is a list of one. Anything but AnnData is refused."""
    adatas = [adatas] if hasattr(adatas, "obsm") else list(adatas)
    for i, adata in enumerate(adatas):
        if not (hasattr(adata, "obsm") and hasattr(adata, "var_names")):
            raise InputError(
                f"Expected AnnData objects, found {type(adata).__name__} at position {i}. Read files with "
                "spatialjax.io.read first."
            )
    return adatas


def split(adatas: list[Any], names: Sequence[str] | None, slice_key: str | None) -> list[Part]:
    """The sections in the order of the tissue.

    Parameters
    ----------
    adatas
        The objects.
    names
        Names of the sections; with ``slice_key`` its values, in the order of the tissue.
    slice_key
        Column of ``obs`` that tells sections apart; one section an object where it is None. Where two objects have the
        same value, the name of the object goes before it.

    Raises
    ------
    InputError
        If names do not fit or occur twice, or the column is missing or has gaps.
    """
    if isinstance(names, str):
        raise InputError(f"Expected names= to be a list of names, found the text {names!r}.")
    if slice_key is None:
        if names is not None and len(names) != len(adatas):
            raise InputError(f"Expected one name for each of the {len(adatas)} sections, found {len(names)} names.")
        given = [_own_name(adata, i) for i, adata in enumerate(adatas)] if names is None else list(names)
        parts = [Part(str(n), a, i, np.arange(a.n_obs)) for i, (n, a) in enumerate(zip(given, adatas, strict=True))]
    else:
        parts = [part for i, adata in enumerate(adatas) for part in split_by(adata, slice_key, source=i)]
        if len({part.name for part in parts}) < len(parts) and len(adatas) > 1:
            parts = [replace(part, name=f"{_own_name(adatas[part.source], part.source)} {part.name}") for part in parts]
    checks.unique_names(
        [part.name for part in parts],
        what="section names",
        where="the stack",
        fix="Give names= (--names), one for each section",
    )
    if slice_key is None or names is None:
        return parts
    by_name = {part.name: part for part in parts}
    wanted = [str(name) for name in names]
    if sorted(wanted) != sorted(by_name):
        raise InputError(
            f"Expected names= to list each value of obs[{slice_key!r}] once, found {listed(wanted, limit=8)}; the "
            f"values are {listed(by_name, limit=20)}."
        )
    return [by_name[name] for name in wanted]


def split_by(adata: Any, slice_key: str, *, source: int = 0) -> list[Part]:
    """The sections that a column of ``obs`` tells apart, in natural order (2 before 10; ordered categories as ordered).

    Raises
    ------
    InputError
        If the column is missing, or a cell has no value in it.
    """
    if slice_key not in adata.obs.columns:
        close = checks.nearest(slice_key, adata.obs.columns, number=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise InputError(
            f"Expected slice_key={slice_key!r} (--slice-key) to be a column of obs, found the columns "
            f"{listed(adata.obs.columns, limit=20)}.{hint}"
        )
    column = adata.obs[slice_key]
    missing = np.asarray(column.isna())
    if missing.any():
        cells = np.asarray(adata.obs_names, dtype=str)[missing]
        raise InputError(
            f"Expected a section for every cell in obs[{slice_key!r}], found {len(cells)} cells without one: "
            f"{listed(cells)}. Fill the column, or remove these cells."
        )
    values = list(column.unique())
    if getattr(column.dtype, "ordered", False):
        values = [value for value in column.cat.categories if value in values]
    else:
        values = sorted(values, key=natural)
    labels = np.asarray(column.astype(object))
    rows = [np.flatnonzero(labels == value) for value in values]
    return [Part(label_text(v), adata[r], source, r) for v, r in zip(values, rows, strict=True)]


def natural(value: Any) -> tuple[Any, ...]:
    """Sort key by which ``"s2"`` comes before ``"s10"``, ``"-0.29"`` before ``"0.21"``, and numbers before text."""
    text = str(value)
    if re.fullmatch(r"[-+]?\d+(\.\d*)?", text):
        return (0, float(text), (), text)
    pieces = re.split(r"([0-9]+)", text)
    return (1, 0.0, tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in pieces), text)


def label_text(label: Any) -> str:
    """A label as text; a whole number loses its decimal point, so that 3 and 3.0 are one label."""
    if isinstance(label, float | np.floating) and np.isfinite(label) and label == np.floor(label):
        return str(int(label))
    return str(label)


def _own_name(adata: Any, position: int) -> str:
    own = adata.uns.get("spatialjax")
    return str(own["name"]) if hasattr(own, "get") and own.get("name") else f"section{position + 1}"


def too_few(parts: list[Part], at_least: int) -> str:
    """The message for too few sections; it names the columns of ``obs`` that could tell sections apart."""
    found = f"Expected at least {at_least} sections, found {len(parts)}."
    if not parts:
        return f"{found} Give one file for each section."
    obs = parts[0].adata.obs
    likely = [column for column in obs.columns if _tells_apart(obs[column])]
    likely.sort(key=lambda column: not re.search("slice|section|sample|library|slide|batch", str(column).casefold()))
    hint = f" obs has columns that could be it: {listed(likely, limit=5)}." if likely else ""
    return f"{found} Give more files, or slice_key= (--slice-key) if one file holds several sections.{hint}"


def check_cells(parts: list[Part]) -> list[str]:
    """Refuse sections with fewer than two cells or repeated cell names; the notes that a reader left are returned."""
    messages = []
    for part in parts:
        if part.adata.n_obs < 2:
            raise InputError(
                f"Expected at least two cells in every section, found {part.adata.n_obs or 'no cell'} in "
                f"{part.name!r}. Leave this section out."
            )
        checks.unique_names(
            np.asarray(part.adata.obs_names, dtype=str),
            what="cell names",
            where=f"section {part.name!r}",
            fix="Call adata.obs_names_make_unique() first",
        )
        own = part.adata.uns.get("spatialjax")
        if hasattr(own, "get"):
            messages += [f"Section {part.name!r}: {note}" for note in np.atleast_1d(own.get("notes", [])).tolist()]
    return messages


def _tells_apart(column: Any) -> bool:
    sizes = [size for size in column.value_counts() if size]
    return 2 <= len(sizes) <= 200 and min(sizes) >= 2
