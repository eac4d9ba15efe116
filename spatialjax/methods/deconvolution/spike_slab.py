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
    ROW_STEPS,
    NormalEquations,
    Signatures,
    Stated,
    calibration_spots,
    capacity,
    composed,
    corrected,
    count_source,
    differing_genes,
    empirical_prior,
    in_cells,
    informative_genes,
    learnt_correction,
    mean_signatures,
    poisson_abundance,
    row_tables,
    sampled,
    table_tiles,
    type_sums,
    without_counts,
)
from spatialjax.methods.card import Card, Method
from spatialjax.results import Proportions
from spatialjax.tables import Reference, SpotTable

#: Spots that the prior is learnt on at the most, and spots of a tile of the sampler.
_PRIOR_SPOTS, _SAMPLED_ROWS = 4096, 1024
#: Steps of a phase at the most: it ends after its last tile.
_STEPS = 10**6
#: Genes that are used, and the number of cells of the median type below which they are chosen.
_GENES_OF_FEW, _FEW_CELLS = 2000, 20.0
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
    Two Fisher-scoring steps from least squares find w; the quadratic approximation there, with the variance
    ``μ + Σ w² b / M`` that also knows how few cells M a signature rests on, is all that is kept of the genes. A type is
    present with probability π_k and then has Exponential(m_k) cells, π and m learnt over the spots; a Gibbs sampler
    draws from the posterior whose likelihood is raised to the power τ, since cells of one type differ by more than
    Poisson noise. Its mean is the estimate.

    No such model knows how much cells really differ. So intervals and the probability of presence are calibrated on
    pseudo-spots: cells of the reference, which the signatures that judge them have not seen, summed in compositions
    drawn from the posterior, at the depth of the spots and with their deviations from gene to gene. No label of the
    tissue is used.

    Parameters
    ----------
    uncertainty
        Whether to sample and calibrate; without, the result holds the fitted abundances alone.
    power
        τ of the estimate.
    interval_power
        τ of the intervals before their calibration.
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
    draw = _sampler(power, interval_power, draws=draws, warmup=warmup, level=level)
    sampling = Chain(draw, _told_apart, _gathered())
    if uncertainty:
        phases = Chain(Chain(points, _to_prior, _prior(power)), _to_sampler, sampling)
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
            key, spots, reference if kept is None else reference.genes(kept), drawn=drawn["last"],
            fitted=point["abundance"], genes=kept, number=pseudo_spots, folds=folds,
        )  # fmt: skip
        known = {"prior": found["prior"], "bits": found["bits"]}
        data = {"tile": source, "number": np.int32(number), "known": known}
        judged = fit(Chain(points, _to_sampler_again, sampling), key, data, max_steps=(_STEPS, _STEPS, 1)).result
        rehearsed = jax.tree.map(lambda leaf: np.asarray(leaf)[:number], judged["drawn"])
        correction = learnt_correction(_stated(rehearsed), truth, level=level)
        return _with_uncertainty(corrected(_stated(drawn), correction), drawn, spots, settled=settled, level=level)

    steps = (_STEPS, 1, _STEPS, 1) if uncertainty else ROW_STEPS
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
        first, second = jnp.triu_indices(abundance.shape[1])
        return {"abundance": abundance, "gram": known.gram[:, first, second], "target": known.target, "moved": moved}

    return point


def _number(data: Any) -> Any:
    return data["number"]


@functools.cache
def _prior(power: float) -> Algorithm:
    """Presence and size of the types over the spots."""

    def learn(key: Any, data: Any) -> Any:
        start, equations = _unpacked(data["spots"])
        prior = empirical_prior(key, start, equations, used=data["used"], power=power)
        return {"prior": prior, "bits": jax.random.key_data(jax.random.fold_in(key, 1))}

    return solve(learn)


@functools.cache
def _sampler(power: float, interval_power: float, *, draws: int, warmup: int, level: float) -> Algorithm:
    """What the posterior says of the spots of a tile."""

    def draw(key: Any, data: Any) -> Any:
        start, equations = _unpacked(data["tile"].values)
        options = {"prior": data["known"]["prior"], "warmup": warmup, "draws": draws, "level": level}

        def at(keyed: tuple[Any, Any]) -> Any:
            return sampled(keyed[0], start, equations, power=keyed[1], **options)

        # One after the other through one compiled sampler.
        both = jax.lax.map(at, (jax.random.split(key), jnp.array([power, interval_power])))
        sharp, wide = (jax.tree.map(lambda leaf, i=i: leaf[i], both) for i in range(2))
        said = {name: getattr(sharp, name) for name in ("mean", "abundance", "present", "last")}
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


def _to_prior(fit: Fit, data: Any) -> tuple[Any, Any]:
    """Spots evenly out of all of them, in places that sections share."""
    tables, n = fit.state.tables, int(data["number"])
    size = min(capacity(n), _PRIOR_SPOTS)
    rows = np.unique(np.linspace(0, n - 1, min(n, size)).astype(int))
    rows = np.concatenate([rows, np.zeros(size - len(rows), int)])
    used = np.arange(size) < min(n, size)
    spots = jax.tree.map(lambda leaf: leaf[rows], tables)
    return {"spots": spots, "used": used, "point": tables, "number": data["number"]}, None


def _to_sampler(fit: Fit, data: Any) -> tuple[Any, Any]:
    return _sampling(data["point"], fit.result, data["number"]), None


def _to_sampler_again(fit: Fit, data: Any) -> tuple[Any, Any]:
    return _sampling(fit.state.tables, data["known"], data["number"]), None


def _sampling(tables: Any, known: Any, number: Any) -> Any:
    tiles = table_tiles(tables, number=int(number), rows=_SAMPLED_ROWS)
    point = {name: tables[name] for name in ("abundance", "moved")}
    return {"tile": tile_source(tiles), "known": known, "number": number, "point": point}


def _told_apart(fit: Fit, data: Any) -> tuple[Any, Any]:
    """All tables, without those that only the next phase needed."""
    return {"point": data["point"], "drawn": fit.state.tables, **data["known"]}, None


def _unpacked(tables: Any) -> tuple[Any, NormalEquations]:
    """Abundances and normal equations, of which the tables hold one half."""
    half, number = tables["gram"], tables["target"].shape[1]
    first, second = np.triu_indices(number)
    place = np.zeros((number, number), np.int32)
    place[first, second] = place[second, first] = np.arange(len(first))
    return tables["abundance"], NormalEquations(half[:, place], tables["target"])


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
    default_steps=(_STEPS, 1, _STEPS, 1),
    fidelity="ours",
    evidence="benchmarks/deconvolution.py: spots of known composition, beside peers; coverage of the intervals",
    licence="BSD-3-Clause (this package)",
    notes="τ, the number of genes and the range of the number of cells were settled on sets that the benchmark shows.",
)
