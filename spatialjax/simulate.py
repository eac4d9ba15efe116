"""Tissues with known truth: a three-dimensional layered tissue, cut into sections that were moved on the slide.

The tissue is a set of smooth functions of (x, y, z): an outline, curved layers and gene programs. Each section draws
its own spots, its own counts and its own pose, so that no spot of one section is a spot of another.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, Float, Int

from spatialjax.keys import generator
from spatialjax.registration.procrustes import procrustes
from spatialjax.transforms import Affine, rigid

_PROGRAMS = 6
_BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class SimulatedSection:
    """One section as a microscope would see it, and the truth about it.

    Attributes
    ----------
    counts
        Raw counts.
    xy
        Observed coordinates on the slide, µm.
    xyz
        True place of each spot in the tissue, µm.
    pose
        Rigid map from the slide to the tissue plane that fits the true places best; exact where nothing is deformed.
    domain
        Layer of each spot, from 0.
    """

    counts: sp.csr_matrix
    xy: Float[np.ndarray, "n 2"]
    xyz: Float[np.ndarray, "n 3"]
    pose: Affine
    domain: Int[np.ndarray, n]


@dataclasses.dataclass(frozen=True)
class SimulatedStack:
    """Sections of one tissue, in order.

    Attributes
    ----------
    sections
        The sections.
    genes
        Names of the columns of the counts.
    z
        Height of each section, µm.
    pitch
        Distance between neighbouring spots, µm.
    """

    sections: tuple[SimulatedSection, ...]
    genes: tuple[str, ...]
    z: Float[np.ndarray, s]
    pitch: float

    def true_pose(self, source: int, target: int) -> Affine:
        """The map from the slide of section ``source`` to the slide of section ``target``, µm."""
        return self.sections[target].pose.inverse().compose(self.sections[source].pose)


def simulate_tissue(
    key: Array,
    *,
    n_sections: int = 5,
    spots: int = 1000,
    genes: int = 200,
    layers: int = 5,
    pitch: float = 100.0,
    gap: float = 10.0,
    lattice: Literal["hex", "cells"] = "hex",
    crop: float = 1.0,
    mirror_probability: float = 0.5,
    deformation: float = 0.0,
    rotate: bool = True,
    depth: float = 1500.0,
    symmetric: bool = False,
) -> SimulatedStack:
    """Simulate serial sections of one layered tissue.

    Counts are negative binomial, with library sizes that vary between spots and along the tissue, gene-wise dispersion
    and a gene-wise shift of each section. A third of the genes mark layers, a third follow smooth programs that vary
    along the layers too, a third say nothing.

    Parameters
    ----------
    key
        Random key; the same key gives the same bits.
    n_sections
        Number of sections.
    spots
        Expected number of spots of a whole section.
    genes
        Number of genes.
    layers
        Number of domains.
    pitch
        Distance between neighbouring spots, µm.
    gap
        Distance between sections, µm.
    lattice
        ``"hex"``: spots of an array, aligned with the slide; ``"cells"``: scattered cells of the same density.
    crop
        Smallest share of the tissue that a section shows. The first section is whole; each other one loses a share
        drawn between 0 and ``1 - crop`` at a random side.
    mirror_probability
        Probability that a section is turned over.
    deformation
        Standard deviation of a smooth displacement between the slide and the tissue, µm.
    rotate
        Whether sections are turned by a random angle; they are shifted in any case.
    depth
        Mean number of counts of a spot.
    symmetric
        Whether the tissue is its own mirror image, so that no method can tell a turned section by its expression.

    Returns
    -------
    SimulatedStack
        Sections with their truth; numpy and scipy arrays.

    Raises
    ------
    ValueError
        If a number is outside its range.
    """
    _check_ranges(n_sections=n_sections, spots=spots, genes=genes, layers=layers)
    if not 0.1 <= crop <= 1:
        raise ValueError(f"Expected a crop between 0.1 and 1 (the share that is kept), found {crop}.")
    if lattice not in ("hex", "cells"):
        raise ValueError(f"Expected lattice 'hex' or 'cells', found {lattice!r}.")
    rng = generator(key)
    scale = pitch * np.sqrt(spots * np.sqrt(3) / (2 * np.pi))
    tissue = _draw_tissue(rng, scale=scale, layers=layers, symmetric=symmetric)
    panel = _draw_panel(rng, genes=genes, layers=layers)
    sections = []
    for number in range(n_sections):
        moved = rigid(
            rng.uniform(-np.pi, np.pi) if rotate else 0.0,
            rng.uniform(-0.5, 0.5, 2) * scale,
            bool(rng.uniform() < mirror_probability),
        )
        spread = 0.25 * pitch if lattice == "cells" else 0.0
        slide = _slide(rng, pitch=pitch, half_width=2.2 * scale, spread=spread)
        xyz = np.concatenate([moved(slide), np.full((len(slide), 1), number * gap)], 1)
        xyz[:, :2] += deformation * _warp(rng, xyz[:, :2] / scale)
        keep = tissue.inside(xyz)
        keep &= _kept_side(rng, xyz[:, :2], keep, share=1.0 if number == 0 else rng.uniform(crop, 1.0))
        slide, xyz = slide[keep] - slide[keep].min(0), xyz[keep]
        domain, level = tissue.layers_at(xyz)
        counts = _draw_counts(rng, panel, level=level, programs=tissue.programs_at(xyz), depth=depth)
        pose = procrustes(slide, xyz[:, :2], np.ones(len(slide)), mirrored=bool(moved.mirrored))
        sections.append(SimulatedSection(counts, slide, xyz, pose, domain))
    names = tuple(f"gene{number}" for number in range(genes))
    return SimulatedStack(tuple(sections), names, gap * np.arange(n_sections), float(pitch))


@dataclasses.dataclass(frozen=True)
class _Waves:
    """A smooth random function: a sum of cosines of (x, y, z), of mean square 1."""

    frequency: np.ndarray
    phase: np.ndarray
    amplitude: np.ndarray

    def __call__(self, unit: np.ndarray) -> np.ndarray:
        return np.cos(unit @ self.frequency.T + self.phase) @ self.amplitude.T


@dataclasses.dataclass(frozen=True)
class _Tissue:
    """Outline, layers and programs; coordinates are divided by ``scale``, the radius of the tissue."""

    scale: float
    symmetric: bool
    outline: _Waves
    bend: _Waves
    programs: _Waves
    borders: np.ndarray

    def fold(self, waves: _Waves, xyz: np.ndarray) -> np.ndarray:
        unit = xyz / self.scale
        if self.symmetric:
            return (waves(unit) + waves(unit * np.array([-1.0, 1, 1]))) / np.sqrt(2)
        return waves(unit)

    def inside(self, xyz: np.ndarray) -> np.ndarray:
        radius = np.linalg.norm(xyz[:, :2], axis=1) / self.scale
        edge = np.concatenate([xyz[:, :2] / np.maximum(radius, 1e-9)[:, None], xyz[:, 2:]], 1)
        return radius < 1 + 0.14 * self.fold(self.outline, edge)[:, 0]

    def height(self, xyz: np.ndarray) -> np.ndarray:
        """Distance from an arc below the tissue, bent by waves: the layers are its level sets."""
        unit = xyz / self.scale
        side = 0.0 if self.symmetric else 0.4
        return np.hypot(unit[:, 0] - side, unit[:, 1] + 1.6) + 0.12 * self.fold(self.bend, xyz)[:, 0]

    def layers_at(self, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Layer of each place, and its membership in every layer with soft borders."""
        height = self.height(xyz)
        above = 1 / (1 + np.exp(-np.clip((height[:, None] - self.borders) / 0.02, -50, 50)))
        above = np.concatenate([np.ones((len(xyz), 1)), above, np.zeros((len(xyz), 1))], 1)
        return np.searchsorted(self.borders, height).astype(np.int32), above[:, :-1] - above[:, 1:]

    def programs_at(self, xyz: np.ndarray) -> np.ndarray:
        return self.fold(self.programs, xyz)


