"""Randomness on the host that follows from a JAX key."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Array, Key


def generator(key: Key[Array, ""]) -> np.random.Generator:
    """A numpy generator that follows from a JAX key (typed or raw): the same key gives the same numbers.

    Small draws on the host compile nothing, where each of JAX's draws and each operation on them is a program.
    """
    typed = jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
    return np.random.default_rng(np.asarray(jax.random.key_data(key) if typed else key).ravel().tolist())
