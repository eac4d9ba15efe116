"""How well the placed sections agree, beside what chance gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import scipy.sparse as sp

from spatialjax.atlas.features import Prepared
from spatialjax.atlas.pairs import PairResult
from spatialjax.atlas.placing import Placed, neighbours_in_frame
from spatialjax.metrics.alignment import held_out_correlation, nearest_matches, permuted_matches

#: What the similarity of placed sections is compared with.
NULLS = ("identity", "centered", "permuted")


def similarity(
    stack: Any,
    prepared: Prepared,
    placed: Placed,
    *,
    couplings: Mapping[tuple[int, int], sp.csr_matrix],
    key: Any,
) -> list[dict[str, Any]]:
    """Similarity of matched places of each pair of successive sections, with its nulls.

    The similarity is the mean over the shared features of the correlation between a spot and what it is matched with.
    The nulls: ``identity``, the sections laid on each other as they were given; ``centered``, the same with their
    centres brought together; ``permuted``, the placed matches dealt out at random. The sections were aligned with
    these features, so only the distance to the nulls tells.

    Parameters
    ----------
    stack, prepared, placed
        The sections, their features and their places.
    couplings
        Soft matches of the placed sections.
    key
        Random key.

    Returns
    -------
    list
        For each pair ``source`` and ``target``, the four similarities, and the share of spots that each one rests on.
    """
    rows = []
    for number, (a, b) in enumerate(neighbours_in_frame(placed)):
        reach = 1.5 * max(stack.sections[a].pitch, stack.sections[b].pitch)
        given = [stack.sections[i].xy for i in (a, b)]
        middle = [xy - center for xy, center in zip(given, prepared.centers[[a, b]], strict=True)]
        matches = {
            "atlas": couplings[a, b],
            "identity": nearest_matches(*given, radius=reach),
            "centered": nearest_matches(*middle, radius=reach),
            "permuted": permuted_matches(jax.random.fold_in(key, number), couplings[a, b]),
        }
        row: dict[str, Any] = {"source": a, "target": b}
        for name, match in matches.items():
            row[name] = held_out_correlation(prepared.embeddings[a], prepared.embeddings[b], match)
            row[f"{name}_share"] = float((np.diff(match.indptr) > 0).mean())
        rows.append(row)
    return rows


def mean_of(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Mean of one column over the rows that have a number there; None where none has."""
    values = [row[name] for row in rows if row[name] is not None and np.isfinite(row[name])]
    return float(np.mean(values)) if values else None


def similarity_of_pairs(results: Sequence[PairResult]) -> dict[tuple[int, int], float]:
    """Similarity of each pair at its best pose, for the check of order and gaps."""
    return {(r.source, r.target): r.similarity for r in results if np.isfinite(r.similarity)}
