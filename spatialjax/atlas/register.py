"""A further section laid on an atlas that is there already; nothing in the atlas moves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from spatialjax.atlas.reconstruction import Options, Placement, Reconstruction
from spatialjax.checks import InputError, listed
from spatialjax.transforms import Affine

if TYPE_CHECKING:
    from anndata import AnnData

    from spatialjax.atlas.labelled import Labelled
    from spatialjax.atlas.pairs import PairResult
    from spatialjax.registration.pose_graph import PoseGraph

#: Sections of the atlas that a new one with a known height is aligned with.
BESIDE = 4


@dataclass(frozen=True)
class Registration:
    """Where a section lies in an atlas.

    Attributes
    ----------
    section
        A copy of the section, rows as given, with ``obsm['spatial3d']`` and ``obsm['spatial3d_sd']`` (µm, the frame of
        the atlas; NaN where it is not placed), ``obs['slice']``, ``obs['placed']``, ``obs['component']`` and
        ``obs['overlap']``; ``uns['spatialjax']`` holds its map, the options and ``pairs``, as that of an atlas does.
    placement
        Its map into the atlas, with the uncertainty relative to the atlas.
    pairs
        One row for each section of the atlas that it was aligned with, as in ``Reconstruction.pairs``.
    couplings
        Soft matches with the nearest section of the atlas below it and with the nearest above (with those at its own
        height where there are any), as in ``Reconstruction.couplings``: (lower, upper) -> sparse weights, rows and
        columns in the order of each section's cells. Empty where it is not placed.
    messages
        What was assumed or found.
    """

    section: AnnData
    placement: Placement
    pairs: list[dict[str, Any]]
    couplings: Mapping[tuple[str, str], sp.csr_matrix]
    messages: tuple[str, ...]

    @property
    def placed(self) -> bool:
        """Whether the evidence supports the place."""
        return self.placement.placed


@dataclass(frozen=True)
class _Held:
    """The sections of the atlas that a new one is compared with: one frame, µm."""

    names: tuple[str, ...]
    adatas: tuple[AnnData, ...]
    z: tuple[float, ...]
    component: int
    anchor: str | None


def register(
    adata: AnnData,
    atlas: Reconstruction | AnnData,
    *,
    z: float | None = None,
    name: str = "new",
    component: int = 0,
    method: str = "auto",
    reflection: str = "auto",
    units: str | float | None = None,
    pitch: float | None = None,
    feature_key: str | None = None,
    layer: str | None = None,
    spatial_key: str = "spatial",
    allow_spacing_mismatch: bool = False,
    seed: int = 0,
) -> Registration:
    """Lay a section on an existing atlas.

    The section is aligned with the nearest sections of the atlas, all of which say where it lies in the one frame that
    they share; their poses are joined as in the pose graph of a reconstruction, with the atlas held still. Evidence
    must exceed what chance gives by the logarithm of the number of sections tried, because each is a further chance.

    Parameters
    ----------
    adata
        The section; not changed.
    atlas
        A reconstruction, or its atlas as written to ``atlas.h5ad``; not changed.
    z
        Height of the section, µm; it is aligned with the four nearest sections. Where left out it is aligned with all
        of them, and takes the height of the one with most evidence.
    name
        Name of the section.
    component
        Which frame of the atlas, where it has several.
    method, reflection, units, pitch, feature_key, layer, spatial_key, allow_spacing_mismatch, seed
        As in ``reconstruct``; ``units`` and ``pitch`` speak of the new section. ``layer`` and ``feature_key`` must be
        in the atlas, too.

    Returns
    -------
    Registration
        The section in the frame of the atlas. Without evidence it is not placed: its coordinates are NaN.

    Raises
    ------
    InputError
        If the input cannot be used.
    """
    import jax

    from spatialjax.atlas import pairs, placing, tables
    from spatialjax.atlas.features import prepare
    from spatialjax.io import open_sections

    options = Options(method=method, reflection=reflection, seed=seed)
    options.check()
    held = _held(atlas.atlas if isinstance(atlas, Reconstruction) else atlas, name, z=z, component=component)
    door = {"feature_key": feature_key, "layer": layer, "duplicates": "allow"}
    alone = open_sections([adata], names=[name], units=units, pitch=pitch, spatial_key=spatial_key, at_least=1, **door)
    (own,) = alone.sections
    stack = _beside(held, own, allow_spacing_mismatch=allow_spacing_mismatch, **door)
    options.check_with(stack)
    prepared = prepare(stack, method=options.resolved_method)
    wanted = [(0, i) for i in range(1, len(stack.sections))]
    results = pairs.align_pairs(prepared, wanted, method=options.resolved_method, key=jax.random.key(seed))
    results = [replace(r, threshold=r.threshold + np.log(len(results))) for r in results]
    graph = placing.join(
        [replace(r, target=1) for r in results],
        2,
        pitch=float(np.median([s.pitch for s in stack.sections])),
        anchor=1,
        reflection=reflection,
    )
    height, note = _height(results, held, z)
    placement = _placement(name, graph, held, own=own, z=height)
    overlap = stack.sections[0].in_input_order(_overlap(prepared, results, placement))
    messages = [*alone.messages, *note]
    if not placement.placed:
        messages.append(
            f"No evidence places {name!r} in the atlas: its coordinates are NaN. See the evidence in pairs."
        )
    rows = tables.pair_rows(stack.names, results, graph)
    section = _described(adata, own, placement, overlap=overlap)
    section.uns["spatialjax"] = _record(adata, placement, options, spatial_key=spatial_key, rows=rows, said=messages)
    return Registration(
        section=section,
        placement=placement,
        pairs=rows,
        couplings=_couplings(stack, prepared, placement, held),
        messages=tuple(messages),
    )


def add_section(
    atlas: Reconstruction | AnnData, adata: AnnData, *, z: float, name: str, **options: Any
) -> tuple[AnnData, Registration]:
    """A new atlas with one section more; every other section stays where it is.

    Parameters
    ----------
    atlas
        A reconstruction, or its atlas as written to ``atlas.h5ad``; not changed.
    adata
        The section; not changed.
    z
        Its height, µm.
    name
        Its name, different from those in the atlas.
    **options
        Passed to :func:`register`.

    Returns
    -------
    tuple
        The new atlas: the old cells first, in their order, then those of the section, genes that both have, domains of
        the new cells carried over from the sections beside it; and the registration with its evidence and its
        ``couplings`` to the sections beside it. A section that no evidence places is in the atlas with coordinates
        NaN, and ``uns['spatialjax']['warnings']`` says so.

    Raises
    ------
    InputError
        If the input cannot be used, or the atlas has a section of that name or at that height.
    """
    from spatialjax.atlas.adding import joined

    old = atlas.atlas if isinstance(atlas, Reconstruction) else atlas
    if "spatialjax" not in old.uns:
        raise InputError("Expected an atlas made by reconstruct, found an AnnData without uns['spatialjax'].")
    if (np.asarray(old.uns["spatialjax"]["z_um"], float) == z).any():
        raise InputError(f"Expected a height of its own for section {name!r}, found one of the atlas at {z:g} µm.")
    found = register(adata, atlas, z=z, name=name, **options)
    return joined(old, found, spatial_key=options.get("spatial_key", "spatial")), found


def _held(atlas: AnnData, name: str, *, z: float | None, component: int) -> _Held:
    from spatialjax.atlas.labelled import sections_of

    sections = sections_of(atlas)
    if name in [s.name for s in sections]:
        raise InputError(
            f"Expected a name that is not in the atlas, found section {name!r} there. Give name= (--name)."
        )
    if z is not None and not np.isfinite(z):
        raise InputError(f"Expected a finite height z in µm, found {z!r}.")
    inside = [s for s in sections if s.frame == component and component >= 0]
    if not inside:
        frames = sorted({s.frame for s in sections if s.frame >= 0})
        raise InputError(f"Expected component= (--component) to be one of {listed(frames)}, found {component!r}.")
    inside = inside if z is None else _nearest(inside, z)
    anchors = {}
    if "spatialjax" in atlas.uns:
        own = atlas.uns["spatialjax"]
        anchors = dict(zip(np.asarray(own["component"]).tolist(), np.asarray(own["anchor"], str).tolist(), strict=True))
    return _Held(
        names=tuple(s.name for s in inside),
        adatas=tuple(_placed_at(atlas[s.rows], s.xy) for s in inside),
        z=tuple(s.z for s in inside),
        component=component,
        anchor=anchors.get(component),
    )


def _nearest(sections: Sequence[Labelled], z: float) -> list[Labelled]:
    """The sections nearest to a height, the next one on either side always among them."""
    by_distance = sorted(sections, key=lambda s: abs(s.z - z))
    sides = [next((s for s in by_distance if side(s.z)), None) for side in (lambda h: h <= z, lambda h: h > z)]
    first = [s for s in by_distance if any(s is one for one in sides)]
    others = [s for s in by_distance if not any(s is one for one in first)]
    return sorted([*first, *others][:BESIDE], key=lambda s: abs(s.z - z))


def _beside(held: _Held, own: Any, **door: Any) -> Any:
    """The new section and those of the atlas as one stack, all in µm; heights are only an order here."""
    from spatialjax.io import open_sections

    copies = [_placed_at(own.adata, own.in_input_order(own.xy)), *held.adatas]
    return open_sections(copies, names=[own.name, *held.names], units="um", z=range(len(copies)), **door)


def _placed_at(adata: AnnData, xy: Float[np.ndarray, "n 2"]) -> AnnData:
    """A copy whose coordinates are these, µm, and say nothing about units themselves."""
    copy = adata.to_memory() if adata.isbacked else adata.copy()
    copy.obsm["spatial"] = np.asarray(xy, np.float64)
    copy.uns = {}
    return copy


def _height(results: Sequence[PairResult], held: _Held, z: float | None) -> tuple[float, list[str]]:
    if z is not None:
        return float(z), []
    gains = [r.evidence[0] - r.threshold for r in results]
    best = int(np.argmax(gains))
    note = (
        f"No height was given: that of {held.names[best]!r}, which has most evidence, is taken ({held.z[best]:g} µm)."
    )
    return held.z[best], [note]


def _placement(name: str, graph: PoseGraph, held: _Held, *, own: Any, z: float) -> Placement:
    placed, unit = bool(graph.placed[0]), float(own.um_per_unit)
    pose = Affine(np.asarray(graph.poses.matrix[0], np.float64), np.asarray(graph.poses.shift[0], np.float64))
    return Placement(
        name=name,
        transform=pose,
        from_units=Affine(pose.matrix * unit, pose.shift),
        z=z,
        placed=placed,
        component=held.component if placed else -1,
        anchor=held.anchor if placed else None,
        um_per_unit=unit,
        units_source=str(own.units_source),
        covariance=graph.covariance[0],
        center=graph.center[0],
        warp=float(graph.warp[0]),
    )


def _overlap(prepared: Any, results: Sequence[PairResult], placement: Placement) -> Float[np.ndarray, " n"]:
    """Probability that one of the sections shows the place of each cell, rows in canonical order."""
    from spatialjax.atlas.pairs import pose_overlap

    if not placement.placed:
        return np.full(len(prepared.embeddings[0]), np.nan)
    each = [pose_overlap(prepared, (0, r.target), placement.transform) for r in results]
    return np.max(each, axis=0)


def _described(adata: AnnData, own: Any, placement: Placement, *, overlap: Float[np.ndarray, " n"]) -> AnnData:
    """A copy of the section with its place; columns of the atlas's names are kept as ``<name>_input``."""
    import pandas as pd

    from spatialjax.atlas.assemble import WRITTEN
    from spatialjax.registration.pose_covariance import spot_sd

    section = adata.to_memory() if adata.isbacked else adata.copy()
    section.obs = section.obs.rename(columns={c: f"{c}_input" for c in section.obs.columns if c in WRITTEN})
    xyz = np.full((section.n_obs, 3), np.nan)
    if placement.placed:
        xyz = np.column_stack([placement.transform(own.in_input_order(own.xy)), np.full(section.n_obs, placement.z)])
    section.obsm["spatial3d"] = xyz
    section.obsm["spatial3d_sd"] = spot_sd(placement.covariance, placement.center, xyz, warp=placement.warp)
    section.obs["slice"] = pd.Categorical([placement.name] * section.n_obs)
    section.obs["original_name"] = np.asarray(section.obs_names, str)
    section.obs["placed"] = placement.placed
    section.obs["component"] = placement.component
    section.obs["overlap"] = overlap
    return section


