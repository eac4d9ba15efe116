"""Spots with a known composition, for the benchmark of deconvolution. The truth only scores.

Exact sums of measured cells (seqFISH+), measured cells binned to spots with the cells of other sections or planes as
reference, and synthetic tissues of Spotless' patterns whose spots and reference are different halves of the cells.
Truth is in cells; a set with a platform effect multiplies the counts of the spots gene by gene.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anndata
import jax
import numpy as np
import pandas as pd
import record
import scipy.sparse as sp

from spatialjax.composition import pseudospots
from spatialjax.simulate import generator

#: Standard deviation of the logarithm of a gene's platform effect.
PLATFORM = 0.5
#: Labels that name no type.
NO_TYPE = ("unannotated", "Ambiguous", "Low quality")
#: Cells that a type needs in the reference, to be asked for.
LEAST = 2
BINS = {"merfish": 100.0, "embryo": None, "starmap": None}
#: Cells of a bin on average, where the unit of length is not µm.
CELLS_A_BIN = 8


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
    types = pd.Series(np.asarray(types, str))
    enough = types.map(types.value_counts()) >= LEAST
    keep = np.flatnonzero(enough & ~types.isin(NO_TYPE))
    found = anndata.AnnData(sp.csr_matrix(counts)[keep].astype(np.float32))
    found.var_names, found.obs["cell_type"] = np.asarray(genes, str), types.to_numpy()[keep]
    found.obs_names = [f"cell{i}" for i in range(found.n_obs)]
    return found


def _composed(name: str, *, counts: Any, xy: Any, cells: pd.DataFrame, reference: Any, held_out: bool) -> Composed:
    types = sorted(reference.obs["cell_type"].unique())
    cells = cells.reindex(columns=types, fill_value=0)
    keep = np.flatnonzero((cells.sum(1) > 0) & (np.asarray(counts.sum(1)).ravel() > 0))
    spots = anndata.AnnData(sp.csr_matrix(counts)[keep].astype(np.float32))
    spots.var_names, spots.obsm["spatial"] = reference.var_names.copy(), np.asarray(xy, float)[keep]
    cells = cells.iloc[keep].set_index(np.array([f"spot{i}" for i in range(len(keep))]))
    spots.obs_names = cells.index
    return Composed(name, spots, reference, cells.div(cells.sum(1), axis=0), cells, held_out)


def seqfishplus() -> Composed:
    """The sums of measured cells; their own cells are in the reference, which flatters every method."""
    cells, spots = _read("seqfishplus/cortex_svz_cells.h5ad"), _read("seqfishplus/cortex_svz_simspots_truth.h5ad")
    truth = pd.read_csv(record.data_folder() / "seqfishplus/cortex_svz_counts_truth.csv", index_col=0)
    assert [n.removeprefix("X") for n in spots.var_names] == list(cells.var_names) or len(cells.var_names) == len(
        spots.var_names
    )
    reference = _reference(cells.X, cells.obs["cell_type"], cells.var_names)
    known = truth.drop(columns=[c for c in NO_TYPE if c in truth.columns])
    return _composed(
        "seqFISH+ cortex", counts=spots.X, xy=spots.obsm["spatial"], cells=known, reference=reference, held_out=False
    )


def binned(name: str, adata: Any, *, types: Any, spots: Any, reference: Any, side: float | None) -> Composed:
    """Cells of one part of the data summed over square bins; those of another part are the reference."""
    found = _reference(adata.X[reference], np.asarray(types)[reference], adata.var_names)
    named = sorted(found.obs["cell_type"].unique())
    pick = np.flatnonzero(spots & np.isin(types, named))
    xy = np.asarray(adata.obsm["spatial"], float)[pick, :2]
    if side is None:
        side = float(np.sqrt(np.prod(np.ptp(xy, axis=0)) / len(xy) * CELLS_A_BIN))
    place = np.floor((xy - xy.min(0)) / side).astype(int)
    corner, bin_ = np.unique(place, axis=0, return_inverse=True)
    bin_ = bin_.ravel()
    member = sp.csr_matrix((np.ones(len(pick)), (bin_, np.arange(len(pick)))), shape=(len(corner), len(pick)))
    kind = pd.Categorical(np.asarray(types)[pick], categories=named).codes
    cells = pd.DataFrame(member @ np.eye(len(named))[kind], columns=named).astype(int)
    return _composed(name, counts=member @ adata.X[pick], xy=corner * side, cells=cells, reference=found, held_out=True)


def merfish() -> Composed:
    """Two sections binned, the two others as reference."""
    a = _read("merfish_hypothalamus/animal1_4slices.h5ad")
    slices = a.obs["bregma"].astype(float).to_numpy()
    one = np.isin(slices, (-0.09,))
    return binned("MERFISH bins", a, types=a.obs["cell_type"].astype(str), spots=one, reference=~one, side=100.0)


def embryo() -> Composed:
    """One plane of the embryo binned, the other one as reference."""
    a = _read("seqfish_mouse_embryo/embryo2_full.h5ad")
    plane = a.obs["z"].astype(str).to_numpy() == "2"
    types = a.obs["celltype_mapped_refined"].astype(str)
    return binned("embryo bins", a, types=types, spots=plane, reference=~plane, side=None)


def starmap() -> Composed:
    """One section binned, the other one as reference."""
    a = _read("starmap_mpfc/mpfc_BZ5_BZ9.h5ad")
    one = a.obs["slice"].astype(str).to_numpy() == "BZ9"
    return binned("STARmap bins", a, types=a.obs["cell_type"].astype(str), spots=one, reference=~one, side=None)


def synthetic(name: str, *, file: str, column: str, pattern: str, platform: float = 0.0, seed: int = 0) -> Composed:
    """A synthetic tissue of one half of the cells; the other half is the reference."""
    a = _read(file)
    types = a.obs[column].astype(str).to_numpy()
    named, code = np.unique(types, return_inverse=True)
    keys = jax.random.split(jax.random.key(seed), 5)
    rng = generator(keys[0])
    # Alternate within the types, so that each has cells on both sides.
    order = np.lexsort((rng.uniform(size=len(code)), code))
    place = np.empty(len(code), int)
    place[order] = np.arange(len(code)) - np.searchsorted(code[order], np.arange(len(named)))[code[order]]
    half = place % 2 == 0
    regions = min(5, max(2, len(named) // 3))
    frequency = pseudospots.region_frequencies(keys[1], pattern, regions=regions, number=len(named))
    per_region = rng.integers(50, 121, regions)
    region = np.repeat(np.arange(regions), per_region)
    cells = pseudospots.drawn_cells(keys[2], frequency[region])
    made = pseudospots.summed_cells(keys[3], a.X[~half], code[~half], cells=cells)
    counts = made.counts
    if platform:
        effect = np.exp(platform * rng.normal(size=a.n_vars) - 0.5 * platform**2)
        counts = pseudospots.scaled_counts(keys[4], counts, effect[None, :])
    column_, row = region % 3, np.arange(len(region))
    xy = np.stack([column_ * 40.0 + row % 20, (region // 3) * 40.0 + row // 20 % 20], 1)
    reference = _reference(a.X[half], types[half], a.var_names)
    return _composed(
        name, counts=counts, xy=xy, cells=pd.DataFrame(cells, columns=named), reference=reference, held_out=True
    )


def _mob(pattern: str, platform: float = 0.0) -> Composed:
    tag = f"mOB {pattern}" + (", platform effect" if platform else "")
    return synthetic(tag, file="mob_st/scrna_ref_counts.h5ad", column="cellType", pattern=pattern, platform=platform)


def _pdac(pattern: str, platform: float = 0.0) -> Composed:
    tag = f"PDAC {pattern}" + (", platform effect" if platform else "")
    return synthetic(tag, file="pdac_a/scrna_ref.h5ad", column="Cell", pattern=pattern, platform=platform)


#: Every set by a short name.
SETS: dict[str, Callable[[], Composed]] = {
    "seqfishplus": seqfishplus,
    "merfish": merfish,
    "embryo": embryo,
    "starmap": starmap,
    "mob": lambda: _mob("diverse_overlap"),
    "mob_platform": lambda: _mob("diverse_overlap", PLATFORM),
    "pdac": lambda: _pdac("diverse_overlap"),
    "pdac_platform": lambda: _pdac("diverse_overlap", PLATFORM),
    **{f"mob_{p}": (lambda p=p: _mob(p)) for p in ("dominant", "dominant_rare", "uniform_distinct")},
    **{f"pdac_{p}": (lambda p=p: _pdac(p)) for p in ("dominant_rare", "regional_rare", "missing_types")},
}
