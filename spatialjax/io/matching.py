"""Which genes of the spots are which genes of a reference: by name, by another column, or spelled otherwise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from spatialjax.checks import InputError, unique_names
from spatialjax.io.genes import id_kind

#: Fewest genes that must be shared.
LEAST_SHARED = 10
#: Share of the smaller panel below which another way to match is looked for.
_ENOUGH = 0.5
_VERSION = re.compile(r"\.\d+$")


class Matched(NamedTuple):
    """Genes in the order of the spots.

    Attributes
    ----------
    spots, reference
        (g,) columns of the two tables that are the same gene.
    names
        (g,) names in the spots.
    messages
        How they were matched, and how many were not.
    """

    spots: Int[np.ndarray, " g"]
    reference: Int[np.ndarray, " g"]
    names: np.ndarray
    messages: list[str]


def match_genes(spots: Any, reference: Any, *, ignore_case: bool = False) -> Matched:
    """Match the genes of two AnnData objects, and say how.

    Names as they are; where fewer than half of the smaller panel match, columns of ``var`` in either, or names without
    version suffixes (``.1``), are tried, and the way that matches most is taken.

    Parameters
    ----------
    spots, reference
        AnnData objects.
    ignore_case
        Whether names that differ in upper and lower case alone are the same gene.

    Raises
    ------
    InputError
        If gene names repeat, or fewer than ten genes are shared; the message says what would mend it, and whether the
        two look like different organisms.
    """
    sides = [(spots, "the spots"), (reference, "the reference")]
    for adata, name in sides:
        unique_names(adata.var_names, what="gene names", where=name, fix="Call adata.var_names_make_unique() first")
    plain = [_names(adata.var_names) for adata, _ in sides]
    fold = str.casefold if ignore_case else str
    best, how = _paired(*plain, fold), "by name"
    smaller = min(len(plain[0]), len(plain[1]))
    if len(best[0]) < _ENOUGH * smaller:
        for other, described in _other_ways(spots, reference, plain):
            found = _paired(*other, fold)
            if len(found[0]) > len(best[0]):
                best, how = found, described
    if len(best[0]) < LEAST_SHARED:
        raise InputError(_refusal(plain, len(best[0]), folded=_paired(*plain, str.casefold)[0]))
    messages = [
        f"{len(best[0])} genes are shared ({how}): of {len(plain[0])} of the spots and {len(plain[1])} of the "
        "reference."
    ]
    if len(best[0]) < _ENOUGH * smaller:
        messages.append(f"Only {len(best[0]) / smaller:.0%} of the smaller panel is shared.")
        messages += _other_case(plain, best[0], ignore_case)
    return Matched(best[0], best[1], np.asarray(plain[0], dtype=str)[best[0]], messages)


def _names(values: Any) -> list[str]:
    return [str(value) for value in values]


def _paired(first: Sequence[str], second: Sequence[str], fold: Any) -> tuple[np.ndarray, np.ndarray]:
    """Places of the names that both have; a name that occurs twice on a side is no name of one gene."""
    sides = []
    for names in (first, second):
        place: dict[str, int] = {}
        for i, name in enumerate(map(fold, names)):
            place[name] = -1 if name in place or not name or name == "nan" else i
        sides.append(place)
    shared = sorted((i, sides[1][name]) for name, i in sides[0].items() if i >= 0 and sides[1].get(name, -1) >= 0)
    return np.array([i for i, _ in shared], int), np.array([j for _, j in shared], int)


def _other_ways(spots: Any, reference: Any, plain: list[list[str]]) -> Any:
    bare = [[_VERSION.sub("", name) for name in names] for names in plain]
    yield bare, "without version suffixes"
    for column in spots.var.columns:
        yield [_names(spots.var[column]), plain[1]], f"by var[{str(column)!r}] of the spots"
    for column in reference.var.columns:
        yield [plain[0], _names(reference.var[column])], f"by var[{str(column)!r}] of the reference"


def _other_case(plain: list[list[str]], shared: np.ndarray, ignore_case: bool) -> list[str]:
    folded = len(_paired(*plain, str.casefold)[0])
    if ignore_case or folded <= len(shared):
        return []
    return [
        f"Without regard to upper and lower case {folded} genes would be shared: give ignore_case=True (--ignore-case) "
        "if both are of one organism."
    ]


def _refusal(plain: list[list[str]], shared: int, *, folded: np.ndarray) -> str:
    kinds = [f"{len(names)} {id_kind(names)} ({', '.join(names[:2])}, …)" for names in plain]
    found = f"Expected at least {LEAST_SHARED} genes that the spots and the reference share, found {shared}: the spots "
    found += f"have {kinds[0]}, the reference has {kinds[1]}."
    if len(folded) >= LEAST_SHARED:
        organisms = [_organism(names) for names in plain]
        if organisms[0] != organisms[1] and None not in organisms:
            return (
                f"{found} Symbols of the spots are written like those of {organisms[0]}, symbols of the reference like "
                f"those of {organisms[1]}: take a reference of the same organism, or translate its genes to orthologs. "
                f"{len(folded)} names agree without regard to upper and lower case; ignore_case=True (--ignore-case) "
                "takes them for the same genes."
            )
        return (
            f"{found} Without regard to upper and lower case {len(folded)} would be shared: give ignore_case=True "
            "(--ignore-case)."
        )
    prefixes = [_ensembl_organism(names) for names in plain]
    if None not in prefixes and prefixes[0] != prefixes[1]:
        return f"{found} Their ids are of different organisms: {prefixes[0]} and {prefixes[1]}."
    if id_kind(plain[0]) != id_kind(plain[1]):
        return (
            f"{found} Set var_names of one of them to the ids of the other, or keep those in a column of var, which is "
            "looked at, too."
        )
    return f"{found} Give a reference that measures the same genes."


def _organism(names: list[str]) -> str | None:
    """How symbols are written: most of them in capitals, or with one capital first."""
    letters = [name for name in names if re.match(r"[A-Za-z]{2}", name)]
    if not letters:
        return None
    if sum(name.upper() == name for name in letters) > 0.8 * len(letters):
        return "human"
    if sum(name[0].isupper() and name[1:] != name[1:].upper() for name in letters) > 0.5 * len(letters):
        return "mouse"
    return None


def _ensembl_organism(names: list[str]) -> str | None:
    found = [match.group(1) for name in names if (match := re.match(r"(ENS[A-Z]*)G\d{11}", name))]
    return max(set(found), key=found.count) + "G" if len(found) > 0.5 * len(names) else None
