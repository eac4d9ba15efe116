"""One partition out of many, without a table of rows by rows.

All functions run on the host, take an (n, m) table of labels (one column a member: another seed, scale or method; the
members need not have the same number of labels) and return a :class:`Consensus`. :func:`latent_class` is the default;
the four variants of STCC are :func:`one_hot`, :func:`co_association`, :func:`hypergraph` and ``factorization.wnmf``.

A permutation of the rows permutes the result exactly, because only the sorted table of distinct tuples is worked on.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from spatialjax.clustering.kmeans import kmeans
from spatialjax.clustering.labels import Tuples, by_size, distinct
from spatialjax.clustering.linkage import balanced_cut, weighted_average_linkage
from spatialjax.slices import bucket


@struct.dataclass
class Consensus:
    """A consensus of partitions, as numpy arrays.

    Attributes
    ----------
    labels
        (n,) consensus label, 0 for the largest cluster.
    probability
        (n, k) probability of each cluster under the latent-class model of the consensus.
    confidence
        (n,) share of the members that agree: whose label is, over all rows, most often found with the row's consensus
        label.
    converged
        Whether the method met its own stopping rule.
    """

    labels: Int[np.ndarray, " n"]
    probability: Float[np.ndarray, "n k"]
    confidence: Float[np.ndarray, " n"]
    converged: bool


def latent_class(
    key: Array,
    labels: Any,
    *,
    number: int,
    start: Any = None,
    starts: int = 10,
    steps: int = 200,
    tolerance: float = 1e-6,
    member_weight: Any = None,
) -> Consensus:
    """Latent-class EM: given the consensus cluster, the members' labels are independent categorical draws.

    Starts from k-means on the one-hot table. Each member's table of labels has one pseudo-count, shared out in
    proportion to the label's frequency.

    Parameters
    ----------
    key
        Random key of the k-means start.
    labels
        (n, m) labels of the members.
    number
        Number of consensus clusters; fewer distinct tuples give fewer.
    start
        (n,) partition to start from instead, for instance :func:`co_association`.
    starts
        Number of starts of k-means.
    steps
        Largest number of rounds.
    tolerance
        The rounds end when the mean log-likelihood of a row changes by less (nats).
    member_weight
        (m,) exponents of the members' likelihoods; 1 where left out.

    References
    ----------
    Dawid & Skene (1979), Journal of the Royal Statistical Society C 28; Topchy, Jain & Punch (2005), IEEE Transactions
    on Pattern Analysis and Machine Intelligence 27.
    """
    tuples = distinct(labels)
    number = _possible(number, tuples)
    if start is None:
        begin = _clustered(key, tuples.one_hot(), tuples.count, number=number, starts=starts)
        member = np.eye(number, dtype=np.float32)[begin]
    else:
        member = _mean_by(tuples, by_size(start), number)
    probability, converged = _expectation(tuples, member, steps=steps, tolerance=tolerance, weight=member_weight)
    return _finish(tuples, probability, converged=converged)


def one_hot(key: Array, labels: Any, *, number: int, starts: int = 10) -> Consensus:
    """k-means on the stacked one-hot labels of the members.

    Parameters
    ----------
    key
        Random key of the starts.
    labels
        (n, m) labels of the members.
    number
        Number of consensus clusters.
    starts
        Number of starts.
    """
    tuples = distinct(labels)
    number = _possible(number, tuples)
    chosen = _clustered(key, tuples.one_hot(), tuples.count, number=number, starts=starts)
    return described(tuples, chosen, number)


def co_association(labels: Any, *, number: int, least_share: float = 0.1, landmarks: int = 2000) -> Consensus:
    """Average linkage on the share of members that put two rows together.

    The tree is built on the distinct tuples, each as heavy as its rows; of more than ``landmarks`` tuples, on the most
    frequent ones. It is cut at the coarsest level with exactly ``number`` clusters of at least ``least_share`` · n/K
    rows; the rows of smaller clusters, and of tuples that are no landmarks, go where naive Bayes puts them.

    Parameters
    ----------
    labels
        (n, m) labels of the members.
    number
        Number of consensus clusters.
    least_share
        Smallest cluster in units of n / ``number``; 0 cuts the tree into ``number`` clusters of any size.
    landmarks
        Largest number of tuples in the tree.

    References
    ----------
    Fred & Jain (2005), IEEE Transactions on Pattern Analysis and Machine Intelligence 27.
    """
    tuples = distinct(labels)
    number = _possible(number, tuples)
    chosen = np.sort(np.argsort(-tuples.count, kind="stable")[:landmarks])
    table, count = tuples.one_hot()[chosen], tuples.count[chosen].astype(np.float64)
    distance = 1.0 - table @ table.T / tuples.codes.shape[1]
    merges = weighted_average_linkage(distance.astype(np.float64), count)
    found = balanced_cut(merges, count, number=number, least=least_share * count.sum() / number)
    member = np.zeros((len(tuples.codes), number), np.float32)
    kept = found >= 0
    member[chosen[kept], found[kept]] = 1.0
    assigned = member.any(1)
    share, log_theta = _tables(tuples.one_hot(), member * tuples.count[:, None], tuples)
    guess = np.argmax(tuples.one_hot() @ log_theta + np.log(np.maximum(share, 1e-30)), 1)
    return described(tuples, np.where(assigned, member.argmax(1), guess), number)


def hypergraph(key: Array, labels: Any, *, number: int, starts: int = 10) -> Consensus:
    """Spectral clustering of the bipartite graph of rows and labels, each label a hyperedge over its rows.

    The leading left singular vectors of the degree-normalised one-hot table come from its small Gram matrix of labels;
    k-means on their rows of unit length gives the clusters.

    Parameters
    ----------
    key
        Random key of the starts of k-means.
    labels
        (n, m) labels of the members.
    number
        Number of consensus clusters.
    starts
        Number of starts.

    References
    ----------
    Strehl & Ghosh (2002), Journal of Machine Learning Research 3; Zhou, Huang & Schölkopf (2006), NIPS 19.
    """
    tuples = distinct(labels)
    number = _possible(number, tuples)
    table = tuples.one_hot().astype(np.float64)
    scaled = table / np.sqrt((table * tuples.count[:, None]).sum(0) * tuples.codes.shape[1])
    values, vectors = np.linalg.eigh((scaled * tuples.count[:, None]).T @ scaled)
    leading = np.argsort(-values, kind="stable")[: min(number, len(values))]
    places = scaled @ vectors[:, leading]
    length = np.linalg.norm(places, axis=1, keepdims=True)
    places = places / np.where(length > 0, length, 1.0)
    chosen = _clustered(key, places.astype(np.float32), tuples.count, number=number, starts=starts)
    return described(tuples, chosen, number)


def _possible(number: int, tuples: Tuples) -> int:
    if number < 1:
        raise ValueError(f"Expected at least 1 consensus cluster, found {number}.")
    return min(number, len(tuples.codes))


def _clustered(key: Array, rows: Float[np.ndarray, "u l"], count: Any, *, number: int, starts: int) -> np.ndarray:
    """Weighted k-means of the tuples, padded to a shared capacity so that other tables do not compile again."""
    room, width = bucket(len(rows)), bucket(rows.shape[1])
    padded = np.zeros((room, width), np.float32)
    padded[: len(rows), : rows.shape[1]] = rows
    weight = np.zeros(room, np.float32)
    weight[: len(rows)] = count
    found = kmeans(key, jnp.asarray(padded), jnp.asarray(weight), number=number, starts=starts)
    return np.asarray(found.labels)[: len(rows)]


def _tables(
    table: Any, mass: Float[np.ndarray, "u k"], tuples: Tuples
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "l k"]]:
    """Share of each cluster and log probability of each label in it, with one pseudo-count a member."""
    size = mass.sum(0)
    prior = table.T @ tuples.count.astype(np.float64) / tuples.count.sum()
    log_theta = np.log((table.T @ mass + prior[:, None]) / (size + 1.0))
    return size / max(size.sum(), 1e-30), log_theta


def _mean_by(tuples: Tuples, start: Int[np.ndarray, " n"], number: int) -> Float[np.ndarray, "u k"]:
    """Share of each start label among the rows of each tuple; labels beyond ``number`` join the last one."""
    member = np.zeros((len(tuples.codes), number), np.float32)
    np.add.at(member, (tuples.of_row, np.minimum(start, number - 1)), 1.0)
    return member / tuples.count[:, None]


def _expectation(
    tuples: Tuples, member: Float[np.ndarray, "u k"], *, steps: int, tolerance: float, weight: Any
) -> tuple[Float[np.ndarray, "u k"], bool]:
    """Rounds of EM from the given memberships."""
    table = tuples.indicator()
    power = np.ones(len(tuples.sizes)) if weight is None else np.asarray(weight, np.float64)
    if power.shape != tuples.sizes.shape or not (power >= 0).all():
        raise ValueError(f"Expected a weight of at least 0 for each of {len(tuples.sizes)} members, found {weight}.")
    powered = table if weight is None else table * np.repeat(power, tuples.sizes).astype(np.float32)
    before = -np.inf
    for _ in range(steps):
        share, log_theta = _tables(table, member * tuples.count[:, None], tuples)
        scores = powered @ log_theta + np.log(np.maximum(share, 1e-30))
        top = scores.max(1, keepdims=True)
        member = np.exp(scores - top)
        total = member.sum(1, keepdims=True)
        member = member / total
        likelihood = float(tuples.count @ (top + np.log(total))[:, 0] / tuples.count.sum())
        if abs(likelihood - before) < tolerance:
            return member, True
        before = likelihood
    return member, False


def described(tuples: Tuples, chosen: Int[np.ndarray, " u"], number: int, *, converged: bool = True) -> Consensus:
    """A partition of the tuples as a consensus: its labels, and the probabilities of one E step from it.

    Parameters
    ----------
    tuples
        Of ``labels.distinct``.
    chosen
        (u,) cluster of each tuple.
    number
        Number of clusters.
    converged
        Whether the method that found the partition met its own stopping rule.
    """
    member = np.eye(number, dtype=np.float32)[chosen]
    probability, _ = _expectation(tuples, member, steps=1, tolerance=0.0, weight=None)
    return _finish(tuples, probability, chosen=chosen, converged=converged)


def _finish(tuples: Tuples, probability: Float[np.ndarray, "u k"], *, converged: bool, chosen: Any = None) -> Consensus:
    """Clusters by size, the agreement of the members, and back to the rows."""
    number = probability.shape[1]
    chosen = probability.argmax(1) if chosen is None else chosen
    rank = np.argsort(-np.bincount(chosen, tuples.count, minlength=number), kind="stable")
    chosen, probability = np.argsort(rank)[chosen], probability[:, rank]
    table = tuples.indicator()
    common = (table.T @ (np.eye(number)[chosen] * tuples.count[:, None])).argmax(1)
    start = np.cumsum(tuples.sizes) - tuples.sizes
    agree = (common[tuples.codes + start] == chosen[:, None]).mean(1)
    rows = tuples.of_row
    return Consensus(
        chosen[rows].astype(np.int32), probability[rows].astype(np.float32), agree[rows].astype(np.float32), converged
    )
