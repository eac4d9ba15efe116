"""RCTD: Poisson counts with lognormal errors and a platform effect of each gene."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spatialjax.algorithm import Algorithm, Chain, Fit
from spatialjax.composition import (
    ROW_STEPS,
    Profiles,
    composed,
    count_source,
    fold_genes,
    lognormal_abundance,
    mean_profiles,
    pooled_composition,
    pooled_counts,
    row_tables,
    tile_rows,
)
from spatialjax.composition.lognormal import BACKGROUND
from spatialjax.methods.card import Card, Method
from spatialjax.probability import poisson_lognormal
from spatialjax.results import Proportions
from spatialjax.tables import Reference, SpotTable

#: Share of a type that a gene exceeds, for the platform effect and for the fit.
_LEAST_SHARE_POOLED, _LEAST_SHARE = 0.000125, 0.0002
#: Counts of a gene in all spots together, and genes below which all are used.
_LEAST_TOTAL, _FEW_GENES = 3, 10
#: σ of the errors that are tried, and the place of the first one.
_SIGMAS = tuple(round(0.1 * 1.12**i, 4) for i in range(27))
_FIRST_SIGMA = 14
#: Rounds of weights and σ at the most, and spots that σ is chosen on.
_ROUNDS, _SIGMA_SPOTS = 8, 256
#: Rows of a tile at the most: its loop ends when its last spot has settled.
_ROWS = 256
#: Share of the spots whose weights have to settle.
_SETTLED = 0.95


@functools.cache
def rctd(
    *, platform: bool = True, fold: float = 0.75, fold_pooled: float = 0.5, steps: int = 50, tolerance: float = 1e-3
) -> Method:
    r"""Robust decomposition of cell type mixtures, full mode.

    Counts of gene g in spot i are ``Poisson(N_i exp(log Σ_k w_ik μ_kg + γ_g + ε_ig))`` with the mean profiles μ of the
    types, the total N of the spot, a platform effect γ of the gene and errors ε ~ N(0, σ²).

    γ comes from all spots together: a composition is fitted to their pooled counts, and ``γ_g`` is the logarithm of
    the ratio of the observed share of the gene to the one that this composition expects. σ is chosen on a grid by the
    likelihood, in turn with the weights of some spots. The weights maximise the likelihood at w ≥ 0 by iteratively
    reweighted least squares (see ``composition.lognormal_abundance``).

    Parameters
    ----------
    platform
        Whether genes have a platform effect.
    fold, fold_pooled
        Natural logarithm of the fold change over the other types that a gene needs in some type, for the weights and
        for the pooled composition. Where fewer than ten genes have it, all that are shown are used.
    steps
        Steps of reweighting at the most.
    tolerance
        Change of a weight, relative to the sum of the spot, at which a spot has settled.

    Returns
    -------
    Method
        Data: a ``SpotTable`` and a ``Reference``. Result: ``Proportions`` in cells.

    Notes
    -----
    As published: genes by fold change and share, platform effect from the pooled fit, σ by likelihood, non-negative
    quadratic programmes without the sum constraint. Other than as coded there: the errors are exactly lognormal and
    integrated by quadrature, where the code looks up a table of a heavier-tailed law; curvature is taken in the
    logarithm of the mean, and the length of a step follows the likelihood, where the code takes 0.3 of each; profiles
    borrow half a cell from all types, and five for the choice of genes, where the code leaves out types of less than 25
    cells; spots with few counts are kept; σ is chosen on up to 256 spots evenly spaced in
    their order, where the code draws 100; weights are divided by the depth of the types, so that they count cells,
    where the code returns shares of RNA. Doublet mode is not offered.

    References
    ----------
    Cable et al. (2022), Nature Biotechnology 40, 517–526.
    """

    def prepare(spots: SpotTable, reference: Reference) -> Any:
        profiles = mean_profiles(reference)
        total = pooled_counts(spots)
        genes = _shown_genes(profiles, total, fold=fold, least=_LEAST_SHARE)
        means = profiles.shares[:, genes]
        if platform:
            pooled = _shown_genes(profiles, total, fold=fold_pooled, least=_LEAST_SHARE_POOLED)
            means = means * _platform_effect(profiles, total, pooled=pooled, genes=genes)
        # In counts of one cell, so that weights count cells.
        means = (means * profiles.depth[:, None]).astype(np.float32)
        picked, used = _picked(spots, genes)
        return {
            "tile": count_source(spots, means, genes=genes, rows=min(tile_rows(spots.shape[0], len(genes)), _ROWS)),
            "number": np.int32(spots.shape[0]),
            "picked": picked,
            "used": used,
            "means": means,
        }

    def finish(found: Any, spots: SpotTable, reference: Reference) -> Proportions:
        del reference
        n = spots.shape[0]
        settled = np.mean(np.asarray(found["settled"])[:n]) >= _SETTLED
        return composed(np.asarray(found["abundance"])[:n], spots, settled=settled)

    return Method(prepare, _phases(steps, tolerance), finish, max_steps=(_ROUNDS, *ROW_STEPS))


@functools.cache
def _phases(steps: int, tolerance: float) -> Chain:
    def fit(key: Any, data: Any) -> Any:
        del key
        values = data["tile"].values
        options = {"steps": steps, "tolerance": tolerance}
        found = lognormal_abundance(values["counts"], values["shared"], data["sigma"], **options)
        return {"abundance": found.abundance, "settled": found.settled.astype(jnp.float32)}

    return Chain(_sigma(steps, tolerance), _to_spots, row_tables(fit))


def _sigma(steps: int, tolerance: float) -> Algorithm:
    """Weights of some spots and the best σ for them, in turn, until it stays."""
    grid = np.asarray(_SIGMAS, np.float32)

    def init(key: Any, data: Any, start: Any = None) -> Any:
        del key, data
        return {"place": jnp.int32(_FIRST_SIGMA)} if start is None else start

    def step(key: Any, state: Any, data: Any) -> tuple[Any, dict[str, Any]]:
        del key
        counts, sigmas = data["picked"], jnp.asarray(grid)
        sigma, options = sigmas[state["place"]], {"steps": steps, "tolerance": tolerance}
        found = lognormal_abundance(counts, data["means"], sigma, **options)
        log_mean = jnp.log(found.abundance @ data["means"] + BACKGROUND)

        def judged(sigma: Any) -> Any:
            return jnp.where(data["used"], poisson_lognormal(counts, log_mean, sigma).value.sum(1), 0.0).sum()

        told = jax.lax.map(judged, sigmas)
        place = told.argmax().astype(jnp.int32)
        return {"place": place}, {"done": place == state["place"], "sigma": sigmas[place], "loss": -told.max()}

    def readout(key: Any, state: Any, data: Any) -> tuple[()]:
        del key, state, data
        return ()

    return Algorithm(init, step, readout)


def _to_spots(fit: Fit, data: Any) -> tuple[Any, Any]:
    sigma = np.float32(np.asarray(_SIGMAS, np.float32)[int(fit.state["place"])])
    return {"tile": data["tile"], "number": data["number"], "sigma": sigma}, None


def _shown_genes(profiles: Profiles, total: np.ndarray, *, fold: float, least: float) -> np.ndarray:
    """Genes of a type that the spots show; all that they show where these are few."""
    shown = (total >= _LEAST_TOTAL) & (profiles.bare.sum(0) > 0)
    chosen = fold_genes(profiles, fold=fold, least=least)
    chosen = chosen[shown[chosen]]
    return chosen if len(chosen) >= _FEW_GENES else np.flatnonzero(shown)


def _platform_effect(profiles: Profiles, total: np.ndarray, *, pooled: np.ndarray, genes: np.ndarray) -> np.ndarray:
    """(h,) factors of the genes: their share in all spots over the share that the pooled composition expects."""
    share = total / total.sum()
    weight = pooled_composition(total[pooled], profiles.shares[:, pooled])
    return share[genes] / (weight @ profiles.shares[:, genes])


def _picked(spots: SpotTable, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dense counts of spots evenly out of all of them, and which rows are spots."""
    n = spots.shape[0]
    rows = np.unique(np.linspace(0, n - 1, min(n, _SIGMA_SPOTS)).astype(int))
    counts = np.zeros((_SIGMA_SPOTS, len(genes)), np.float32)
    for place, row in enumerate(rows):
        counts[place] = spots.rows(row, row + 1)[:, genes].toarray()[0]
    return counts, np.arange(_SIGMA_SPOTS) < len(rows)


CARD = Card(
    name="rctd",
    task="deconvolution",
    summary="Poisson-lognormal regression on profiles corrected for the platform effect of each gene.",
    citation="cable2022rctd",
    expects="counts",
    returns="Proportions",
    default_steps=(_ROUNDS, *ROW_STEPS),
    fidelity="published",
    evidence="tests/methods/test_rctd_deconvolution.py: quadrature, platform effect and σ of simulated counts",
    licence="GPL-3 (spacexr and rctd-py); written from the equations",
    notes="Full mode; the error is exactly lognormal and the step follows the likelihood (see the docstring).",
)
