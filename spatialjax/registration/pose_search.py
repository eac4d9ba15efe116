"""The search behind ``pose_graph``: planar rigid maps, a beam over hypotheses, robust least squares."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Complex, Float, Int

#: Residuals beyond this many standard deviations pull with constant force (Huber 1964, Ann. Math. Stat. 35).
_HUBER = 2.0
#: A pose that rests on one pair meets another pair over three pair errors.
_SLACK = 3.0


class Rigid(NamedTuple):
    """The map ``x -> exp(i angle) K(x) + shift`` of the complex plane."""

    angle: float
    mirrored: bool
    shift: complex

    def __call__(self, place: complex) -> complex:
        """Image of a place."""
        return np.exp(1j * self.angle) * (np.conj(place) if self.mirrored else place) + self.shift


IDENTITY = Rigid(0.0, False, 0j)


def then(first: Rigid, second: Rigid) -> Rigid:
    """The map that applies ``first`` and then ``second``."""
    sign = -1.0 if second.mirrored else 1.0
    return Rigid(second.angle + sign * first.angle, first.mirrored != second.mirrored, second(first.shift))


def invert(pose: Rigid) -> Rigid:
    """The map back."""
    back = Rigid(pose.angle if pose.mirrored else -pose.angle, pose.mirrored, 0j)
    return back._replace(shift=-back(pose.shift))


@dataclasses.dataclass(frozen=True)
class Link:
    """The supported hypotheses of a pair, the best first; fields as in ``PoseEdge``, planes as complex numbers.

    Attributes
    ----------
    source, target
        Numbers of the sections.
    rows
        Number of each hypothesis in the edge it comes from.
    angle, mirrored, shift
        The rigid maps.
    center
        Centre of the perturbation.
    gain
        What choosing the hypothesis adds to the score, nats.
    precision
        Inverse covariance of the pose, its floor included.
    """

    source: int
    target: int
    rows: Int[np.ndarray, k]
    angle: Float[np.ndarray, k]
    mirrored: Bool[np.ndarray, k]
    shift: Complex[np.ndarray, k]
    center: Complex[np.ndarray, k]
    gain: Float[np.ndarray, k]
    precision: Float[np.ndarray, "k 3 3"]

    def hypothesis(self, pick: int) -> Rigid:
        """One of the maps."""
        return Rigid(float(self.angle[pick]), bool(self.mirrored[pick]), complex(self.shift[pick]))


@dataclasses.dataclass(frozen=True)
class Solution:
    """Poses of some sections in one frame, and the hypotheses that agree with them.

    Attributes
    ----------
    poses
        Map of each placed section to the frame.
    chosen
        Hypothesis of each link that was chosen.
    score
        Sum over the chosen links of the gain less half the squared residual.
    converged
        Whether the alternation came to rest.
    """

    poses: Mapping[int, Rigid]
    chosen: Mapping[int, int]
    score: float
    converged: bool = False


def residual(link: Link, relative: Rigid) -> Float[np.ndarray, "k 3"]:
    """(angle, x, y) by which a map source -> target differs from each hypothesis; infinite for the other parity."""
    turn = np.angle(np.exp(1j * (relative.angle - link.angle)))
    move = relative.shift - link.center - np.exp(1j * turn) * (link.shift - link.center)
    values = np.stack([turn, move.real, move.imag], 1)
    return np.where((link.mirrored == relative.mirrored)[:, None], values, np.inf)


def distances(link: Link, relative: Rigid) -> Float[np.ndarray, "k"]:
    """Squared residual of each hypothesis in standard deviations; infinite for the other parity."""
    values = residual(link, relative)
    fits = np.isfinite(values).all(1)
    values = np.where(fits[:, None], values, 0.0)
    return np.where(fits, np.einsum("ka,kab,kb->k", values, link.precision, values), np.inf)


def distinct(link: Link, *, apart: float = 0.3) -> Link:
    """The hypotheses that lie at least ``apart`` standard deviations from every better one."""
    kept: list[int] = []
    for pick in range(len(link.rows)):
        if not (distances(link, link.hypothesis(pick))[kept] < apart**2).any():
            kept.append(pick)
    fields = ("rows", "angle", "mirrored", "shift", "center", "gain", "precision")
    return dataclasses.replace(link, **{name: getattr(link, name)[kept] for name in fields})


def choose(link: Link, relative: Rigid, *, gate: float, slack: float = 1.0) -> tuple[int, float]:
    """The hypothesis that serves best given the map source -> target, and its score; (-1, 0) where none is worth it.

    Parameters
    ----------
    link
        The pair.
    relative
        Its map in the common frame.
    gate
        Largest residual in standard deviations.
    slack
        Factor on the covariance.
    """
    squared = distances(link, relative) / slack
    score = np.where(squared <= gate**2, link.gain - 0.5 * squared, -np.inf)
    pick = int(np.argmax(score)) if len(score) else -1
    return (pick, float(score[pick])) if pick >= 0 and score[pick] > 0 else (-1, 0.0)


def beam_search(links: Sequence[Link], *, root: int, width: int, gate: float) -> list[Solution]:
    """Place the sections that links join to ``root``, one by one, over all hypotheses; the best solutions first.

    Sections follow in the order in which the strongest links reach them. Each new section is tried at every place that
    a hypothesis of a link to a placed section gives it; all its links to placed sections then vote. Of the solutions
    that agree about the border, the sections that later ones link to, only the best is kept, so that a chain is
    searched as by dynamic programming.

    Parameters
    ----------
    links
        All pairs.
    root
        Section that keeps its own coordinates.
    width
        Number of partial solutions kept.
    gate
        See ``choose``.
    """
    solutions = [Solution({root: IDENTITY}, {}, 0.0)]
    for section, joined, border in _order(links, root):
        candidates: dict[tuple, Solution] = {}
        for solution in solutions:
            for place in _places(solution, section, [links[number] for number in joined]):
                poses = {**solution.poses, section: place}
                found = _vote(links, poses, joined, gate=gate, slack=_SLACK)
                chosen, score = {**solution.chosen, **found.chosen}, solution.score + found.score
                key = tuple(chosen.get(number, -1) for number in border)
                if key not in candidates or score > candidates[key].score:
                    candidates[key] = Solution(poses, chosen, score)
        kept = sorted(candidates.values(), key=lambda s: -s.score)[:width]
        solutions = [_settle(solution, links, section, joined, gate=gate) for solution in kept]
        solutions.sort(key=lambda s: -s.score)
    return solutions


def alternate(start: Solution, links: Sequence[Link], *, root: int, gate: float, rounds: int = 20) -> Solution:
    """Least squares over all chosen links and a new choice in turn, until the choice rests.

    A choice that would take the last link from a section is not made.

    Parameters
    ----------
    start
        A solution of the beam search.
    links
        All pairs.
    root
        Section that keeps its own coordinates.
    gate
        See ``choose``.
    rounds
        Largest number of turns.
    """
    inside = [n for n, link in enumerate(links) if link.source in start.poses and link.target in start.poses]
    solution = start
    for _ in range(rounds):
        poses, settled = least_squares(links, solution, free=[s for s in solution.poses if s != root])
        found = _vote(links, poses, inside, gate=gate)
        same = dict(found.chosen) == dict(solution.chosen)
        if same or not _connects(links, found):
            return Solution(poses, solution.chosen, found.score, converged=same and settled)
        solution = found
    return solution


def least_squares(
    links: Sequence[Link], solution: Solution, *, free: Sequence[int], steps: int = 50
) -> tuple[dict[int, Rigid], bool]:
    """Gauss-Newton on the poses of the free sections with Huber weights; also says whether it came to rest.

    Parameters
    ----------
    links
        All pairs.
    solution
        Start, and the chosen hypotheses.
    free
        Sections that may move.
    steps
        Largest number of steps.
    """
    poses, column = dict(solution.poses), {section: 3 * number for number, section in enumerate(free)}
    picks = [(links[n], pick) for n, pick in solution.chosen.items() if {links[n].source, links[n].target} & set(free)]
    for _ in range(steps):
        normal, gradient = np.zeros((3 * len(free), 3 * len(free))), np.zeros(3 * len(free))
        for link, pick in picks:
            value, by_source, by_target = _linearised(link, pick, poses)
            distance = np.sqrt(value @ link.precision[pick] @ value)
            information = link.precision[pick] * (_HUBER / max(distance, _HUBER))
            parts = [(column[s], d) for s, d in ((link.source, by_source), (link.target, by_target)) if s in column]
            for a, da in parts:
                gradient[a : a + 3] += da.T @ information @ value
                for b, db in parts:
                    normal[a : a + 3, b : b + 3] += da.T @ information @ db
        diagonal = np.diag(normal)
        scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
        damped = normal * scale * scale[:, None] + 1e-10 * np.eye(len(scale))
        step = -scale * np.linalg.solve(damped, scale * gradient)
        for section, a in column.items():
            old = poses[section]
            poses[section] = Rigid(old.angle + step[a], old.mirrored, old.shift + complex(step[a + 1], step[a + 2]))
        if -(step @ gradient) < 1e-10:
            return poses, True
    return poses, not free


def _linearised(link: Link, pick: int, poses: Mapping[int, Rigid]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Residual of a chosen hypothesis and its derivatives by (angle, x, y) of the source and the target pose."""
    source, target = poses[link.source], poses[link.target]
    relative = then(source, invert(target))
    value = residual(link, relative)[pick]
    sign = -1.0 if target.mirrored else 1.0
    back = Rigid(invert(target).angle, target.mirrored, 0j)
    lever = 1j * np.exp(1j * value[0]) * (link.shift[pick] - link.center[pick])
    along = [back(1 + 0j), back(1j)]
    by_source = [(sign, -lever * sign), *((0.0, move) for move in along)]
    by_target = [(-sign, lever * sign - 1j * sign * relative.shift), *((0.0, -move) for move in along)]

    def columns(parts: list) -> np.ndarray:
        return np.array([[turn, move.real, move.imag] for turn, move in parts]).T

    return value, columns(by_source), columns(by_target)


