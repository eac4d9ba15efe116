"""Spots with a known composition, for the benchmark of deconvolution. The truth only scores.

Exact sums of measured cells (seqFISH+), measured cells binned to spots with the cells of another section or plane as
reference, and synthetic tissues of Spotless' patterns whose spots and reference are different halves of the cells.
Truth is in cells; a set with a platform effect multiplies the counts of the spots gene by gene. The sets of the speed
rows are drawn from sparse profiles, Poisson throughout. All sets take a seed; those of measured cells are the same for
every seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import jax
import numpy as np
import pandas as pd
import record
import scipy.sparse as sp

from spatialjax.composition import pseudospots
from spatialjax.keys import generator

#: Standard deviation of the logarithm of a gene's platform effect.
PLATFORM = 0.5
#: Labels that name no type.
NO_TYPE = ("unannotated", "Ambiguous", "Low quality")
#: Cells that a type needs in the reference, to be asked for.
LEAST = 2
#: Cells of a bin on average, where the unit of length is not µm.
CELLS_A_BIN = 8
#: Simulated counts: share of the entries above 0, cells of a spot, cells of a type, spots of a block.
DENSITY, CELLS_A_SPOT, CELLS_A_TYPE, BLOCK = 0.08, 8, 50, 20_000


@dataclass(frozen=True, eq=False)
class Composed:
    """One set.

    Attributes
    ----------
    name
        Name of the set.
    spots
        AnnData with counts in X and ``obsm['spatial']``.
    reference
        AnnData of single cells with ``obs['cell_type']``.
    truth
        (n, K) share of the cells of each type, columns sorted like the types of the reference.
    cells
        (n, K) number of cells.
    held_out
        Whether no cell of the spots is in the reference.
    """

    name: str
    spots: Any
    reference: Any
    truth: pd.DataFrame
    cells: pd.DataFrame
    held_out: bool


def _read(file: str) -> Any:
    return anndata.read_h5ad(record.data_folder() / file)


def _reference(counts: Any, types: Any, genes: Any) -> Any:
    """The cells with a type that has enough of them."""
    types = pd.Series(np.asarray(types, str))
    keep = np.flatnonzero(_usable(types))
    found = anndata.AnnData(sp.csr_matrix(counts)[keep].astype(np.float32))
    found.var_names, found.obs["cell_type"] = np.asarray(genes, str), types.to_numpy()[keep]
    found.obs_names = [f"cell{i}" for i in range(found.n_obs)]
    return found


def _usable(types: pd.Series, least: int = LEAST) -> pd.Series:
    return (types.map(types.value_counts()) >= least) & ~types.isin(NO_TYPE)


def _composed(name: str, *, counts: Any, xy: Any, cells: pd.DataFrame, reference: Any, held_out: bool) -> Composed:
    types = sorted(reference.obs["cell_type"].unique())
    lost = [kind for kind in cells.columns if kind not in types and (cells[kind] > 0).any()]
    if lost:
        raise ValueError(f"Expected spots of types that the reference has, found others in {name!r}: {lost}.")
    cells = cells.reindex(columns=types, fill_value=0)
    keep = np.flatnonzero((cells.sum(1) > 0) & (np.asarray(counts.sum(1)).ravel() > 0))
    spots = anndata.AnnData(sp.csr_matrix(counts)[keep].astype(np.float32))
    spots.var_names, spots.obsm["spatial"] = reference.var_names.copy(), np.asarray(xy, float)[keep]
    cells = cells.iloc[keep].set_index(np.array([f"spot{i}" for i in range(len(keep))]))
    spots.obs_names = cells.index
    return Composed(name, spots, reference, cells.div(cells.sum(1), axis=0), cells, held_out)


def _plain_genes(names: Any) -> list[str]:
    """Names of genes as they were before R made them valid names of columns."""
    plain = [str(name).replace(".", "-") for name in names]
    return [name[1:] if name[:1] == "X" and name[1:2].isdigit() else name for name in plain]


def seqfishplus(seed: int = 0) -> Composed:
    """The sums of measured cells; their own cells are in the reference, which flatters every method.

    A handful of cells without a type are in the counts of the spots and not in the truth.
    """
    del seed
    cells, spots = _read("seqfishplus/cortex_svz_cells.h5ad"), _read("seqfishplus/cortex_svz_simspots_truth.h5ad")
    truth = pd.read_csv(record.data_folder() / "seqfishplus/cortex_svz_counts_truth.csv", index_col=0)
    if _plain_genes(spots.var_names) != _plain_genes(cells.var_names):
        raise ValueError("Expected the same genes in the cells and in the spots of seqFISH+, found others.")
    known = truth.loc[spots.obs_names].drop(columns=[c for c in NO_TYPE if c in truth.columns])
    reference = _reference(cells.X, cells.obs["cell_type"], cells.var_names)
    return _composed(
        "seqFISH+ cortex", counts=spots.X, xy=spots.obsm["spatial"], cells=known, reference=reference, held_out=False
    )


def binned(name: str, adata: Any, *, types: Any, spots: Any, side: float | None) -> Composed:
    """Cells of one part of the data summed over square bins; those of the other part are the reference.

    Parameters
    ----------
    name
        Name of the set.
    adata
        Cells with counts in X and ``obsm['spatial']``.
    types
        (m,) type of each cell; cells of the bins whose type the reference lacks are left out of the counts too.
    spots
        (m,) which cells are binned.
    side
        Side of a bin in the unit of the coordinates; where left out, such that bins hold eight cells on average.
    """
    types, spots = np.asarray(types, str), np.asarray(spots, bool)
    found = _reference(adata.X[~spots], types[~spots], adata.var_names)
    named = sorted(found.obs["cell_type"].unique())
    pick = np.flatnonzero(spots & np.isin(types, named))
    xy = np.asarray(adata.obsm["spatial"], float)[pick, :2]
    if side is None:
        side = float(np.sqrt(np.prod(np.ptp(xy, axis=0)) / len(xy) * CELLS_A_BIN))
    place = np.floor((xy - xy.min(0)) / side).astype(int)
    corner, bin_ = np.unique(place, axis=0, return_inverse=True)
    member = sp.csr_matrix((np.ones(len(pick)), (bin_.ravel(), np.arange(len(pick)))), shape=(len(corner), len(pick)))
    kind = pd.Categorical(types[pick], categories=named).codes
    cells = pd.DataFrame(member @ np.eye(len(named))[kind], columns=named).astype(int)
    return _composed(name, counts=member @ adata.X[pick], xy=corner * side, cells=cells, reference=found, held_out=True)


def merfish(seed: int = 0) -> Composed:
    """One section in bins of 100 µm, the three others of the animal as reference."""
    del seed
    a = _read("merfish_hypothalamus/animal1_4slices.h5ad")
    one = np.isclose(a.obs["bregma"].astype(float), -0.09)
    return binned("MERFISH bins", a, types=a.obs["cell_type"], spots=one, side=100.0)


def embryo(seed: int = 0) -> Composed:
    """One plane of the embryo binned, the other one, 12 µm away, as reference: large cells may show in both."""
    del seed
    a = _read("seqfish_mouse_embryo/embryo2_full.h5ad")
    plane = a.obs["z"].astype(str).to_numpy() == "2"
    return binned("embryo bins", a, types=a.obs["celltype_mapped_refined"], spots=plane, side=None)


def starmap(seed: int = 0) -> Composed:
    """One section binned, the other one as reference."""
    del seed
    a = _read("starmap_mpfc/mpfc_BZ5_BZ9.h5ad")
    one = a.obs["slice"].astype(str).to_numpy() == "BZ9"
    return binned("STARmap bins", a, types=a.obs["cell_type"], spots=one, side=None)


def halves(key: Any, types: Any) -> np.ndarray:
    """Which cells are in the first half: cells of a type, in random order, are dealt to the halves in turn."""
    code = np.unique(np.asarray(types, str), return_inverse=True)[1]
    order = np.lexsort((generator(key).uniform(size=len(code)), code))
    place = np.empty(len(code), int)
    place[order] = np.arange(len(code)) - np.searchsorted(code[order], code[order])
    return place % 2 == 0


def synthetic(name: str, adata: Any, *, types: Any, pattern: str, platform: float = 0.0, seed: int = 0) -> Composed:
    """A synthetic tissue of one half of the cells; the other half is the reference.

    Parameters
    ----------
    name
        Name of the set.
    adata
        Single cells with counts in X.
    types
        (m,) type of each cell.
    pattern
        Pattern of the types over the regions, ``composition.pseudospots.PATTERNS``.
    platform
        Standard deviation of the logarithm of a gene's platform effect, of mean 1.
    seed
        Of the halves, the regions and the cells.
    """
    types = np.asarray(types, str)
    enough = np.asarray(_usable(pd.Series(types), 2 * LEAST - 1))
    adata, types = adata[enough], types[enough]
    named, code = np.unique(types, return_inverse=True)
    keys = jax.random.split(jax.random.key(seed), 6)
    rng, half = generator(keys[0]), halves(keys[5], types)
    regions = min(5, max(2, len(named) // 3))
    frequency = pseudospots.region_frequencies(keys[1], pattern, regions=regions, number=len(named))
    per_region = rng.integers(50, 121, regions)
    region = np.repeat(np.arange(regions), per_region)
    cells = pseudospots.drawn_cells(keys[2], frequency[region])
    counts = pseudospots.summed_cells(keys[3], adata.X[~half], code[~half], cells=cells).counts
    if platform:
        effect = np.exp(platform * rng.normal(size=adata.n_vars) - 0.5 * platform**2)
        counts = pseudospots.scaled_counts(keys[4], counts, effect[None, :])
    # Regions are blocks of 20 columns, apart from each other.
    within = np.arange(len(region)) - np.repeat(np.cumsum(per_region) - per_region, per_region)
    xy = np.stack([region % 3 * 40.0 + within % 20, region // 3 * 40.0 + within // 20], 1)
    reference = _reference(adata.X[half], types[half], adata.var_names)
    cells = pd.DataFrame(cells, columns=named)
    return _composed(name, counts=counts, xy=xy, cells=cells, reference=reference, held_out=True)


def rehearsed(key: Any, spots: Any, reference: Any, *, abundance: Any, number: int = 400) -> Composed:
    """Pseudo-spots in compositions that a method found, from one half of the reference; the other half judges them.

    What widths of intervals may be learnt on without any truth of the tissue.

    Parameters
    ----------
    key
        Random key.
    spots, reference
        What the method was given.
    abundance
        (n, K) DataFrame, numbers of cells that it found.
    number
        Of pseudo-spots.
    """
    keys = jax.random.split(key, 4)
    rng, half = generator(keys[0]), halves(keys[1], reference.obs["cell_type"])
    types, named = np.asarray(reference.obs["cell_type"], str), np.asarray(abundance.columns, str)
    kept = _reference(reference.X[half], types[half], reference.var_names)
    usable = np.flatnonzero(abundance.sum(1) > 0)
    wanted = abundance.to_numpy(float)[rng.choice(usable, number)]
    wanted[:, ~(np.isin(named, types[~half]) & np.isin(named, kept.obs["cell_type"]))] = 0.0
    wanted = wanted * np.maximum(2.0 / np.maximum(wanted.sum(1, keepdims=True), 1e-9), 1.0)
    cells = np.floor(wanted + rng.uniform(size=wanted.shape)).astype(int)
    code = pd.Categorical(types, categories=named).codes
    made = pseudospots.summed_cells(keys[2], reference.X[~half], code[~half], cells=cells).counts
    depth = (np.asarray(x.sum(1), float).ravel() for x in (spots.X, made))
    seen, drawn = (np.median(values[values > 0]) for values in depth)
    counts = pseudospots.scaled_counts(keys[3], made, float(min(seen / drawn, 1.0)))
    cells = pd.DataFrame(cells, columns=named)
    xy = np.stack([np.arange(number) % 20, np.arange(number) // 20], 1)
    return _composed("rehearsed", counts=counts, xy=xy, cells=cells, reference=kept, held_out=True)


@dataclass(frozen=True)
class Profiles:
    """Types of a simulated tissue: (K, g) cumulative profiles, and the mean counts of a cell."""

    cumulative: np.ndarray
    depth: float


def profiles(key: Any, *, genes: int, types: int) -> Profiles:
    """Profiles with many genes that hardly show, at a depth that fills 8 % of the entries of a spot."""
    rng = generator(key)
    value = rng.gamma(0.5, 1.0, (types, genes)) * np.exp(1.2 * rng.normal(size=genes))
    value /= value.sum(1, keepdims=True)
    mean, low, high = value.mean(0), 1.0, 1e7
    for _ in range(60):
        middle = np.sqrt(low * high)
        filled = (1.0 - np.exp(-middle * mean)).mean()
        low, high = (middle, high) if filled < DENSITY else (low, middle)
    return Profiles(np.cumsum(value, axis=1), middle / CELLS_A_SPOT)


def poisson_counts(key: Any, cells: Any, known: Profiles, *, deeper: float = 1.0) -> sp.csr_matrix:
    """Counts of rows of cells: Poisson numbers of molecules, each of a gene by the profile of the type."""
    rng, (n, types) = generator(key), cells.shape
    genes = known.cumulative.shape[1]
    rows, columns = [], []
    for kind in range(types):
        number = rng.poisson(cells[:, kind] * known.depth * deeper)
        rows.append(np.repeat(np.arange(n, dtype=np.int32), number))
        place = np.searchsorted(known.cumulative[kind], rng.uniform(size=int(number.sum())))
        columns.append(np.minimum(place, genes - 1).astype(np.int32))
    where = (np.concatenate(rows), np.concatenate(columns))
    found = sp.csr_matrix((np.ones(len(where[0]), np.float32), where), shape=(n, genes))
    found.sum_duplicates()
    return found


def drawn_composition(key: Any, *, number: int, types: int) -> np.ndarray:
    """(n, K) numbers of cells: few types a spot, eight cells on average, one at the least."""
    rng = generator(key)
    share = rng.dirichlet(np.full(types, 0.3), number)
    return rng.multinomial(np.maximum(rng.poisson(CELLS_A_SPOT, number), 1), share)


def simulated_cells(key: Any, known: Profiles, *, types: int) -> Any:
    """The reference of a simulated tissue: single cells, read three times as deep as the spots."""
    cells = np.repeat(np.eye(types, dtype=int), CELLS_A_TYPE, axis=0)
    counts = poisson_counts(key, cells, known, deeper=3.0)
    names = np.array([f"type {kind:02d}" for kind in range(types)])
    return _reference(counts, names[cells.argmax(1)], [f"gene{i}" for i in range(counts.shape[1])])


def simulated(spots: int, genes: int, types: int, *, seed: int = 0) -> Composed:
    """Poisson counts of sparse profiles."""
    keys = jax.random.split(jax.random.key(seed), 4)
    known = profiles(keys[0], genes=genes, types=types)
    reference = simulated_cells(keys[1], known, types=types)
    cells = drawn_composition(keys[2], number=spots, types=types)
    counts = poisson_counts(keys[3], cells, known)
    side = int(np.ceil(np.sqrt(spots)))
    xy = 100.0 * np.stack([np.arange(spots) % side, np.arange(spots) // side], 1)
    cells = pd.DataFrame(cells, columns=sorted(reference.obs["cell_type"].unique()))
    name = f"simulated {spots:,} × {genes:,} × {types}"
    return _composed(name, counts=counts, xy=xy, cells=cells, reference=reference, held_out=True)


def write_simulated(path: Path, spots: int, genes: int, types: int, *, seed: int = 0) -> tuple[Any, pd.DataFrame]:
    """The same in a file, written in blocks that never are in memory together; the reference, and the true shares."""
    import h5py

    keys = jax.random.split(jax.random.key(seed), 4)
    known = profiles(keys[0], genes=genes, types=types)
    reference = simulated_cells(keys[1], known, types=types)
    cells = drawn_composition(keys[2], number=spots, types=types)
    side = int(np.ceil(np.sqrt(spots)))
    xy = 100.0 * np.stack([np.arange(spots) % side, np.arange(spots) // side], 1)
    names = pd.Index([f"spot{i}" for i in range(spots)])
    var = pd.DataFrame(index=reference.var_names)
    anndata.AnnData(obs=pd.DataFrame(index=names), var=var, obsm={"spatial": xy}).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        for number, block in enumerate(_blocks(keys[3], cells, known)):
            if number:
                anndata.io.sparse_dataset(file["X"]).append(block)
            else:
                anndata.io.write_elem(file, "X", block)
    share = pd.DataFrame(cells / cells.sum(1, keepdims=True), index=names)
    return reference, share.set_axis(sorted(reference.obs["cell_type"].unique()), axis=1)


def _blocks(key: Any, cells: np.ndarray, known: Profiles) -> Iterator[sp.csr_matrix]:
    for number, start in enumerate(range(0, len(cells), BLOCK)):
        yield poisson_counts(jax.random.fold_in(key, number), cells[start : start + BLOCK], known)


def _of_cells(tissue: str, pattern: str, platform: float = 0.0) -> Callable[[int], Composed]:
    file, column = {"mOB": ("mob_st/scrna_ref_counts.h5ad", "cellType"), "PDAC": ("pdac_a/scrna_ref.h5ad", "Cell")}[
        tissue
    ]
    name = f"{tissue} {pattern}" + (", platform effect" if platform else "")

    def make(seed: int = 0) -> Composed:
        a = _read(file)
        return synthetic(name, a, types=a.obs[column], pattern=pattern, platform=platform, seed=seed)

    return make


#: Sets of measured cells, the same for every seed, and synthetic tissues.
MEASURED: dict[str, Callable[[int], Composed]] = {
    "seqfishplus": seqfishplus,
    "merfish": merfish,
    "embryo": embryo,
    "starmap": starmap,
}
SYNTHETIC: dict[str, Callable[[int], Composed]] = {
    "mob": _of_cells("mOB", "diverse_overlap"),
    "mob_platform": _of_cells("mOB", "diverse_overlap", PLATFORM),
    **{f"mob_{p}": _of_cells("mOB", p) for p in ("dominant", "dominant_rare", "uniform_distinct")},
    "pdac": _of_cells("PDAC", "diverse_overlap"),
    "pdac_platform": _of_cells("PDAC", "diverse_overlap", PLATFORM),
    **{f"pdac_{p}": _of_cells("PDAC", p) for p in ("dominant_rare", "regional_rare", "missing_types")},
}
#: Every set with a truth, by a short name.
SETS: dict[str, Callable[[int], Composed]] = {**MEASURED, **SYNTHETIC}
#: Spots, genes and types of the speed rows.
SPEED: dict[str, tuple[int, int, int]] = {"speed_quantiles": (4_000, 10_000, 20), "speed_points": (20_000, 2_000, 15)}
MILLION = (1_000_000, 2_000, 20)
