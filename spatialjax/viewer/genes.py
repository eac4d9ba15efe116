"""Which genes a page holds, and their values in few bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from spatialjax.checks import InputError, listed, one_of, value_kind
from spatialjax.viewer.packing import deflated_codes, quantise

#: Markers of each domain that are taken before the most variable genes.
MARKERS_PER_DOMAIN = 10
#: A marker is seen in at least this share of the cells.
MARKER_SEEN = 0.01
#: Columns that are made dense at a time.
_BLOCK = 64


@dataclass(frozen=True)
class GeneChoice:
    """The genes that a page holds.

    Attributes
    ----------
    held
        For each gene: ``name``, ``why`` (``asked``, ``marker`` or ``variable``), ``low``, ``high``, ``limits`` in the
        unit of ``scale``, and its codes, see :func:`~spatialjax.viewer.packing.quantise` and
        :func:`~spatialjax.viewer.packing.deflated_codes`.
    others
        Names of the genes that the atlas has and the page has not.
    scale
        What the values are: ``log(1 + value)`` or ``value``.
    sentence
        How many of how many genes, and how they were chosen.
    """

    held: list[dict[str, Any]]
    others: list[str]
    scale: str
    sentence: str


def choose_genes(
    values: Any,
    names: Sequence[str],
    domains: Int[np.ndarray, " n"],
    *,
    asked: Sequence[str] = (),
    max_genes: int = 500,
    max_megabytes: float = 20.0,
) -> GeneChoice:
    """Pick genes for a page of limited size: those asked for, markers of the domains, then the most variable ones.

    A marker of a domain is a gene whose mean in the domain stands furthest above its mean elsewhere, in standard
    deviations over all cells, among genes seen in at least a hundredth of the cells; the ten best of each domain are
    taken in turn. The rest are ranked by their variance. Both are computed on ``log(1 + value)``, or on the values
    themselves where these are negative or logarithms already.

    Parameters
    ----------
    values
        (n, g) expression, sparse or dense; None where there is none.
    names
        (g,) gene names.
    domains
        Domain of each cell from 0; −1 for none.
    asked
        Genes that the page must hold.
    max_genes
        Genes in the page at the most.
    max_megabytes
        Size of their values in the page at the most, in 10⁶ bytes.

    Raises
    ------
    InputError
        If a gene that was asked for does not exist, or those asked for do not fit.
    """
    names = [str(name) for name in names]
    asked = list(dict.fromkeys(str(name) for name in asked))
    if values is None or not names:
        if asked:
            raise InputError(f"Expected an atlas with the genes {listed(asked)}, found one without expression values.")
        return GeneChoice([], [], "value", "The atlas has no genes.")
    position = {name: i for i, name in enumerate(names)}
    wanted = [position[one_of(name, position, "gene")] for name in asked]
    if len(wanted) > max_genes:
        raise InputError(f"Expected at most {max_genes} genes, found {len(wanted)} asked for: raise max_genes=.")
    table, scale = _table(values)
    ranked = _ranking(table, domains, wanted)
    held: list[dict[str, Any]] = []
    size, full = 0, False
    for index, why, column in _columns(table, ranked[:max_genes]):
        entry = _entry(names[index], why, column)
        full = size + len(entry["codes"]) > 1e6 * max_megabytes
        if full:
            break
        held.append(entry)
        size += len(entry["codes"])
    if len(held) < len(wanted):
        raise InputError(
            f"Expected the {len(wanted)} genes asked for to fit into {max_megabytes:g} MB, found room for {len(held)}: "
            "raise max_megabytes= or ask for fewer."
        )
    kept = {entry["name"] for entry in held}
    others = sorted(name for name in names if name not in kept)
    return GeneChoice(held, others, scale, _sentence(held, len(names), max_genes, max_megabytes if full else None))


def _table(values: Any) -> tuple[sp.csr_matrix, str]:
    """Values to show, and what they are."""
    table = sp.csr_matrix(values)
    data = table.data.astype(np.float32)
    finite = data[np.isfinite(data)]
    logged = value_kind(finite) == "counts" or (value_kind(finite) == "float" and finite.min() >= 0)
    shown = np.log1p(data) if logged else data
    result = sp.csr_matrix((shown, table.indices, table.indptr), shape=table.shape)
    return result, "log(1 + value)" if logged else "value"


def _ranking(table: sp.csr_matrix, domains: np.ndarray, wanted: Sequence[int]) -> list[tuple[int, str]]:
    """All genes, the most useful first, each with the reason why."""
    known = sp.csr_matrix((np.nan_to_num(table.data), table.indices, table.indptr), shape=table.shape)
    n = max(table.shape[0], 1)
    mean = np.asarray(known.sum(0), np.float64).ravel() / n
    squares = sp.csr_matrix((known.data.astype(np.float64) ** 2, known.indices, known.indptr), shape=known.shape)
    variance = np.maximum(np.asarray(squares.sum(0)).ravel() / n - mean**2, 0.0)
    order: dict[int, str] = dict.fromkeys(wanted, "asked")
    for index in _markers(known, domains, np.sqrt(variance)):
        order.setdefault(index, "marker")
    for index in np.argsort(-variance, kind="stable"):
        order.setdefault(int(index), "variable")
    return list(order.items())


def _markers(known: sp.csr_matrix, domains: np.ndarray, deviation: Float[np.ndarray, " g"]) -> Iterator[int]:
    """The best marker of each domain, then the second best of each, and so on."""
    n = known.shape[0]
    rows = np.flatnonzero(domains >= 0)
    number = int(domains.max()) + 1 if len(rows) else 0
    if number < 2:
        return
    member = sp.csr_matrix((np.ones(len(rows)), (domains[rows], rows)), shape=(number, n))
    size = np.bincount(domains[rows], minlength=number)[:, None]
    sums = np.asarray((member @ known).todense(), np.float64)
    rest = (sums.sum(0) - sums) / np.maximum(len(rows) - size, 1)
    score = (sums / np.maximum(size, 1) - rest) / np.where(deviation > 0, deviation, np.inf)
    seen = np.bincount(known.indices[known.data != 0], minlength=known.shape[1]) >= MARKER_SEEN * n
    score = np.where(seen & (size > 0), score, -np.inf)
    best = np.argsort(-score, axis=1, kind="stable")[:, :MARKERS_PER_DOMAIN]
    for place in range(best.shape[1]):
        for domain in range(number):
            if score[domain, best[domain, place]] > 0:
                yield int(best[domain, place])


def _columns(table: sp.csr_matrix, chosen: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str, np.ndarray]]:
    """The dense columns of some genes, a block at a time."""
    for start in range(0, len(chosen), _BLOCK):
        block = chosen[start : start + _BLOCK]
        dense = table[:, [index for index, _ in block]].toarray()
        for place, (index, why) in enumerate(block):
            yield index, why, dense[:, place]


def _entry(name: str, why: str, column: Float[np.ndarray, " n"]) -> dict[str, Any]:
    packed = quantise(column, from_zero=True)
    return {
        "name": name,
        "why": why,
        "low": round(packed.low, 6),
        "high": round(packed.high, 6),
        "limits": [round(limit, 6) for limit in packed.limits],
        **deflated_codes(packed.codes),
    }


def _sentence(held: Sequence[dict[str, Any]], total: int, max_genes: int, megabytes: float | None) -> str:
    if len(held) == total:
        return f"This page holds all {total:,} genes."
    count = {why: sum(entry["why"] == why for entry in held) for why in ("asked", "marker", "variable")}
    words = {"asked": "asked for", "marker": "markers of domains", "variable": "most variable"}
    parts = ", ".join(f"{number:,} {words[why]}" for why, number in count.items() if number)
    reason = f"{max_genes:,} genes at the most" if megabytes is None else f"{megabytes:g} MB at the most"
    return f"This page holds {len(held):,} of {total:,} genes ({parts or 'none'}; {reason})."
