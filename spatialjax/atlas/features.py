"""The first step of the main job: features that all sections share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from spatialjax.methods import CARDS
from spatialjax.preprocess import log_normalize, shared_embedding
from spatialjax.slices import Slice, bucket, make_slice


@dataclass(frozen=True)
class Prepared:
    """Sections as the alignment sees them, rows in canonical order.

    Attributes
    ----------
    embeddings
        Shared smoothed features of each section.
    slices
        Each section with these features, coordinates about ``centers``.
    inputs
        Each section with what the method asks for; the same objects as ``slices`` where that is the embedding.
    centers
        Mean position of each section, µm, float64.
    """

    embeddings: tuple[Float[np.ndarray, "n p"], ...]
    slices: tuple[Slice, ...]
    inputs: tuple[Slice, ...]
    centers: Float[np.ndarray, "s 2"]


def prepare(stack: Any, *, method: str) -> Prepared:
    """Shared features of all sections and what ``method`` is given of them.

    Parameters
    ----------
    stack
        A ``SectionStack``.
    method
        Name of an alignment method.
    """
    xy = [section.xy for section in stack.sections]
    values = [section.values for section in stack.sections]
    embeddings = shared_embedding(values, xy, kind=stack.kind)
    centers = np.stack([p.mean(0) for p in xy])
    centered = [p - c for p, c in zip(xy, centers, strict=True)]
    sizes = shared_capacities([len(p) for p in xy])
    slices = [make_slice(e, p, capacity=c) for e, p, c in zip(embeddings, centered, sizes, strict=True)]
    expects = CARDS["alignment"][method].expects
    inputs = slices
    if expects in ("counts", "log1p"):
        dense = [_dense(v if expects == "counts" or stack.kind != "counts" else log_normalize(v)) for v in values]
        inputs = [make_slice(d, p, capacity=c) for d, p, c in zip(dense, centered, sizes, strict=True)]
    return Prepared(tuple(embeddings), tuple(slices), tuple(inputs), centers)


def shared_capacities(sizes: Sequence[int]) -> list[int]:
    """Few capacities for the sections of a stack: that of the largest section where it at most doubles another.

    Compiling for one more pair of sizes takes longer than the padding costs.
    """
    own = [bucket(size) for size in sizes]
    return [max(own) if max(own) <= 2 * capacity else capacity for capacity in own]


def _dense(values: Any) -> Float[np.ndarray, "n g"]:
    return np.asarray(values.toarray() if sp.issparse(values) else values, np.float32)
