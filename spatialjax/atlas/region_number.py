"""How many domains a tissue has: agreement of mixtures for each number, on a thinned set of spots."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, Bool, Float, Int

from spatialjax import clustering, propagation
from spatialjax.clustering import Stability
from spatialjax.slices import bucket

#: Numbers of domains that are tried.
TRIED = tuple(range(2, 16))
#: Spots that they are tried on at the most.
MOST_SPOTS = 4000
#: Numbers of leading components of the members, and random starts of each.
_COMPONENTS, _STARTS = (10, 15, 25), 2
#: Numbers of domains whose scale of smoothing stands for those near them.
_SCALES = (3, 6, 12)


def number_stability(
    key: Array,
    components: Float[np.ndarray, "n q"],
    adjacency: sp.csr_matrix,
    *,
    section: Int[np.ndarray, " n"],
) -> Stability:
    """Agreement of six members (two starts, three numbers of components) for each number of domains.

    Parameters
    ----------
    key
        Random key of the starts.
    components
        (n, q) standardised components of all sections.
    adjacency
        (n, n) edges within sections.
    section
        Number of the section of each spot.

    Returns
    -------
    Stability
        Over ``TRIED``, as far as there are ten spots for each domain.
    """
    values = propagation.centred_by_section(components, section)
    found = propagation.spatial_components(values, adjacency, number=max(_COMPONENTS))
    strength = np.clip(found.autocorrelation, 0.02, 0.98)
    rows = np.arange(0, len(values), max(1, int(np.ceil(len(values) / MOST_SPOTS))))
    capacity = bucket(len(rows))
    smoothed = {}
    for number in _SCALES:
        alpha = propagation.strength_for(len(values) / len(np.unique(section)), number)
        view = propagation.smooth(adjacency, found.values, alpha) * np.sqrt(strength / (1 - strength))
        padded = np.zeros((capacity, view.shape[1]), np.float32)
        padded[: len(rows)] = view[rows] / max(float(view.std()), 1e-30)
        smoothed[number] = padded
    numbers = [k for k in TRIED if k * 10 <= len(rows)] or [2]
    nearest = [min(_SCALES, key=lambda scale, k=k: abs(np.log(scale / k))) for k in numbers]
    table = jnp.asarray(np.stack([smoothed[scale] for scale in nearest]))
    mask = jnp.asarray(np.arange(capacity) < len(rows))
    labels = []
    for width in sorted({min(c, table.shape[2]) for c in _COMPONENTS}):
        keys = jax.random.split(jax.random.fold_in(key, width), _STARTS)
        made = _partitions(keys, table[:, :, :width], mask, used=jnp.asarray(numbers), number=max(TRIED))
        labels.append(np.asarray(made)[:, :, : len(rows)])
    members = np.concatenate(labels, axis=1)
    return clustering.stability({k: member.T for k, member in zip(numbers, members, strict=True)})


def chosen_number(stability: Stability) -> int:
    """The most stable candidate with at least three domains; of a curve that only falls, its first number.

    Two halves of a tissue are nearly always the most stable partition, and seldom what is asked for.
    """
    return next((number for number in stability.candidates if number >= 3), stability.candidates[0])


@partial(jax.jit, static_argnames="number")
def _partitions(
    keys: Array, tables: Float[Array, "c n p"], mask: Bool[Array, " n"], *, used: Int[Array, " c"], number: int
) -> Int[Array, "c s n"]:
    """Labels for each number in use and each key."""

    def run(given: tuple[Array, Array]) -> Int[Array, "s n"]:
        table, count = given
        fit = partial(clustering.tied_mixture, number=number, steps=60, lloyd_steps=20)
        return jax.lax.map(lambda key: fit(key, table, mask, used=count).labels, keys)

    return jax.lax.map(run, (tables, used))
