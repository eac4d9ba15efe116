"""A further section laid on an atlas that is there already; nothing in the atlas moves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from spatialjax.atlas.beside import Held, held_of, pictures_said, stacked
from spatialjax.atlas.reconstruction import Options, Placement, Reconstruction
from spatialjax.checks import InputError
from spatialjax.transforms import Affine

if TYPE_CHECKING:
    from anndata import AnnData

    from spatialjax.atlas.pairs import PairResult
    from spatialjax.registration.pose_graph import PoseGraph


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
    similarity
        One row for each of these couplings: similarity of the matched places beside its nulls, as in
        ``Reconstruction.metrics["similarity_pairs"]``; ``identity`` has the section as given on the placed one.
    messages
        What was assumed or found.
    """

    section: AnnData
    placement: Placement
    pairs: list[dict[str, Any]]
    couplings: Mapping[tuple[str, str], sp.csr_matrix]
    similarity: list[dict[str, Any]]
    messages: tuple[str, ...]

    @property
    def placed(self) -> bool:
        """Whether the evidence supports the place."""
        return self.placement.placed


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
    histology: str | None = None,
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
    histology
        Key of ``obsm`` with columns of the H&E pictures (``pp.histology_features``), which then add to the evidence of
        the place; the section and the atlas must both have them. Left out, the pictures that an atlas was made with
        are not used for the section, and a message says so.

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
    from spatialjax.atlas.features import histology_lost, histology_record, prepare
    from spatialjax.io import open_sections

    options = Options(method=method, reflection=reflection, seed=seed)
    options.check()
    held = held_of(atlas.atlas if isinstance(atlas, Reconstruction) else atlas, name, z=z, component=component)
    door = {"feature_key": feature_key, "layer": layer, "duplicates": "allow"}
    alone = open_sections([adata], names=[name], units=units, pitch=pitch, spatial_key=spatial_key, at_least=1, **door)
    (own,) = alone.sections
    stack = stacked(held, own, histology=histology, allow_spacing_mismatch=allow_spacing_mismatch, **door)
    options.check_with(stack)
    prepared = prepare(stack, method=options.resolved_method)
    wanted = [(0, i) for i in range(1, len(stack.sections))]
    results = pairs.align_pairs(prepared, wanted, method=options.resolved_method, key=jax.random.key(seed))
    results = [replace(r, threshold=r.threshold + np.log(len(results))) for r in results]
    step = float(np.median([s.pitch for s in stack.sections]))
    still = [replace(r, target=1) for r in results]
    graph = placing.join(still, 2, pitch=step, anchor=1, reflection=reflection)
    height, note = _height(results, held, z)
    placement = _placement(name, graph, held, own=own, z=height)
    overlap = stack.sections[0].in_input_order(_overlap(prepared, results, placement))
    lost = histology_lost(stack, prepared.added)
    used = stack.messages[-1:] if histology is not None else []
    messages = [*lost, *used, *pictures_said(held, adata, histology, name=name), *alone.messages, *note]
    if not placement.placed:
        messages.append(
            f"No evidence places {name!r} in the atlas: its coordinates are NaN. See the evidence in pairs."
        )
    rows = tables.pair_rows(stack.names, results, graph)
    about = {"said": messages, "histology": histology_record(stack, prepared.added)}
    section = _described(adata, own, placement, overlap=overlap)
    section.uns["spatialjax"] = _record(adata, placement, options, spatial_key=spatial_key, rows=rows, **about)
    couplings, similarity = _couplings(stack, prepared, placement, heights=held.z, key=jax.random.key(seed))
    return Registration(section, placement, rows, couplings, similarity=similarity, messages=tuple(messages))


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


def _height(results: Sequence[PairResult], held: Held, z: float | None) -> tuple[float, list[str]]:
    if z is not None:
        return float(z), []
    gains = [r.evidence[0] - r.threshold for r in results]
    best = int(np.argmax(gains))
    note = (
        f"No height was given: that of {held.names[best]!r}, which has most evidence, is taken ({held.z[best]:g} µm)."
    )
    return held.z[best], [note]


def _placement(name: str, graph: PoseGraph, held: Held, *, own: Any, z: float) -> Placement:
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
    histology: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What ``uns['spatialjax']`` of the section holds: the record of an atlas of one section, and its own unit."""
    from spatialjax.atlas.assemble import describe
    from spatialjax.atlas.outputs import plain

    method = options.resolved_method
    one = describe([placement], options=asdict(options), method=method, warnings=said, histology=histology)
    own = {
        "name": placement.name,
        "um_per_unit": placement.um_per_unit,
        "units_source": placement.units_source,
        "spatial_key": spatial_key,
        "pairs": json.dumps(plain(rows)),
    }
    kept = {key: value for key, value in adata.uns.get("spatialjax", {}).items() if key != "histology"}
    return {**kept, **one, **own}


def _couplings(
    stack: Any, prepared: Any, placement: Placement, *, heights: Sequence[float], key: Any
) -> tuple[dict[tuple[str, str], sp.csr_matrix], list[dict[str, Any]]]:
    """Soft matches with the sections beside it, as between successive sections, and the similarity of what matches."""
    import jax

    from spatialjax.atlas import assemble, placing, quality

    found, rows = {}, []
    for other in _next_to(placement.z, heights) if placement.placed else []:
        ends = (other + 1, 0) if heights[other] <= placement.z else (0, other + 1)
        two = replace(stack, sections=tuple(stack.sections[i] for i in ends))
        features = replace(
            prepared, embeddings=tuple(prepared.embeddings[i] for i in ends), centers=prepared.centers[list(ends)]
        )
        places = tuple(placement.transform(s.xy) if i == 0 else s.xy for i, s in zip(ends, two.sections, strict=True))
        still = Affine(np.tile(np.eye(2), (2, 1, 1)), np.zeros((2, 2)))
        placed = placing.Placed(still, np.ones(2, bool), np.zeros(2, int), places)
        matches = placing.couple(two, features, placed)
        names = tuple(two.names)
        (row,) = quality.similarity(two, features, placed, couplings=matches, key=jax.random.fold_in(key, other))
        rows.append({**row, "source": names[0], "target": names[1]})
        found[names] = assemble.in_input_order(two, (0, 1), matches[0, 1])
    return found, rows


def _next_to(z: float, heights: Sequence[float]) -> list[int]:
    """Positions of the heights that equal ``z``; without any, of the next one below and the next one above."""
    same = [i for i, h in enumerate(heights) if h == z]
    below = sorted((i for i, h in enumerate(heights) if h < z), key=lambda i: -heights[i])[:1]
    above = sorted((i for i, h in enumerate(heights) if h > z), key=lambda i: heights[i])[:1]
    return same or [*below, *above]