def _record(
    adata: AnnData,
    placement: Placement,
    options: Options,
    *,
    spatial_key: str,
    rows: list[dict[str, Any]],
    said: Sequence[str],
) -> dict[str, Any]:
    """What ``uns['spatialjax']`` of the section holds: the record of an atlas of one section, and its own unit."""
    from spatialjax.atlas.assemble import describe
    from spatialjax.atlas.outputs import plain

    one = describe([placement], options=asdict(options), method=options.resolved_method, warnings=said)
    own = {
        "name": placement.name,
        "um_per_unit": placement.um_per_unit,
        "units_source": placement.units_source,
        "spatial_key": spatial_key,
        "pairs": json.dumps(plain(rows)),
    }
    return {**adata.uns.get("spatialjax", {}), **one, **own}


def _couplings(stack: Any, prepared: Any, placement: Placement, held: _Held) -> dict[tuple[str, str], sp.csr_matrix]:
    """Soft matches with the sections beside it, as a reconstruction has them between successive sections."""
    from spatialjax.atlas import assemble, placing

    if not placement.placed:
        return {}
    found = {}
    for other in _next_to(placement.z, held.z):
        ends = (other + 1, 0) if held.z[other] <= placement.z else (0, other + 1)
        two = replace(stack, sections=tuple(stack.sections[i] for i in ends))
        features = replace(prepared, embeddings=tuple(prepared.embeddings[i] for i in ends))
        places = tuple(placement.transform(s.xy) if i == 0 else s.xy for i, s in zip(ends, two.sections, strict=True))
        still = Affine(np.tile(np.eye(2), (2, 1, 1)), np.zeros((2, 2)))
        placed = placing.Placed(still, np.ones(2, bool), np.zeros(2, int), places)
        matches = placing.couple(two, features, placed)[0, 1]
        found[two.sections[0].name, two.sections[1].name] = assemble.in_input_order(two, (0, 1), matches)
    return found


def _next_to(z: float, heights: Sequence[float]) -> list[int]:
    """Positions of the heights that equal ``z``; without any, of the next one below and the next one above."""
    same = [i for i, h in enumerate(heights) if h == z]
    below = sorted((i for i, h in enumerate(heights) if h < z), key=lambda i: -heights[i])[:1]
    above = sorted((i for i, h in enumerate(heights) if h > z), key=lambda i: heights[i])[:1]
    return same or [*below, *above]
