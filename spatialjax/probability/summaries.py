"""What draws from a posterior say of each site."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool


@struct.dataclass
class Posterior:
    """Summaries of draws, each a dict from the name of a site to an array of its shape.

    Attributes
    ----------
    mean, sd
        Mean and standard deviation.
    q05, q95
        Quantiles.
    converged
        Whether the method met its own stopping rule.
    """

    mean: dict[str, Any]
    sd: dict[str, Any]
    q05: dict[str, Any]
    q95: dict[str, Any]
    converged: Bool[Array, ""]


def summarized(draws: dict[str, Any], *, converged: Any = True) -> Posterior:
    """Summaries over the leading axis of draws."""

    def quantile(q: float) -> dict[str, Any]:
        return jax.tree.map(lambda x: jnp.quantile(x, q, axis=0), draws)

    mean, sd = (jax.tree.map(lambda x, f=f: f(x, axis=0), draws) for f in (jnp.mean, jnp.std))
    return Posterior(mean, sd, quantile(0.05), quantile(0.95), jnp.asarray(converged, bool))
