"""STdeconvolve: topics of the spots' own counts, without a reference but for the names."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import numpy as np
import scipy.sparse as sp

from spatialjax.algorithm import Algorithm
from spatialjax.checks import InputError
from spatialjax.composition import (
    capacity,
    cells_of_counts,
    composed,
    lda,
    matched_types,
    mean_profiles,
    overdispersed_genes,
    pure_profiles,
)
from spatialjax.composition.tilewise import ROWS
from spatialjax.methods.card import Card, Method
from spatialjax.results import Proportions
from spatialjax.tables import Reference, SpotTable

#: Genes below which all that the spots show are used, and steps at the most.
_FEW_GENES, _STEPS = 50, 500
#: Shape of the noise of the first topics: a tenth.
_EVEN = 100.0


@functools.cache
def stdeconvolve(
    *,
    topics: int | None = None,
    genes: int = 1000,
    level: float = 0.05,
    least: float = 0.05,
    concentration: float | None = None,
    smoothing: float = 0.1,
    tolerance: float = 1e-5,
    start: Literal["random", "extreme"] = "random",
) -> Method:
    """Latent Dirichlet allocation on overdispersed genes; the reference only says which topic is which type.

    Each count of a spot belongs to one of some topics, each a distribution over genes, and a spot has few of them. The
    topics are learnt from the spots alone (``composition.lda``). Each type then goes to the topic whose profile
    correlates with its own, one to one; topics beyond the types join the type that they resemble most, and a type
    beyond the topics is nowhere. A topic is a type only as far as that correlation says: types that never vary in
    number between spots, or always go together, are one topic.

    Parameters
    ----------
    topics
        Number of topics; as many as the reference has types where None.
    genes
        Number of genes at the most, of those that are in 5 to 100 % of the spots and vary more than others of their
        mean. Where fewer than 50 do, all that the spots show are used.
    level
        False discovery rate of the genes.
    least
        Share of a spot's counts below which a topic is taken for absent.
    concentration
        Of the prior of a spot's topics, see ``composition.lda``; found along with them where None.
    smoothing
        Of the prior of the profiles.
    tolerance
        Relative change of the bound at which the topics have settled.
    start
        Topics begin at the counts of all spots with a tenth of noise (``"random"``), or at sums of the most extreme
        spots (``"extreme"``), so that nothing hangs on chance.

    Returns
    -------
    Method
        Data: a ``SpotTable`` and a ``Reference``. Result: ``Proportions`` in cells: shares of the counts over the depth
        of the types.

    Notes
    -----
    As published: the choice of genes, latent Dirichlet allocation with its concentration estimated from 50 over the
    number of topics on, a random start, small shares set to 0. Other than as coded there: profiles have a Dirichlet
    prior; the number of topics is given instead of read off a curve of perplexities; variance is compared with a
    quadratic curve of the mean instead of a spline.

    Which of many near optima is found hangs on the draws, and the bound does not tell which is nearer the types.

    References
    ----------
    Miller et al. (2022), Nature Communications 13, 2339.
    """
    if start not in ("random", "extreme"):
        raise ValueError(f"Expected start 'random' or 'extreme', found {start!r}.")
    if topics is not None and topics < 1:
        raise ValueError(f"Expected at least one topic, found {topics}.")

    def prepare(spots: SpotTable, reference: Reference) -> Any:
        counts = _all_counts(spots)
        used = _used_genes(counts, number=genes, level=level)
        counts = counts[:, used]
        number = len(reference.names) if topics is None else topics
        if start == "extreme":
            first = pure_profiles(counts, number)
        else:
            first = np.tile(np.asarray(counts.sum(0)) / number, (number, 1))
        dense = np.zeros((capacity(spots.shape[0]), len(used)), np.float32)
        counts.astype(np.float32).toarray(out=dense[: counts.shape[0]])
        return {"counts": dense, "start": first.astype(np.float32), "genes": used.astype(np.int32)}

    def finish(found: Any, spots: SpotTable, reference: Reference) -> Proportions:
        profiles = mean_profiles(reference)
        used = np.asarray(found["genes"])
        types = matched_types(np.asarray(found["topics"].profiles, np.float64), profiles.shares[:, used])
        shares = np.asarray(found["topics"].shares, np.float64)[: spots.shape[0]]
        shares = np.where(shares >= np.minimum(least, shares.max(1, keepdims=True)), shares, 0.0)
        shares = shares @ np.eye(len(profiles.depth))[types] / shares.sum(1, keepdims=True)
        amount = cells_of_counts(shares, spots, profiles.depth)
        return composed(amount, spots, settled=found["topics"].converged)

    return Method(prepare, _topics(concentration, smoothing, tolerance, start), finish, max_steps=_STEPS)


def _all_counts(spots: SpotTable) -> sp.csr_matrix:
    n = spots.shape[0]
    return sp.vstack([spots.rows(start, min(start + ROWS, n)) for start in range(0, n, ROWS)], format="csr")


def _used_genes(counts: sp.csr_matrix, *, number: int, level: float) -> np.ndarray:
    """Overdispersed genes, or all that are shown where few are."""
    found = overdispersed_genes(counts, number=number, level=level)
    found = found if len(found) >= _FEW_GENES else np.flatnonzero(np.asarray(counts.sum(0)).ravel() > 0)
    if not len(found):
        raise InputError("Expected spots that show a gene, found none: check the layer with the raw counts.")
    return found


@functools.cache
def _topics(concentration: float | None, smoothing: float, tolerance: float, begin: str) -> Algorithm:
    inner = lda(concentration=concentration, smoothing=smoothing, tolerance=tolerance)

    def init(key: Any, data: Any, start: Any = None) -> Any:
        if start is None and begin == "random":
            data = {**data, "start": data["start"] * jax.random.gamma(key, _EVEN, data["start"].shape) / _EVEN}
        return inner.init(key, data, start)

    def readout(key: Any, state: Any, data: Any) -> Any:
        return {"topics": inner.readout(key, state, data), "genes": data["genes"]}

    return Algorithm(init, inner.step, readout)


CARD = Card(
    name="stdeconvolve",
    task="deconvolution",
    summary="Latent Dirichlet allocation on overdispersed genes of the spots; the reference only names the topics.",
    citation="miller2022stdeconvolve",
    expects="counts",
    returns="Proportions",
    default_steps=_STEPS,
    fidelity="published",
    evidence="tests/composition/test_lda.py: scikit-learn's allocation on the same counts, bound and shares",
    licence="GPL-3; written from the equations",
    notes="The number of topics is given; profiles have a prior (see the docstring).",
)
