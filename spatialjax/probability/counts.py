"""Likelihoods of counts whose expensive part is counted once."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, Float

#: Largest count of a table of how many spots show more.
LARGEST = 4096


def count_histogram(counts: Any) -> Float[np.ndarray, "m g"]:
    """How many spots show more than j counts of each gene, for j from 0 on. On the host.

    With a dispersion r_g for each gene, ``Σ_n log Γ(y_ng + r_g) − log Γ(r_g) = Σ_j C_jg log(j + r_g)``: as many
    logarithms as the largest count, instead of one log Γ for every entry.

    Parameters
    ----------
    counts
        (n, g) raw counts, sparse or dense.

    Raises
    ------
    ValueError
        If a count is above 4,096: the table would be larger than what it saves.
    """
    table = sp.coo_matrix(counts)
    value = table.data.astype(np.int64)
    most = int(value.max(initial=0))
    if most > LARGEST:
        raise ValueError(f"Expected counts of at most {LARGEST}, found {most}: use the likelihood of each entry.")
    shown = np.zeros((most + 1, table.shape[1]))
    np.add.at(shown, (value, table.col), value > 0)
    return np.cumsum(shown[::-1], axis=0)[::-1][1:].astype(np.float32)


def negative_binomial_log_likelihood(
    counts: Float[Array, "n g"],
    mean: Float[Array, "n g"],
    dispersion: Float[Array, " g"],
    *,
    histogram: Float[Array, "m g"],
) -> Float[Array, ""]:
    """Log likelihood of all counts, up to the term of the counts alone (``− Σ log y!``).

    Parameters
    ----------
    counts
        (n, g) raw counts.
    mean
        (n, g) expected counts, above 0.
    dispersion
        (g,) r, with variance ``μ + μ² / r``.
    histogram
        What ``count_histogram`` says of the same counts.
    """
    log_gamma = (histogram * jnp.log(jnp.arange(len(histogram))[:, None] + dispersion)).sum()
    rest = counts * (jnp.log(mean) - jnp.log(mean + dispersion)) - dispersion * jnp.log1p(mean / dispersion)
    return log_gamma + jax.numpy.sum(rest)
