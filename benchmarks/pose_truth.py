"""Pairs of sections whose true pose is known: simulated, slabs of a thick tissue, halves of sections."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import anndata
import jax
import numpy as np
import record
import scipy.sparse as sp
from scipy.spatial import cKDTree

from spatialjax.registration.pairs import pitch_of
from spatialjax.registration.procrustes import procrustes
from spatialjax.simulate import simulate_tissue
from spatialjax.transforms import Affine, rigid


class Pair(NamedTuple):
    """Two sections and the truth: where each source cell belongs in the target's frame; parity alone where None."""

    kind: str
    use: str
    source: tuple[Any, np.ndarray]
    target: tuple[Any, np.ndarray]
    places: np.ndarray | None
    mirrored: bool
    features: str = "counts"


def simulated(seed: int) -> Pair:
    """Neighbouring sections of a simulated tissue; every second seed is for fitting."""
    rng = np.random.default_rng([1, seed])
    stack = simulate_tissue(
        jax.random.key(5000 + seed),
        n_sections=2,
        spots=int(np.exp(rng.uniform(np.log(150), np.log(900)))),
        depth=np.exp(rng.uniform(np.log(200), np.log(3000))),
        crop=rng.uniform(0.4, 1.0),
        deformation=rng.choice([0.0, 20.0, 40.0, 60.0]),
        lattice=["hex", "cells"][rng.integers(2)],
    )
    fixed, given = stack.sections
    kept = np.flatnonzero(rng.random(len(given.xy)) < rng.uniform(0.5, 1.0))
    pose = stack.true_pose(1, 0)
    return Pair(
        "simulated",
        "fit" if seed % 2 == 0 else "judge",
        (given.counts[kept], given.xy[kept]),
        (fixed.counts, fixed.xy),
        true_places(given.xyz[kept], fixed),
        bool(pose.mirrored),
    )


def true_places(xyz: np.ndarray, section: Any) -> np.ndarray:
    """Where places of the tissue are seen on a deformed slide: its pose, and what its own spots near by add to it."""
    back = section.pose.inverse()
    added = section.xy - back(section.xyz[:, :2])
    distance, index = cKDTree(section.xyz[:, :2]).query(xyz[:, :2], k=4)
    weight = 1 / (distance + 1e-3)
    weight /= weight.sum(1, keepdims=True)
    return back(xyz[:, :2]) + np.einsum("nk,nkd->nd", weight, added[index])


@functools.cache
def tissue(name: str) -> tuple[Any, np.ndarray]:
    """Counts and coordinates of a section that is cut in halves."""
    folder = record.data_folder()
    part = None
    if name.startswith("dlpfc"):
        path = folder / "dlpfc_visium_allspots" / f"{name[6:]}.h5ad"
    elif name.startswith("mpfc"):
        path, part = folder / "starmap_mpfc" / "mpfc_BZ5_BZ9.h5ad", name[5:]
    elif name.startswith("merfish"):
        path, part = folder / "merfish_hypothalamus" / "animal1_4slices.h5ad", f"A1_{name[8:]}"
    elif name == "osmfish":
        path = next((folder / "osmfish_sscortex").glob("*.h5ad"))
    else:
        path = folder / "seqfish_mouse_embryo" / "embryo2_full.h5ad"
    adata = anndata.read_h5ad(path)
    if part is not None:
        names = adata.obs["slice"].astype(str).to_numpy()
        adata = adata[names == next(n for n in np.unique(names) if part in n)]
    return sp.csr_matrix(adata.X), np.asarray(adata.obsm["spatial"], float)[:, :2]


HALVED = {
    "fit": ("dlpfc 151673", "merfish -0.29", "merfish 0.26", "mpfc BZ5", "osmfish"),
    "judge": ("dlpfc 151674", "merfish -0.09", "merfish 0.21", "mpfc BZ9", "seqfish"),
}


