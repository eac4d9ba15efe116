"""Posterior predictive checks: tail probabilities where the model is right, and where it is wrong in a known way."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import anndata
import jax
import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats

from spatialjax import tl
from spatialjax.probability import Predictive, gene_total_misfit, predictive_check

#: The same programs run many times.
pytestmark = pytest.mark.usefixtures("optimized_module")

SPOTS, GENES = 50, 120


@cache
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Negative binomial counts with their mean and dispersion."""
    rng = np.random.default_rng(0)
    mean = rng.gamma(2.0, 1.5, (SPOTS, GENES)) + 0.1
    dispersion = rng.uniform(1.0, 3.0, GENES)
    counts = rng.poisson(mean * rng.gamma(dispersion, 1.0 / dispersion, mean.shape))
    return counts.astype(np.float32), mean, dispersion


@cache
def checked(shift: float = 1.0, poisson: bool = False) -> Predictive:
    counts, mean, dispersion = drawn()
    given = None if poisson else shift * dispersion
    return predictive_check(jax.random.key(1), counts, mean, dispersion=given, replicates=100)


@pytest.mark.parametrize("over", ["genes", "spots"])
@pytest.mark.parametrize("name", ["total", "zeros", "pearson"])
def test_tails_are_uniform_where_the_model_is_right(over: str, name: str) -> None:
    """By Kolmogorov and Smirnov's test; the replicates' mean is near what was seen."""
    check = getattr(checked(), over)[name]
    assert stats.kstest(np.asarray(check.tail), "uniform").pvalue > 0.01
    score = (np.asarray(check.observed) - np.asarray(check.mean)) / np.asarray(check.sd)
    assert abs(score.mean()) < 0.3 and 0.8 < score.std() < 1.25


