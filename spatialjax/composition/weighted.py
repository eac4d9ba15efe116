"""Least squares in which a gene counts by how little it varies between the cells of a type."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from flax import struct
from jaxtyping import Array, Float

from spatialjax.composition.constrained import accounted_abundance
from spatialjax.composition.nnls import nnls
from spatialjax.composition.poisson import LEAST_MEAN, weighted_gram
from spatialjax.composition.signatures import Signatures, type_sums
from spatialjax.tables import Reference

#: Cells of all types together that stand beside those of a type when its variance is taken.
_PSEUDO_CELLS = 50.0


@struct.dataclass
class Spread:
    """How much counts vary within a type.

    Attributes
    ----------
    cells
        (K, g) variance of the count of one cell, its sampling noise included.
    batches
        (K, g) variance of the mean count between batches (donors); 0 where there is one batch.
    """

    cells: Float[Array, "k g"]
    batches: Float[Array, "k g"]


def cell_spread(reference: Reference) -> Spread:
    """Variances within each type, on the host.

    The variance between cells is drawn by fifty cells towards the ratio of variance to mean that all types show.

    Parameters
    ----------
    reference
        Annotated cells with raw counts, and their batches where there are several.
    """
    number, types = len(reference.names), np.asarray(reference.types)
    counts = sp.csr_matrix(reference.counts, dtype=np.float64)
    cells = np.bincount(types, minlength=number).astype(np.float64)[:, None]
    mean = type_sums(counts, types, number=number) / cells
    square = type_sums(counts.multiply(counts).tocsr(), types, number=number)
    deviation = np.maximum(square - cells * mean**2, 0.0)
    free = np.maximum((cells - 1.0).sum(), 1.0)
    ratio = np.maximum(deviation.sum(0) / free / np.maximum((cells * mean).sum(0) / cells.sum(), LEAST_MEAN), 1.0)
    variance = (deviation + _PSEUDO_CELLS * ratio * mean) / (np.maximum(cells - 1.0, 0.0) + _PSEUDO_CELLS)
    between = np.zeros_like(mean)
    if reference.batch is not None and len(np.unique(reference.batch)) > 1:
        between = _between(counts, types, np.asarray(reference.batch), number=number)
    return Spread(jnp.asarray(variance, jnp.float32), jnp.asarray(between, jnp.float32))


def _between(counts: sp.csr_matrix, types: np.ndarray, batch: np.ndarray, *, number: int) -> np.ndarray:
    """Variance over the batches of the mean count of each type, among the batches that have it."""
    present = np.zeros((number, 1))
    first, second = (np.zeros((number, counts.shape[1])) for _ in range(2))
    for each in np.unique(batch):
        own = np.where(batch == each, types, -1)
        cells = np.bincount(own[own >= 0], minlength=number)[:, None]
        mean = type_sums(counts, own, number=number) / np.maximum(cells, 1)
        present += cells > 0
        first += mean
        second += mean**2
    spread = np.maximum(second - first**2 / np.maximum(present, 1), 0.0)
    return np.where(present > 1, spread / np.maximum(present - 1, 1), 0.0)


def weighted_nnls(
    counts: Float[Array, "n g"], signatures: Signatures, spread: Spread, *, rounds: int = 8, accounted: bool = False
) -> tuple[Float[Array, "n k"], Float[Array, " n"]]:
    """Least squares with weights ``1 / Σ_k (w_k v_kg + w_k² u_kg)``, at abundances of at least 0.

    v is the variance between cells and u that between batches: w_k cells of a type vary one by one within a batch,
    and all together from one batch to another. Weights and abundances are found in turn.

    Parameters
    ----------
    counts
        (n, g) raw counts.
    signatures
        Expected counts of one cell of each type.
    spread
        Of the cells.
    rounds
        Number of times that the weights are found.
    accounted
        Whether the cells must have exactly the counts of the spot in all, see ``accounted_abundance``.

    Returns
    -------
    tuple
        (n, K) abundances in cells, and (n,) how far the last round moved them, relative to the largest one.

    References
    ----------
    Wang et al. (2019), Nature Communications 10:380 (MuSiC: weights by the variance between subjects).
    """
    means = signatures.means
    depth, total = jnp.maximum(means.sum(1), LEAST_MEAN), counts.sum(1)

    def fitted(gram: Any, target: Any, start: Any) -> Any:
        if accounted:
            return accounted_abundance(gram, target, depth, counts=total, start=start).weights
        return nnls(gram, target, start=start)

    shown = means.sum(0) > 0
    weight = jnp.where(shown, 1.0 / jnp.maximum(means.mean(0), LEAST_MEAN), 0.0)
    # No gene is certain in a spot that seems to hold none of the types that show it.
    least = 1e-3 * counts.sum(1, keepdims=True) / jnp.maximum(means.sum(), LEAST_MEAN)

    def turn(_: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        held = carry[0] + least
        variance = held @ spread.cells + held**2 @ spread.batches
        precision = jnp.where(shown, 1.0 / jnp.maximum(variance, LEAST_MEAN), 0.0)
        return fitted(weighted_gram(precision, means), (counts * precision) @ means.T, carry[0]), carry[0]

    first = fitted((means * weight) @ means.T, (counts * weight) @ means.T, None)
    abundance, before = jax.lax.fori_loop(0, rounds, turn, (first, first))
    moved = jnp.abs(abundance - before).max(1) / jnp.maximum(abundance.max(1), LEAST_MEAN)
    return abundance, moved