def _vote(
    links: Sequence[Link], poses: Mapping[int, Rigid], numbers: Sequence[int], *, gate: float, slack: float = 1.0
) -> Solution:
    """The best choice for some links given the poses."""
    chosen, total = {}, 0.0
    for number in numbers:
        link = links[number]
        relative = then(poses[link.source], invert(poses[link.target]))
        pick, score = choose(link, relative, gate=gate, slack=slack)
        if pick >= 0:
            chosen[number], total = pick, total + score
    return Solution(poses, chosen, total)


def _settle(solution: Solution, links: Sequence[Link], section: int, joined: Sequence[int], *, gate: float) -> Solution:
    """Move a newly placed section to the best place between its links, and score it there."""
    own = {number: solution.chosen[number] for number in joined if number in solution.chosen}
    slack_score = _vote(links, solution.poses, joined, gate=gate, slack=_SLACK).score
    poses, _ = least_squares(links, Solution(solution.poses, own, 0.0), free=[section])
    found = _vote(links, poses, joined, gate=gate)
    if not found.chosen:
        return solution
    others = {number: pick for number, pick in solution.chosen.items() if number not in own}
    return Solution(poses, {**others, **found.chosen}, solution.score - slack_score + found.score)


def _places(solution: Solution, section: int, links: Sequence[Link]) -> Iterator[Rigid]:
    for link in links:
        for pick in range(len(link.rows)):
            step = link.hypothesis(pick)
            if link.source == section:
                yield then(step, solution.poses[link.target])
            else:
                yield then(invert(step), solution.poses[link.source])


