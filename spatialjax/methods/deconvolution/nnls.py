"""Non-negative least squares on mean signatures, plain or weighted by the variance between cells: the baseline."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from spatialjax.algorithm import Chain
from spatialjax.composition import (
    LEAST_MEAN,
    ROW_STEPS,
    accounted_abundance,
    cell_spread,
    composed,
    count_source,
    informative_genes,
    mean_signatures,
    row_tables,
    weighted_nnls,
)
from spatialjax.composition.nnls import nnls as least_squares
from spatialjax.methods.card import Card, Method
from spatialjax.results import Proportions
from spatialjax.tables import Reference, SpotTable

CONSTRAINTS = ("positive", "simplex")
#: Sweeps of coordinate descent at the most, and the relative change of a sweep at which it ends.
_SWEEPS, _TOLERANCE = 500, 1e-5
#: Share of the largest abundance that the last round of weights may still move, in the median spot.
_SETTLED = 0.05


@functools.cache
def nnls(
    *,
    weighted: bool = False,
    constraint: Literal["positive", "simplex"] = "positive",
    genes: int | None = None,
    rounds: int = 8,
) -> Method:
    """Least squares with weights of at least 0 on the mean counts of the types.

    Each spot is ``argmin ‖y − wB‖²`` over w ≥ 0, with the mean raw counts B of one cell of each type: no
    normalisation, so that deep genes decide. With ``weighted`` a gene of a spot counts by the inverse of
    ``Σ_k (w_k v_kg + w_k² u_kg)``, v its variance between the cells of a type and u that between the batches of the
    reference: the idea of MuSiC, whose reference has several subjects and whose weights know u (and a residual of the
    sample) alone.

    Parameters
    ----------
    weighted
        Whether genes are weighted by their variance. Low genes count then, and mislead where types have few cells.
    constraint
        ``"simplex"`` fits the composition of the counts: the types' shares of a spot's counts are at least 0 and sum to
        one, so that a spot's counts are those of its cells in all and the fit is free in the composition alone. Right
        where spots and reference show their genes in the same proportions; ``"positive"`` leaves the sum free.
    genes
        Number of genes, the most informative ones; all where left out.
    rounds
        Number of times that the weights are found.

    Returns
    -------
    Method
        Data: a ``SpotTable`` and a ``Reference``. Result: ``Proportions``, in cells since B holds counts of cells.

    Raises
    ------
    ValueError
        If ``constraint`` is none of those.

    References
    ----------
    Lawson & Hanson (1995), Solving least squares problems, SIAM; Wang et al. (2019), Nature Communications 10, 380
    (MuSiC, the idea of the weights); Boyd et al. (2011), Foundations and Trends in Machine Learning 3(1) (the solver
    under the sum constraint).
    """
    if constraint not in CONSTRAINTS:
        raise ValueError(f"Expected constraint to be one of {', '.join(CONSTRAINTS)}, found {constraint!r}.")
    accounted = constraint == "simplex"

    def prepare(spots: SpotTable, reference: Reference) -> Any:
        signatures = mean_signatures(reference.counts, reference.types, number=len(reference.names))
        kept = None if genes is None else informative_genes(signatures, genes)
        if kept is not None:
            signatures = signatures.replace(means=signatures.means[:, kept])
        shared: Any = signatures
        if weighted:
            shared = (signatures, cell_spread(reference if kept is None else reference.genes(kept)))
        return {"tile": count_source(spots, shared, genes=kept), "number": np.int32(spots.shape[0])}

    def finish(found: Any, spots: SpotTable, reference: Reference) -> Proportions:
        del reference
        n = spots.shape[0]
        settled = np.median(np.asarray(found["moved"])[:n]) < _SETTLED
        return composed(np.asarray(found["abundance"])[:n], spots, settled=settled)

    phases = _weighted(rounds, accounted=accounted) if weighted else _plain(accounted=accounted)
    return Method(prepare, phases, finish, max_steps=ROW_STEPS)


@functools.cache
def _plain(*, accounted: bool) -> Chain:
    def fit(key: Any, data: Any) -> Any:
        del key
        counts, means = data["tile"].values["counts"], data["tile"].values["shared"].means
        gram, target = means @ means.T, counts @ means.T
        if not accounted:
            found = least_squares(gram, target, sweeps=_SWEEPS, tolerance=_TOLERANCE)
            return {"abundance": found, "moved": jnp.zeros(len(counts))}
        found = accounted_abundance(gram, target, jnp.maximum(means.sum(1), LEAST_MEAN), counts=counts.sum(1))
        return {"abundance": found.weights, "moved": 1.0 - found.converged.astype(jnp.float32)}

    return row_tables(fit)


@functools.cache
def _weighted(rounds: int, *, accounted: bool) -> Chain:
    def fit(key: Any, data: Any) -> Any:
        del key
        values = data["tile"].values
        abundance, moved = weighted_nnls(values["counts"], *values["shared"], rounds=rounds, accounted=accounted)
        return {"abundance": abundance, "moved": moved}

    return row_tables(fit)


CARD = Card(
    name="nnls",
    task="deconvolution",
    summary="Non-negative least squares on mean signatures; optionally weighted by the variance between cells.",
    citation="lawson1995solving",
    expects="counts",
    returns="Proportions",
    default_steps=ROW_STEPS,
    fidelity="verified",
    evidence="tests/methods/test_nnls_deconvolution.py: the weights of scipy.optimize.nnls, spot by spot",
    licence="none needed (an algorithm of a textbook)",
    notes="The weighted form follows the idea of MuSiC, with the variance between the cells of one reference.",
)
