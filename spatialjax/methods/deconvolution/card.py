"""CARD: composition by non-negative factorisation with a conditional autoregressive prior over the tissue."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from spatialjax.algorithm import Algorithm, Chain, Fit, map_tiles
from spatialjax.checks import InputError
from spatialjax.composition import Profiles, capacity, cell_spread, composed, count_source, fold_genes, mean_profiles
from spatialjax.graphs import adjacency, knn
from spatialjax.methods.card import Card, Method
from spatialjax.propagation import gaussian_weights, neighbour_sum
from spatialjax.results import Proportions
from spatialjax.slices import Neighbors
from spatialjax.tables import Reference, SpotTable

#: Strengths of spatial correlation that are tried.
_PHI = (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
#: Fold change (natural logarithm) and quantile of the dispersion of the genes, and number below which all are used.
_FOLD, _DISPERSION, _FEW_GENES = 1.25, 0.99, 10
#: Mean that counts and profiles are scaled to, and width of the kernel in extents of the section.
_SCALE, _WIDTH = 0.1, 0.1
#: Pairs of spots that the strength of the kernel is taken from.
_PAIRS = 2**24
#: First variance of the errors, and smallest divisor.
_FIRST_VARIANCE, _TINY = 0.1, 1e-12
#: The table of neighbours is as wide as a multiple of this.
_WIDTHS = 4
#: Steps of the first phase at the most: it ends after its last tile.
_TILES = 10**6


@functools.cache
def card(*, neighbours: int = 10, tolerance: float = 1e-5, max_steps: int = 1000) -> Method:
    r"""Conditional autoregressive deconvolution.

    Shares of counts Y are VB with the profiles B of the types and errors of variance σ². The weights of one type over
    the tissue are ``V_k ~ N(b_k 1, λ_k (D − φA)⁻¹)``, A a Gaussian kernel between spots and D its row sums. V goes by
    multiplicative updates that keep it at least 0,

    ``V_k ← V_k ∘ [λ_k (YBᵀ)_k + σ²(φ A V_k + b_k D 1)] / [λ_k (V B Bᵀ)_k + σ²(D V_k + φ b_k D 1)]``,

    and b, λ (with an inverse gamma prior) and σ² to their best values in between. All φ of a grid run side by side;
    the one with the best objective is kept.

    Parameters
    ----------
    neighbours
        Number of nearest spots that the kernel reaches, of one section.
    tolerance
        Change of the objective, relative to it, at which a run has settled.
    max_steps
        Number of updates at the most.

    Returns
    -------
    Method
        Data: a ``SpotTable`` with ``xy`` and a ``Reference``. Result: ``Proportions`` in cells.

    Raises
    ------
    InputError
        When run, if the spots have no coordinates.

    Notes
    -----
    As published: model, updates, the kernel's width of a tenth of the extent, the grid of φ, the choice of genes. Other
    than as coded there: the kernel is sparse, kept on the nearest neighbours and multiplied by a constant so that its
    row sums are on average those of the kernel between all pairs of spots, which needs memory in the square of their
    number; the prior is as strong as published, and its reach shorter in large sections; V begins with equal shares
    instead of random ones; profiles are means over the cells instead of over subjects; weights are divided by the depth
    of the types, so that they count cells, where the code returns shares; a spot without counts leaves the likelihood.
    The counts are seen once, tile by tile: the updates need their products with the profiles alone.

    References
    ----------
    Ma & Zhou (2022), Nature Biotechnology 40, 1349–1359.
    """

    def prepare(spots: SpotTable, reference: Reference) -> Any:
        if spots.xy is None:
            raise InputError("Method 'card' needs the coordinates of the spots, found none: give obsm['spatial'].")
        profiles = mean_profiles(reference)
        genes = _informative(profiles, reference)
        own = profiles.shares[:, genes]
        own = (own / own.sum(1, keepdims=True) * _SCALE * len(genes)).astype(np.float32)
        table, log_determinants = _neighbourhood(spots, neighbours)
        return {
            "tile": count_source(spots, own, genes=genes),
            "number": np.int32(spots.shape[0]),
            "gram": own @ own.T,
            "genes": np.float32(len(genes)),
            "neighbours": table,
            "log_determinants": log_determinants,
            # Counts of a cell on these genes.
            "depth": (profiles.depth * profiles.shares[:, genes].sum(1)).astype(np.float32),
        }

    def finish(found: Any, spots: SpotTable, reference: Reference) -> Proportions:
        del reference
        return composed(np.asarray(found["abundance"])[: spots.shape[0]], spots, settled=found["settled"])

    return Method(prepare, _phases(tolerance), finish, max_steps=(_TILES, max_steps))


@functools.cache
def _phases(tolerance: float) -> Chain:
    return Chain(map_tiles(_products, total=lambda data: data["number"]), _to_factors, _factorisation(tolerance))


def _products(key: Any, data: Any) -> Any:
    """What the updates need of the counts of a tile: their products with the profiles, and their squares."""
    del key
    counts, own = data["tile"].values["counts"], data["tile"].values["shared"]
    total = counts.sum(1)
    scaled = counts * (_SCALE * counts.shape[1] / jnp.maximum(total, 1.0))[:, None]
    return {"cross": scaled @ own.T, "square": jnp.square(scaled).sum(1), "total": total}


def _to_factors(fit: Fit, data: Any) -> tuple[Any, Any]:
    return {**{name: value for name, value in data.items() if name != "tile"}, **fit.state.tables}, None


def _factorisation(tolerance: float) -> Algorithm:
    """Updates for every φ, until no objective moves."""

    def init(key: Any, data: Any, start: Any = None) -> Any:
        del key
        if start is not None:
            return start
        number = data["gram"].shape[0]
        size = len(_PHI)
        real = (jnp.arange(len(data["total"])) < data["number"]).astype(jnp.float32)
        return {
            "weights": jnp.tile(real[:, None] / number, (size, 1, number)),
            "mean": jnp.full((size, number), 1.0 / number),
            "spread": jnp.ones((size, number)),
            "variance": jnp.full(size, _FIRST_VARIANCE),
            "objective": jnp.full(size, -jnp.inf),
        }

    def step(key: Any, state: Any, data: Any) -> tuple[Any, dict[str, Any]]:
        del key

        def one(carry: tuple[Any, Any, Any]) -> Any:
            return _update(carry[0], data, phi=carry[1], log_determinant=carry[2])

        moved = jax.lax.map(one, (state, jnp.asarray(_PHI, jnp.float32), data["log_determinants"]))
        change = jnp.abs(moved["objective"] - state["objective"]) / jnp.maximum(jnp.abs(moved["objective"]), 1.0)
        best = moved["objective"].max()
        return moved, {"done": (change < tolerance).all(), "loss": -best}

    def readout(key: Any, state: Any, data: Any) -> Any:
        del key
        best = state["objective"].argmax()
        cells = state["weights"][best] * data["total"][:, None] / data["depth"]
        # A run that ended by its budget shows it in the update that it would make next.
        again = _update(
            jax.tree.map(lambda leaf: leaf[best], state), data, phi=jnp.asarray(_PHI, jnp.float32)[best],
            log_determinant=data["log_determinants"][best],
        )["objective"]  # fmt: skip
        settled = jnp.abs(again - state["objective"][best]) < 2.0 * tolerance * jnp.maximum(jnp.abs(again), 1.0)
        return {"abundance": cells, "settled": settled, "phi": jnp.asarray(_PHI, jnp.float32)[best]}

    return Algorithm(init, step, readout)


def _update(state: Any, data: Any, *, phi: Any, log_determinant: Any) -> Any:
    """One update of all parameters at one φ, and the objective there."""
    weights, mean, spread, variance = (state[name] for name in ("weights", "mean", "spread", "variance"))
    filled = (data["total"] > 0).astype(weights.dtype)[:, None]
    degree = data["neighbours"].weight.sum(1)[:, None]
    number, count = data["number"].astype(weights.dtype), filled.sum()
    pulled = variance * (phi * neighbour_sum(data["neighbours"], weights) + mean * degree)
    held = variance * (degree * weights + phi * mean * degree)
    above = spread * data["cross"] * filled + pulled
    below = spread * (weights @ data["gram"]) * filled + held
    weights = weights * above / jnp.maximum(below, _TINY)
    mean = (degree * weights).sum(0) / jnp.maximum(degree.sum(), _TINY)
    # Distance from the mean in the metric of the prior; spots beyond the last one have no degree.
    off = weights - mean
    distance = (degree * off**2).sum(0) - phi * (off * neighbour_sum(data["neighbours"], off)).sum(0)
    spread = (0.5 * distance + 0.5 * number) / (0.5 * number + 2.0)
    residual = (
        data["square"].sum()
        - 2.0 * (weights * data["cross"] * filled).sum()
        + (filled * weights * (weights @ data["gram"])).sum()
    )
    cases = jnp.maximum(count * data["genes"], 1.0)
    variance = jnp.maximum(residual / cases, 1e-8)
    objective = -0.5 * cases * jnp.log(variance) - 0.5 * jnp.maximum(residual, 0.0) / variance
    prior = 0.5 * log_determinant - 0.5 * number * jnp.log(spread) - 0.5 * distance / spread
    objective = objective + (prior - 2.0 * jnp.log(spread) - 0.5 * number / spread).sum()
    return {"weights": weights, "mean": mean, "spread": spread, "variance": variance, "objective": objective}


def _informative(profiles: Profiles, reference: Reference) -> np.ndarray:
    """Genes with a fold change in some type, without those that vary most within types."""
    chosen = fold_genes(profiles, fold=_FOLD, least=0.0)
    if len(chosen) < _FEW_GENES:
        chosen = np.flatnonzero(profiles.bare.sum(0) > 0)
    spread = np.asarray(cell_spread(reference).cells, np.float64)[:, chosen]
    mean = (profiles.bare * profiles.depth[:, None])[:, chosen]
    dispersion = np.where(mean > 0, spread / np.where(mean > 0, mean, 1.0), 0.0).max(0)
    kept = chosen[dispersion <= np.quantile(dispersion, _DISPERSION)]
    return kept if len(kept) >= _FEW_GENES else chosen


def _neighbourhood(spots: SpotTable, neighbours: int) -> tuple[Neighbors, np.ndarray]:
    """The kernel on the nearest neighbours of each section, and the log determinant of its precision at each φ."""
    n, xy = spots.shape[0], np.asarray(spots.xy, np.float64)
    section = np.zeros(n, int) if spots.section is None else np.asarray(spots.section)
    parts = []
    for each in np.unique(section):
        rows = np.flatnonzero(section == each)
        extent = float(np.ptp(xy[rows], axis=0).max(initial=0.0))
        spread = max(_WIDTH * extent, _TINY)
        found = gaussian_weights(knn(xy[rows], neighbours, symmetric=True), xy[rows], width=spread)
        scale = _full_degree(xy[rows], spread) / max(float(found.weight.sum(1).mean()), _TINY)
        parts.append((rows, found.replace(weight=(scale * found.weight).astype(np.float32))))
    width = -(-max(table.index.shape[1] for _, table in parts) // _WIDTHS) * _WIDTHS
    places = capacity(n)
    index = np.repeat(np.arange(places, dtype=np.int32)[:, None], width, 1)
    weight = np.zeros((places, width), np.float32)
    for rows, table in parts:
        own = np.s_[rows, : table.index.shape[1]]
        index[own], weight[own] = rows[table.index], table.weight
    table = Neighbors(index, weight)
    matrix = adjacency(Neighbors(index[:n], weight[:n]))
    degree = np.maximum(np.asarray(matrix.sum(1)).ravel(), 1e-3)
    determinants = [_log_determinant(sp.csc_matrix(sp.diags(degree) - phi * matrix)) for phi in _PHI]
    return table, np.asarray(determinants, np.float32)


def _full_degree(xy: np.ndarray, spread: float) -> float:
    """Mean over the spots of the sum of the kernel between one and all others, from spots evenly out of all of them."""
    picked = np.unique(np.linspace(0, len(xy) - 1, min(len(xy), max(_PAIRS // len(xy), 16))).astype(int))
    far = [np.square(xy[row] - xy).sum(1) for row in picked]
    return float(np.mean([np.exp(-0.5 * each / spread**2).sum() - 1.0 for each in far]))


def _log_determinant(matrix: sp.csc_matrix) -> float:
    """Of a positive definite sparse matrix."""
    factor = sp.linalg.splu(matrix, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    return float(np.log(np.abs(factor.U.diagonal())).sum())


CARD = Card(
    name="card",
    task="deconvolution",
    summary="Non-negative factorisation on profiles with a conditional autoregressive prior over the neighbourhood.",
    citation="ma2022card",
    expects="counts",
    returns="Proportions",
    default_steps=(_TILES, 1000),
    fidelity="published",
    evidence="tests/methods/test_card_deconvolution.py: the update against its gradient, noisy spots, the determinant",
    licence="GPL-3; written from the equations",
    notes="The kernel is kept on the nearest neighbours, not between all pairs of spots (see the docstring).",
)
