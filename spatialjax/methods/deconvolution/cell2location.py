"""cell2location: negative binomial counts with hierarchical priors of abundance, by mean field."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse as sp
from jaxtyping import Array, Float

from spatialjax.algorithm import Algorithm, HostSource, Tiled
from spatialjax.checks import InputError
from spatialjax.composition import (
    Signatures,
    batch_signatures,
    count_source,
    gene_information,
    in_cells,
    poisson_abundance,
    pooled_counts,
    without_counts,
)
from spatialjax.composition.tilewise import ROWS
from spatialjax.methods.card import Card, Method
from spatialjax.probability import elbo
from spatialjax.results import Proportions
from spatialjax.slices import bucket
from spatialjax.tables import Reference, SpotTable
from spatialjax.tiles import Tile

#: Sites with one row for each spot.
_LOCAL = ("abundance", "cells", "detection", "group_share", "groups_present")
#: Numbers of a dense minibatch at the most.
_BATCH = 2**22
#: Steps whose mean loss is compared with that of the steps before, at least.
_WINDOW = 100
#: Steps after which the length of a step falls.
_SLOWING = 200.0
#: Abundance, in cells, that a type begins with where the first fit gives none.
_NO_CELLS = 0.02
#: Smallest inverse of a dispersion: below it counts are Poisson for all that single precision can tell.
_LEAST_INVERSE = 1e-4
#: Counts beside those of a gene when its first scale is taken.
_SCALE_PRIOR = 4.0
#: Mean number of types, and of groups of types, of a spot; mean over variance of its number of cells.
_TYPES, _CELLS_RATIO = 7.0, 1.0
#: Values that sites of genes and of sections begin with: the scale's spread, what is added and its spread, the root of
#: the inverse dispersion.
_FIRST_SPREAD, _FIRST_ADDED, _FIRST_INVERSE = 0.4, 0.01, 0.5
#: Standard deviation of the logarithm of what groups begin with.
_FIRST_NOISE = 0.5


@functools.cache
def cell2location(
    *,
    cells_per_spot: float = 8.0,
    detection_alpha: float = 20.0,
    groups: int = 50,
    genes: int | None = 2000,
    steps: int = 2000,
    learning_rate: float = 0.03,
    tolerance: float = 0.3,
    draws: int = 200,
) -> Method:
    """Bayesian model of counts with the abundance of each type, the detection of each spot and the scale of each gene.

    Counts of gene g in spot s of section e are ``NB(μ_sg, α_eg)`` with ``μ_sg = (m_g Σ_f w_sf g_fg + a_eg) y_s``: w the
    number of cells of each type, g the signatures, m a scale of the gene between the technologies, a what is there
    without cells, and y the detection of the spot. The prior of w is a factorisation: R groups of types, of which a
    spot holds some (see ``count_model``). All is fitted together, by independent distributions of the logarithms of
    all sites (``probability.elbo``); what is stated comes from draws of these.

    Signatures are those of ``composition.batch_signatures``: where the reference has batches, without their effects.

    Parameters
    ----------
    cells_per_spot
        Expected number of cells of a spot (N_cells_per_location); where the cells of the spots were counted, the
        number of each spot stands for it.
    detection_alpha
        How alike the detection of the spots of a section is, the shape of a Gamma distribution; 200 for little
        variation within a section.
    groups
        R.
    genes
        Number of genes, the most informative ones that the spots show; all that they show where None.
    steps
        Steps at the most.
    learning_rate
        Of Adam; it falls with the steps.
    tolerance
        Fall of the mean loss of a hundred steps (or of a sweep over the spots), in nats a spot, below which the fit has
        settled.
    draws
        Draws that mean, standard deviation and quantiles are taken from.

    Returns
    -------
    Method
        Data: a ``SpotTable`` and a ``Reference``. Result: ``Proportions`` in cells with ``sd``, and with ``low`` and
        ``high`` the 5 and 95 % quantiles. Intervals of mean field are far too narrow (see ``probability.elbo``), and
        differences between cells of a type are not in them; the default method calibrates its own.

    Notes
    -----
    As published: likelihood, priors and their constants. Other than as coded there: at most 2,000 steps, from a Poisson
    fit, where the code takes 30,000 from the middle of the priors, hours on a CPU; they end when the loss has settled.
    The guide is independent on the logarithm of every site, where the code has a hierarchical one with softplus. 2,000
    genes are used instead of all above a low threshold. Above about 2,000 spots each step sees a part of the spots,
    evenly out of all of them. The effects of reference batches are factors alone. Proportions are means of the draws'
    shares of cells. The expected detection of a section is what the Poisson fit says of its spots, in cells of the
    reference, over their expected numbers of cells.

    References
    ----------
    Kleshchevnikov et al. (2022), Nature Biotechnology 40, 661–671.
    """
    if not (cells_per_spot > 0 and detection_alpha > 0 and groups >= 1):
        raise ValueError(
            "Expected cells_per_spot and detection_alpha above 0 and groups of at least 1, found "
            f"{cells_per_spot}, {detection_alpha} and {groups}."
        )

    def prepare(spots: SpotTable, reference: Reference) -> Any:
        found = batch_signatures(reference).signatures
        kept = _shown_genes(found, pooled_counts(spots), genes)
        signatures = Signatures(found.means[:, kept], found.cells)
        n = spots.shape[0]
        cells = np.full(n, cells_per_spot) if spots.n_cells is None else np.maximum(spots.n_cells, 1.0)
        counts = sp.vstack([spots.rows(at, min(at + ROWS, n))[:, kept] for at in range(0, n, ROWS)], format="csr")
        known = {"shape": np.float32(detection_alpha), "groups": np.zeros((groups, 0), np.float32)}
        return {**_data(SpotTable(counts, None, spots.section, cells), signatures), **known}

    def finish(found: Any, spots: SpotTable, reference: Reference) -> Proportions:
        del reference
        return _stated(found, spots)

    return Method(prepare, _mean_field(learning_rate, tolerance, draws), finish, max_steps=steps)


def count_model(data: Any) -> None:
    """The model in numpyro, with the published constants.

    Parameters
    ----------
    data
        What ``prepare`` of the method makes: ``tile`` with the ``counts`` (b, g), the ``section`` and the expected
        number of ``cells`` of some spots; ``signatures`` (F, g); ``repeats``, the distinct counts of each gene in each
        section; the expected ``detection`` of each section and its ``shape``; ``groups`` (R, 0). Sites of the spots:
        ``abundance`` (b, F) w, ``group_share`` (b, R), ``cells``, ``groups_present`` and ``detection``; ``proportions``
        is deterministic.
    """
    import numpyro
    import numpyro.distributions as dist
    from numpyro.handlers import mask, scale

    tile, signatures = data["tile"], data["signatures"]
    counts, section = tile.values["counts"], tile.values["section"]
    types, groups, sections = len(signatures), len(data["groups"]), len(data["detection"])
    gene, inverse, added = _gene_sites(sections, signatures.shape[1])
    dispersion = 1.0 / (inverse**2 + _LEAST_INVERSE)
    level = numpyro.sample("section_detection", dist.Gamma(10.0, 10.0 / data["detection"]).to_event(1))
    weight = numpyro.sample("group_weight", dist.Gamma(jnp.full(groups, 1.0), 1.0).to_event(1))
    shape = jnp.broadcast_to(weight[:, None] / types, (groups, types))
    member = numpyro.sample("group_types", dist.Gamma(shape, weight[:, None]).to_event(2))
    whole = tile.size / jnp.maximum(tile.core.sum(), 1)
    with scale(scale=whole), mask(mask=tile.core), numpyro.plate("spots", len(counts)):
        cells = numpyro.sample("cells", dist.Gamma(tile.values["cells"] * _CELLS_RATIO, _CELLS_RATIO))
        held = numpyro.sample("groups_present", dist.Gamma(_TYPES, 1.0))
        shape = jnp.broadcast_to(held[:, None] / groups, (len(counts), groups))
        part = numpyro.sample("group_share", dist.Gamma(shape, (held / cells)[:, None]).to_event(1))
        abundance = numpyro.sample("abundance", dist.Gamma(5.0 * (part @ member), 5.0).to_event(1))
        detection = numpyro.sample("detection", dist.Gamma(data["shape"], data["shape"] / level[section]))
        mean = ((abundance @ signatures) * gene + added[section]) * detection[:, None]
        numpyro.factor("counts", _negative_binomial(counts, mean, dispersion[section]))
    numpyro.factor("repeats", _repeated(data["repeats"], dispersion))
    numpyro.deterministic("proportions", abundance / abundance.sum(1, keepdims=True))


def _gene_sites(sections: int, genes: int) -> tuple[Any, Any, Any]:
    """Scale of each gene, and root of its inverse dispersion and what it has without cells in each section."""
    import numpyro
    import numpyro.distributions as dist

    middle = numpyro.sample("scale_mean", dist.Gamma(1.0, 1.0))
    spread = numpyro.sample("scale_inverse", dist.Exponential(3.0))
    alpha = 1.0 / (spread**2 + _LEAST_INVERSE)
    gene = numpyro.sample("gene_scale", dist.Gamma(jnp.full(genes, 1.0) * alpha, alpha / middle).to_event(1))
    with numpyro.plate("sections", sections):
        mean = numpyro.sample("added_mean", dist.Gamma(1.0, 100.0))
        rate = numpyro.sample("added_rate", dist.Gamma(9.0, 3.0))
        spread = numpyro.sample("added_inverse", dist.Exponential(rate))
        alpha = 1.0 / (spread**2 + _LEAST_INVERSE)
        shape = jnp.broadcast_to(alpha[:, None], (sections, genes))
        added = numpyro.sample("added", dist.Gamma(shape, (alpha / mean)[:, None]).to_event(1))
        rate = numpyro.sample("inverse_rate", dist.Gamma(9.0, 3.0))
        rates = jnp.broadcast_to(rate[:, None], (sections, genes))
        inverse = numpyro.sample("inverse", dist.Exponential(rates).to_event(1))
    return gene, inverse, added


def _negative_binomial(
    counts: Float[Array, "b g"], mean: Float[Array, "b g"], dispersion: Float[Array, "b g"]
) -> Float[Array, " b"]:
    """The terms of the log likelihood of each spot that hang on the mean."""
    return (counts * jnp.log(mean) - (counts + dispersion) * jnp.log1p(mean / dispersion)).sum(1)


def _repeated(repeats: dict[str, Any], dispersion: Float[Array, "e g"]) -> Float[Array, ""]:
    """The terms that hang on the dispersion alone, once for each distinct count of a gene."""
    at = dispersion[repeats["section"], repeats["gene"]]
    rising = jax.scipy.special.gammaln(repeats["count"] + at) - jax.scipy.special.gammaln(at)
    return (repeats["times"] * (rising - repeats["count"] * jnp.log(at))).sum()


@functools.cache
def _mean_field(learning_rate: float, tolerance: float, draws: int) -> Algorithm:
    """Mean field from a Poisson fit, until the mean loss of a window of steps is that of the one before."""
    slower = lambda step: learning_rate * (1.0 + step / _SLOWING) ** -0.6
    inner = elbo(count_model, optimizer=optax.adam(slower), local=_LOCAL, draws=draws)

    def init(key: Any, data: Any, start: Any = None) -> Any:
        state = inner.init(key, data, start=start)
        if start is None:
            state = state._replace(params=_begun(key, state.params, data))
        zero, never = jnp.float32(0.0), jnp.float32(jnp.inf)
        return {"inner": state, "sum": zero, "steps": jnp.int32(0), "last": never, "fall": never}

    def step(key: Any, state: Any, data: Any) -> tuple[Any, dict[str, Any]]:
        found, info = inner.step(key, state["inner"], data)
        loss = info["loss"] / data["tile"].size
        total, steps = state["sum"] + loss, state["steps"] + 1
        full = steps >= data["window"]
        mean = total / steps
        fall = jnp.where(full, state["last"] - mean, state["fall"])
        after = {
            "inner": found,
            "sum": jnp.where(full, 0.0, total),
            "steps": jnp.where(full, 0, steps),
            "last": jnp.where(full, mean, state["last"]),
            "fall": fall,
        }
        return after, {"loss": loss, "done": fall < tolerance}

    def readout(key: Any, state: Any, data: Any) -> Any:
        found = inner.readout(key, state["inner"], data)
        said = {"mean": found.mean["proportions"], "abundance": found.mean["abundance"], "sd": found.sd["proportions"]}
        ends = {"low": found.q05["proportions"], "high": found.q95["proportions"]}
        return {**said, **ends, "settled": state["fall"] < tolerance}

    return Algorithm(init, step, readout)


def _begun(key: Any, params: dict[str, Any], data: Any) -> dict[str, Any]:
    """The first values in place of the middle of the priors; groups by chance, so that they can differ."""
    given = data["start"]
    means = {group: dict(params[group]["mean"]) for group in params}
    for name, value in given.items():
        means["local" if name in _LOCAL else "shared"][name] = jnp.log(value)
    middle = {
        ("shared", "group_types"): 1.0 / len(data["signatures"]),
        ("local", "group_share"): jnp.asarray(given["cells"])[:, None] / len(data["groups"]),
    }
    for number, ((group, name), value) in enumerate(middle.items()):
        noise = jax.random.normal(jax.random.fold_in(key, number), means[group][name].shape)
        means[group][name] = jnp.log(value) + _FIRST_NOISE * noise
    return {group: {**params[group], "mean": means[group]} for group in params}


def _data(spots: SpotTable, signatures: Signatures) -> dict[str, Any]:
    """Minibatches, or all spots where they are few, what every step sees beside them, and where it begins."""
    n = spots.shape[0]
    section = np.zeros(n, np.int32)
    if spots.section is not None:
        section = np.unique(spots.section, return_inverse=True)[1].astype(np.int32)
    fitted = _poisson_fit(spots, signatures)
    sections = int(section.max(initial=0)) + 1
    fitted_cells = np.bincount(section, fitted.sum(1), sections)
    detection = np.maximum(fitted_cells, 1e-3) / np.bincount(section, spots.n_cells, sections)
    tables = {"section": section, "cells": np.asarray(spots.n_cells, np.float32)}
    tile, sweep = _parts(spots.counts, tables)
    return {
        "tile": tile,
        "signatures": np.asarray(signatures.means),
        "repeats": _repeats(spots.counts, section),
        "detection": detection.astype(np.float32),
        "window": np.int32(max(_WINDOW, sweep)),
        "start": _first_values(spots, fitted, signatures, detection=detection, section=section),
    }


def _poisson_fit(spots: SpotTable, signatures: Signatures) -> Float[np.ndarray, "n k"]:
    source = count_source(spots, ())
    tiles = (source.at(t) for t in range(source.sweep))
    return np.concatenate([np.asarray(_poisson(tile.values["counts"], signatures)) for tile in tiles])[: spots.shape[0]]


@jax.jit
def _poisson(counts: Float[Array, "b g"], signatures: Signatures) -> Float[Array, "b k"]:
    return poisson_abundance(counts, signatures)[0]


def _first_values(
    spots: SpotTable, fitted: np.ndarray, signatures: Signatures, *, detection: np.ndarray, section: np.ndarray
) -> dict[str, np.ndarray]:
    """Sites from the Poisson fit, each on its own scale."""
    means, level = np.asarray(signatures.means), detection[section]
    shown, expected = np.asarray(spots.counts.sum(0)).ravel(), fitted.sum(0) @ means
    each = np.ones((len(detection), means.shape[1]))
    found = {
        "abundance": np.maximum(fitted / level[:, None], _NO_CELLS),
        "cells": spots.n_cells,
        "groups_present": np.full(len(fitted), _TYPES),
        "detection": level,
        "section_detection": detection,
        "gene_scale": (shown + _SCALE_PRIOR) / (expected + _SCALE_PRIOR),
        "scale_inverse": _FIRST_SPREAD,
        "added": _FIRST_ADDED * each,
        "added_mean": _FIRST_ADDED * each[:, 0],
        "added_inverse": _FIRST_SPREAD * each[:, 0],
        "inverse": _FIRST_INVERSE * each,
    }
    return {name: np.asarray(value, np.float32) for name, value in found.items()}


def _parts(counts: sp.csr_matrix, tables: dict[str, np.ndarray]) -> tuple[Tile | HostSource, int]:
    """All spots, or parts of them that are each even over all, and how many parts there are."""
    n, genes = counts.shape
    sweep = -(-n // max(_BATCH // genes, 1))
    size, table = -(-n // sweep), np.zeros((n, 0), np.float32)

    def at(t: int) -> Tile:
        drawn = np.arange(t % sweep, n, sweep)
        free = size - len(drawn)
        values = {name: np.pad(value[drawn], (0, free), mode="edge") for name, value in tables.items()}
        dense = np.zeros((size, genes), np.float32)
        dense[: len(drawn)] = counts[drawn].toarray()
        rows = np.pad(drawn, (0, free), constant_values=n).astype(np.int32)
        return Tile({"counts": dense, **values}, rows, rows < n, table)

    return (at(0) if sweep == 1 else HostSource(at, sweep)), sweep


def _repeats(counts: sp.csr_matrix, section: np.ndarray) -> dict[str, np.ndarray]:
    """How often each gene shows each count above 0 in each section; padded to a shared size with times of 0."""
    genes, table = counts.shape[1], sp.coo_matrix(counts)
    column = section[table.row].astype(np.int64) * genes + table.col
    (column, count), times = np.unique(
        np.stack([column, table.data.astype(np.int64)]), axis=1, return_counts=True
    )  # fmt: skip
    found = {"section": column // genes, "gene": column % genes, "count": count, "times": times}
    kinds = {"section": np.int32, "gene": np.int32, "count": np.float32, "times": np.float32}
    free = bucket(len(column)) - len(column)
    return {name: np.pad(value, (0, free)).astype(kinds[name]) for name, value in found.items()}


def _shown_genes(signatures: Signatures, total: np.ndarray, number: int | None) -> np.ndarray:
    """Genes that cells and spots both show, the most informative ones, ascending."""
    told = gene_information(signatures)
    shown = np.flatnonzero((total > 0) & (np.asarray(signatures.means).sum(0) > 0))
    if not len(shown):
        raise InputError("Expected spots that show a gene of some type, found none: check the names of the genes.")
    order = shown[np.argsort(-told[shown], kind="stable")]
    return np.sort(order[:number])


def _stated(found: Any, spots: SpotTable) -> Proportions:
    """The result; NaN in a spot without counts."""
    if isinstance(found, Tiled):
        settled = np.asarray(found.tiles["settled"]).all()
        tables = {name: np.asarray(found.merge(v)) for name, v in found.tiles.items() if name != "settled"}
    else:
        settled, tables = found["settled"], {name: np.asarray(v) for name, v in found.items() if name != "settled"}
    nothing = without_counts(spots)[:, None]
    abundance = in_cells(np.where(nothing, 0.0, tables.pop("abundance")), spots)
    shown = {name: np.where(nothing, np.nan, value).astype(np.float32) for name, value in tables.items()}
    return Proportions(shown.pop("mean"), abundance, np.bool_(settled), **shown)


CARD = Card(
    name="cell2location",
    task="deconvolution",
    summary="Negative binomial counts with hierarchical priors of abundance, detection and gene scale, by mean field.",
    citation="kleshchevnikov2022cell2location",
    expects="counts",
    returns="Proportions",
    default_steps=2000,
    fidelity="published",
    evidence="tests/methods/test_cell2location_deconvolution.py: the likelihood, the priors, simulated counts",
    licence="Apache-2.0; written from the equations",
    notes="Fewer steps from a warm start, fewer genes and a simpler guide than as coded there (see the docstring).",
)