@dataclasses.dataclass(frozen=True)
class _Panel:
    """How genes follow the tissue."""

    base: np.ndarray
    markers: np.ndarray
    loadings: np.ndarray
    dispersion: np.ndarray


def _check_ranges(**numbers: int) -> None:
    for name, value in numbers.items():
        low = 20 if name == "spots" else 1
        if value < low:
            raise ValueError(f"Expected {name} of at least {low}, found {value}.")


def _draw_waves(rng: np.random.Generator, *, outputs: int, terms: int, frequency: float) -> _Waves:
    amplitude = rng.normal(size=(outputs, terms))
    return _Waves(
        frequency=rng.normal(size=(terms, 3)) * frequency,
        phase=rng.uniform(0, 2 * np.pi, terms),
        amplitude=amplitude * np.sqrt(2 / (amplitude**2).sum(1, keepdims=True)),
    )


def _draw_tissue(rng: np.random.Generator, *, scale: float, layers: int, symmetric: bool) -> _Tissue:
    tissue = _Tissue(
        scale=scale,
        symmetric=symmetric,
        outline=_draw_waves(rng, outputs=1, terms=8, frequency=1.5),
        bend=_draw_waves(rng, outputs=1, terms=8, frequency=1.5),
        programs=_draw_waves(rng, outputs=_PROGRAMS, terms=24, frequency=2.0),
        borders=np.zeros(0),
    )
    grid = np.linspace(-1.8, 1.8, 60) * scale
    places = np.stack([*map(np.ravel, np.meshgrid(grid, grid)), np.zeros(3600)], 1)
    height = tissue.height(places[tissue.inside(places)])
    widths = rng.uniform(0.6, 1.4, layers)
    borders = np.quantile(height, np.cumsum(widths)[:-1] / widths.sum())
    return dataclasses.replace(tissue, borders=borders)


