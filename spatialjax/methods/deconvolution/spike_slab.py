"""Counts as sums of cells, types present or absent, and intervals calibrated on the reference's own cells (ours)."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spatialjax.algorithm import Algorithm, Chain, Fit, fit, map_tiles, solve, tile_source
from spatialjax.composition import (
    LEAST_MEAN,
    MOST_TILES,
    ROW_STEPS,
    Signatures,
    Stated,
    calibration_spots,
    capacity,
    composed,
    corrected,
    count_source,
    differing_genes,
    empirical_prior,
    gene_overdispersion,
    half_tables,
    in_cells,
    informative_genes,
    learnt_correction,
    mean_signatures,
    poisson_abundance,
    row_tables,
    sampled,
    table_tiles,
    type_sums,
    whole_equations,
    without_counts,
)
from spatialjax.methods.card import Card, Method
from spatialjax.results import Proportions
from spatialjax.tables import Reference, SpotTable

#: Spots that the prior is learnt on at the most, and spots of a tile of the sampler.
_PRIOR_SPOTS, _SAMPLED_ROWS = 4096, 1024
#: Steps of a phase at the most: it ends after its last tile.
_STEPS = 10**6
_SAMPLED_STEPS = (_STEPS, _STEPS, 1, _STEPS, 1)
#: Genes that are used, and the number of cells of the median type below which they are chosen.
_GENES_OF_FEW, _FEW_CELLS = 2000, 20.0
#: Fisher-scoring steps with overdispersed genes, from where the first fit ended.
_SCATTERED_STEPS = 3
#: Median counts of a gene in all cells of a type below which genes alike in all types are left out.
_SHALLOW = 5.0
#: Stands for the interval of a type that no draw held.
_NONE = -1.0
#: Share of the largest abundance that the last Newton step may still move, in the median spot.
_SETTLED = 0.05


@functools.cache
def spike_slab(
    *,
    uncertainty: bool = True,
    power: float = 0.3,
    interval_power: float = 0.1,
    draws: int = 200,
    warmup: int = 80,
    pseudo_spots: int = 800,
    folds: int = 4,
    level: float = 0.9,
    genes: int | None = None,
) -> Method:
    """Poisson mixture of signatures with types present or absent; sampled, then calibrated on pseudo-spots.

    A spot's counts are Poisson with mean wB, B the mean counts of one cell of each type and w ≥ 0 numbers of cells.
    Fisher-scoring steps from least squares find w; the quadratic approximation there, with the variance
    ``μ + Σ w² b / M`` that also knows how few cells M a signature rests on, is all that is kept of the genes. A second
    approximation adds ``φ_g μ²`` for what gene g scatters around the first fit. A type is present with probability π_k
    and then has Exponential(m_k) cells, π and m learnt over the spots; a Gibbs sampler draws from the posterior whose
    likelihood is raised to a power τ, since cells of one type differ by more than Poisson noise, and not gene by gene.
    Nobody knows how much of that misfit is which, so four answers have one voice each: both fits, the posterior mean
    of the first at the lower power and that of the second at the higher one. Their mean is the estimate.

    No such model knows how much cells really differ. So intervals and the probability of presence are calibrated on
    pseudo-spots: cells of the reference, which the signatures that judge them have not seen, summed in compositions
    like those of the spots (draws are more mixed than the truth, fits less: some of either), at the depth of the spots
    and with their deviations from gene to gene. No label of the tissue is used.

    Parameters
    ----------
    uncertainty
        Whether to sample and calibrate; without, the result holds the fitted abundances alone.
    power
        τ of the draws with overdispersed genes, which also say what is present, and of learning π and m.
    interval_power
        τ of the draws with Poisson noise alone; they also give the intervals before their calibration, and
        compositions of pseudo-spots.
    draws, warmup
        Sweeps of the sampler that are kept, and left out before.
    pseudo_spots
        Number of pseudo-spots.
    folds
        Parts of the reference: cells of one are judged by signatures of the others.
    level
        Share of the truth that an interval should hold.
    genes
        Number of genes, the most informative ones. Where left out all of them; or 2,000 where the median type has
        fewer than 20 cells; or, where the reference shows the median gene of a type less than five times, those that
        differ between the types by more than chance.

    Returns
    -------
    Method
        Data: a ``SpotTable`` and a ``Reference``. Result: ``Proportions``.
    """
    points = _points()
    powers = (interval_power, power)
    sampling = Chain(_sampler(powers, draws=draws, warmup=warmup, level=level), _told_apart, _gathered())
    scattered = _scattered()
    if uncertainty:
        phases = Chain(Chain(points, _to_scatter, scattered), _to_prior, Chain(_prior(power), _to_sampler, sampling))
    else:
        phases = row_tables(_point(equations=False))

    def prepare(spots: SpotTable, reference: Reference) -> Any:
        signatures, kept = _signatures(reference, genes)
        source = count_source(spots, signatures, genes=kept)
        return {"tile": source, "number": np.int32(spots.shape[0])}

    def finish(found: Any, spots: SpotTable, reference: Reference) -> Proportions:
        n = spots.shape[0]
        point = jax.tree.map(lambda leaf: np.asarray(leaf)[:n], found["point"] if uncertainty else found)
        settled = bool(np.median(point["moved"]) < _SETTLED)
        if not uncertainty:
            return composed(point["abundance"], spots, settled=settled)
        kept = _signatures(reference, genes)[1]
        drawn = jax.tree.map(lambda leaf: np.asarray(leaf)[:n], found["drawn"])
        key = jax.random.wrap_key_data(found["bits"])
        source, truth, number = calibration_spots(
            key, spots, reference if kept is None else reference.genes(kept), drawn=_mixed(drawn["last"], point),
            fitted=point["abundance"], genes=kept, number=pseudo_spots, folds=folds,
        )  # fmt: skip
        known = {name: found[name] for name in ("prior", "bits", "overdispersion")}
        data = {"tile": source, "number": np.int32(number), "known": known}
        again = Chain(Chain(points, _to_scatter_again, scattered), _to_sampler_again, sampling)
        judged = fit(again, key, data, max_steps=(_STEPS, _STEPS, _STEPS, 1)).result
        rehearsed = jax.tree.map(lambda leaf: np.asarray(leaf)[:number], judged["drawn"])
        correction = learnt_correction(_stated(rehearsed), truth, level=level)
        return _with_uncertainty(corrected(_stated(drawn), correction), drawn, spots, settled=settled, level=level)

    steps = _SAMPLED_STEPS if uncertainty else ROW_STEPS
    return Method(prepare, phases, finish, max_steps=steps)


def count_model(data: Any) -> None:
    """The model in numpyro: what to read and to edit, and what the fast sampler is tested against.

    Parameters
    ----------
    data
        Dict of ``counts`` (n, g), ``signatures``, the ``prior`` of presence and size, and the ``power`` τ of the
        likelihood. ``abundance`` and ``proportions`` are deterministic sites.
    """
    import numpyro
    import numpyro.distributions as dist
    from numpyro.handlers import scale

    prior, shape = data["prior"], (len(data["counts"]), len(data["signatures"].cells))
    with numpyro.plate("spots", shape[0], dim=-2), numpyro.plate("types", shape[1], dim=-1):
        present = numpyro.sample("present", dist.Bernoulli(prior.present))
        size = numpyro.sample("size", dist.Exponential(1.0 / prior.size))
    abundance = numpyro.deterministic("abundance", present * size)
    total = abundance.sum(-1, keepdims=True)
    numpyro.deterministic("proportions", abundance / jnp.where(total > 0, total, 1.0))
    mean = jnp.maximum(abundance @ data["signatures"].means, LEAST_MEAN)
    with scale(scale=data["power"]), numpyro.plate("spot", shape[0]):
        numpyro.sample("counts", dist.Poisson(mean).to_event(1), obs=data["counts"])


def _signatures(reference: Reference, genes: int | None) -> tuple[Signatures, Any]:
    """Signatures on the genes that are used, and which these are; None for all."""
    signatures = mean_signatures(reference.counts, reference.types, number=len(reference.names))
    few = float(np.median(np.asarray(signatures.cells))) < _FEW_CELLS
    if genes is None and not few:
        totals = type_sums(reference.counts, reference.types, number=len(reference.names))
        kept = differing_genes(totals)
        if np.median(totals[:, totals.sum(0) > 0]) >= _SHALLOW or len(kept) <= len(totals):
            return signatures, None
        return Signatures(signatures.means[:, kept], signatures.cells), kept
    genes = _GENES_OF_FEW if genes is None else genes
    if genes >= signatures.means.shape[1]:
        return signatures, None
    kept = informative_genes(signatures, genes)
    return Signatures(signatures.means[:, kept], signatures.cells), kept


@functools.cache
def _points() -> Algorithm:
    return map_tiles(_point(equations=True), total=_number)


@functools.cache
def _point(*, equations: bool) -> Any:
    """Abundances of a tile, and their normal equations where these are asked for."""

    def point(key: Any, data: Any) -> Any:
        del key
        values = data["tile"].values
        abundance, known, moved = poisson_abundance(values["counts"], values["shared"])
        if not equations:
            return {"abundance": abundance, "moved": moved}
        return {"abundance": abundance, "moved": moved, **half_tables(known)}

    return point


@functools.cache
def _scattered() -> Algorithm:
    """The same with overdispersed genes, from the abundances of the first fit on."""

    def point(key: Any, data: Any) -> Any:
        del key
        tile, known = data["tile"], data["known"]
        start = jnp.take(data["first"]["abundance"], tile.rows, axis=0, mode="clip")
        values = {"start": start, "overdispersion": known["overdispersion"], "steps": _SCATTERED_STEPS}
        abundance, found, _ = poisson_abundance(tile.values["counts"], tile.values["shared"], **values)
        return {"abundance": abundance, **half_tables(found)}

    return map_tiles(point, total=_number)


def _number(data: Any) -> Any:
    return data["number"]


@functools.cache
def _prior(power: float) -> Algorithm:
    """Presence and size of the types over the spots, for each of the two likelihoods."""

    def learn(key: Any, data: Any) -> Any:
        def one(each: tuple[Any, Any]) -> Any:
            key, tables = each
            return empirical_prior(key, tables["abundance"], whole_equations(tables), used=data["used"], power=power)

        prior = jax.lax.map(one, (jax.random.split(key), _each(data["spots"])))
        return {"prior": prior, "bits": jax.random.key_data(jax.random.fold_in(key, 1))}

    return solve(learn)


@functools.cache
def _sampler(powers: tuple[float, float], *, draws: int, warmup: int, level: float) -> Algorithm:
    """What the two posteriors say of the spots of a tile."""

    def draw(key: Any, data: Any) -> Any:
        tables = _each(data["tile"].values)

        def at(each: tuple[Any, Any, Any, Any]) -> Any:
            key, own, prior, power = each
            known = {"prior": prior, "power": power, "warmup": warmup, "draws": draws, "level": level}
            return sampled(key, own["abundance"], whole_equations(own), **known)

        # One after the other through one compiled sampler.
        both = jax.lax.map(at, (jax.random.split(key), tables, data["known"]["prior"], jnp.array(powers)))
        wide, sharp = (jax.tree.map(lambda leaf, i=i: leaf[i], both) for i in range(2))
        fits = tables["abundance"]
        total = fits.sum(-1, keepdims=True)
        shares = jnp.where(total > 0, fits / jnp.where(total > 0, total, 1.0), both.mean)
        said = {
            "mean": 0.5 * (shares + both.mean).mean(0),
            "abundance": 0.5 * (fits + both.abundance).mean(0),
            "present": sharp.present,
            "last": wide.last,
        }
        # A table with NaN would count as a failed run.
        ends = {"low": wide.low_present, "high": wide.high_present}
        return {**said, **{name: jnp.where(jnp.isnan(value), _NONE, value) for name, value in ends.items()}}

    return map_tiles(draw, total=_number)


@functools.cache
def _gathered() -> Algorithm:
    def as_they_are(key: Any, data: Any) -> Any:
        del key
        return data

    return solve(as_they_are)


def _to_scatter(fit: Fit, data: Any) -> tuple[Any, Any]:
    """What the genes scatter around the first fit, in tiles evenly out of all of them."""
    source, first = data["tile"], fit.state.tables
    abundance = np.asarray(first["abundance"])
    picked = np.unique(np.linspace(0, source.sweep - 1, min(source.sweep, MOST_TILES)).astype(int))
    tiles = (source.at(int(t)) for t in picked)
    parts = ((tile.values["counts"][tile.core], abundance[tile.rows[tile.core]]) for tile in tiles)
    means = np.asarray(source.at(0).values["shared"].means)
    known = {"overdispersion": gene_overdispersion(parts, means)}
    return {"tile": source, "number": data["number"], "first": first, "known": known}, None


def _to_scatter_again(fit: Fit, data: Any) -> tuple[Any, Any]:
    return {**data, "first": fit.state.tables}, None


def _to_prior(fit: Fit, data: Any) -> tuple[Any, Any]:
    """Spots evenly out of all of them, in places that sections share."""
    tables, n = _both(data["first"], fit.state.tables), int(data["number"])
    size = min(capacity(n), _PRIOR_SPOTS)
    rows = np.unique(np.linspace(0, n - 1, min(n, size)).astype(int))
    rows = np.concatenate([rows, np.zeros(size - len(rows), int)])
    used = np.arange(size) < min(n, size)
    spots = jax.tree.map(lambda leaf: leaf[rows], tables)
    data = {name: data[name] for name in ("known", "number", "first")}
    return {"spots": spots, "used": used, "tables": tables, **data}, None


def _to_sampler(fit: Fit, data: Any) -> tuple[Any, Any]:
    known = {**data["known"], **fit.result}
    return _sampling({**data, "known": known}), None


def _to_sampler_again(fit: Fit, data: Any) -> tuple[Any, Any]:
    return _sampling({**data, "tables": _both(data["first"], fit.state.tables)}), None


def _both(first: Any, second: Any) -> Any:
    """(n, 2, …) tables of the two likelihoods."""
    return {name: jnp.stack([first[name], second[name]], axis=1) for name in second}


def _each(tables: Any) -> Any:
    """The same with the likelihoods first."""
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), tables)


def _sampling(data: Any) -> Any:
    tiles = table_tiles(data["tables"], number=int(data["number"]), rows=_SAMPLED_ROWS)
    point = {name: data["first"][name] for name in ("abundance", "moved")}
    return {"tile": tile_source(tiles), "known": data["known"], "number": data["number"], "point": point}


def _told_apart(fit: Fit, data: Any) -> tuple[Any, Any]:
    """All tables, without those that only the next phase needed."""
    return {"point": data["point"], "drawn": fit.state.tables, **data["known"]}, None


def _mixed(drawn: Any, point: Any) -> Any:
    """Abundances of a draw and of the first fit by turns."""
    return np.where(np.arange(len(drawn))[:, None] % 2 == 0, drawn, point["abundance"])


def _stated(drawn: Any) -> Stated:
    low, high = (np.where(drawn[name] == _NONE, np.nan, drawn[name]) for name in ("low", "high"))
    return Stated(drawn["mean"], drawn["present"], low, high)


def _with_uncertainty(said: Stated, drawn: Any, spots: SpotTable, *, settled: bool, level: float) -> Proportions:
    """The result: what is said of a type that may be absent, by the law of total variance."""
    from scipy.stats import norm

    deviations = 2.0 * norm.ppf(0.5 * (1.0 + level))
    present = np.clip(said.present, 1e-3, 1.0)
    given = np.minimum(said.estimate / present, 1.0)
    variance = present * ((said.high - said.low) / deviations) ** 2 + present * (1.0 - present) * given**2
    low = np.where(said.present < 0.5, 0.0, said.low)
    tables = {
        "values": said.estimate,
        "sd": np.sqrt(variance),
        "low": low,
        "high": said.high,
        "present": said.present,
    }
    nothing = without_counts(spots)
    shown = {name: np.where(nothing[:, None], np.nan, value).astype(np.float32) for name, value in tables.items()}
    abundance = in_cells(np.where(nothing[:, None], 0.0, drawn["abundance"]), spots)
    return Proportions(abundance=abundance, converged=np.bool_(settled), **shown)


CARD = Card(
    name="spike_slab",
    task="deconvolution",
    summary="Poisson mixture with types present or absent; intervals calibrated on the reference's own cells.",
    citation=None,
    expects="counts",
    returns="Proportions",
    default_steps=_SAMPLED_STEPS,
    fidelity="ours",
    evidence="benchmarks/deconvolution.py: spots of known composition, beside peers; coverage of the intervals",
    licence="BSD-3-Clause (this package)",
    notes="τ, the number of genes and the range of the number of cells were settled on sets that the benchmark shows.",
)
