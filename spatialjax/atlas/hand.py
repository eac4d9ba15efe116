"""What a person decided about a run: sections left out, poses fixed or forbidden, landmarks, pairs to align anew.

Decisions are plain data that can be written as JSON, so that they enter the record of a run and whatever compares two
runs. They are made in Python, or read from a file or a mapping (``decisions_file.read``)::

    {"exclude": ["B3"],
     "fix": [{"source": "B2", "target": "B1", "angle_deg": 12, "shift": [350, -40]}],
     "forbid": [{"section": "B5", "mirrored": true}],
     "landmarks": "points.csv",
     "redo": [{"source": "B4", "target": "B2", "seed": 1}]}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spatialjax import checks
from spatialjax.checks import InputError
from spatialjax.methods import METHODS

#: Length units of a stated shift: µm, or the units of the files.
UNITS = ("um", "file")
_UNIT_NAMES = {"um": "µm", "file": "units of the target's file"}
#: ``PairResult.status`` of pairs that a person decided about.
FIXED, FORBIDDEN, LANDMARKS = "fixed by hand", "forbidden by hand", "landmarks"


@dataclass(frozen=True)
class Fix:
    """The pose of a pair, or of a section in the frame of the anchor.

    Attributes
    ----------
    source
        The section that is moved.
    target
        The section it is laid on; None for the anchor of the run.
    angle_deg
        Rotation, degrees counter-clockwise; of a mirrored section, after ``y -> -y``.
    shift
        (x, y) added after rotation: ``x -> R(angle) M x + shift`` in the coordinates of the files, not about a centre.
    mirrored
        Whether the section is turned over (``y -> -y``) first.
    units
        ``"um"``, or ``"file"`` for a shift in the units of the target's file.
    """

    source: str
    target: str | None = None
    angle_deg: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    mirrored: bool = False
    units: str = "um"


@dataclass(frozen=True)
class Forbid:
    """Poses that a pair, or every pair of a section, may not take: one side, or all near a pose.

    Attributes
    ----------
    source
        A section.
    target
        The other section of the pair; None for every pair of ``source``.
    mirrored
        The side that is forbidden: True for turned over, False for not. With an angle: only poses of that side.
    angle_deg
        Poses with an angle near this one are forbidden, degrees; needs a target.
    angle_tolerance_deg
        How near.
    shift
        Only poses with a shift near this one are forbidden; any shift where left out. As in :class:`Fix`.
    shift_tolerance
        How near, in ``units``.
    units
        As in :class:`Fix`.
    """

    source: str
    target: str | None = None
    mirrored: bool | None = None
    angle_deg: float | None = None
    angle_tolerance_deg: float = 15.0
    shift: tuple[float, float] | None = None
    shift_tolerance: float | None = None
    units: str = "um"


@dataclass(frozen=True)
class Landmark:
    """The same place in two sections.

    Attributes
    ----------
    source, target
        The two sections.
    x1, y1
        The place in the source, in the units of its file.
    x2, y2
        The place in the target, in the units of its file.
    sd
        How precisely the places were matched, µm; two distances between spots where left out.
    name
        What messages call it: the line of the file, or its position.
    """

    source: str
    target: str
    x1: float
    y1: float
    x2: float
    y2: float
    sd: float | None = None
    name: str = ""


@dataclass(frozen=True)
class Redo:
    """A pair to align anew.

    Attributes
    ----------
    source, target
        The two sections.
    method
        Another alignment method; that of the run where left out.
    seed
        Another seed for this pair; that of the run where left out.
    """

    source: str
    target: str
    method: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Decisions:
    """Everything that a person decided about a run.

    Attributes
    ----------
    exclude
        Names of sections that are left out; their neighbours are paired over the gap, every height is kept.
    fix, forbid, landmarks, redo
        See :class:`Fix`, :class:`Forbid`, :class:`Landmark`, :class:`Redo`.
    """

    exclude: tuple[str, ...] = ()
    fix: tuple[Fix, ...] = ()
    forbid: tuple[Forbid, ...] = ()
    landmarks: tuple[Landmark, ...] = ()
    redo: tuple[Redo, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything was decided."""
        return any((self.exclude, self.fix, self.forbid, self.landmarks, self.redo))

    def redone(self, names: Sequence[str]) -> dict[tuple[int, int], Redo]:
        """Positions of the pairs to align anew, as in the stack."""
        found = {}
        for redo in self.redo:
            a, b = sorted((names.index(redo.source), names.index(redo.target)))
            found[a, b] = redo
        return found

    def check_with(self, names: Sequence[str], *, anchor: str | None, reflection: str) -> None:
        """Refuse decisions that do not fit the sections, the options or each other.

        Parameters
        ----------
        names
            Names of all sections, the excluded ones too.
        anchor
            Name of the section that keeps its coordinates, if one was chosen.
        reflection
            The option of the run.

        Raises
        ------
        InputError
            With the decision that cannot be followed, and why.
        """
        for name in self.exclude:
            checks.one_of(name, names, "section to exclude")
        left = [name for name in names if name not in self.exclude]
        if len(left) < 2:
            raise InputError(
                f"Expected at least two sections to be left after excluding {checks.listed(self.exclude)}, found "
                f"{len(left)}. Exclude fewer."
            )
        if anchor in self.exclude:
            raise InputError(f"Expected an anchor that is not excluded, found {anchor!r}. Choose another anchor.")
        for kind in ("fix", "forbid", "landmarks", "redo"):
            for decision in getattr(self, kind):
                _check_names(decision, kind, left=left, excluded=self.exclude)
        _check_fixes(self, anchor=anchor, reflection=reflection)


