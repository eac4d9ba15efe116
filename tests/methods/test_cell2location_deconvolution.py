"""cell2location: its density against scipy, minibatches, detection, scales of genes, batches and numbers of cells."""

from __future__ import annotations

from functools import cache
from typing import Any
from unittest.mock import patch

import anndata
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats
from scipy.special import gammaln

from spatialjax import tl
from spatialjax.methods import METHODS, run
from spatialjax.methods.deconvolution import cell2location as module
from spatialjax.probability import density
from spatialjax.tables import Reference, SpotTable

TYPES, GENES, SPOTS, GROUPS = 4, 120, 70, 5
OPTIONS = {"groups": GROUPS, "draws": 50}
#: Spots of a part: there are three parts, the last two with a free place.
STEPS, PART = 450, 24


def method(**options: Any) -> Any:
    return METHODS["deconvolution"]["cell2location"](**{**OPTIONS, **options})


@cache
def made() -> tuple[SpotTable, Reference, np.ndarray]:
    """Spots of two sections: genes are off by factors of their own, spots by their detection; two reference batches."""
    rng = np.random.default_rng(2)
    means = rng.gamma(0.5, 8.0, (TYPES, GENES)) + 0.2
    types = np.repeat(np.arange(TYPES), 60)
    batch = (rng.random(len(types)) < np.array([0.1, 0.3, 0.7, 0.9])[types]).astype(int)
    effect = np.stack([np.ones(GENES), rng.lognormal(0.0, 0.8, GENES)])
    cells = rng.poisson(effect[batch] * means[types] * rng.gamma(4.0, 0.25, (len(types), 1)))
    number = rng.multinomial(8, rng.dirichlet(np.array([1.0, 0.7, 0.5, 0.3]), SPOTS))
    section = (np.arange(SPOTS) >= 30).astype(int)
    detection = rng.gamma(20.0, 1 / 20.0, SPOTS) * np.where(section == 0, 0.3, 0.8)
    mean = detection[:, None] * (number @ means * rng.lognormal(-0.18, 0.6, GENES))
    counts = sp.csr_matrix(rng.poisson(mean), dtype=np.float32)
    reference = Reference(sp.csr_matrix(cells, dtype=np.float32), types, list("abcd"), batch)
    return SpotTable(counts, None, section, number.sum(1).astype(float)), reference, number


def shares(number: np.ndarray) -> np.ndarray:
    return number / number.sum(1, keepdims=True)


@cache
def fitted(*, batches: bool = True, known: bool = False, part: int = PART) -> Any:
    spots, reference, _ = made()
    if not batches:
        reference = Reference(reference.counts, reference.types, reference.names)
    spots = SpotTable(spots.counts, None, spots.section, spots.n_cells if known else None)
    with patch.object(module, "_BATCH", part * GENES):
        (found,) = run(method(), jax.random.key(0), [(spots, reference)], max_steps=STEPS)
    return found.result


def agreement(result: Any) -> float:
    return float(np.corrcoef(np.asarray(result.values).ravel(), shares(made()[2]).ravel())[0, 1])


def test_compositions_are_found_beside_detection_scales_of_genes_and_batches() -> None:
    """Closely, seen in parts; and not as closely where the batches of the reference are not told."""
    with_batches, without = agreement(fitted()), agreement(fitted(batches=False))
    assert with_batches > 0.93
    assert with_batches > without


def test_uncertainty_is_that_of_the_draws() -> None:
    """Quantiles around the mean, deviations that fit them, rows that sum to 1."""
    found = fitted()
    values, low, high, sd = (np.asarray(x) for x in (found.values, found.low, found.high, found.sd))
    np.testing.assert_allclose(values.sum(1), 1.0, atol=1e-4)
    assert (low <= values + 1e-3).all() and (values <= high + 1e-3).all() and (sd > 0).all()
    wide = values > 0.2
    np.testing.assert_allclose((high - low)[wide] / sd[wide], 3.29, rtol=0.35)
    assert found.present is None


def test_known_numbers_of_cells_are_what_abundances_count() -> None:
    """The prior of each spot, and the scale of its abundance."""
    found = fitted(known=True)
    np.testing.assert_allclose(np.asarray(found.abundance).sum(1), made()[2].sum(1), rtol=1e-3)
    assert agreement(found) > 0.93


def test_minibatches_give_the_answer_of_the_full_batch() -> None:
    """Three parts of the spots, or all of them in every step: the same compositions and amounts of cells."""
    parts, whole = fitted(), fitted(part=SPOTS)
    off = np.abs(np.asarray(parts.values) - np.asarray(whole.values))
    assert off.max() < 0.08 and off.mean() < 0.02
    amount = [np.asarray(each.abundance).sum(1) for each in (parts, whole)]
    assert np.abs(np.log(amount[0] / amount[1])).mean() < 0.12


def prepared(rows: int = SPOTS) -> dict[str, Any]:
    """Data of the model, in parts of so many spots."""
    with patch.object(module, "_BATCH", rows * GENES):
        return method(genes=None).prepare(*made()[:2])


@cache
def potential() -> Any:
    return jax.jit(density(module.count_model).potential)


