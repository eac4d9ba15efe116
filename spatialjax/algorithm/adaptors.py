"""Adaptors: familiar things as an ``Algorithm``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spatialjax.algorithm.core import Algorithm


def solve(fn: Callable[[Any], Any]) -> Algorithm:
    """A closed form as an ``Algorithm`` of one step: ``fn(data)`` is the result."""

    def init(key: Any, data: Any, start: Any = None) -> Any:
        del key, start
        return fn(data)

    def step(key: Any, state: Any, data: Any) -> tuple[Any, dict[str, Any]]:
        del key, data
        return state, {"done": True}

    def readout(key: Any, state: Any, data: Any) -> Any:
        del key, data
        return state

    return Algorithm(init, step, readout)
