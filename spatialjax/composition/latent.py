"""What is known of the latent places of cells of each type: a mixture of Gaussians a type."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from spatialjax.keys import generator

#: Least standard deviation of a component.
_LEAST_SD = 1e-2


@struct.dataclass
class LatentPrior:
    """A mixture of Gaussians with diagonal covariance for each type.

    Attributes
    ----------
    mean, sd
        (K, p, z) of the p components of each type.
    log_weight
        (K, p) logarithm of the weights; −∞ for a component that is not used.
    """

    mean: Float[Array, "k p z"]
    sd: Float[Array, "k p z"]
    log_weight: Float[Array, "k p"]

    def log_density(self, places: Float[Array, "n k z"]) -> Float[Array, "n k"]:
        """Logarithm of the density of each place under the mixture of its type.

        Parameters
        ----------
        places
            (n, K, z) one place a row and type.
        """
        gap = (places[:, :, None] - self.mean) / self.sd
        each = -0.5 * jnp.square(gap) - jnp.log(self.sd) - 0.5 * jnp.log(2.0 * jnp.pi)
        return jax.nn.logsumexp(each.sum(-1) + self.log_weight, axis=-1)

    def drawn(self, key: Array, number: int) -> Float[np.ndarray, "n k z"]:
        """Independent places of every type. On the host.

        Parameters
        ----------
        key
            Random key.
        number
            Rows n of places, each with one of every type.
        """
        rng, kinds = generator(key), np.arange(self.mean.shape[0])
        mean, sd, weight = (np.asarray(part, np.float64) for part in (self.mean, self.sd, jnp.exp(self.log_weight)))
        share = weight / weight.sum(1, keepdims=True)
        which = np.stack([rng.choice(len(own), number, p=own) for own in share], axis=1)
        return mean[kinds, which] + sd[kinds, which] * rng.normal(size=(number, len(kinds), mean.shape[2]))


def latent_prior(
    key: Array,
    latent: tuple[Float[np.ndarray, "m z"], Float[np.ndarray, "m z"]],
    types: Int[np.ndarray, " m"],
    *,
    number: int,
    components: int = 15,
) -> LatentPrior:
    """The posteriors of the cells of each type, averaged over clusters of cells: an empirical prior. On the host.

    Cells of a type are clustered by k-means of their posterior means. A component has the mean of its cells, their mean
    posterior variance plus the variance of their means, and their number as weight.

    Parameters
    ----------
    key
        Random key of the starts of k-means.
    latent
        Posterior means and standard deviations of the cells.
    types
        (m,) type of each cell, from 0.
    number
        Number of types K.
    components
        Clusters of a type at the most; a type has at most a cluster for every two cells.

    References
    ----------
    Tomczak & Welling (2018), Proceedings of AISTATS (variational mixture of posteriors); Lopez et al. (2022), Nature
    Biotechnology 40, 1360–1369 (empirical, from clusters).
    """
    from scipy.cluster.vq import kmeans2

    rng, (mean, sd) = generator(key), (np.asarray(part, np.float64) for part in latent)
    shape = (number, components, mean.shape[1])
    centre, spread, weight = np.zeros(shape), np.ones(shape), np.zeros(shape[:2])
    for kind in range(number):
        own = np.flatnonzero(types == kind)
        many = min(components, max(len(own) // 2, 1))
        label = kmeans2(mean[own], many, minit="++", seed=rng)[1] if many > 1 else np.zeros(len(own), int)
        for cluster in np.unique(label):
            member = own[label == cluster]
            centre[kind, cluster] = mean[member].mean(0)
            variance = np.square(sd[member]).mean(0) + mean[member].var(0)
            spread[kind, cluster] = np.sqrt(np.maximum(variance, _LEAST_SD**2))
            weight[kind, cluster] = len(member) / len(own)
    with np.errstate(divide="ignore"):
        arrays: tuple[Any, ...] = (centre, spread, np.log(weight))
    return LatentPrior(*(jnp.asarray(array, jnp.float32) for array in arrays))
