"""The sections of an atlas that a new one is compared with, and both as one stack."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from spatialjax.checks import InputError, listed

if TYPE_CHECKING:
    from anndata import AnnData

    from spatialjax.atlas.labelled import Labelled

#: Sections of the atlas that a new one with a known height is aligned with.
BESIDE = 4


@dataclass(frozen=True)
class Held:
    """The sections of an atlas that a new one is compared with: one frame, µm.

    Attributes
    ----------
    names
        Of the sections.
    adatas
        Copies with ``obsm['spatial']`` in the frame, µm.
    z
        Heights, µm.
    component
        Number of the frame.
    anchor
        Section whose coordinates are the frame, where the atlas says so.
    histology
        ``features.histology_record`` of the atlas; None where it was made without pictures.
    """

    names: tuple[str, ...]
    adatas: tuple[AnnData, ...]
    z: tuple[float, ...]
    component: int
    anchor: str | None
    histology: Mapping[str, Any] | None


def held_of(atlas: AnnData, name: str, *, z: float | None, component: int) -> Held:
    """The sections of one frame of an atlas: the nearest to a height, or all of them.

    Parameters
    ----------
    atlas
        The atlas.
    name
        Name of the new section.
    z
        Its height, µm; None where it is not known.
    component
        Number of the frame.

    Raises
    ------
    InputError
        If the name is taken, the height is not finite, or there is no such frame.
    """
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
    inside = inside if z is None else nearest(inside, z)
    anchors, own = {}, atlas.uns.get("spatialjax", {})
    if own:
        anchors = dict(zip(np.asarray(own["component"]).tolist(), np.asarray(own["anchor"], str).tolist(), strict=True))
    return Held(
        names=tuple(s.name for s in inside),
        adatas=tuple(_placed_at(atlas[s.rows], s.xy) for s in inside),
        z=tuple(s.z for s in inside),
        component=component,
        anchor=anchors.get(component),
        histology=json.loads(own.get("histology", "null")),
    )


def nearest(sections: Sequence[Labelled], z: float) -> list[Labelled]:
    """The sections nearest to a height, the next one on either side always among them."""
    by_distance = sorted(sections, key=lambda s: abs(s.z - z))
    sides = [next((s for s in by_distance if side(s.z)), None) for side in (lambda h: h <= z, lambda h: h > z)]
    first = [s for s in by_distance if any(s is one for one in sides)]
    others = [s for s in by_distance if not any(s is one for one in first)]
    return sorted([*first, *others][:BESIDE], key=lambda s: abs(s.z - z))


def stacked(held: Held, own: Any, *, histology: str | None, **door: Any) -> Any:
    """The new section and those of the atlas as one stack, all in µm; heights are only an order here.

    Parameters
    ----------
    held
        Sections of the atlas.
    own
        The new section, opened alone.
    histology
        Key of ``obsm`` with columns of pictures; None for the other features alone.
    **door
        Passed to ``io.open_sections``.

    Raises
    ------
    InputError
        If the sections do not fit each other, or some of them lack the pictures.
    """
    from spatialjax.io import open_sections
    from spatialjax.io.histology import with_histology

    copies = [_placed_at(own.adata, own.in_input_order(own.xy)), *held.adatas]
    made = held.histology
    if made is not None and made["key"] == histology and made["columns"] and histology in own.adata.uns:
        copies[0].uns[histology] = own.adata.uns[histology]
        for copy in copies[1:]:
            copy.uns[histology] = {"columns": made["columns"]}
    names = [own.name, *held.names]
    return with_histology(open_sections(copies, names=names, units="um", z=range(len(copies)), **door), histology)


def pictures_said(held: Held, adata: AnnData, histology: str | None, *, name: str) -> list[str]:
    """Whether pictures count for the place of the section, where that differs from the atlas.

    Parameters
    ----------
    held
        Sections of the atlas.
    adata
        The new section.
    histology
        Key of ``obsm`` with the columns that were asked for.
    name
        Name of the new section.
    """
    made = None if held.histology is None else held.histology["key"]
    if made == histology:
        return []
    if histology is not None:
        how = "without pictures" if made is None else f"with the pictures in obsm[{made!r}]"
        return [f"The atlas was made {how}; obsm[{histology!r}] adds to the evidence of the place of {name!r} only."]
    has = (
        f"has obsm[{made!r}], too: histology={made!r} (--histology) would use it" if made in adata.obsm else "has none"
    )
    return [
        f"The atlas was made with pictures (obsm[{made!r}]), and section {name!r} {has}. Its place rests on the other "
        "features alone."
    ]


def _placed_at(adata: AnnData, xy: Float[np.ndarray, "n 2"]) -> AnnData:
    """A copy whose coordinates are these, µm, and say nothing about units themselves."""
    copy = adata.to_memory() if adata.isbacked else adata.copy()
    copy.obsm["spatial"] = np.asarray(xy, np.float64)
    copy.uns = {}
    return copy
