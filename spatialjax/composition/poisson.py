"""Counts as a Poisson mixture of signatures: the weighted normal equations, and abundances by two Newton steps."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from spatialjax.composition.nnls import nnls
from spatialjax.composition.signatures import Signatures

#: Expected count below which a gene of a spot is taken for this much, so that its weight stays finite.
LEAST_MEAN = 1e-6
#: Share of the spots of a tile that may still move when the steps end.
RESTLESS = 0.02
#: Numbers in the table of products of signatures at the most; beyond it products are formed type by type.
LARGEST_TABLE = 2**26


class NormalEquations(NamedTuple):
    """Quadratic approximation of the log likelihood of each spot, ``hᵀw − ½ wᵀHw``.

    Attributes
    ----------
    gram
        (n, K, K) H = B V⁻¹ Bᵀ.
    target
        (n, K) h = B V⁻¹ y.
    """

    gram: Float[Array, "n k k"]
    target: Float[Array, "n k"]


def normal_equations(
    counts: Float[Array, "n g"],
    abundance: Float[Array, "n k"],
    signatures: Signatures,
    *,
    overdispersion: Float[Array, " g"] | None = None,
) -> NormalEquations:
    """Information that the counts hold about abundances, at given abundances.

    The variance of a count is ``V = μ + Σ_k w_k² b_k / M_k + φ_g μ²`` with μ = wB: Poisson noise, what is unknown of a
    signature that rests on M_k cells, and what else the gene scatters.

    Parameters
    ----------
    counts
        (n, g) raw counts.
    abundance
        (n, K) at which the variance is taken.
    signatures
        Expected counts of one cell of each type.
    overdispersion
        (g,) φ; none where left out.
    """
    means = signatures.means
    spread = means / signatures.cells[:, None]
    expected = abundance @ means
    variance = expected + abundance**2 @ spread
    variance = variance if overdispersion is None else variance + overdispersion * expected**2
    variance = jnp.maximum(variance, LEAST_MEAN)
    # A gene that no type shows has no expected count: it says nothing.
    precision = jnp.where(means.sum(0) > 0, 1.0 / variance, 0.0)
    return NormalEquations(weighted_gram(precision, means), (counts * precision) @ means.T)


def half_tables(equations: NormalEquations) -> dict[str, Float[Array, "n ..."]]:
    """Tables with one row a spot, the upper half of ``gram`` alone.

    Parameters
    ----------
    equations
        Of the spots.
    """
    first, second = jnp.triu_indices(equations.target.shape[1])
    return {"gram": equations.gram[:, first, second], "target": equations.target}


def whole_equations(tables: dict[str, Float[Array, "n ..."]]) -> NormalEquations:
    """The normal equations of ``half_tables``.

    Parameters
    ----------
    tables
        As ``half_tables`` gives them; other entries do not matter.
    """
    return NormalEquations(_mirrored(tables["gram"], tables["target"].shape[1]), tables["target"])


def poisson_abundance(
    counts: Float[Array, "n g"],
    signatures: Signatures,
    *,
    start: Float[Array, "n k"] | None = None,
    overdispersion: Float[Array, " g"] | None = None,
    steps: int = 8,
    tolerance: float = 0.02,
) -> tuple[Float[Array, "n k"], NormalEquations, Float[Array, " n"]]:
    """Abundances that fit the counts best, and the normal equations there.

    By Fisher-scoring steps, each a small non-negative quadratic programme a spot.

    Parameters
    ----------
    counts
        (n, g) raw counts; a row without counts gets abundances of 0.
    signatures
        Expected counts of one cell of each type.
    start
        (n, K) abundances to begin with; those of unweighted least squares where left out.
    overdispersion
        (g,) φ of the variance of a gene, see ``normal_equations``; none where left out.
    steps
        Number of Newton steps at the most; two are taken in any case, where it is not smaller.
    tolerance
        Change of an abundance, relative to the largest one of the spot, at which the spot has settled. The steps end
        when all spots but one in fifty have.

    Returns
    -------
    tuple
        (n, K) abundances in cells, the normal equations at them, and (n,) how far the last step moved the abundance
        that it moved most, relative to the largest one.
    """
    means = signatures.means
    abundance = _least_squares(counts, means) if start is None else start

    def equations_at(now: Any) -> NormalEquations:
        return normal_equations(counts, _off_zero(now, counts, means), signatures, overdispersion=overdispersion)

    def step(state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        now, moved, count = state
        equations = equations_at(now)
        found = nnls(equations.gram, equations.target, start=now)
        # A spot that has settled stands still: it does not depend on its neighbours in the tile.
        still = (moved < tolerance)[:, None]
        change = jnp.abs(found - now).max(1) / jnp.maximum(found.max(1), LEAST_MEAN)
        return jnp.where(still, now, found), jnp.where(still[:, 0], moved, change), count + 1

    def going(state: tuple[Any, Any, Any]) -> Any:
        restless = (state[1] >= tolerance).mean() > RESTLESS
        return (state[2] < min(steps, 2)) | ((state[2] < steps) & restless)

    first = (abundance, jnp.full(len(counts), jnp.inf, abundance.dtype), jnp.int32(0))
    abundance, moved, _ = jax.lax.while_loop(going, step, first)
    return abundance, equations_at(abundance), moved


def _least_squares(counts: Float[Array, "n g"], means: Float[Array, "k g"]) -> Float[Array, "n k"]:
    """Columns of one length, or a deep gene decides alone."""
    weight = 1.0 / jnp.maximum(means.mean(0), LEAST_MEAN)
    scaled = means * jnp.where(means.sum(0) > 0, weight, 0.0)
    return nnls(scaled @ means.T, counts @ scaled.T)


def _off_zero(
    abundance: Float[Array, "n k"], counts: Float[Array, "n g"], means: Float[Array, "k g"]
) -> Float[Array, "n k"]:
    """Abundances with a thousandth of the spot spread over all types: a variance of 0 would be certain knowledge."""
    share = counts.sum(-1, keepdims=True) / jnp.maximum(means.sum(), LEAST_MEAN)
    return abundance + 1e-3 * share


def weighted_gram(precision: Float[Array, "n g"], means: Float[Array, "k g"]) -> Float[Array, "n k k"]:
    """``Σ_g p_ng b_kg b_lg``: one product with a table of pairs, or type by type where the table would be large.

    Parameters
    ----------
    precision
        (n, g) weight of each gene of each row.
    means
        (K, g) columns of the design.
    """
    number, genes = means.shape
    if number * (number + 1) // 2 * genes > LARGEST_TABLE:
        return jnp.moveaxis(jax.lax.map(lambda row: (precision * row) @ means.T, means), 0, 1)
    first, second = jnp.triu_indices(number)
    half = precision @ (means[first] * means[second]).T
    return _mirrored(half, number)


def _mirrored(half: Float[Array, "n h"], number: int) -> Float[Array, "n k k"]:
    """Symmetric matrices of their upper halves, row by row."""
    first, second = np.triu_indices(number)
    place = np.zeros((number, number), np.int32)
    place[first, second] = place[second, first] = np.arange(len(first))
    return half[:, place]