def test_statistics_are_those_of_their_definition() -> None:
    """Totals, share of zeros and mean squared Pearson residual of the counts themselves."""
    counts, mean, dispersion = drawn()
    found = checked()
    pearson = (counts - mean) ** 2 / (mean + mean**2 / dispersion)
    for over, axis in (("genes", 0), ("spots", 1)):
        table = getattr(found, over)
        np.testing.assert_allclose(table["total"].observed, counts.sum(axis), rtol=1e-5)
        np.testing.assert_allclose(table["zeros"].observed, (counts == 0).mean(axis), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(table["pearson"].observed, pearson.mean(axis), rtol=1e-3)


def test_a_wrong_dispersion_is_seen() -> None:
    """Poisson noise shows too few zeros and too small residuals; a dispersion six times too strong the opposite."""
    narrow, wide = checked(poisson=True).genes, checked(shift=1.0 / 6.0).genes
    assert (np.asarray(narrow["pearson"].tail) < 0.05).mean() > 0.9
    assert (np.asarray(narrow["zeros"].tail) < 0.05).mean() > 0.5
    assert (np.asarray(wide["zeros"].tail) > 0.95).mean() > 0.7
    # The totals do not hang on it in the mean.
    assert 0.3 < np.asarray(narrow["total"].tail).mean() < 0.7


def test_a_gene_at_another_level_is_seen() -> None:
    """Three times the counts in one gene, in the totals of that gene alone."""
    counts, mean, dispersion = drawn()
    more = counts.copy()
    more[:, 7] *= 3
    tail = np.asarray(
        predictive_check(jax.random.key(2), more, mean, dispersion=dispersion, replicates=100).genes["total"].tail
    )
    assert tail[7] < 0.01 and (np.delete(tail, 7) < 0.01).mean() < 0.05


def test_draws_of_the_mean_widen_the_prediction_and_unused_spots_count_for_nothing() -> None:
    """One replicate a draw; NaN in spots that are left out, whose counts change nothing elsewhere."""
    counts, mean, dispersion = drawn()
    rng = np.random.default_rng(3)
    draws = mean * rng.lognormal(0.0, 0.3, (60, 1, GENES))
    spread = np.tile(dispersion, (60, 1))
    used = np.arange(SPOTS) >= 5
    found = predictive_check(jax.random.key(4), counts, draws, dispersion=spread, used=used)
    assert np.asarray(found.genes["total"].sd).mean() > 1.5 * np.asarray(checked().genes["total"].sd).mean()
    assert np.array_equal(np.isnan(found.spots["total"].tail), ~used)
    other = counts.copy()
    other[:5] += 100
    again = predictive_check(jax.random.key(4), other, draws, dispersion=spread, used=used)
    np.testing.assert_array_equal(again.genes["total"].tail, found.genes["total"].tail)


def test_shapes_that_do_not_fit_are_refused() -> None:
    """Means of other genes, and a dispersion for each spot."""
    counts, mean, _ = drawn()
    with pytest.raises(ValueError, match="Expected means"):
        predictive_check(jax.random.key(0), counts, mean[:, 1:])
    with pytest.raises(ValueError, match="Expected a dispersion of shape"):
        predictive_check(jax.random.key(0), counts, mean, dispersion=np.ones(SPOTS))


def test_totals_of_the_references_own_kind_of_cells_are_inside_and_a_platform_effect_is_not() -> None:
    """The share outside of a 99 % range is about 1 % over repeated draws of cells and reference; shifted genes lead."""
    rng = np.random.default_rng(5)
    profile, amount, cells = rng.gamma(0.7, 3.0, (3, 400)) + 0.05, np.array([300, 150, 80]), np.array([60, 40, 25])
    kinds = np.repeat(np.arange(3), cells)
    seen = np.repeat(np.arange(3), amount)
    outside = []
    for _ in range(4):
        reference = rng.poisson(profile[kinds] * rng.gamma(3.0, 1 / 3.0, (len(kinds), 400)))
        observed = rng.poisson(profile[seen] * rng.gamma(3.0, 1 / 3.0, (len(seen), 400))).sum(0)
        tables = {
            "means": np.stack([reference[kinds == k].mean(0) for k in range(3)]),
            "variances": np.stack([reference[kinds == k].var(0, ddof=1) for k in range(3)]),
            "cells": cells,
        }
        outside.append(gene_total_misfit(observed, amount, **tables).outside.mean())
    assert 0.002 < np.mean(outside) < 0.04
    observed = observed.astype(float)
    observed[:20] *= 3.0
    found = gene_total_misfit(observed, amount, **tables)
    assert found.outside[:20].mean() > 0.9 and found.outside[20:].mean() < 0.05
    np.testing.assert_allclose(np.median(found.log_ratio[:20]), np.log(3.0), atol=0.25)


@pytest.mark.parametrize("effect", [0.0, 0.8])
def test_the_front_door_names_the_genes_at_another_level(effect: float, tmp_path: Path) -> None:
    """None or hardly any where spots and cells are measured alike; else the genes of the largest factors, in a file."""
    rng = np.random.default_rng(6)
    means = rng.gamma(0.5, 6.0, (3, GENES)) + 0.1
    types = np.repeat(np.arange(3), 60)
    factor = np.exp(effect * rng.normal(size=GENES))
    number = rng.multinomial(8, rng.dirichlet(np.ones(3), 80))
    names = [f"Gene{i}" for i in range(GENES)]
    spots = anndata.AnnData(sp.csr_matrix(rng.poisson(number @ means * factor), dtype=np.float32))
    cells = anndata.AnnData(
        sp.csr_matrix(rng.poisson(means[types]), dtype=np.float32), obs={"kind": np.array(list("abc"))[types]}
    )
    spots.var_names = cells.var_names = names
    spots.obsm["spatial"] = 100.0 * np.stack(np.divmod(np.arange(80), 10), 1)
    found = tl.deconvolve(spots, cells, cell_type_key="kind", method="nnls", progress=False)
    found.adata.write_h5ad(tmp_path / "out.h5ad")
    checks = anndata.read_h5ad(tmp_path / "out.h5ad").uns["proportions"]["checks"]
    if not effect:
        assert checks["outside"] < 0.05
        return
    assert checks["outside"] > 0.5 and len(checks["worst_genes"]) == 10
    seen = [np.log(factor)[names.index(gene)] for gene in checks["worst_genes"]]
    assert np.corrcoef(seen, checks["worst_log_ratio"])[0, 1] > 0.7
    assert np.abs(seen).min() > np.median(np.abs(np.log(factor)))
