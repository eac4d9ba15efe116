"""The last step of a method: an embedding to domains, on the device."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from spatialjax.clustering.kmeans import KMeans, kmeans
from spatialjax.clustering.mixture import tied_mixture
from spatialjax.results import Domains

#: How rows are clustered.
By = Literal["kmeans", "mixture"]


def regions(
    key: Array,
    values: Float[Array, "n p"],
    mask: Bool[Array, " n"],
    *,
    number: int,
    by: By = "mixture",
    shrinkage: float = 0.3,
) -> Domains:
    """Domains of the rows of an embedding, the largest first.

    Parameters
    ----------
    key
        Random key of the starts.
    values
        (n, p) embedding.
    mask
        True for real rows.
    number
        Number of domains.
    by
        ``"mixture"`` (one shrunk covariance, five starts) or ``"kmeans"`` (ten starts, probabilities of
        :func:`kmeans_probability`).
    shrinkage
        Of the covariance of the mixture towards a sphere, see :func:`tied_mixture`.

    Raises
    ------
    ValueError
        If ``by`` is neither.
    """
    if by not in ("kmeans", "mixture"):
        raise ValueError(f"Expected by to be 'kmeans' or 'mixture', found {by!r}.")
    values = jnp.where(mask[:, None], values, 0)
    if by == "kmeans":
        found = kmeans(key, values, mask, number=number)
        return Domains(kmeans_probability(found, values, mask), values, found.converged)
    mixture = tied_mixture(key, values, mask, number=number, starts=5, shrinkage=shrinkage)
    return Domains(mixture.probability, values, mixture.converged)


def kmeans_probability(found: KMeans, values: Float[Array, "n p"], mask: Bool[Array, " n"]) -> Float[Array, "n k"]:
    """Responsibilities of a mixture with the centres of k-means and one spherical variance, inertia / (n p).

    k-means is the hard limit of that mixture, so the largest responsibility is the label; 0 on padding.

    Parameters
    ----------
    found
        A fitted k-means.
    values
        (n, p) the rows it was fitted on.
    mask
        True for real rows.

    References
    ----------
    Bishop (2006), Pattern Recognition and Machine Learning, section 9.3.2.
    """
    tiny = jnp.finfo(values.dtype).tiny ** 0.5
    variance = found.inertia / jnp.maximum(mask.sum() * values.shape[1], 1) + tiny
    nearness = values @ found.centres.T - 0.5 * (found.centres**2).sum(1)
    return jax.nn.softmax(nearness / variance, 1) * mask[:, None]
