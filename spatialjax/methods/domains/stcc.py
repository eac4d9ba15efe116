"""STCC: one partition out of many label vectors."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from spatialjax import clustering
from spatialjax.algorithm import Chain, Fit, solve
from spatialjax.methods.card import Card, Method, unchanged
from spatialjax.results import Domains
from spatialjax.slices import Slice

#: How the label vectors are joined.
Variant = Literal["average", "hypergraph", "one-hot", "wnmf"]


@functools.cache
def stcc(*, n_domains: int = 7, variant: Variant = "average") -> Method:
    """Consensus of the domains that several methods, seeds or options gave for the same spots.

    With the one-hot labels O_m of member m and the co-association C = mean of O_m O_mᵀ:

    - ``"one-hot"``: k-means on the stacked rows of all O_m;
    - ``"average"``: average linkage on 1 − C;
    - ``"hypergraph"``: every label of every member is a hyperedge over its spots; k-means on the leading eigenvectors
      of the normalised hypergraph;
    - ``"wnmf"``: Σ w_m C_m ≈ Q S Qᵀ with factors of at least 0 and weights w on the simplex by a quadratic programme.

    *As published* C is a table of spots by spots; here spots with equal labels in all members are one row, which gives
    the same consensus without that table (beyond 2,000 distinct rows, linkage uses the most frequent ones). Average
    linkage is cut where n_domains clusters hold at least a tenth of the mean size each, so that a handful of odd spots
    is no domain. *As coded* the average variant is k-means on the rows of C. The paper finds the average and the
    hypergraph the most precise and stable of the four.

    Parameters
    ----------
    n_domains
        Number of domains; members may have other numbers. Fewer distinct rows of labels give fewer.
    variant
        Which of the four.

    Returns
    -------
    Method
        Data: one section whose ``features`` are (n, m) labels, one column a member, any numbers as names. Result:
        ``Domains`` without an embedding. The work is done on the host, between two phases of one step.

    Raises
    ------
    ValueError
        If the variant is unknown; when run, if there is no column of labels.

    References
    ----------
    Hu et al. (2025), Genome Research 35.
    """
    known = ("average", "hypergraph", "one-hot", "wnmf")
    if variant not in known:
        raise ValueError(f"Expected a variant among {', '.join(known)}, found {variant!r}.")

    def draw(key: Any, data: Slice) -> Any:
        del data
        return jax.random.bits(key)

    def join(drawn: Fit, data: Slice) -> tuple[Domains, None]:
        rows = np.flatnonzero(np.asarray(data.mask))
        labels = np.asarray(data.features)[rows]
        found = consensus(jax.random.key(drawn.result), labels, number=n_domains, variant=variant)
        probability = np.zeros((data.capacity, n_domains), np.float32)
        probability[rows, : found.probability.shape[1]] = found.probability
        return Domains(jnp.asarray(probability), None, jnp.bool_(found.converged)), None

    def read(key: Any, data: Domains) -> Domains:
        del key
        return data

    return Method(lambda section: section, Chain(solve(draw), join, solve(read)), unchanged, max_steps=(1, 1))


def consensus(key: Any, labels: Any, *, number: int, variant: Variant) -> clustering.Consensus:
    """The consensus of one variant, on the host.

    Parameters
    ----------
    key
        Random key of k-means; average linkage draws nothing.
    labels
        (n, m) labels, one column a member.
    number
        Number of domains.
    variant
        See :func:`stcc`.
    """
    if variant == "average":
        return clustering.co_association(labels, number=number)
    if variant == "wnmf":
        return clustering.wnmf(key, labels, number=number)[0]
    return (clustering.hypergraph if variant == "hypergraph" else clustering.one_hot)(key, labels, number=number)


CARD = Card(
    name="stcc",
    task="domains",
    summary="Consensus of many label vectors in four variants, without a table of spots by spots.",
    citation="hu2025stcc",
    expects="labels",
    returns="Domains",
    default_steps=(1, 1),
    fidelity="published",
    evidence=(
        "the same partition of eight noisy members as the authors' package 1.0.3 in the variants that it has (average, "
        "one-hot, wnmf); each variant beats every one of its noisy members on simulated labels (tests)"
    ),
    licence="no licence (authors' package; written from the description)",
    notes="Equal rows of labels are joined first; average linkage is cut into domains of a least size.",
)
