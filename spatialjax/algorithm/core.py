"""``Algorithm``, ``Model`` and ``fit``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Algorithm(NamedTuple):
    """Anything iterative: gradient training, EM, the outer loop of a transport solver, MCMC.

    Attributes
    ----------
    init
        ``(key, data, start=None) -> state``; ``start`` holds warm values, e.g. from an earlier phase.
    step
        ``(key, state, data) -> (state, info)``; ``info`` is a flat dict of numbers, ``info["done"]`` says "finished".
    readout
        ``(key, state, data) -> result``.
    """

    init: Callable[..., Any]
    step: Callable[..., Any]
    readout: Callable[..., Any]


class Model(NamedTuple):
    """What is trained by gradients.

    Attributes
    ----------
    init
        ``(key, data) -> (params, aux)``; ``params`` is a dict of named groups.
    loss
        ``(params, aux, key, data) -> ((sum, weight), (aux, metrics))``.
    readout
        ``(key, params, aux, data) -> result``.
    """

    init: Callable[..., Any]
    loss: Callable[..., Any]
    readout: Callable[..., Any]


class Fit(NamedTuple):
    """What ``fit`` returns.

    Attributes
    ----------
    result
        What the read-out gave.
    state
        Final state of the algorithm.
    history
        Dict of numpy arrays, one value a step.
    steps
        Number of steps taken.
    status
        ``"running"`` (the budget ended first), ``"done"`` or ``"not finite"``.
    """

    result: Any
    state: Any
    history: dict[str, Any]
    steps: int
    status: str
