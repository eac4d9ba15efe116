"""Simulated layers whose spots are shallow: single spots say little, neighbours together say much."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import jax
import numpy as np

from spatialjax.clustering import tied_mixture
from spatialjax.metrics import ari
from spatialjax.preprocess import log_normalize
from spatialjax.simulate import simulate_tissue
from spatialjax.slices import Slice, make_slice

LAYERS = 4


class Tissue(NamedTuple):
    """log1p expression, its principal components, places and layers."""

    expression: np.ndarray
    components: np.ndarray
    xy: np.ndarray
    domain: np.ndarray

    def slice(self, expects: str) -> Slice:
        """The section as a method takes it."""
        return make_slice(self.expression if expects == "log1p" else self.components, self.xy, capacity=512)

    def score(self, values: np.ndarray) -> float:
        """Adjusted Rand index of a mixture of an embedding with the layers."""
        values = np.asarray(values, np.float32)[: len(self.xy)]
        labels = tied_mixture(jax.random.key(1), values, number=LAYERS, starts=5).labels
        return ari(np.asarray(labels), self.domain)


@cache
def layered(seed: int) -> Tissue:
    """Some 400 spots on a hexagonal lattice, 80 genes, 100 counts a spot."""
    stack = simulate_tissue(jax.random.key(seed), n_sections=1, spots=400, genes=80, layers=LAYERS, depth=100.0)
    one = stack.sections[0]
    expression = log_normalize(one.counts).toarray()
    left, size, _ = np.linalg.svd(expression - expression.mean(0), full_matrices=False)
    return Tissue(expression, (left[:, :15] * size[:15]).astype(np.float32), one.xy, one.domain)
