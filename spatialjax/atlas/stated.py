"""Poses that a person stated, as maps in µm, and decisions about poses that contradict each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from spatialjax.atlas.hand import Decisions, Fix, Forbid
from spatialjax.checks import InputError
from spatialjax.transforms import Affine, rigid

#: How far fixed poses may fail to close, as root mean square over the cells, in distances between spots.
CLOSES = 2.0


def fixed_pose(fix: Fix, stack: Any, *, anchor: str | None = None) -> Affine:
    """The fixed map from the source to the target, µm.

    Parameters
    ----------
    fix
        The decision.
    stack
        The sections.
    anchor
        The target of a section that is fixed alone.
    """
    unit = unit_of(stack, fix.target or str(anchor), fix.units)
    return rigid(np.radians(np.float64(fix.angle_deg)), np.asarray(fix.shift, np.float64) * unit, fix.mirrored)


def unit_of(stack: Any, section: str, units: str) -> float:
    """Length, µm, of the unit that a shift in the frame of a section is given in."""
    return float(stack.sections[stack.names.index(section)].um_per_unit) if units == "file" else 1.0


def hit_by(forbid: Forbid, poses: Affine, *, ends: tuple[str, str], stack: Any) -> Bool[np.ndarray, " k"]:
    """Which poses of a pair are forbidden.

    Parameters
    ----------
    forbid
        A decision about this pair, or about all pairs of one of its sections.
    poses
        (k,) maps from the first to the second section, µm.
    ends
        Names of the two sections.
    stack
        The sections.
    """
    given = poses.inverse() if forbid.target is not None and ends[0] == forbid.target else poses
    hit = np.ones(len(poses.shift), bool)
    if forbid.mirrored is not None:
        hit &= np.asarray(poses.mirrored) == forbid.mirrored
    if forbid.angle_deg is not None:
        apart = np.abs((np.degrees(given.angle) - forbid.angle_deg + 180) % 360 - 180)
        hit &= apart <= forbid.angle_tolerance_deg
    if forbid.shift is not None and forbid.target is not None:
        unit = unit_of(stack, forbid.target, forbid.units)
        apart = np.linalg.norm(given.shift - np.asarray(forbid.shift) * unit, axis=1)
        hit &= apart <= float(forbid.shift_tolerance) * unit
    return hit


def refuse_contradictions(decisions: Decisions, stack: Any, *, anchor: str | None = None) -> None:
    """Refuse fixed poses that are forbidden as well, and fixed poses that do not close around a loop.

    Parameters
    ----------
    decisions
        Checked decisions (``Decisions.check_with``).
    stack
        The sections that are left.
    anchor
        Name of the section whose frame a section's pose is fixed in.

    Raises
    ------
    InputError
        With the sections, and by how much the loop fails to close in degrees and µm.
    """
    maps = {}
    for fix in decisions.fix:
        ends = (fix.source, fix.target or str(anchor))
        pose = fixed_pose(fix, stack, anchor=anchor)
        for forbid in decisions.forbid:
            concerned = {name for name in (forbid.source, forbid.target) if name is not None}
            if concerned <= set(ends) and hit_by(forbid, pose[None], ends=ends, stack=stack)[0]:
                where = f"{forbid.source!r}{'' if forbid.target is None else f' on {forbid.target!r}'}"
                raise InputError(
                    f"The pose that is fixed for {ends[0]!r} on {ends[1]!r} is one of those forbidden for {where}. "
                    "Drop one of the two decisions."
                )
        maps[ends] = pose
        maps[ends[::-1]] = pose.inverse()
    tree: dict[str, tuple[str, ...]] = {}
    for fix in decisions.fix:
        source, target = fix.source, fix.target or str(anchor)
        loop = _path(target, source, tree)
        if loop is None:
            tree[source] = (*tree.get(source, ()), target)
            tree[target] = (*tree.get(target, ()), source)
        else:
            _refuse_open_loop([source, *loop], maps, stack)


def _path(start: str, end: str, tree: dict[str, tuple[str, ...]]) -> list[str] | None:
    """The way from one section to another over fixed pairs; None where there is none."""
    paths, seen = [[start]], {start}
    while paths:
        path = paths.pop(0)
        if path[-1] == end:
            return path
        for name in tree.get(path[-1], ()):
            if name not in seen:
                seen.add(name)
                paths.append([*path, name])
    return None


def _refuse_open_loop(loop: Sequence[str], maps: dict[tuple[str, str], Affine], stack: Any) -> None:
    """Go once around the loop, from the first section back to it, and see where its cells come to lie."""
    home = stack.sections[stack.names.index(loop[0])]
    around = Affine(np.eye(2), np.zeros(2))
    for step in zip(loop[:-1], loop[1:], strict=True):
        around = maps[step].compose(around)
    off = _root_mean_square(around(home.xy) - home.xy)
    allowed = CLOSES * max(stack.sections[stack.names.index(name)].pitch for name in loop)
    if off <= allowed and not around.mirrored:
        return
    ways = ", ".join(f"{a!r} on {b!r}" for a, b in zip(loop[:-1], loop[1:], strict=True))
    turned = "turned over, " if around.mirrored else ""
    raise InputError(
        f"The fixed poses of {ways} contradict each other: once around this loop every cell should come back to its "
        f"place, but the section comes back {turned}rotated by {abs(np.degrees(around.angle)):.1f}° and its cells "
        f"{off:.0f} µm off (at most {allowed:.0f} µm, {CLOSES:g} distances between spots). Correct one of these poses, "
        "or fix all but one of them."
    )


def _root_mean_square(apart: Float[np.ndarray, "n 2"]) -> float:
    return float(np.sqrt((apart**2).sum(1).mean()))