def _draw_panel(rng: np.random.Generator, *, genes: int, layers: int) -> _Panel:
    kind = rng.permutation(np.arange(genes) % 3)
    layer = rng.integers(0, layers, genes)
    markers = np.where(kind == 0, rng.uniform(0.5, 1.6, genes), 0.0) * (np.arange(layers)[:, None] == layer)
    loadings = np.where(kind == 1, 1.0, 0.0) * rng.normal(size=(_PROGRAMS, genes)) * 0.35
    return _Panel(rng.normal(0.0, 1.2, genes), markers, loadings, rng.uniform(0.05, 0.4, genes))


def _slide(rng: np.random.Generator, *, pitch: float, half_width: float, spread: float) -> np.ndarray:
    """A hexagonal lattice with a random origin, scattered by ``spread`` µm."""
    count = int(np.ceil(half_width / pitch))
    column, row = np.meshgrid(np.arange(-count, count + 1), np.arange(-int(count * 1.2), int(count * 1.2) + 1))
    xy = pitch * np.stack([column + 0.5 * (row % 2), row * np.sqrt(3) / 2], -1).reshape(-1, 2)
    return xy + pitch * rng.uniform(-0.5, 0.5, 2) + spread * rng.normal(size=xy.shape)


def _warp(rng: np.random.Generator, unit: np.ndarray) -> np.ndarray:
    """A smooth displacement of standard deviation 1 in each direction."""
    waves = _draw_waves(rng, outputs=2, terms=16, frequency=2.0)
    return waves(np.concatenate([unit, np.zeros((len(unit), 1))], 1))


def _kept_side(rng: np.random.Generator, xy: np.ndarray, inside: np.ndarray, *, share: float) -> np.ndarray:
    """The places on the kept side of a straight cut that leaves ``share`` of the tissue."""
    angle = rng.uniform(0, 2 * np.pi)
    along = xy @ np.array([np.cos(angle), np.sin(angle)])
    return along <= np.quantile(along[inside], share)


def _draw_counts(
    rng: np.random.Generator, panel: _Panel, *, level: np.ndarray, programs: np.ndarray, depth: float
) -> sp.csr_matrix:
    """Negative binomial counts, as a mixture of Poisson over gamma rates."""
    shift = rng.normal(0.0, 0.15, len(panel.base))
    spread = 0.3
    tilt = 0.2 * programs @ rng.normal(size=programs.shape[1]) / np.sqrt(programs.shape[1])
    library = depth * np.exp(rng.normal(-(spread**2) / 2, spread, len(level)) + tilt)
    shape = 1 / panel.dispersion
    blocks = []
    for start in range(0, len(level), _BLOCK):
        rows = slice(start, start + _BLOCK)
        rate = np.exp(panel.base + shift + level[rows] @ panel.markers + programs[rows] @ panel.loadings)
        mean = library[rows, None] * rate / rate.sum(1, keepdims=True)
        blocks.append(sp.csr_matrix(rng.poisson(mean * rng.gamma(shape, 1 / shape, mean.shape)).astype(np.int32)))
    return sp.vstack(blocks, format="csr")
