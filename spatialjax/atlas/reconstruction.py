"""What a user decides about a run, and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from spatialjax import checks
from spatialjax.atlas.hand import Decisions
from spatialjax.atlas.watch import Timing
from spatialjax.methods import CARDS, DEFAULTS, METHODS
from spatialjax.transforms import Affine

if TYPE_CHECKING:
    from anndata import AnnData

    from spatialjax.atlas.pairs import PairPosterior

REFLECTIONS = ("never", "auto", "allow")


@dataclass(frozen=True)
class Options:
    """What the user decides about a run.

    Attributes
    ----------
    method
        Alignment method, ``"auto"`` for the default one.
    reflection
        ``"never"`` turns no section over, ``"auto"`` does where the evidence clearly asks for it, ``"allow"`` treats
        both sides alike.
    anchor
        Name of the section that keeps its coordinates; the first placed one where None.
    n_domains
        Number of cross-section domains; chosen from the data where None.
    seed
        Seed of every random choice.
    decisions
        What a person decided; None for nothing.
    """

    method: str = "auto"
    reflection: str = "auto"
    anchor: str | None = None
    n_domains: int | None = None
    seed: int = 0
    decisions: Decisions | None = None

    @property
    def resolved_method(self) -> str:
        """Name of the method in the table."""
        return DEFAULTS["alignment"] if self.method == "auto" else self.method

    def check(self) -> None:
        """Refuse unknown values: no data needed.

        Raises
        ------
        InputError
            With the nearest allowed value.
        """
        checks.one_of(self.method, ("auto", *METHODS["alignment"]), "method")
        checks.one_of(self.reflection, REFLECTIONS, "reflection")
        if self.n_domains is not None and not (isinstance(self.n_domains, int) and self.n_domains >= 1):
            raise checks.InputError(
                f"Expected a number of domains of at least 1, found {self.n_domains!r}: leave it out to have it chosen."
            )

    def check_with(self, stack: Any) -> None:
        """Refuse what does not fit the sections: tiny sections, an unknown anchor, no counts for a count method."""
        small = [section.name for section in stack.sections if len(section.xy) < 3]
        if small:
            raise checks.InputError(
                f"Expected at least three cells in every section to place it, found fewer in {checks.listed(small)}. "
                "Leave "
                "these sections out."
            )
        names = stack.names
        if self.anchor is not None:
            checks.one_of(self.anchor, names, "anchor section")
        cells = sum(len(section.xy) for section in stack.sections)
        if self.n_domains is not None and self.n_domains > cells:
            raise checks.InputError(f"Expected at most one domain a cell ({cells}), found {self.n_domains} domains.")
        method = self.resolved_method
        most = CARDS["alignment"][method].most_spots
        large = [section.name for section in stack.sections if most is not None and len(section.xy) > most]
        if large:
            raise checks.InputError(
                f"Expected at most {most:,} spots a section for method {method!r}, whose plan is spots × spots; "
                f"found more in {checks.listed(large)}. Use method 'fields', which has no such limit."
            )
        if CARDS["alignment"][method].expects == "counts":
            stack.require_counts(f"method {method!r}")


@dataclass(frozen=True)
class Placement:
    """Where one section lies in the atlas.

    Attributes
    ----------
    name
        Name of the section.
    transform
        Map of the section's µm into the frame of its component's anchor, µm.
    from_units
        The same from the units of the file (pixels, grid steps): apply it to images and other points.
    z
        Height, µm.
    placed
        Whether the evidence supports the place; the maps mean nothing where not.
    component
        Connected component, -1 where not placed.
    anchor
        Name of the section whose coordinates are the frame of the component, or None.
    um_per_unit
        Length of a unit of the file, µm.
    units_source
        Where that is known from.
    covariance
        Covariance of (angle in rad, shift x, shift y in µm) relative to the anchor, for a motion about ``center`` in
        the frame of the anchor; 0 for the anchor, NaN where not placed.
    center
        What that angle turns about, µm.
    warp
        Variance along each axis, µm², of a cell's place that no rigid map explains.
    """

    name: str
    transform: Affine
    from_units: Affine
    z: float
    placed: bool
    component: int
    anchor: str | None
    um_per_unit: float
    units_source: str
    covariance: Float[np.ndarray, "3 3"]
    center: Float[np.ndarray, "2"]
    warp: float

    @property
    def angle_deg(self) -> float:
        """Rotation, degrees counter-clockwise, of a mirrored section after ``y -> -y``; NaN where not placed."""
        return float(np.degrees(self.transform.angle)) if self.placed else float("nan")

    @property
    def mirrored(self) -> bool:
        """Whether the section was turned over; False where not placed."""
        return self.placed and bool(self.transform.mirrored)

    @property
    def angle_sd_deg(self) -> float:
        """Standard deviation of the angle relative to the anchor, degrees; NaN where not placed."""
        return float(np.degrees(np.sqrt(self.covariance[0, 0])))

    def apply(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
        """Places in the atlas (µm) of points in the units of the file, e.g. corners of an image or transcripts."""
        points = np.asarray(points, np.float64)
        return np.column_stack([self.from_units(points), np.full(len(points), self.z)])


@dataclass(frozen=True)
class Reconstruction:
    """The aligned tissue.

    Attributes
    ----------
    atlas
        All cells in input order; see ``docs``: ``obsm['spatial3d']`` in µm, ``obs['placed']``, ``obs['domain3d']``, ….
    transforms
        Section name -> :class:`Placement`.
    couplings
        (name, name) of successive sections -> sparse soft matches, rows and columns in the order of each section's
        cells.
    pairs
        One row for each pair of sections: evidence, threshold, parity, angle, similarity.
    metrics
        Loop errors and the similarity of matched places with its nulls.
    findings
        What looks wrong with the order or the gaps, in sentences.
    warnings
        What the user should know before trusting the result.
    timings
        Time and memory of every step.
    """

    atlas: AnnData
    transforms: Mapping[str, Placement]
    couplings: Mapping[tuple[str, str], sp.csr_matrix]
    pairs: list[dict[str, Any]]
    metrics: dict[str, Any]
    findings: list[str]
    warnings: list[str]
    timings: list[Timing] = field(default_factory=list)

    @property
    def unplaced(self) -> list[str]:
        """Names of the sections that no evidence supports."""
        return [name for name, placement in self.transforms.items() if not placement.placed]


@dataclass(frozen=True)
class PairAlignment:
    """How one section lies on another, in the caller's units.

    Attributes
    ----------
    transform
        Map from the coordinates of the source to those of the target, both in their own units. With ``scale=True`` it
        holds the scale of the tissue too.
    transform_um
        The same in µm: rigid, or with ``scale=True`` a similarity.
    coordinates
        (n, 2) coordinates of the source's cells in the units of the target, rows as in the input.
    overlap
        For each source cell the probability that the target shows the same place.
    evidence
        Evidence of the pose, nats.
    threshold
        Evidence that unrelated sections reach by chance.
    angle
        Rotation, degrees counter-clockwise; of a mirrored section, after ``y -> -y``.
    mirrored
        Whether the section was turned over.
    pose
        Which of the poses of ``posterior`` this is.
    posterior
        How sure it is: probability, angle and shift with their spread, overlap with an interval; None where no pose
        was found.
    messages
        What was assumed about the input.
    """

    transform: Affine
    transform_um: Affine
    coordinates: Float[np.ndarray, "n 2"]
    overlap: Float[np.ndarray, " n"]
    evidence: float
    threshold: float
    angle: float
    mirrored: bool
    pose: int
    posterior: PairPosterior | None
    messages: tuple[str, ...]

    @property
    def scale(self) -> float:
        """What lengths (µm) of the source are multiplied by; 1 where it was not asked for."""
        return float(np.sqrt(np.abs(np.linalg.det(self.transform_um.matrix))))

    @property
    def supported(self) -> bool:
        """Whether the pose has more evidence than chance gives; do not use the coordinates where not."""
        return self.evidence > self.threshold
