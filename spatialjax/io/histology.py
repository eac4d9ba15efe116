"""Pictures of sections and where their spots lie in them; columns made of them, carried beside the genes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Shaped

from spatialjax import checks
from spatialjax.checks import InputError, listed, nearest
from spatialjax.io.images import read_image
from spatialjax.io.sections import SectionStack

if TYPE_CHECKING:
    from anndata import AnnData

#: Copies of a picture that Visium brings, the finest first.
RESOLUTIONS = ("hires", "lowres")


@dataclass(frozen=True, eq=False)
class SectionImage:
    """A picture of a section and its spots in it.

    Attributes
    ----------
    pixels
        The picture as stored.
    places
        (x, y) of each spot, pixels of this picture; rows as in the AnnData.
    source
        Where the picture comes from, for messages.
    """

    pixels: Shaped[np.ndarray, "h w *c"]
    places: Float[np.ndarray, "n 2"]
    source: str


def section_image(
    adata: AnnData,
    *,
    image: str | Path | np.ndarray | None = None,
    pixels_per_unit: float | None = None,
    coordinates: str | Sequence[str] = "spatial",
    library: str | None = None,
    resolution: str | None = None,
) -> SectionImage:
    """The picture of a section, from ``uns['spatial']`` or given, and where its spots lie in it.

    Parameters
    ----------
    adata
        The section; not changed.
    image
        File or pixels; the picture in ``uns['spatial'][library]['images']`` where left out.
    pixels_per_unit
        Pixels of this picture in a unit of the coordinates. Where left out: the scale factor beside the picture in
        ``uns``, or 1 for a picture that is given, whose pixels the coordinates then count.
    coordinates
        Key of ``obsm``, or two columns of ``obs``, with x (to the right) and y (down).
    library
        Which entry of ``uns['spatial']``; needed where there are several.
    resolution
        ``"hires"`` or ``"lowres"``; the finest one that is there where left out.

    Raises
    ------
    InputError
        If there is no picture, no scale, or no such coordinates.
    """
    if image is None:
        pixels, scale, source = _stored(adata, library=library, resolution=resolution)
    else:
        if library is not None or resolution is not None:
            raise InputError(
                "Expected image= or library= and resolution=, which pick a picture from uns['spatial']; found both. "
                "Leave one of them out."
            )
        given = isinstance(image, np.ndarray)
        pixels = image if given else read_image(image)
        scale, source = 1.0, "the given picture" if given else f"picture {Path(image).name!r}"
    scale = scale if pixels_per_unit is None else checks.positive(pixels_per_unit, "pixels_per_unit")
    if scale is None:
        raise InputError(
            f"Expected the scale factor of {source} in uns['spatial'], found none. Give pixels_per_unit: pixels of "
            "this picture in a unit of the coordinates."
        )
    xy = _coordinates(adata, coordinates)
    return SectionImage(np.asarray(pixels), (xy + 0.5) * scale - 0.5, source)


def _stored(adata: AnnData, *, library: str | None, resolution: str | None) -> tuple[Any, float | None, str]:
    libraries = adata.uns.get("spatial")
    if not isinstance(libraries, Mapping) or not libraries:
        raise InputError(
            "Expected a picture in uns['spatial'][library]['images'], found none. Give image= (a file or pixels) and "
            "pixels_per_unit=."
        )
    if library is None and len(libraries) > 1:
        raise InputError(
            f"Expected one entry in uns['spatial'], found {listed(libraries, limit=8)}. Give library=, the one of this "
            "section."
        )
    name = next(iter(libraries)) if library is None else checks.one_of(library, tuple(libraries), "library")
    entry = libraries[name] if isinstance(libraries[name], Mapping) else {}
    images = entry.get("images") or {}
    there = [r for r in RESOLUTIONS if r in images] + [r for r in images if r not in RESOLUTIONS]
    if not there:
        raise InputError(
            f"Expected a picture in uns['spatial'][{name!r}]['images'], found none. Give image= (a file or pixels) and "
            "pixels_per_unit=."
        )
    chosen = there[0] if resolution is None else checks.one_of(resolution, tuple(there), "resolution")
    factors = entry.get("scalefactors") or {}
    scale = factors.get(f"tissue_{chosen}_scalef")
    if scale is not None:
        scale = checks.positive(scale, f"tissue_{chosen}_scalef of uns['spatial'][{name!r}]")
    return images[chosen], scale, f"picture {chosen!r} of uns['spatial'][{name!r}]"


def _coordinates(adata: AnnData, key: str | Sequence[str]) -> Float[np.ndarray, "n 2"]:
    if isinstance(key, str):
        if key not in adata.obsm:
            close = nearest(key, adata.obsm.keys(), number=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise InputError(
                f"Expected coordinates in obsm[{key!r}], found the keys {listed(adata.obsm.keys(), limit=8)}.{hint}"
            )
        xy = np.asarray(adata.obsm[key], np.float64)
    else:
        columns = list(key)
        absent = [column for column in columns if column not in adata.obs.columns]
        if len(columns) != 2 or absent:
            raise InputError(
                f"Expected coordinates= to be a key of obsm or two columns of obs, found {columns}, of which "
                f"{listed(absent)} are not in obs ({listed(adata.obs.columns, limit=12)})."
            )
        xy = adata.obs[columns].to_numpy(np.float64)
    if xy.ndim != 2 or xy.shape[1] < 2 or len(xy) < 3:
        raise InputError(f"Expected coordinates of at least three spots, (n, 2), found shape {xy.shape}.")
    return xy[:, :2]


def described(
    adata: AnnData,
    found: SectionImage,
    *,
    coordinates: str | Sequence[str] = "spatial",
    pitch: float | None = None,
    key_added: str = "histology",
) -> AnnData:
    """A copy of a section with columns of its picture in ``obsm[key_added]``; see ``pp.histology_features``.

    Parameters
    ----------
    adata
        The section; not changed.
    found
        What :func:`section_image` returned.
    coordinates
        As given to :func:`section_image`.
    pitch
        Scale of windows and textures, units of the coordinates; the spacing of the spots where left out.
    key_added
        Key of ``obsm`` and ``uns``.

    Raises
    ------
    InputError
        If the picture cannot be used, see ``histology.spot_features``.
    """
    from spatialjax.histology import COLUMNS, spot_features
    from spatialjax.registration.pairs import pitch_of

    step = pitch_of(found.places)
    if pitch is not None:
        step *= checks.positive(pitch, "pitch") / pitch_of(_coordinates(adata, coordinates))
    values, stains = spot_features(found.pixels, found.places, pitch=step, where=found.source)
    copy = adata.to_memory() if adata.isbacked else adata.copy()
    copy.obsm[key_added] = values
    copy.uns[key_added] = {
        "columns": np.array(COLUMNS, dtype=str),
        "source": found.source,
        "pixels_per_pitch": float(step),
        "stain_colors": stains.colors,
        "stains_estimated": bool(stains.estimated),
    }
    return copy


def with_histology(stack: SectionStack, key: str | None) -> SectionStack:
    """The stack with columns of its pictures beside its features, as added evidence of the poses.

    Parameters
    ----------
    stack
        What ``open_sections`` returned; not changed.
    key
        Key of ``obsm`` with the columns, see ``pp.histology_features``; None returns the stack as it is.

    Raises
    ------
    InputError
        If a section has no such columns (all sections or none), they differ between sections, are not finite or say
        nothing, or are the very features that they would be added to.
    """
    if key is None:
        return stack
    if stack.kind == "embedding" and list(stack.genes) == [f"{key}{i}" for i in range(len(stack.genes))]:
        raise InputError(
            f"Expected histology={key!r} (--histology) to add to other features, found that feature_key= "
            "(--feature-key) names the same. Leave one of them out."
        )
    absent = [section.name for section in stack.sections if key not in section.adata.obsm]
    if absent:
        where = next(section for section in stack.sections if section.name == absent[0]).adata
        close = nearest(key, where.obsm.keys(), number=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise InputError(
            f"Expected obsm[{key!r}] in all sections, or no histology= (--histology), found none in {listed(absent)}. "
            f"Make it of each section's picture with spatialjax.pp.histology_features.{hint}"
        )
    values = [_added(section, key) for section in stack.sections]
    widths = [v.shape[1] for v in values]
    columns = [_named(section, key) for section in stack.sections]
    other = next((i for i in range(len(values)) if widths[i] != widths[0] or columns[i] != columns[0]), None)
    if other is not None:
        raise InputError(
            f"Expected the same columns of obsm[{key!r}] in all sections, found {widths[0]} in "
            f"{stack.names[0]!r} and {widths[other]}, or other names, in {stack.names[other]!r}. Make them anew with "
            "one version of spatialjax.pp.histology_features."
        )
    sections = tuple(replace(s, added=v) for s, v in zip(stack.sections, values, strict=True))
    note = f"Histology: the {widths[0]} columns of obsm[{key!r}] add to the evidence of the poses, and to nothing else."
    names = tuple(columns[0] or ())
    return replace(stack, sections=sections, messages=[*stack.messages, note], histology=key, columns=names)


def _added(section: Any, key: str) -> Float[np.ndarray, "n q"]:
    values = np.asarray(section.adata.obsm[key], np.float32)
    if values.ndim != 2 or values.shape[1] == 0:
        raise InputError(f"Expected columns in obsm[{key!r}] of section {section.name!r}, found shape {values.shape}.")
    if not np.isfinite(values).all():
        raise InputError(
            f"Expected finite values in obsm[{key!r}] of section {section.name!r}, found NaN or infinite ones in "
            f"{int((~np.isfinite(values)).any(1).sum())} of {len(values)} spots."
        )
    if not (np.ptp(values, axis=0) > 0).any():
        raise InputError(
            f"Expected columns that vary in obsm[{key!r}] of section {section.name!r}, found one value in each. Does "
            "the picture show the tissue?"
        )
    return values[section.order]


def _named(section: Any, key: str) -> list[str] | None:
    own = section.adata.uns.get(key)
    return [str(name) for name in own["columns"]] if isinstance(own, Mapping) and "columns" in own else None