def _check_names(decision: Any, kind: str, *, left: Sequence[str], excluded: Sequence[str]) -> None:
    what = f"section in {kind!r}"
    for name in (decision.source, decision.target):
        if name in excluded:
            raise InputError(f"The {what} {name!r} is excluded as well. Drop one of the two decisions.")
        if name is not None:
            checks.one_of(name, left, what)
    if decision.source == decision.target:
        raise InputError(f"Expected two different sections in {kind!r}, found {decision.source!r} twice.")
    if isinstance(decision, Fix | Forbid):
        checks.one_of(decision.units, UNITS, f"units in {kind!r}")
    if isinstance(decision, Redo):
        if decision.method is None and decision.seed is None:
            raise InputError(
                f"Expected another method or another seed to align {decision.source!r} with {decision.target!r} anew, "
                "found neither: the same pair would come out the same."
            )
        if decision.method is not None:
            checks.one_of(decision.method, tuple(METHODS["alignment"]), "method in 'redo'")
    if isinstance(decision, Forbid):
        _check_forbid(decision)


def _check_forbid(decision: Forbid) -> None:
    if decision.mirrored is None and decision.angle_deg is None:
        raise InputError(f"Expected mirrored or angle_deg in 'forbid' of {decision.source!r}, found neither.")
    if decision.target is None and decision.angle_deg is not None:
        raise InputError(
            f"An angle is forbidden between two sections: give source and target instead of section "
            f"{decision.source!r}."
        )
    if (decision.shift is None) != (decision.shift_tolerance is None):
        raise InputError("Expected shift and shift_tolerance together in 'forbid', found one of them.")
    if decision.shift is not None and decision.angle_deg is None:
        raise InputError("Expected angle_deg beside shift in 'forbid', found none.")


def _check_fixes(decisions: Decisions, *, anchor: str | None, reflection: str) -> None:
    taken: dict[frozenset[str], str] = {}
    for fix in decisions.fix:
        if fix.target is None and anchor is None:
            raise InputError(
                f"The pose of section {fix.source!r} is fixed in the frame of the anchor: say which section that is "
                "with anchor= (--anchor), or fix the pair with source and target."
            )
        pair = frozenset((fix.source, fix.target or str(anchor)))
        if len(pair) == 1:
            raise InputError(f"The anchor {fix.source!r} keeps its coordinates: its pose cannot be fixed to another.")
        if pair in taken:
            raise InputError(f"The pose of the pair {checks.listed(sorted(pair))} is fixed twice. Keep one.")
        taken[pair] = "fix"
        if fix.mirrored and reflection == "never":
            raise InputError(
                f"The fixed pose of {fix.source!r} is mirrored, but reflection is 'never'. Use 'auto' or 'allow'."
            )
    for kind in ("landmarks", "redo"):
        for decision in getattr(decisions, kind):
            if frozenset((decision.source, decision.target)) in taken:
                raise InputError(
                    f"The pair {decision.source!r} and {decision.target!r} has a fixed pose, and {kind!r} as well. "
                    "Keep one of the two."
                )


def in_words(decisions: Decisions) -> list[str]:
    """Each decision as a sentence, in the order in which they are followed.

    Parameters
    ----------
    decisions
        What a person decided.
    """
    said = [f"Section {name!r} is left out." for name in decisions.exclude]
    said += [_forbidden_in_words(forbid) for forbid in decisions.forbid]
    pairs: dict[tuple[str, str], int] = {}
    for mark in decisions.landmarks:
        first, second = sorted((mark.source, mark.target))
        pairs[first, second] = pairs.get((first, second), 0) + 1
    said += [f"{number} landmark{'s' * (number > 1)} between {a!r} and {b!r}." for (a, b), number in pairs.items()]
    for redo in decisions.redo:
        how = [] if redo.method is None else [f"by method {redo.method!r}"]
        how += [] if redo.seed is None else [f"with seed {redo.seed}"]
        said.append(f"{redo.source!r} on {redo.target!r} is aligned anew {' '.join(how)}.")
    for fix in decisions.fix:
        where = "in the frame of the anchor" if fix.target is None else f"on {fix.target!r}"
        said.append(
            f"The pose of {fix.source!r} {where} is fixed: "
            f"{_pose_in_words(fix.mirrored, fix.angle_deg, fix.shift, units=fix.units)}."
        )
    return said


def _forbidden_in_words(forbid: Forbid) -> str:
    where = f"every pair of {forbid.source!r}" if forbid.target is None else f"{forbid.source!r} on {forbid.target!r}"
    if forbid.angle_deg is None:
        return f"Poses that {'' if forbid.mirrored else 'do not '}turn over are forbidden for {where}."
    side = {None: "", True: "turned over and ", False: "not turned over and "}[forbid.mirrored]
    near = f"{side}rotated by {forbid.angle_deg:g}° ± {forbid.angle_tolerance_deg:g}°"
    if forbid.shift is not None:
        unit = _UNIT_NAMES[forbid.units]
        near += f", shifted by ({forbid.shift[0]:g}, {forbid.shift[1]:g}) ± {forbid.shift_tolerance:g} {unit}"
    return f"Poses {near} are forbidden for {where}."


def _pose_in_words(mirrored: bool, angle_deg: float, shift: Sequence[float], *, units: str) -> str:
    side = "turned over, then " if mirrored else ""
    return f"{side}rotated by {angle_deg:g}°, shifted by ({shift[0]:g}, {shift[1]:g}) {_UNIT_NAMES[units]}"
