"""Consensus by weighted non-negative factorisation of the co-association, never formed; on the host."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Array, Float

from spatialjax.clustering.consensus import Consensus, described, one_hot
from spatialjax.clustering.labels import distinct

#: Steps of projected gradients for the members' weights.
_WEIGHT_ROUNDS = 200


def wnmf(
    key: Array, labels: Any, *, number: int, starts: int = 10, rounds: int = 1, steps: int = 100
) -> tuple[Consensus, Float[np.ndarray, " m"]]:
    """Weighted consensus: co-association Σ w_m C_m ≈ Q S Qᵀ with Q, S ≥ 0, QᵀQ = I and w on the simplex.

    From the partition of ``consensus.one_hot`` and equal weights: factors, then weights by a quadratic programme, then
    the factors again. C_m = O_m O_mᵀ with the one-hot labels O_m, so that every product is of thin matrices and nothing
    is rows by rows.

    Parameters
    ----------
    key
        Random key of the starts of k-means.
    labels
        (n, m) labels of the members.
    number
        Number of consensus clusters.
    starts
        Number of starts of k-means.
    rounds
        How often the weights are found anew. A single member with K labels is an exact product, so the objective has a
        trivial minimum at every such member, and many rounds drift there; one does not.
    steps
        Multiplicative updates of the factors in each round.

    Returns
    -------
    tuple
        The consensus, ``converged`` where the last half of the updates changed no label; and the weights of the
        members, which sum to 1.

    References
    ----------
    Li & Ding (2008), Proceedings of the SIAM International Conference on Data Mining; Ding, Li, Peng & Park (2006),
    Proceedings of KDD (multiplicative updates).
    """
    tuples = distinct(labels)
    first = one_hot(key, labels, number=number, starts=starts)
    _, place = np.unique(tuples.of_row, return_index=True)
    number = first.probability.shape[1]
    root, member = np.sqrt(tuples.count)[:, None], len(tuples.sizes)
    # Rows of equal tuples stay equal, so one row of weight √count stands for all of them, exactly.
    table = tuples.one_hot() * root
    owner = np.repeat(np.arange(member), tuples.sizes)
    q = (np.eye(number)[first.labels[place]] + 0.2) * root
    q /= np.linalg.norm(q, axis=0)
    weight = np.full(member, 1.0 / member)
    gram = _sums((table.T @ table).astype(np.float64) ** 2, owner, member)
    s = q.T @ _product(table, weight[owner], q)
    for _ in range(rounds):
        q, s = _factors(table, weight[owner], q, s, steps=steps)
        joint = table.T @ q
        linear = np.bincount(owner, np.einsum("lk,kj,lj->l", joint, s, joint), minlength=member)
        weight = _simplex_programme(gram, linear, weight)
    half, s = _factors(table, weight[owner], q, s, steps=steps // 2)
    q, _ = _factors(table, weight[owner], half, s, steps=steps - steps // 2)
    chosen = np.argmax(q, 1)
    settled = bool((chosen == np.argmax(half, 1)).all())
    return described(tuples, chosen, number, converged=settled), weight


def _product(
    table: Float[np.ndarray, "u l"], weight: Float[np.ndarray, " l"], q: Float[np.ndarray, "u k"]
) -> Float[np.ndarray, "u k"]:
    """The weighted co-association times a thin matrix."""
    return table @ (weight[:, None] * (table.T @ q))


def _factors(table: Any, weight: Any, q: Any, s: Any, *, steps: int) -> tuple[Any, Any]:
    """Multiplicative updates of min ‖M − Q S Qᵀ‖² with QᵀQ = I."""
    tiny = 1e-12
    for _ in range(steps):
        near = _product(table, weight, q) @ s
        q = q * np.sqrt((near + tiny) / (q @ (q.T @ near) + tiny))
        square = q.T @ q
        s = s * np.sqrt((q.T @ _product(table, weight, q) + tiny) / (square @ s @ square + tiny))
    return q, s


def _sums(squares: Float[np.ndarray, "l l"], owner: Any, members: int) -> Float[np.ndarray, "m m"]:
    """⟨C_a, C_b⟩ of every pair of members from the squared tables of pairs of labels."""
    pick = np.eye(members)[owner]
    return pick.T @ squares @ pick


def _simplex_programme(
    gram: Float[np.ndarray, "m m"], linear: Float[np.ndarray, " m"], weight: Float[np.ndarray, " m"]
) -> Float[np.ndarray, " m"]:
    """Minimise wᵀGw − 2 bᵀw over the simplex by projected gradients with a fixed step."""
    step = 1.0 / np.linalg.norm(gram, 2)
    for _ in range(_WEIGHT_ROUNDS):
        weight = _onto_simplex(weight - step * (gram @ weight - linear))
    return weight


def _onto_simplex(point: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    falling = np.sort(point)[::-1]
    excess = (np.cumsum(falling) - 1.0) / np.arange(1, len(point) + 1)
    return np.maximum(point - excess[np.flatnonzero(falling > excess)[-1]], 0.0)
