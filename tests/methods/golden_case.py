"""What the comparisons with the authors' code share: reading a case, tolerances, graphs as tables, gradients."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from spatialjax.graphs import adjacency

GOLDEN = Path(__file__).parent / "golden"
#: Relative tolerance of what one pass gives, of the largest value of an array.
CLOSE = 2e-5
#: Padding is there to be ignored.
CAPACITY = 64


def golden(name):
    """The arrays of a case."""
    with np.load(GOLDEN / f"{name}.npz") as stored:
        return dict(stored)


def same(found, wanted, *, tolerance=CLOSE):
    """Equal up to ``tolerance`` of the largest value."""
    wanted = np.asarray(wanted)
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=0, atol=tolerance * max(np.abs(wanted).max(), 1e-30))


def joined(edges, count):
    """Pairs of a neighbour table as a dense matrix of True and False, without padding and self loops."""
    matrix = adjacency(edges).toarray()[:count, :count] != 0
    np.fill_diagonal(matrix, False)
    return matrix


def pairs(edges, count):
    """The same from the two rows of an edge list."""
    matrix = np.zeros((count, count), bool)
    matrix[tuple(edges)] = True
    np.fill_diagonal(matrix, False)
    return matrix


def padded(values, *, capacity=CAPACITY):
    """Rows of 0 after the real ones."""
    return jnp.pad(jnp.asarray(values), ((0, capacity - len(values)), *((0, 0),) * (np.ndim(values) - 1)))


def begun(method, data, start):
    """State of ``minimize`` with the authors' weights."""
    return jax.jit(method.algorithm.init)(jax.random.key(0), data, start)


def slope(method, state, data, key):
    """Loss and gradient of the parameters at a state of ``minimize``."""

    def loss(params):
        return method.algorithm.step(key, state._replace(params=params), data)[1]["loss"]

    return jax.jit(jax.value_and_grad(loss))(state.params)


def descend(method, state, data, key, *, rate, steps):
    """Plain gradient descent: losses before each step, and the last state."""

    def loss(params):
        return method.algorithm.step(key, state._replace(params=params), data)[1]["loss"]

    def step(params, _):
        value, gradient = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - rate * g, params, gradient), value

    params, told = jax.jit(lambda params: jax.lax.scan(step, params, length=steps))(state.params)
    return np.asarray(told), state._replace(params=params)


def turned(found, wanted):
    """Columns with the sign that fits."""
    found = np.asarray(found)
    return found * np.where((found * wanted).sum(0) < 0, -1.0, 1.0)


def before_normalisation(path):
    """A bias that the normalisation after it takes away: its gradient is rounding on both sides."""
    names = jax.tree_util.keystr(path)
    return "bias" in names and ("Dense_0" in names or "GraphConvolution" in names)


def torch_block(case, prefix, *, start="start"):
    """Dense layer and batch normalisation of a torch ``Sequential``, as a ``DenseBlock``."""
    own = {name: jnp.asarray(case[f"{start} {prefix}.{name}"]) for name in ("0.weight", "0.bias", "1.weight", "1.bias")}
    return {
        "Dense_0": {"kernel": own["0.weight"].T, "bias": own["0.bias"]},
        "BatchNorm_0": {"scale": own["1.weight"], "bias": own["1.bias"]},
    }
