"""Signatures of a reference of several batches, by negative binomial regression. On the host."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from flax import struct
from jaxtyping import Array, Float

from spatialjax.composition.signatures import PSEUDO_CELLS, Signatures, type_sums
from spatialjax.tables import Reference

#: Range of the overdispersion, and what stands for no count.
_LEAST_DISPERSION, _MOST_DISPERSION, _TINY = 1e-4, 1e4, 1e-12
#: Counts that every gene is given at its expected overdispersion, so that a rare gene has that of all.
_PRIOR_WEIGHT = 5.0
#: Overdispersion to begin with.
_FIRST_DISPERSION = 0.3


@struct.dataclass
class BatchedSignatures:
    """What ``batch_signatures`` finds.

    Attributes
    ----------
    signatures
        Expected counts of one cell of each type in a batch without an effect.
    depth
        (B,) factor of all counts of a batch; 1 on average over the cells.
    gene_effect
        (B, g) factor of each gene of a batch beside its depth; 1 on average over the cells.
    overdispersion
        (g,) φ, with variance ``μ + φ μ²``.
    converged
        Whether the last round moved no expected count by more than the tolerance.
    """

    signatures: Signatures
    depth: Float[Array, " b"]
    gene_effect: Float[Array, "b g"]
    overdispersion: Float[Array, " g"]
    converged: bool


class _Groups(NamedTuple):
    """Sums over the cells of each pair of batch and type: all that the likelihood needs at a given overdispersion."""

    total: Float[np.ndarray, "b k g"]
    square: Float[np.ndarray, "b k g"]
    cells: Float[np.ndarray, "b k 1"]


def batch_signatures(
    reference: Reference, *, strength: float = 20.0, rounds: int = 500, tolerance: float = 1e-3
) -> BatchedSignatures:
    """Mean counts of the types, without what the batches of the reference add.

    A cell c of type k in batch b has counts ``x_cg ~ NB(d_b r_bg b_kg, φ_g)``. With ``x ~ Poisson(μ u)`` and
    ``u ~ Gamma(1/φ, 1/φ)`` each round sets u to its mean given the counts, and then the depths d, the effects r and the
    signatures b to their most probable values, each a ratio of sums (expectation and conditional maximisation). φ
    follows by weighted moments. Effects have the prior ``Gamma(1 + strength, strength)``, whose mode is 1; signatures
    are drawn by half a cell towards the profile of all types, and with one batch are those of ``mean_signatures``.

    Parameters
    ----------
    reference
        Annotated cells with raw counts; all belong to one batch where ``batch`` is None.
    strength
        Expected counts of a gene in a batch at which its effect rests on data and prior alike.
    rounds
        Rounds at the most.
    tolerance
        Relative change of the depths, the effects and the signatures (there in parts of the mean of the type) at which
        the rounds end.

    Raises
    ------
    ValueError
        If a type has no cell with counts, or ``strength`` is not above 0.

    References
    ----------
    Kleshchevnikov et al. (2022), Nature Biotechnology 40, 661–671 (the model, with additive effects besides);
    Meng & Rubin (1993), Biometrika 80, 267–278 (expectation and conditional maximisation).
    """
    if not strength > 0:
        raise ValueError(f"Expected strength above 0, found {strength}.")
    groups = _grouped(reference)
    cells, total = groups.cells.sum((0, 2)), groups.total.sum(0)
    if (cells == 0).any() or (total.sum(1) == 0).any():
        raise ValueError("Expected cells with counts in every type, found a type without: leave the type out.")
    pooled = total.sum(0) / total.sum()
    borrowed = PSEUDO_CELLS * (total.sum(1) / cells)[:, None] * pooled
    means = (total + borrowed) / (cells + PSEUDO_CELLS)[:, None]
    depth, effect = np.ones((len(groups.total), 1, 1)), np.ones((len(groups.total), 1, total.shape[1]))
    dispersion = np.full(total.shape[1], _FIRST_DISPERSION)
    settled = False
    for _ in range(rounds):
        before = depth, effect, means
        dispersion = _dispersion(groups, depth * effect * means, dispersion)
        if len(groups.total) > 1:
            depth, effect = _effects(groups, before, dispersion=dispersion, strength=strength)
        frailty = _frailty(groups, depth * effect * means, dispersion)
        beside = (PSEUDO_CELLS + dispersion * borrowed) / (1.0 + dispersion * means)
        means = (total + borrowed) / ((depth * effect * frailty).sum(0) + beside)
        settled = _moved(before, (depth, effect, means)) < tolerance
        if settled:
            break
    return BatchedSignatures(
        Signatures(jnp.asarray(means, jnp.float32), jnp.asarray(cells, jnp.float32)),
        jnp.asarray(depth[:, 0, 0], jnp.float32),
        jnp.asarray(effect[:, 0], jnp.float32),
        jnp.asarray(dispersion, jnp.float32),
        settled,
    )


def _grouped(reference: Reference) -> _Groups:
    number, types = len(reference.names), np.asarray(reference.types)
    codes = np.zeros(len(types), int) if reference.batch is None else np.asarray(reference.batch)
    batch = np.unique(codes, return_inverse=True)[1]
    pair, pairs = np.where(types >= 0, batch * number + types, -1), (int(batch.max(initial=0)) + 1) * number
    counts = sp.csr_matrix(reference.counts, dtype=np.float64)
    shape = (-1, number, counts.shape[1])
    cells = np.bincount(pair[pair >= 0], minlength=pairs).astype(np.float64)
    return _Groups(
        type_sums(counts, pair, number=pairs).reshape(shape),
        type_sums(counts.multiply(counts).tocsr(), pair, number=pairs).reshape(shape),
        cells.reshape(-1, number, 1),
    )


def _frailty(groups: _Groups, mean: np.ndarray, dispersion: np.ndarray) -> np.ndarray:
    """Sum over the cells of each group of the mean of u, the factor of a cell, given its counts."""
    return (groups.cells + dispersion * groups.total) / (1.0 + dispersion * mean)


def _effects(
    groups: _Groups, now: tuple[np.ndarray, np.ndarray, np.ndarray], *, dispersion: np.ndarray, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """The depths, and the effects of the genes beside them, one after the other."""
    depth, effect, means = now
    frailty = _frailty(groups, depth * effect * means, dispersion)
    depth = groups.total.sum((1, 2), keepdims=True) / (effect * means * frailty).sum((1, 2), keepdims=True)
    amount = groups.cells.sum(1, keepdims=True)
    depth = depth / ((amount * depth).sum() / amount.sum())
    frailty = _frailty(groups, depth * effect * means, dispersion)
    expected = (depth * means * frailty).sum(1, keepdims=True)
    effect = (groups.total.sum(1, keepdims=True) + strength) / (expected + strength)
    # A factor that all batches share belongs to the signatures: left free, it moves too slowly.
    return depth, effect / ((amount * effect).sum(0) / amount.sum())


def _dispersion(groups: _Groups, mean: np.ndarray, dispersion: np.ndarray) -> np.ndarray:
    """``(x − μ)² − μ`` is ``φ μ²`` on average, with a variance in proportion to ``μ² (1 + φ μ)²``."""
    excess = groups.square - 2.0 * mean * groups.total + groups.cells * (mean**2 - mean)
    weight = 1.0 / (1.0 + dispersion * mean) ** 2
    above, below = (weight * excess).sum((0, 1)), (weight * groups.cells * mean**2).sum((0, 1))
    usual = np.clip(above.sum() / max(below.sum(), _TINY), _LEAST_DISPERSION, _MOST_DISPERSION)
    found = (above + _PRIOR_WEIGHT * usual) / (below + _PRIOR_WEIGHT)
    return np.clip(found, _LEAST_DISPERSION, _MOST_DISPERSION)


def _moved(before: tuple[np.ndarray, ...], after: tuple[np.ndarray, ...]) -> float:
    """Largest relative change of a depth or an effect, and of a signature in parts of the mean of its type."""
    scale = (after[0], after[1], after[2].mean(1, keepdims=True))
    return max(float(np.abs((a - b) / s).max()) for b, a, s in zip(before, after, scale, strict=True))
