"""Point estimate, mean field and Laplace approximation of a numpyro model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from spatialjax.algorithm import Algorithm, Chain, Fit, Model, minimize, solve
from spatialjax.algorithm.sources import tiles_of
from spatialjax.probability.density import density
from spatialjax.probability.summaries import summarized

#: Logarithm of the standard deviation that every site begins with, on the unconstrained scale.
_FIRST_LOG_SD = -2.0


@functools.cache
def map_fit(model: Callable[[Any], Any], *, optimizer: Any = None, local: tuple[str, ...] = ()) -> Algorithm:
    """The most probable values, on the unconstrained scale.

    Parameters
    ----------
    model
        As for ``density``.
    optimizer
        Any optax optimizer; Adam with step .02 where left out.
    local
        Latent sites with one row for each row of the data: of these only the rows of the present tile are moved.

    Returns
    -------
    Algorithm
        Result: a dict of the sites. ``start`` may hold ``{"shared": {site: value}}`` and ``"local"``, unconstrained.
    """
    pure = density(model)

    def init(key: Any, data: Any) -> tuple[dict[str, Any], tuple[()]]:
        return _groups(pure.start(key, data), data, local), ()

    def loss(params: Any, aux: Any, key: Any, data: Any) -> Any:
        del key
        return (pure.potential(_sites(params), data), 1.0), (aux, {})

    def readout(key: Any, params: Any, aux: Any, data: Any) -> dict[str, Any]:
        del key, aux
        return pure.constrain(_sites(params), data)

    tables = ("local",) if local else ()
    return minimize(Model(init, loss, readout), optax.adam(0.02) if optimizer is None else optimizer, local=tables)


@functools.cache
def elbo(
    model: Callable[[Any], Any],
    *,
    optimizer: Any = None,
    local: tuple[str, ...] = (),
    particles: int = 1,
    draws: int = 200,
) -> Algorithm:
    """Mean field: independent normal distributions on the unconstrained scale, by the evidence lower bound.

    It is quick, and its intervals are too narrow where sites depend on each other: of the abundances of cell types
    they held .57 to .67 of the truth instead of .90.

    Parameters
    ----------
    model
        As for ``density``.
    optimizer
        Any optax optimizer; Adam with step .02 where left out.
    local
        Latent sites with one row for each row of the data. The entropy of the rows of a tile is scaled to all rows.
    particles
        Draws of a step.
    draws
        Draws of the read-out.

    Returns
    -------
    Algorithm
        Result: a ``Posterior``.

    References
    ----------
    Kucukelbir et al. (2017), JMLR 18 (automatic differentiation variational inference).
    """
    pure = density(model)

    def init(key: Any, data: Any) -> tuple[dict[str, Any], tuple[()]]:
        mean = _groups(pure.start(key, data), data, local)
        spread = jax.tree.map(lambda x: jnp.full_like(x, _FIRST_LOG_SD), mean)
        return {group: {"mean": mean[group], "log_sd": spread[group]} for group in mean}, ()

    def parts(params: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        mean, spread = ({group: params[group][name] for group in params} for name in ("mean", "log_sd"))
        return _sites(mean), _sites(spread)

    def loss(params: Any, aux: Any, key: Any, data: Any) -> Any:
        mean, spread = parts(params)
        energies = [pure.potential(_drawn(jax.random.fold_in(key, i), mean, spread), data) for i in range(particles)]
        tiles = tiles_of(data)
        scale, core = 1.0, None
        if local and tiles:
            core = tiles[0].core
            scale = tiles[0].size / jnp.maximum(core.sum(), 1)
        entropy = sum(spread[name].sum() for name in spread if name not in local)
        for name in local:
            rows = spread[name].reshape(len(spread[name]), -1).sum(1)
            entropy = entropy + scale * (rows if core is None else jnp.where(core, rows, 0.0)).sum()
        return (sum(energies) / particles - entropy, 1.0), (aux, {})

    def readout(key: Any, params: Any, aux: Any, data: Any) -> Any:
        del aux
        mean, spread = parts(params)

        def one(each: Any) -> dict[str, Any]:
            return pure.constrain(_drawn(each, mean, spread), data)

        return summarized(jax.lax.map(one, jax.random.split(key, draws)))

    tables = ("local",) if local else ()
    return minimize(Model(init, loss, readout), optax.adam(0.02) if optimizer is None else optimizer, local=tables)


@functools.cache
def laplace(model: Callable[[Any], Any], *, optimizer: Any = None, draws: int = 1000) -> Chain:
    """A normal distribution around the most probable values, with the inverse curvature as covariance.

    The curvature is one dense matrix: for models with at most some thousand latent numbers.

    Parameters
    ----------
    model
        As for ``density``.
    optimizer
        Of the first phase, ``map_fit``.
    draws
        Draws of the read-out.

    Returns
    -------
    Chain
        Result: a ``Posterior``; it has not converged where the curvature is not positive in every direction, and these
        directions then have the width of a unit curvature.
    """
    pure = density(model)

    def around(key: Any, data: Any) -> Any:
        values, given = data
        flat, back = ravel_pytree(values)
        curvature = jax.hessian(lambda z: pure.potential(back(z), given))(flat)
        size, axes = jnp.linalg.eigh(0.5 * (curvature + curvature.T))
        sound = size > 1e-6 * jnp.maximum(size.max(), 1e-12)
        width = jnp.where(sound, 1.0 / jnp.sqrt(jnp.where(sound, size, 1.0)), 1.0)
        noise = jax.random.normal(key, (draws, len(flat))) * width

        def one(each: Any) -> dict[str, Any]:
            return pure.constrain(back(flat + axes @ each), given)

        return summarized(jax.lax.map(one, noise), converged=sound.all())

    def handover(fit: Fit, data: Any) -> tuple[Any, Any]:
        return (_sites(fit.state.params), data), None

    return Chain(map_fit(model, optimizer=optimizer), handover, solve(around))


def _groups(values: dict[str, Any], data: Any, local: Sequence[str]) -> dict[str, Any]:
    """Sites that all rows share, and tables of those with a row of their own."""
    unknown = sorted(set(local) - set(values))
    if unknown:
        raise ValueError(f"Expected local sites among {', '.join(sorted(values))}, found {', '.join(unknown)}.")
    shared = {name: value for name, value in values.items() if name not in local}
    if not local:
        return {"shared": shared}
    tiles = tiles_of(data)
    size = tiles[0].size if tiles else None
    tables = {
        name: values[name] if size is None else jnp.zeros((size, *values[name].shape[1:]), values[name].dtype)
        for name in local
    }
    return {"shared": shared, "local": tables}


def _sites(groups: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {name: value for group in groups.values() for name, value in group.items()}


def _drawn(key: Any, mean: dict[str, Any], spread: dict[str, Any]) -> dict[str, Any]:
    """Values of all sites from one draw: as many programs of random bits as sites would compile for long."""
    names = sorted(mean)
    ends = np.cumsum([mean[name].size for name in names])
    noise = jnp.split(jax.random.normal(key, (int(ends[-1]),)), ends[:-1])
    return {
        name: mean[name] + jnp.exp(spread[name]) * each.reshape(mean[name].shape)
        for name, each in zip(names, noise, strict=True)
    }
