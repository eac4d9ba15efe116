"""Principal components of standardised features: the common start of methods that look for domains; on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from spatialjax.preprocess import MAX_GENES, log_normalize
from spatialjax.propagation.components import principal_axes

#: Standard deviations beyond which a value is cut off.
CLIP = 10.0
#: Share and number of the spots that must show a gene: rare ones may be markers of a small domain.
SEEN, LEAST = 0.01, 3
#: Elements of the dense table that the axes are worked out from at the most; of more spots, evenly spread ones.
FITTED = 2**27
_BLOCK = 8192


class _Scale(NamedTuple):
    """Mean and standard deviation of each column of one section (1 where it is constant), and where it is cut off."""

    mean: Float[np.ndarray, " g"]
    deviation: Float[np.ndarray, " g"]
    clip: float


def standardized_components(
    values: Sequence[Any],
    *,
    kind: Literal["counts", "log1p", "float", "embedding", "categories"],
    number: int = 100,
) -> tuple[Float[np.ndarray, "n q"], ...]:
    """Scores of all sections on the leading principal axes of their standardised features.

    Counts are brought to a common depth and log1p transformed. Genes that less than 1 % of the spots show are left out;
    every other one gets mean 0 and variance 1 *in each section*, so that a shift or a scale between sections makes no
    component, and is cut off at 10 standard deviations. Floats, embeddings and categories are centred only: their scale
    is information. The axes come from a part of the spots where there are very many; a sparse table is made dense in
    blocks only.

    Parameters
    ----------
    values
        (n_i, g) features of each section, sparse or dense.
    kind
        What they are.
    number
        Number of components at the most.

    Returns
    -------
    tuple
        (n_i, q) float32 scores of each section, columns in falling order of variance.
    """
    genes = kind in ("counts", "log1p")
    tables = _expression(values) if kind == "counts" else [_rows_first(v) for v in values]
    if genes:
        seen = _seen(tables)
        tables = [table[:, seen] for table in tables]
    scales = [_scale(table, genes=genes) for table in tables]
    width, total = tables[0].shape[1], sum(table.shape[0] for table in tables)
    step = max(1, int(np.ceil(total * width / FITTED)))
    fitted = [_standard(table[::step], scale) for table, scale in zip(tables, scales, strict=True)]
    axes, _ = principal_axes(np.concatenate(fitted), min(number, width))
    axes = axes.astype(np.float32)
    return tuple(_projected(table, scale, axes) for table, scale in zip(tables, scales, strict=True))


def _expression(counts: Sequence[Any]) -> list[sp.csr_matrix]:
    depths = np.concatenate([np.asarray(c.sum(1), np.float64).ravel() for c in counts])
    target = float(np.median(depths[depths > 0])) if (depths > 0).any() else 1.0
    return [log_normalize(c, target=target) for c in counts]


def _rows_first(values: Any) -> Any:
    return values.tocsr() if sp.issparse(values) else np.asarray(values, np.float32)


def _seen(tables: Sequence[Any]) -> Int[np.ndarray, " g"]:
    """Columns above 0 in enough spots, of very many the most widely seen ones; all of them where none is."""
    spots = sum(table.shape[0] for table in tables)
    count = sum(np.asarray((table > 0).sum(0)).ravel() for table in tables)
    kept = np.flatnonzero(count >= max(SEEN * spots, LEAST))
    kept = kept if len(kept) else np.arange(len(count))
    return np.sort(kept[np.argsort(-count[kept], kind="stable")[:MAX_GENES]])


def _scale(table: Any, *, genes: bool) -> _Scale:
    mean = np.asarray(table.mean(0), np.float64).ravel()
    if not genes:
        return _Scale(mean, np.ones_like(mean), np.inf)
    square = table.multiply(table) if sp.issparse(table) else table.astype(np.float64) ** 2
    variance = np.maximum(np.asarray(square.mean(0), np.float64).ravel() - mean**2, 0.0)
    constant = variance <= 1e-12 * np.maximum(mean**2, 1e-30)
    return _Scale(mean, np.where(constant, 1.0, np.sqrt(variance)), CLIP)


def _standard(block: Any, scale: _Scale) -> Float[np.ndarray, "b g"]:
    dense = block.toarray() if sp.issparse(block) else block
    dense = (dense - scale.mean.astype(np.float32)) / scale.deviation.astype(np.float32)
    return np.clip(dense, -scale.clip, scale.clip, out=dense)


def _projected(table: Any, scale: _Scale, axes: Float[np.ndarray, "g q"]) -> Float[np.ndarray, "n q"]:
    blocks = [_standard(table[s : s + _BLOCK], scale) @ axes for s in range(0, table.shape[0], _BLOCK)]
    scores = np.concatenate(blocks).astype(np.float32)
    return scores - scores.mean(0)
