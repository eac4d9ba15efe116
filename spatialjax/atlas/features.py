"""The first step of the main job: features that all sections share."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from spatialjax.histology import added_components
from spatialjax.methods import CARDS
from spatialjax.preprocess import log_normalize, shared_embedding
from spatialjax.slices import Slice, bucket, make_slice

#: How the warning begins that pictures were given in vain; commands say it in their notes.
NOTHING_ADDED = "The pictures add nothing"


@dataclass(frozen=True)
class Prepared:
    """Sections as the alignment sees them, rows in canonical order.

    Attributes
    ----------
    embeddings
        Shared smoothed features of each section.
    slices
        Each section with these features and, where there are, the added ones (``evidence``), coordinates about
        ``centers``: what poses are found, judged and weighed by.
    inputs
        Each section with what the method asks for; the same objects as ``slices`` where that is the embedding.
    centers
        Mean position of each section, µm, float64.
    added
        Number of added components in ``slices``.
    """

    embeddings: tuple[Float[np.ndarray, "n p"], ...]
    slices: tuple[Slice, ...]
    inputs: tuple[Slice, ...]
    centers: Float[np.ndarray, "s 2"]
    added: int = 0


def prepare(stack: Any, *, method: str) -> Prepared:
    """Shared features of all sections and what ``method`` is given of them.

    Parameters
    ----------
    stack
        A ``SectionStack``; columns that its sections carry beside their features (``io.histology``) join the evidence.
    method
        Name of an alignment method.

    Warns
    -----
    UserWarning
        If pictures were given and nothing of them is left, see :func:`histology_lost`.
    """
    xy = [section.xy for section in stack.sections]
    values = [section.values for section in stack.sections]
    embeddings = shared_embedding(values, xy, kind=stack.kind)
    centers = np.stack([p.mean(0) for p in xy])
    centered = [p - c for p, c in zip(xy, centers, strict=True)]
    sizes = shared_capacities([len(p) for p in xy])
    joined, added = evidence(embeddings, xy, [getattr(section, "added", None) for section in stack.sections])
    for sentence in histology_lost(stack, added):
        warnings.warn(sentence, UserWarning, stacklevel=2)
    slices = [make_slice(e, p, capacity=c) for e, p, c in zip(joined, centered, sizes, strict=True)]
    expects = CARDS["alignment"][method].expects
    inputs = slices
    if expects in ("counts", "log1p"):
        dense = [_dense(v if expects == "counts" or stack.kind != "counts" else log_normalize(v)) for v in values]
        inputs = [make_slice(d, p, capacity=c) for d, p, c in zip(dense, centered, sizes, strict=True)]
    return Prepared(tuple(embeddings), tuple(slices), tuple(inputs), centers, added)


def histology_record(stack: Any, added: int) -> dict[str, Any] | None:
    """Which columns of pictures added to the evidence, and how much of them; None where none were asked for.

    Parameters
    ----------
    stack
        The ``SectionStack``.
    added
        ``Prepared.added``.

    Returns
    -------
    dict
        ``key`` of ``obsm``, names of its ``columns``, and ``components``: how many were made of them.
    """
    if stack.histology is None:
        return None
    return {"key": stack.histology, "columns": list(stack.columns), "components": added}


def histology_lost(stack: Any, added: int) -> list[str]:
    """A sentence where pictures were given and nothing of them is left; none elsewhere.

    Parameters
    ----------
    stack, added
        As for :func:`histology_record`.
    """
    if stack.histology is None or added:
        return []
    return [
        f"{NOTHING_ADDED}: no column of obsm[{stack.histology!r}] varies smoothly over the tissue in a way that the "
        "other features do not explain already, so that the poses are those without histology= (--histology). Check "
        "that each picture belongs to its section and that its scale is right."
    ]


def evidence(
    embeddings: Sequence[Float[np.ndarray, "n p"]],
    xy: Sequence[Float[np.ndarray, "n 2"]],
    added: Sequence[Float[np.ndarray, "n q"] | None],
) -> tuple[list[Float[np.ndarray, "n k"]], int]:
    """Shared features joined by what added columns say beyond them.

    The added components take turns with the features, because the search over all poses looks at the leading columns
    alone. Their variance is the mean one of the features: no term of the evidence depends on it, the similarity of a
    pair, which weighs components by their variance, does.

    Parameters
    ----------
    embeddings
        Shared smoothed features.
    xy
        Coordinates, µm.
    added
        Added columns of each section; None in all sections where there are none.

    Returns
    -------
    tuple
        Columns of each section, and how many of them were added: 0 where the added columns hold nothing smooth and new.
    """
    if any(values is None for values in added):
        return list(embeddings), 0
    extra = added_components(added, xy, known=embeddings)
    number, wide = extra[0].shape[1], embeddings[0].shape[1]
    total = sum(float((e.astype(np.float64) ** 2).sum()) for e in embeddings)
    scale = np.float32(np.sqrt(total / max(sum(e.size for e in embeddings), 1)))
    turns = sorted(range(wide + number), key=lambda i: (i, 0) if i < wide else (i - wide, 1))
    return [np.concatenate([e, x * scale], 1)[:, turns] for e, x in zip(embeddings, extra, strict=True)], number


def shared_capacities(sizes: Sequence[int]) -> list[int]:
    """Few capacities for the sections of a stack: that of the largest section where it at most doubles another.

    Compiling for one more pair of sizes takes longer than the padding costs.
    """
    own = [bucket(size) for size in sizes]
    return [max(own) if max(own) <= 2 * capacity else capacity for capacity in own]


def _dense(values: Any) -> Float[np.ndarray, "n g"]:
    return np.asarray(values.toarray() if sp.issparse(values) else values, np.float32)
