"""The genes that sections share, and what to say when they share too few."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from spatialjax.checks import InputError, unique_names

#: Fewest shared genes, in number and as a share of the smallest panel.
MIN_SHARED, MIN_SHARE = 10, 0.05
_ENSEMBL = re.compile(r"ENS[A-Z]*G\d{11}(\.\d+)?$")
_VERSION = re.compile(r"\.\d+$")


def shared_genes(adatas: Sequence[Any], names: Sequence[str]) -> np.ndarray:
    """Genes that every section has, sorted.

    Parameters
    ----------
    adatas
        The sections.
    names
        Their names.

    Raises
    ------
    InputError
        If a gene occurs twice in a section, or fewer than 10 genes or 5 % of the smallest panel are shared (half of the
        panel, where it has fewer than 20 genes). The message reports the overlap and what would mend it: a column of
        ``var`` with the other ids, version suffixes, upper and lower case.
    """
    panels = [np.asarray(adata.var_names, dtype=str) for adata in adatas]
    for panel, name in zip(panels, names, strict=True):
        unique_names(
            panel, what="gene names", where=f"section {name!r}", fix="Call adata.var_names_make_unique() first"
        )
    shared = set(panels[0])
    for panel in panels[1:]:
        shared &= set(panel)
    smallest = min(len(panel) for panel in panels)
    needed = max(min(MIN_SHARED, (smallest + 1) // 2), MIN_SHARE * smallest)
    if len(shared) < max(needed, 1):
        raise InputError(_report(adatas, panels, names, len(shared)))
    return np.array(sorted(shared), dtype=str)


def id_kind(panel: Sequence[str] | np.ndarray) -> str:
    """``"Ensembl ids"`` where most names look like them, else ``"gene symbols"``."""
    matches = sum(bool(_ENSEMBL.match(name)) for name in panel)
    return "Ensembl ids" if 2 * matches > len(panel) else "gene symbols"


def _report(adatas: Sequence[Any], panels: Sequence[np.ndarray], names: Sequence[str], shared: int) -> str:
    first, second = _least_overlapping(panels)
    both = len(set(panels[first]) & set(panels[second]))
    sides = [
        f"{names[i]!r} has {len(panels[i])} {id_kind(panels[i])} ({', '.join(panels[i][:2])}, …)"
        for i in (first, second)
    ]
    found = f"{sides[0]}, {sides[1]}, {both} in both"
    if len(panels) > 2:
        found += f"; {shared} genes are in all {len(panels)} sections"
    hints = _column_hints(adatas, panels, names, (first, second)) + _spelling_hints(panels[first], panels[second], both)
    advice = (
        " ".join(hints) or "Give sections that measure the same genes, or a feature_key (--feature-key) they share."
    )
    return f"Expected sections that share enough genes, found too few: {found}. {advice}"


def _least_overlapping(panels: Sequence[np.ndarray]) -> tuple[int, int]:
    sets = [set(panel) for panel in panels]
    pairs = [(i, j) for i in range(len(sets)) for j in range(i + 1, len(sets))]
    if not pairs:
        return 0, 0
    return min(pairs, key=lambda p: len(sets[p[0]] & sets[p[1]]) / max(min(len(sets[p[0]]), len(sets[p[1]])), 1))


def _column_hints(
    adatas: Sequence[Any], panels: Sequence[np.ndarray], names: Sequence[str], pair: tuple[int, int]
) -> list[str]:
    hints = []
    for own, other in (pair, pair[::-1]):
        wanted = set(panels[other])
        best, column = 0, None
        for candidate in adatas[own].var.columns:
            overlap = len(wanted & set(adatas[own].var[candidate].astype(str)))
            if overlap > best:
                best, column = overlap, candidate
        if column is not None and best >= max(1, 0.2 * min(len(wanted), len(panels[own]))):
            hints.append(
                f"var[{column!r}] of {names[own]!r} matches {best} gene names of {names[other]!r}: set "
                f"adata.var_names = adata.var[{column!r}].astype(str) there and call adata.var_names_make_unique()."
            )
    return hints[:1]


def _spelling_hints(first: np.ndarray, second: np.ndarray, both: int) -> list[str]:
    hints = []
    bare = len({_VERSION.sub("", g) for g in first} & {_VERSION.sub("", g) for g in second})
    if bare > both and "Ensembl ids" in (id_kind(first), id_kind(second)):
        hints.append(
            f"Without the version suffixes (.1, .12) {bare} genes would be shared: remove them from var_names."
        )
    folded = len({g.casefold() for g in first} & {g.casefold() for g in second})
    if folded > both:
        hints.append(
            f"Without regard to upper and lower case {folded} genes would be shared: human and mouse symbols, perhaps."
        )
    return hints