def halves(seed: int) -> Pair:
    """Disjoint halves of the cells of one section, both cropped to discs, the source thinned."""
    rng = np.random.default_rng([2, seed])
    use = ("fit", "judge")[seed % 2]
    name = HALVED[use][seed // 2 % 5]
    values, xy = tissue(name)
    side = rng.random(len(xy)) < 0.5
    number = int(np.exp(rng.uniform(np.log(80), np.log(900))))
    center = xy[rng.integers(len(xy))]
    near = np.argsort(((xy - center) ** 2).sum(1))
    disc = near[: int(min(2 * number / rng.uniform(0.5, 1.0), len(xy)))]
    reach = np.sqrt(((xy[disc[-1]] - center) ** 2).sum())
    source = rng.permutation(disc[side[disc]])[:number]
    offset = rng.normal(size=2) * 0.3 * reach
    other = near[np.argsort(((xy[near] - center - offset) ** 2).sum(1))][: int(len(disc) * rng.uniform(1.2, 2.5))]
    return turned(name.split()[0], use, (values[source], xy[source]), (values[other], xy[other], ~side[other]), rng)


@functools.cache
def volume() -> tuple[Any, np.ndarray]:
    """The STARmap volume: intensities and x, y, z in voxels."""
    adata = anndata.read_h5ad(record.data_folder() / "starmap_3d_cortex" / "BS10_light.h5ad")
    return sp.csr_matrix(adata.X), np.asarray(adata.obsm["spatial"], float)


def slabs(seed: int) -> Pair:
    """Neighbouring slabs of the thick tissue, the source cropped to a disc; one half of the tissue is for fitting."""
    rng = np.random.default_rng([3, seed])
    use = ("fit", "judge")[seed % 2]
    values, xyz = volume()
    xy = xyz[:, :2]
    middle = np.median(xy[:, 0])
    inside = (xy[:, 0] < middle) if use == "fit" else (xy[:, 0] >= middle)
    cuts = np.quantile(xyz[:, 2], np.linspace(0, 1, 9))
    layer = np.clip(np.searchsorted(cuts, xyz[:, 2], side="right") - 1, 0, 7)
    first = int(rng.integers(0, 7))
    lower, upper = np.flatnonzero(inside & (layer == first)), np.flatnonzero(inside & (layer == first + 1))
    center = xy[rng.choice(upper)]
    number = int(np.exp(rng.uniform(np.log(150), np.log(1000))))
    source = upper[np.argsort(((xy[upper] - center) ** 2).sum(1))[:number]]
    source = source[rng.random(len(source)) < rng.uniform(0.6, 1.0)]
    offset = rng.normal(size=2) * 60
    near = np.argsort(((xy[lower] - center - offset) ** 2).sum(1))[: int(number * rng.uniform(1.2, 3.0))]
    other = lower[near]
    return turned("starmap 3d", use, (values[source], xy[source]), (values[other], xy[other], None), rng)


def turned(kind: str, use: str, source: tuple, target: tuple, rng: np.random.Generator) -> Pair:
    """The source moved by a random rigid map; its places before are the truth."""
    values, xy = source
    other, places, kept = target
    kept = np.ones(len(places), bool) if kept is None else kept
    mirrored = bool(rng.random() < 0.5)
    moved = rigid(rng.uniform(-np.pi, np.pi), rng.normal(size=2) * np.ptp(xy), mirrored, center=xy.mean(0))
    return Pair(kind, use, (values, moved(xy)), (other[kept], places[kept]), xy, mirrored)


def types(seed: int) -> Pair:
    """Disc crops of neighbouring sections of the symmetric tissue, cell types as features; a truth for parity only."""
    rng = np.random.default_rng([4, seed])
    codes, xy, heights = typed_sections()
    level = np.unique(heights)
    first = int(rng.integers(0, len(level) - 1))
    lower, upper = np.flatnonzero(heights == level[first]), np.flatnonzero(heights == level[first + 1])
    center = xy[rng.choice(upper)]
    number = int(np.exp(rng.uniform(np.log(150), np.log(1000))))
    source = upper[np.argsort(((xy[upper] - center) ** 2).sum(1))[:number]]
    use = "fit" if first < 4 else "judge"
    found = turned("merfish types", use, (codes[source], xy[source]), (codes[lower], xy[lower], None), rng)
    return found._replace(places=None, features="categories")


@functools.cache
def typed_sections() -> tuple[Any, np.ndarray, np.ndarray]:
    """One column a type, places, and the height of each cell's section."""
    adata = anndata.read_h5ad(record.data_folder() / "merfish_hypothalamus" / "positions_types_12slices.h5ad")
    codes = adata.obs["cell_type"].astype("category").cat.codes.to_numpy()
    table = sp.csr_matrix((np.ones(len(codes)), (np.arange(len(codes)), codes)))
    return table, np.asarray(adata.obsm["spatial"], float)[:, :2], adata.obs["z"].to_numpy(float)


def on_target(pair: Pair) -> np.ndarray:
    """Source cells whose true place has a target cell within one pitch: where the target's tissue is."""
    return cKDTree(pair.target[1]).query(pair.places)[0] < pitch_of(pair.target[1])


def in_target(pair: Pair) -> np.ndarray:
    """Source cells whose true place the target shows."""
    return cKDTree(pair.target[1]).query(pair.places)[0] < 2 * pitch_of(pair.target[1])


def rigid_truth(pair: Pair) -> Affine:
    """The rigid pose that fits the true places of the overlap best."""
    return procrustes(np.asarray(pair.source[1], float), pair.places, in_target(pair) * 1.0, mirrored=pair.mirrored)


def one_pair(n: int, offset: int) -> Pair:
    """The ``n``-th pair: every kind in turn; both uses of every kind come up alike."""
    makers = (simulated, halves, slabs, halves, simulated, slabs)
    turn, which = divmod(n, len(makers))
    return makers[which](offset + 2 * turn + (which > 2))


def scaled(seed: int) -> tuple[Pair, float]:
    """A simulated pair whose source is smaller or larger than the target shows it, and what brings it back."""
    pair = simulated(seed)
    factor = float(np.random.default_rng([6, seed]).uniform(0.93, 1.07))
    values, xy = pair.source
    return pair._replace(source=(values, xy / factor)), factor
