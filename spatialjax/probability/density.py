"""A numpyro model as pure functions of unconstrained values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Density(NamedTuple):
    """The functions of a model that an algorithm needs.

    Attributes
    ----------
    start
        ``(key, data) -> values``: for each latent site the unconstrained value in the middle of its range.
    potential
        ``(values, data) -> number``: minus the log joint density, Jacobians of the constraints included.
    constrain
        ``(values, data) -> sites``: latent sites on their own scale, and deterministic ones.
    unconstrain
        ``(sites, data) -> values``.
    """

    start: Callable[[Any, Any], dict[str, Any]]
    potential: Callable[[dict[str, Any], Any], Any]
    constrain: Callable[[dict[str, Any], Any], dict[str, Any]]
    unconstrain: Callable[[dict[str, Any], Any], dict[str, Any]]


def density(model: Callable[[Any], Any]) -> Density:
    """The density of a numpyro model of one argument, the data.

    Parameters
    ----------
    model
        ``data -> anything``, with continuous latent sites. It must not draw for itself; minibatches put the spots of a
        tile, likelihood and local sites alike, under ``numpyro.handlers.scale`` with the number of all spots over
        those of the tile, and padding under ``mask``.
    """

    def start(key: Any, data: Any) -> dict[str, Any]:
        from numpyro import handlers
        from numpyro.distributions import biject_to

        with handlers.block():
            sites = handlers.trace(handlers.seed(model, key)).get_trace(data)
        latent = {n: s for n, s in sites.items() if s["type"] == "sample" and not s["is_observed"]}
        discrete = [name for name, site in latent.items() if site["fn"].support.is_discrete]
        if discrete:
            raise ValueError(f"Expected continuous latent sites, found discrete ones: {', '.join(sorted(discrete))}.")
        values = {name: biject_to(site["fn"].support).inv(site["value"]) for name, site in latent.items()}
        return jax.tree.map(jnp.zeros_like, values)

    def potential(values: dict[str, Any], data: Any) -> Any:
        from numpyro.infer.util import potential_energy

        return potential_energy(model, (data,), {}, values)

    def constrain(values: dict[str, Any], data: Any) -> dict[str, Any]:
        from numpyro.infer.util import constrain_fn

        return constrain_fn(model, (data,), {}, values, return_deterministic=True)

    def unconstrain(sites: dict[str, Any], data: Any) -> dict[str, Any]:
        from numpyro.infer.util import unconstrain_fn

        return unconstrain_fn(model, (data,), {}, sites)

    return Density(start, potential, constrain, unconstrain)