def drawn_sites(data: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """A value for every site, positive."""
    rng = np.random.default_rng(seed)
    start = jax.eval_shape(density(module.count_model).start, jax.random.key(0), data)
    sites = {name: np.exp(0.3 * rng.normal(size=leaf.shape)) for name, leaf in start.items()}
    sites["added_mean"], sites["added"] = 0.01 * sites["added_mean"], 0.01 * sites["added"]
    return sites


def log_joint(data: dict[str, Any], z: dict[str, np.ndarray]) -> float:
    """The model as it is written in the paper, by scipy."""

    def gamma(x: Any, shape: Any, rate: Any) -> float:
        return stats.gamma.logpdf(x, shape, scale=1.0 / np.asarray(rate)).sum()

    values = data["tile"].values
    counts, section, cells = (np.asarray(values[name], float) for name in ("counts", "section", "cells"))
    section = section.astype(int)
    total = gamma(z["scale_mean"], 1.0, 1.0) + stats.expon.logpdf(z["scale_inverse"], scale=1 / 3.0)
    alpha = 1.0 / (z["scale_inverse"] ** 2 + 1e-4)
    total += gamma(z["gene_scale"], alpha, alpha / z["scale_mean"])
    total += gamma(z["added_mean"], 1.0, 100.0) + gamma(z["added_rate"], 9.0, 3.0) + gamma(z["inverse_rate"], 9.0, 3.0)
    total += stats.expon.logpdf(z["added_inverse"], scale=1.0 / z["added_rate"]).sum()
    alpha = 1.0 / (z["added_inverse"] ** 2 + 1e-4)
    total += gamma(z["added"], alpha[:, None], (alpha / z["added_mean"])[:, None])
    total += stats.expon.logpdf(z["inverse"], scale=1.0 / z["inverse_rate"][:, None]).sum()
    total += gamma(z["section_detection"], 10.0, 10.0 / data["detection"]) + gamma(z["group_weight"], 1.0, 1.0)
    weight = z["group_weight"][:, None]
    total += gamma(z["group_types"], weight / TYPES, weight)
    held = z["groups_present"][:, None]
    total += gamma(z["cells"], cells, 1.0) + gamma(held, 7.0, 1.0)
    total += gamma(z["group_share"], held / GROUPS, held / z["cells"][:, None])
    total += gamma(z["abundance"], 5.0 * z["group_share"] @ z["group_types"], 5.0)
    total += gamma(z["detection"], 20.0, 20.0 / z["section_detection"][section])
    mean = z["abundance"] @ np.asarray(data["signatures"], float) * z["gene_scale"] + z["added"][section]
    mean = mean * z["detection"][:, None]
    size = 1.0 / (z["inverse"][section] ** 2 + 1e-4)
    total += stats.nbinom.logpmf(counts, size, size / (size + mean)).sum() + gammaln(counts + 1.0).sum()
    return float(total)


def test_the_density_is_the_published_one() -> None:
    """Up to the Jacobian of the logarithms, the sum of the unconstrained values, at two places."""
    data = prepared()
    for seed in range(2):
        sites = drawn_sites(data, seed)
        logs = {name: jnp.asarray(np.log(value), jnp.float32) for name, value in sites.items()}
        wanted = log_joint(data, sites) + sum(np.log(value).sum() for value in sites.values())
        np.testing.assert_allclose(-float(potential()(logs, data)), wanted, rtol=2e-4)


def test_parts_of_the_spots_have_the_density_of_all_on_average() -> None:
    """Parts of 35 spots each; every spot is in one of them."""
    whole, parts = prepared(), prepared(rows=35)
    assert parts["tile"].sweep == 2
    sites = drawn_sites(whole)
    logs = {name: jnp.asarray(np.log(value), jnp.float32) for name, value in sites.items()}
    wanted, found, rows = float(potential()(logs, whole)), [], []
    for t in range(2):
        tile = parts["tile"].at(t)
        rows += list(tile.rows[tile.core])
        own = {name: value[tile.rows] if name in module._LOCAL else value for name, value in logs.items()}
        found.append(float(potential()(own, {**parts, "tile": tile})))
    assert sorted(rows) == list(range(SPOTS))
    np.testing.assert_allclose(np.mean(found), wanted, rtol=1e-4)


def test_the_front_door_takes_sections_and_the_batches_of_the_reference() -> None:
    """One row a spot; the batches reach the method, whose first steps are then others."""
    spots, reference, _ = made()
    counts = anndata.AnnData(spots.counts, obs={"part": spots.section.astype(str)})
    cells = anndata.AnnData(
        reference.counts,
        obs={"kind": np.array(list("abcd"))[reference.types], "donor": reference.batch.astype(str)},
    )
    counts.obsm["spatial"] = 100.0 * np.stack(np.divmod(np.arange(SPOTS), 10), 1)
    found = []
    for key in ("donor", None):
        with patch.object(module, "_BATCH", PART * GENES):
            one = tl.deconvolve(
                counts, cells, cell_type_key="kind", method="cell2location", slice_key="part", batch_key=key,
                method_options={**OPTIONS, "steps": 6}, progress=False,
            )  # fmt: skip
        assert list(one.proportions.columns) == list("abcd") and one.q05 is not None and one.presence is None
        assert not one.converged and any("did not converge" in message for message in one.messages)
        found.append(one.proportions.to_numpy())
    assert np.abs(found[0] - found[1]).mean() > 0.01


def test_options_and_genes_that_cannot_be_used_are_refused() -> None:
    """One message each."""
    with pytest.raises(ValueError, match="Expected cells_per_spot and detection_alpha above 0"):
        method(cells_per_spot=0.0)
    spots, reference, _ = made()
    with pytest.raises(ValueError, match="Expected spots that show a gene of some type"):
        method().prepare(SpotTable(0 * spots.counts, None), reference)
