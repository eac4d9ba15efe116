"""A person's decisions put into practice: on the opened sections, and on what the pairs of sections say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree

from spatialjax.atlas.hand import FIXED, FORBIDDEN, LANDMARKS, Decisions, Forbid, Landmark
from spatialjax.atlas.intake import Intake
from spatialjax.atlas.pairs import PairPosterior, PairResult, pairs_of
from spatialjax.atlas.reconstruction import Options
from spatialjax.atlas.stated import fixed_pose, hit_by, refuse_contradictions
from spatialjax.checks import InputError, listed
from spatialjax.registration import landmarks as points
from spatialjax.registration.pose_covariance import spot_sd
from spatialjax.registration.posterior import AMBIGUOUS
from spatialjax.transforms import Affine

#: Standard deviation of a fixed angle (rad), and of a fixed shift in pitches.
FIXED_ANGLE_SD, FIXED_SHIFT_SD = 1e-3, 0.02
#: Nats above chance that a fixed pose has: more than the pose graph counts for any pair.
FIXED_EVIDENCE = 100.0
#: Precision of a landmark whose own is not given, in pitches.
LANDMARK_SD = 2.0


def without(entry: Intake, names: Sequence[str]) -> Intake:
    """The opened sections without some of them: the heights of the others stay, and so does the order of their cells.

    Parameters
    ----------
    entry
        What ``intake.open_in_order`` returned.
    names
        Names of the sections to leave out.
    """
    if not names:
        return entry
    kept = [i for i, name in enumerate(entry.stack.names) if name not in set(names)]
    stack = entry.stack
    note = f"Excluded by hand: {listed(names, limit=20)}; their cells are not in the atlas."
    rows = np.concatenate([entry.layout[i] for i in kept])
    place = np.full(int(rows.max(initial=-1)) + 1, -1)
    place[np.sort(rows)] = np.arange(len(rows))
    return Intake(
        replace(stack, sections=tuple(stack.sections[i] for i in kept), messages=[*stack.messages, note]),
        tuple(place[entry.layout[i]] for i in kept),
    )


def followed(entry: Intake, options: Options) -> Intake:
    """The sections that a run with these options works on; everything is checked before any long work.

    Parameters
    ----------
    entry
        The opened sections.
    options
        What the user decides.

    Raises
    ------
    InputError
        If the options or the decisions do not fit the sections, each other, or the landmarks contradict themselves.
    """
    decisions = options.decisions
    if decisions is not None:
        decisions.check_with(entry.stack.names, anchor=options.anchor, reflection=options.reflection)
        entry = without(entry, decisions.exclude)
        within = set(pairs_of(len(entry.stack.names)))
        far = [redo for pair, redo in decisions.redone(entry.stack.names).items() if pair not in within]
        if far:
            raise InputError(
                f"Expected a pair of neighbours or next neighbours to align anew, found {far[0].source!r} and "
                f"{far[0].target!r}. Give landmarks or fix the pose of sections that lie farther apart."
            )
    options.check_with(entry.stack)
    if decisions is not None:
        refuse_contradictions(decisions, entry.stack, anchor=options.anchor)
        decide((), replace(decisions, fix=(), redo=()), entry.stack, reflection=options.reflection)
    return entry


def with_decisions(results: Sequence[PairResult], options: Options, stack: Any) -> tuple[PairResult, ...]:
    """The pairs of a run after its decisions, see :func:`decide`; as they are where nothing was decided."""
    if options.decisions is None:
        return tuple(results)
    return decide(results, options.decisions, stack, anchor=options.anchor, reflection=options.reflection)


def decide(
    results: Sequence[PairResult],
    decisions: Decisions,
    stack: Any,
    *,
    anchor: str | None = None,
    reflection: str = "auto",
) -> tuple[PairResult, ...]:
    """What the pairs say once a person's decisions are taken into account.

    Forbidden poses are dropped. Landmarks drop the poses that do not bring every point near its partner, sharpen those
    that do, or bring a pose of their own where none does. A fixed pose replaces all others. Pairs that are not in
    ``results``, because the sections lie far apart, are added. The precision of every pose stays a number that the
    pose graph can use; ``placing.join`` sees to it that no other pair outvotes a fixed one.

    Parameters
    ----------
    results
        The pairs as the alignment left them; not changed.
    decisions
        Checked decisions (``Decisions.check_with``).
    stack
        The sections.
    anchor
        Name of the section whose frame a section's pose is fixed in.
    reflection
        ``"never"`` means that landmarks need not tell the side.

    Returns
    -------
    tuple
        Pairs in the order of ``results``, added ones at the end.

    Raises
    ------
    InputError
        If landmarks are too few or contradict each other.
    """
    found = {(r.source, r.target): r for r in results}
    number = {name: i for i, name in enumerate(stack.names)}
    for forbid in decisions.forbid:
        for pair in [p for p in found if _concerns(forbid, p, number)]:
            found[pair] = _forbidden(found[pair], forbid, stack)
    for pair, marks in _by_pair(decisions.landmarks, number).items():
        known = False if reflection == "never" else _known_side(decisions.forbid, pair, number)
        found[pair] = _landmarked(found.get(pair), pair, marks, stack=stack, mirrored=known)
    for fix in decisions.fix:
        source, target = number[fix.source], number[fix.target or str(anchor)]
        pair = (min(source, target), max(source, target))
        pose = fixed_pose(fix, stack, anchor=anchor)
        found[pair] = _fixed(found.get(pair), pair, pose if source < target else pose.inverse(), stack=stack)
    return tuple(found.values())


def taken(pair: PairResult, rows: Any, *, status: str) -> PairResult:
    """A pair with some of its poses; one with none of them says nothing."""
    rows = np.atleast_1d(np.asarray(rows, int))
    if len(rows) == 0:
        return replace(
            pair, **_poses(pair, [0]), evidence=np.array([-np.inf]), similarity=np.nan, status=status, posterior=None
        )
    return replace(
        pair,
        **_poses(pair, rows),
        evidence=pair.evidence[rows],
        similarity=pair.similarity if rows[0] == 0 else np.nan,
        status=status,
        posterior=_posterior(pair, rows),
    )


def _poses(pair: PairResult, rows: Any) -> dict[str, Any]:
    return {"poses": pair.poses[rows], "precision": pair.precision[rows], "center": pair.center[rows]}


def _posterior(pair: PairResult, rows: np.ndarray) -> PairPosterior | None:
    old = pair.posterior
    if old is None:
        return None
    probability = old.probability[rows] / max(float(old.probability[rows].sum()), 1e-300)
    return replace(
        old,
        probability=probability,
        covariance=old.covariance[rows],
        scaled=None if old.scaled is None else old.scaled[rows],
        scale_sd=None if old.scale_sd is None else old.scale_sd[rows],
        mirrored=float(probability[np.asarray(pair.poses.mirrored)[rows]].sum()),
        ambiguous=bool(len(rows) > 1 and probability[1] >= AMBIGUOUS),
    )


def _concerns(forbid: Forbid, pair: tuple[int, int], number: dict[str, int]) -> bool:
    ends = {number[name] for name in (forbid.source, forbid.target) if name is not None}
    return ends <= set(pair)


def _forbidden(pair: PairResult, forbid: Forbid, stack: Any) -> PairResult:
    ends = (stack.names[pair.source], stack.names[pair.target])
    hit = hit_by(forbid, pair.poses, ends=ends, stack=stack)
    return taken(pair, np.flatnonzero(~hit), status=FORBIDDEN) if hit.any() else pair


def _known_side(forbids: Sequence[Forbid], pair: tuple[int, int], number: dict[str, int]) -> bool | None:
    """The side of a pair whose other side is forbidden altogether; None where both are open."""
    for forbid in forbids:
        if forbid.angle_deg is None and forbid.mirrored is not None and _concerns(forbid, pair, number):
            return not forbid.mirrored
    return None


def _by_pair(marks: Sequence[Landmark], number: dict[str, int]) -> dict[tuple[int, int], list[Landmark]]:
    """Landmarks of each pair, the source before the target in the stack."""
    found: dict[tuple[int, int], list[Landmark]] = {}
    for mark in marks:
        a, b = number[mark.source], number[mark.target]
        if a > b:
            a, b = b, a
            swapped = {"source": mark.target, "target": mark.source}
            mark = replace(mark, **swapped, x1=mark.x2, y1=mark.y2, x2=mark.x1, y2=mark.y1)
        found.setdefault((a, b), []).append(mark)
    return found


def _landmarked(
    pair: PairResult | None, ends: tuple[int, int], marks: Sequence[Landmark], *, stack: Any, mirrored: bool | None
) -> PairResult:
    first, second = (stack.sections[i] for i in ends)
    pitch = max(first.pitch, second.pitch)
    source = np.array([(m.x1, m.y1) for m in marks]) * first.um_per_unit
    target = np.array([(m.x2, m.y2) for m in marks]) * second.um_per_unit
    sd = np.array([LANDMARK_SD * pitch if m.sd is None else m.sd for m in marks])
    what = f"{first.name!r} on {second.name!r}"
    fit = points.fit_landmarks(source, target, sd, mirrored=mirrored, what=what, names=[m.name for m in marks])
    agree = np.zeros(0, int)
    if pair is not None and np.isfinite(pair.evidence[0]):
        agree = np.flatnonzero([_agrees(pair, k, source, target=target, sd=sd) for k in range(len(pair.evidence))])
    area = float(np.prod(np.ptp(second.xy, axis=0)))
    if len(agree) == 0:
        gain = max(points.landmark_evidence(fit.residual, sd, area=area, fitted=True), points.PARITY_NATS)
        return _stated(
            pair, ends, fit.pose, center=fit.center, precision=fit.precision, gain=gain, status=LANDMARKS, stack=stack
        )
    kept = taken(pair, agree, status=LANDMARKS)
    heat = _heat(fit, source, sd)
    return _sharpened(kept, source, target, sd=sd, area=area, heat=heat)


def _agrees(pair: PairResult, k: int, source: np.ndarray, *, target: np.ndarray, sd: np.ndarray) -> bool:
    """Whether a pose brings every point near its partner, as near as point and pose are sure."""
    warp = 0.0 if pair.posterior is None else pair.posterior.warp
    covariance = np.linalg.pinv(pair.precision[k])
    own = spot_sd(covariance, pair.center[k], pair.poses[k](source), warp=warp)
    both = np.hypot(sd, np.sqrt(0.5 * (own[:, :2] ** 2).sum(1)))
    return bool((points.distances(pair.poses[k], source, target) <= points.AGREES * both).all())


def _heat(fit: points.LandmarkFit, source: np.ndarray, sd: np.ndarray) -> float:
    """By how much the points scatter more than their precision says, as a variance ratio."""
    plain = points.landmark_precision(fit.pose(source), fit.center, sd)
    return float(np.trace(plain) / np.trace(fit.precision))


def _sharpened(
    pair: PairResult, source: np.ndarray, target: np.ndarray, *, sd: np.ndarray, area: float, heat: float
) -> PairResult:
    """Poses that agree with the landmarks, each moved towards them and made surer by them."""
    poses, precisions, gains = [], [], []
    for k in range(len(pair.evidence)):
        pose, center = pair.poses[k], pair.center[k]
        by_hand = points.fit_of_parity(source, target, sd, mirrored=bool(pose.mirrored))
        own = points.landmark_precision(by_hand(source), center, sd) / heat
        moved = points.combined(pose, pair.precision[k], center, other=by_hand, other_precision=own)
        poses.append(moved)
        precisions.append(pair.precision[k] + own)
        apart = points.distances(moved, source, target)
        gains.append(points.landmark_evidence(apart, sd, area=area, fitted=False))
    evidence = pair.evidence + np.array(gains)
    order = np.argsort(-evidence, kind="stable")
    precision = np.stack(precisions)
    changed = replace(
        pair,
        poses=Affine(np.stack([p.matrix for p in poses]), np.stack([p.shift for p in poses])),
        evidence=evidence,
        precision=precision,
    )
    if pair.posterior is not None:
        weight = np.log(np.maximum(pair.posterior.probability, 1e-300)) + np.array(gains)
        weight = np.exp(weight - weight.max())
        posterior = replace(pair.posterior, probability=weight, covariance=np.linalg.inv(precision), determined=True)
        changed = replace(changed, posterior=posterior)
        order = np.argsort(-weight, kind="stable")
    return taken(changed, order, status=LANDMARKS)


def _fixed(pair: PairResult | None, ends: tuple[int, int], pose: Affine, *, stack: Any) -> PairResult:
    first, second = (stack.sections[i] for i in ends)
    spread = FIXED_SHIFT_SD * max(first.pitch, second.pitch)
    precision = np.diag(np.array([FIXED_ANGLE_SD, spread, spread]) ** -2.0)
    center = pose(first.xy.mean(0)[None])[0]
    return _stated(pair, ends, pose, center=center, precision=precision, gain=FIXED_EVIDENCE, status=FIXED, stack=stack)


def _stated(
    pair: PairResult | None,
    ends: tuple[int, int],
    pose: Affine,
    *,
    center: Float[np.ndarray, "2"],
    precision: Float[np.ndarray, "3 3"],
    gain: float,
    status: str,
    stack: Any,
) -> PairResult:
    """A pair whose one pose a person has given."""
    threshold = 0.0 if pair is None else float(pair.threshold)
    warp = 0.0 if pair is None or pair.posterior is None else pair.posterior.warp
    first, second = (stack.sections[i] for i in ends)
    apart = cKDTree(second.xy).query(pose(first.xy))[0]
    share = float((apart <= 1.5 * max(first.pitch, second.pitch)).mean())
    return PairResult(
        source=ends[0],
        target=ends[1],
        poses=Affine(pose.matrix[None], pose.shift[None]),
        evidence=np.array([threshold + gain]),
        precision=precision[None],
        center=np.asarray(center, np.float64)[None],
        threshold=threshold,
        similarity=float("nan"),
        status=status,
        posterior=PairPosterior(
            probability=np.ones(1),
            covariance=np.linalg.inv(precision)[None],
            warp=warp,
            mirrored=float(bool(pose.mirrored)),
            determined=True,
            ambiguous=False,
            overlap=(share, share, share),
        ),
    )
