"""AnnData-style preparation: look at sections before any work is done on them, and describe their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spatialjax.checks import InputError
from spatialjax.io import Section, open_sections
from spatialjax.io.matrices import library_sizes

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class SectionFindings:
    """What was found in one section.

    Attributes
    ----------
    name
        Name of the section.
    cells
        Number of cells.
    width, height
        Extent along x and y, µm.
    z
        Depth, µm.
    pitch
        Median distance to the nearest other cell, µm.
    um_per_unit
        µm in one unit of the input.
    empty
        Number of cells without any value in the shared features.
    median_library
        Median over cells of the sum of their values (absolute ones where some are negative).
    """

    name: str
    cells: int
    width: float
    height: float
    z: float
    pitch: float
    um_per_unit: float
    empty: int
    median_library: float


@dataclass(frozen=True)
class CheckReport:
    """What the front door found; ``print`` it.

    Attributes
    ----------
    sections
        Findings of each section, sorted by depth; none where there is a problem.
    kind
        Kind of the values; empty where there is a problem.
    features
        Number of shared features.
    messages
        What was found, assumed or kept.
    problem
        Why the sections cannot be used and how to mend it; None where they can.
    """

    sections: tuple[SectionFindings, ...] = ()
    kind: str = ""
    features: int = 0
    messages: list[str] = field(default_factory=list)
    problem: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the sections can be used."""
        return self.problem is None

    def __str__(self) -> str:
        """A table of the sections and the messages, or the problem."""
        if self.problem is not None:
            return f"Problem: {self.problem}"
        rows = [("section", "cells", "width µm", "height µm", "z µm", "pitch µm", "empty", "median sum")]
        for s in self.sections:
            numbers = (f"{value:.6g}" for value in (s.width, s.height, s.z, s.pitch))
            rows.append((s.name, str(s.cells), *numbers, str(s.empty), f"{s.median_library:.6g}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        return "\n".join([*lines, *(f"- {message}" for message in self.messages)])


def check(adatas: AnnData | Sequence[AnnData], **options: Any) -> CheckReport:
    """Say what ``io.open_sections`` finds in sections, without raising.

    Parameters
    ----------
    adatas
        One section or several; never changed.
    **options
        Options of ``io.open_sections``: ``units``, ``pitch``, ``slice_key``, ``feature_key`` and so on. One section
        alone is enough here, unless ``at_least`` says otherwise.

    Returns
    -------
    CheckReport
        The findings, or the one problem that keeps the door closed.

    Examples
    --------
    >>> print(check(adatas, pitch=100))  # doctest: +SKIP
    """
    try:
        stack = open_sections(adatas, **{"at_least": 1, **options})
    except InputError as error:
        return CheckReport(problem=str(error))
    return CheckReport(
        sections=tuple(_findings(section) for section in stack.sections),
        kind=stack.kind,
        features=len(stack.genes),
        messages=list(stack.messages),
    )


def histology_features(
    adata: AnnData,
    *,
    image: str | Path | np.ndarray | None = None,
    pixels_per_unit: float | None = None,
    coordinates: str | Sequence[str] = "spatial",
    library: str | None = None,
    resolution: str | None = None,
    pitch: float | None = None,
    key_added: str = "histology",
) -> AnnData:
    """Describe the H&E picture around each spot: stains, nuclei and texture.

    The two stains are told apart by Beer–Lambert's law with colours estimated from the picture itself. All windows are
    round, so a section turned or mirrored together with its picture has the same columns. They are on the picture's own
    scale; where they are used they are ranked within each section, which takes off what differs between two stainings.

    Parameters
    ----------
    adata
        One section; not changed.
    image
        File (PNG, JPEG, TIFF, .npy) or pixels (height, width, 3 or 4 channels); the picture in
        ``uns['spatial'][library]['images']`` where left out.
    pixels_per_unit
        Pixels of this picture in a unit of the coordinates, ``um_per_unit / um_per_pixel``. Where left out: the scale
        factor beside the picture in ``uns``, or 1 for a picture that is given.
    coordinates
        Key of ``obsm``, or two columns of ``obs``, that say where the spots lie in the picture: x to the right, y down.
    library
        Which entry of ``uns['spatial']``, where there are several.
    resolution
        ``"hires"`` or ``"lowres"``; the finest one that is there where left out.
    pitch
        Scale of the windows and textures, in units of the coordinates; the spacing of the spots where left out. Give
        some tens of µm for single cells.
    key_added
        Key of ``obsm`` and ``uns``.

    Returns
    -------
    AnnData
        A copy with ``obsm[key_added]``, float32, and ``uns[key_added]``: ``columns`` (their names), ``source``,
        ``pixels_per_pitch``, ``stain_colors`` (haematoxylin and eosin, optical density) and ``stains_estimated``.

    Raises
    ------
    InputError
        If there is no picture or scale, the picture has no colours or fewer than 3 pixels a pitch, or spots lie outside
        it or off its tissue.

    Examples
    --------
    >>> described = [sj.pp.histology_features(adata) for adata in adatas]  # doctest: +SKIP
    >>> sj.tl.reconstruct(described, histology="histology")  # doctest: +SKIP
    """
    from spatialjax.io.histology import described, section_image

    found = section_image(
        adata,
        image=image,
        pixels_per_unit=pixels_per_unit,
        coordinates=coordinates,
        library=library,
        resolution=resolution,
    )
    return described(adata, found, coordinates=coordinates, pitch=pitch, key_added=key_added)


def _findings(section: Section) -> SectionFindings:
    width, height = np.ptp(section.xy, axis=0)
    sizes = library_sizes(section.values)
    return SectionFindings(
        name=section.name,
        cells=len(section.cells),
        width=float(width),
        height=float(height),
        z=section.z,
        pitch=section.pitch,
        um_per_unit=section.um_per_unit,
        empty=int((sizes == 0).sum()),
        median_library=float(np.median(sizes)),
    )