def _order(links: Sequence[Link], root: int) -> Iterator[tuple[int, list[int], list[int]]]:
    """Sections as the most and strongest links reach them from the root.

    Each comes with its links to earlier ones, and with all links between placed sections that touch it or a section
    with a link to a later one.
    """
    numbers, placed = [number for number, link in enumerate(links) if len(link.rows)], {root}
    ends = {number: {links[number].source, links[number].target} for number in numbers}
    while True:
        reach: dict[int, list[int]] = {}
        for number in numbers:
            for section in ends[number] - placed if ends[number] & placed else ():
                reach.setdefault(section, []).append(number)
        if not reach:
            return
        section = max(reach, key=lambda s: (len(reach[s]), max(links[n].gain[0] for n in reach[s])))
        placed.add(section)
        edge = {section}.union(*(ends[number] & placed for number in numbers if ends[number] - placed))
        yield section, reach[section], [n for n in numbers if ends[n] <= placed and ends[n] & edge]


def _connects(links: Sequence[Link], solution: Solution) -> bool:
    """Whether the chosen links join all placed sections."""
    reached = {next(iter(solution.poses))}
    pairs = [{links[number].source, links[number].target} for number in solution.chosen]
    for _ in solution.poses:
        reached = reached.union(*(pair for pair in pairs if pair & reached))
    return reached == set(solution.poses)
