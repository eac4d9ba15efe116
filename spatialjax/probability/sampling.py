"""The no-U-turn sampler on a numpyro model, one transition a step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from spatialjax.algorithm import Algorithm
from spatialjax.probability.density import density


@functools.cache
def nuts(
    model: Callable[[Any], Any], *, warmup: int = 500, target_accept: float = 0.8, max_tree_depth: int = 10
) -> Algorithm:
    """Transitions of the no-U-turn sampler; its state is that of one chain.

    Parameters
    ----------
    model
        As for ``density``.
    warmup
        First steps, in which step size and mass matrix are adapted; leave them out of what is collected.
    target_accept
        Acceptance probability that the step size is adapted to.
    max_tree_depth
        Doublings of a trajectory at the most.

    Returns
    -------
    Algorithm
        Result: a dict of the sites at the last state. Collect the draws with
        ``algorithm.collect(nuts(model), lambda s: s.z, draws(1000), after=warmup)``; they are unconstrained, see
        ``density(model).constrain``. ``info`` holds ``potential``, ``accepted`` and ``diverged``. Several chains are a
        list of the same data.

    References
    ----------
    Hoffman & Gelman (2014), JMLR 15.
    """
    pure = density(model)

    def kernel(data: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
        from numpyro.infer.hmc import hmc

        return hmc(functools.partial(_energy, pure.potential, data), algo="NUTS")

    def begun(key: Any, data: Any, values: Any) -> tuple[Any, Callable[..., Any]]:
        first, transition = kernel(data)
        state = first(
            values, num_warmup=warmup, target_accept_prob=target_accept, max_tree_depth=max_tree_depth, rng_key=key
        )
        return state, transition

    def init(key: Any, data: Any, start: Any = None) -> Any:
        values = pure.start(key, data) if start is None else start
        return begun(key, data, values)[0]

    def step(key: Any, state: Any, data: Any) -> tuple[Any, dict[str, Any]]:
        # The transition keeps the adaptation in a closure that only the beginning of a chain fills.
        transition = begun(key, data, state.z)[1]
        state = transition(state)
        return state, {
            "potential": state.potential_energy,
            "accepted": state.accept_prob,
            "diverged": state.diverging,
        }

    def readout(key: Any, state: Any, data: Any) -> dict[str, Any]:
        del key
        return pure.constrain(state.z, data)

    return Algorithm(init, step, readout)


def _energy(potential: Callable[..., Any], data: Any, values: Any) -> Any:
    return potential(values, data)
