"""The one door: any AnnData objects in, a checked stack of sections out, or one clear message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from spatialjax import checks
from spatialjax.checks import InputError, listed
from spatialjax.graphs import lattice_steps
from spatialjax.io import units as unit
from spatialjax.io.coordinates import check_distinct, read_coordinates
from spatialjax.io.features import read_features
from spatialjax.io.matrices import canonical_order, library_sizes
from spatialjax.io.sections import Section, SectionStack
from spatialjax.io.split import Part, as_list, check_cells, split, too_few

if TYPE_CHECKING:
    from anndata import AnnData

#: Gap between neighbouring sections where none is given, µm.
DEFAULT_GAP = 10.0
#: Median spacings within these are passed without a word, µm.
USUAL_PITCH = (0.2, 1000.0)


def open_sections(
    adatas: AnnData | Sequence[AnnData],
    *,
    names: Sequence[str] | None = None,
    units: str | float | None = None,
    pitch: float | None = None,
    z: Sequence[float] | None = None,
    gap: float | None = None,
    feature_key: str | None = None,
    layer: str | None = None,
    spatial_key: str = "spatial",
    slice_key: str | None = None,
    allow_spacing_mismatch: bool = False,
    duplicates: Literal["error", "allow"] = "error",
    at_least: int = 2,
    lengths: bool = True,
) -> SectionStack:
    """Check sections and bring them to µm, shared features and a canonical order of their cells.

    Nothing is changed in the input, and no cell is ever dropped.

    Parameters
    ----------
    adatas
        One object a section, in the order of the tissue; or objects that ``slice_key`` splits.
    names
        Names of the sections. With ``slice_key``: its values, in the order of the tissue.
    units
        Unit of the coordinates: ``"um"``, ``"mm"``, ``"nm"`` or the number of µm in one unit. Platform metadata where
        left out; without either the door stays closed.
    pitch
        Instead of ``units``: distance between neighbouring spots, µm. One factor is used for all sections.
    z
        Depth of each section, µm; the sections are sorted by it. The third column of the coordinates where left out.
    gap
        Distance between neighbouring sections, µm, where no depth is known; 10 where left out.
    feature_key
        Key of ``obsm`` (a shared embedding) or column of ``obs`` (categories); gene expression where left out.
    layer
        Layer with the expression; ``X`` where left out.
    spatial_key
        Key of ``obsm`` with the coordinates.
    slice_key
        Column of ``obs`` that says which section a cell belongs to.
    allow_spacing_mismatch
        Whether the median spacing may differ by more than 20 % between sections.
    duplicates
        ``"error"`` or ``"allow"``: what to do with cells at exactly the same place.
    at_least
        Smallest number of sections.
    lengths
        Whether lengths matter. Where False the unit need not be known, the coordinates stay as they are, and nothing is
        said about units, spacings and depths.

    Returns
    -------
    SectionStack
        The sections, with messages that say what was found, assumed or kept.

    Raises
    ------
    InputError
        If the input cannot be used; the message says how to mend it.
    UnitsError
        If the unit is unknown, or seems to differ between sections.
    """
    checks.one_of(duplicates, ("error", "allow"), "option duplicates")
    parts = split(as_list(adatas), names, slice_key)
    if len(parts) < at_least:
        raise InputError(too_few(parts, at_least))
    messages = check_cells(parts)
    placed = [read_coordinates(part.adata, spatial_key=spatial_key, name=part.name) for part in parts]
    xys, thirds = [xy for xy, _ in placed], [depth for _, depth in placed]
    for part, xy in zip(parts, xys, strict=True):
        cells = np.asarray(part.adata.obs_names, dtype=str)
        messages += _present(check_distinct(xy, cells=cells, name=part.name, duplicates=duplicates))
    steps = [_steps(part, xy) for part, xy in zip(parts, xys, strict=True)]
    if not lengths:
        units, allow_spacing_mismatch, gap = 1.0, True, DEFAULT_GAP if z is None else None
    asked = unit.from_user(units, pitch, steps)
    known = _metadata(parts, xys, spatial_key, needed=asked is None)
    scales = _complete(parts, known, steps) if asked is None else [asked] * len(parts)
    depths, said = _depths(parts, thirds, scales, z=z, gap=gap)
    said = _unit_messages(parts, scales) + _overruled(parts, known, asked) + said
    for part, xy, scale in zip(parts, xys, scales, strict=True):
        checks.representable_extent(xy * scale.um_per_unit, where=f"section {part.name!r}")
    pitches = [float(np.median(step)) * scale.um_per_unit for step, scale in zip(steps, scales, strict=True)]
    said += _unusual(pitches)
    said += _present(unit.refuse_other_spacing([p.name for p in parts], pitches, allow=allow_spacing_mismatch))
    messages += said if lengths else []
    features = read_features(
        [part.adata for part in parts], [part.name for part in parts], feature_key=feature_key, layer=layer
    )
    messages += features.messages
    sections = []
    for i in np.argsort(depths, kind="stable"):
        messages += _empty_cells(parts[i].name, features.values[i], features.kind)
        sections.append(_section(parts[i], xys[i], depths[i], features.values[i], scales[i], pitches[i]))
    return SectionStack(tuple(sections), features.kind, features.names, messages)


def _section(
    part: Part, xy: Float[np.ndarray, "n 2"], z: float, values: Any, scale: unit.Scale, pitch: float
) -> Section:
    cells = np.asarray(part.adata.obs_names, dtype=str)
    order = canonical_order(xy, values, cells)
    return Section(
        name=part.name,
        cells=cells[order],
        xy=xy[order] * scale.um_per_unit,
        z=z,
        values=values[order],
        order=order,
        um_per_unit=scale.um_per_unit,
        units_source=scale.source,
        pitch=pitch,
        adata=part.adata,
        source=part.source,
        rows=part.rows,
    )


def _steps(part: Part, xy: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " m"]:
    steps = lattice_steps(xy)
    if len(steps) == 0:
        raise InputError(f"Expected cells at different places in section {part.name!r}, found one place for all.")
    return steps


def _metadata(
    parts: list[Part], xys: list[Float[np.ndarray, "n 2"]], spatial_key: str, *, needed: bool
) -> list[unit.Scale | None]:
    found: list[unit.Scale | None] = []
    for part, xy in zip(parts, xys, strict=True):
        try:
            found.append(unit.from_metadata(part.adata, xy, spatial_key=spatial_key, name=part.name))
        except InputError:
            if needed:
                raise
            found.append(None)
    return found


def _complete(
    parts: list[Part], known: list[unit.Scale | None], steps: list[Float[np.ndarray, " m"]]
) -> list[unit.Scale]:
    unknown = [i for i, scale in enumerate(known) if scale is None]
    if unknown:
        raise unit.unknown_units(
            [parts[i].name for i in unknown],
            lattice=all({"array_row", "array_col"} <= set(parts[i].adata.obs.columns) for i in unknown),
            spacing_units=float(np.median(np.concatenate([steps[i] for i in unknown]))),
        )
    return [scale for scale in known if scale is not None]


def _overruled(parts: list[Part], known: list[unit.Scale | None], asked: unit.Scale | None) -> list[str]:
    if asked is None:
        return []
    return [
        f"The platform metadata of {part.name!r} say {scale.um_per_unit:.6g} µm per unit ({scale.source}); what was "
        "given is used instead."
        for part, scale in zip(parts, known, strict=True)
        if scale is not None and abs(np.log(scale.um_per_unit / asked.um_per_unit)) > 0.02
    ]


def _unusual(pitches: list[float]) -> list[str]:
    low, high = min(pitches), max(pitches)
    if USUAL_PITCH[0] <= low and high <= USUAL_PITCH[1]:
        return []
    return [f"Neighbouring cells lie {low:.4g} to {high:.4g} µm apart, which is unusual: is the unit right?"]


def _unit_messages(parts: list[Part], scales: list[unit.Scale]) -> list[str]:
    by_scale: dict[unit.Scale, list[str]] = {}
    for part, scale in zip(parts, scales, strict=True):
        by_scale.setdefault(scale, []).append(part.name)
    return [
        f"Units of {'all sections' if len(by_scale) == 1 else listed(names)}: {s.um_per_unit:.6g} µm per unit "
        f"({s.source})."
        for s, names in by_scale.items()
    ]


def _depths(
    parts: list[Part], found: list[float | None], scales: list[unit.Scale], *, z: Any, gap: Any
) -> tuple[list[float], list[str]]:
    if z is not None and gap is not None:
        raise InputError("Expected z= (--z) or gap= (--gap), found both. Give the one that you know.")
    if z is not None:
        depths = [float(value) for value in np.atleast_1d(np.asarray(z, np.float64))]
        if len(depths) != len(parts):
            raise InputError(f"Expected one z for each of the {len(parts)} sections, found {len(depths)}.")
        return _distinct(depths), _sorting(parts, depths, "z as given")
    if gap is None and None not in found:
        depths = [float(d) * scale.um_per_unit for d, scale in zip(found, scales, strict=True)]
        if len(set(depths)) == len(depths):
            return depths, _sorting(parts, depths, "z from the third column of the coordinates")
    if gap is None and len(parts) == 1:
        return [0.0], []
    step = DEFAULT_GAP if gap is None else checks.positive(gap, "gap= (--gap), µm between neighbouring sections,")
    how = "assumed because none was given: set gap= (--gap) or z= (--z)" if gap is None else "as given"
    return [i * step for i in range(len(parts))], [f"Gap between neighbouring sections: {step:g} µm, {how}."]


def _distinct(depths: list[float]) -> list[float]:
    if not np.isfinite(depths).all() or len(set(depths)) < len(depths):
        raise InputError(f"Expected a different, finite z (µm) for every section, found {listed(depths, limit=20)}.")
    return depths


def _sorting(parts: list[Part], depths: list[float], how: str) -> list[str]:
    messages = [f"Depths from {min(depths):g} to {max(depths):g} µm ({how})."]
    if sorted(depths) != depths:
        order = [parts[i].name for i in np.argsort(depths)]
        messages.append(f"The sections were sorted by depth: {listed(order, limit=20)}.")
    return messages


def _empty_cells(name: str, values: Any, kind: str) -> list[str]:
    empty = int((library_sizes(values) == 0).sum())
    what = {"categories": "category", "counts": "counts"}.get(kind, "non-zero value")
    if empty == values.shape[0]:
        raise InputError(
            f"Expected values in section {name!r}, found {'no ' + what} in any of its {empty} cells. Leave this "
            "section out, or choose another layer= (--layer) or feature_key= (--feature-key)."
        )
    if not empty or kind == "categories":
        return []
    return [
        f"Section {name!r}: {empty} of {values.shape[0]} cells have no {what} in the shared features; they are kept."
    ]


def _present(message: str | None) -> list[str]:
    return [] if message is None else [message]
