"""Does the stated order of the sections fit how similar they are? Swapped neighbours and gaps larger than stated.

The similarity of two sections at their best pose is modelled as ``a + g_i + g_j - b d_ij + noise``: it falls with their
distance ``d_ij`` along the stack, and ``g`` is the quality of a section. Every swap of neighbouring sections and every
wider gap is another ``d``; a finding is one that explains the similarities much better than the stated positions do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

#: Similarities are not known better than this, and this counts as so many observations of the noise.
_NOISE_SD, _NOISE_WEIGHT = 0.02, 4.0
#: Standard deviation of the quality of sections in units of the noise.
_QUALITY = (0.0, 1.0, 2.0, 4.0)
#: At an end of the stack a poor section looks like a swap, elsewhere its quality cancels: nats taken there.
_END_PENALTY = 3.0


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something about the order or the gaps that does not fit.

    Attributes
    ----------
    kind
        ``"swap"``: the two sections seem to have changed places; ``"gap"``: more seems to lie between them than stated.
    sections
        Numbers of the two neighbouring sections.
    evidence
        Log-likelihood ratio against the stated order, nats.
    sentence
        The finding in words.
    """

    kind: Literal["swap", "gap"]
    sections: tuple[int, int]
    evidence: float
    sentence: str


def check_order(
    similarity: Mapping[tuple[int, int], float],
    z: Float[np.ndarray, s],
    *,
    names: Sequence[str] | None = None,
    margin: float = 8.0,
) -> list[Finding]:
    """Look for swapped neighbours and gaps larger than stated.

    Needs the similarities of neighbours and next neighbours of at least four sections, and says nothing about fewer. A
    wide gap beside the first or last section looks like a poor section, and a reversed stack like the stack: neither
    is noticed.

    Parameters
    ----------
    similarity
        Similarity at the best pose for pairs of sections, for instance a correlation; larger is more alike. Missing and
        non-finite pairs do not count.
    z
        Stated height of each section, µm.
    names
        Names for the sentences; numbers from 1 where left out.
    margin
        Evidence that a finding needs, nats; half of it must be left without any one of the pairs it rests on, so that
        one failed pair is no finding.

    Returns
    -------
    list
        Findings, the strongest first; empty where the stated order fits.

    Raises
    ------
    ValueError
        If a pair names a section that has no height.
    """
    z = np.asarray(z, np.float64)
    pairs = sorted({(min(p), max(p)) for p, value in similarity.items() if np.isfinite(value)})
    if any(not 0 <= i < j < len(z) for i, j in pairs):
        raise ValueError(f"Expected pairs of two different sections below {len(z)}, found another in {pairs}.")
    ladder = np.argsort(z, kind="stable")
    rank = np.argsort(ladder)
    value = {_ranked(rank, pair): float(v) for pair, v in similarity.items() if np.isfinite(v)}
    data = _Ladder(np.array(list(value), int).reshape(-1, 2), np.array(list(value.values())), z[ladder])
    labels = [str(number + 1) for number in range(len(z))] if names is None else list(names)
    findings: list[Finding] = []
    if len(z) < 4 or len(data.pairs) < len(z) + 1:
        return findings
    while len(findings) < len(z):
        taken = {frozenset(rank[list(f.sections)].tolist()) for f in findings}
        options = [found for found in _alternatives(data) if frozenset(found.place) not in taken]
        options = [found for found in options if found.evidence >= margin and _holds(data, found, 0.5 * margin)]
        if not options:
            break
        best = max(options, key=lambda found: found.evidence)
        i, j = (int(ladder[place]) for place in best.place)
        findings.append(Finding(best.kind, (i, j), best.evidence, _sentence(best, labels[i], labels[j])))
        data = best.data
    return sorted(findings, key=lambda finding: -finding.evidence)


class _Ladder(NamedTuple):
    """Similarities of pairs of places along the stack, and the height of each place."""

    pairs: np.ndarray
    similarity: np.ndarray
    z: np.ndarray

    @property
    def distance(self) -> np.ndarray:
        return np.abs(self.z[self.pairs[:, 0]] - self.z[self.pairs[:, 1]])

    def without(self, pair: int) -> _Ladder:
        """All pairs but one."""
        return self._replace(pairs=np.delete(self.pairs, pair, 0), similarity=np.delete(self.similarity, pair))


class _Alternative(NamedTuple):
    kind: Literal["swap", "gap"]
    place: tuple[int, int]
    evidence: float
    factor: float
    data: _Ladder


def _ranked(rank: np.ndarray, pair: tuple[int, int]) -> tuple[int, int]:
    a, b = sorted((int(rank[pair[0]]), int(rank[pair[1]])))
    return a, b


def _alternatives(data: _Ladder) -> Iterator[_Alternative]:
    """Every swap of neighbours, and every gap made wider, that all pairs it concerns speak for."""
    stated = _log_likelihood(data, data.distance)
    order = np.argsort(data.z, kind="stable")
    table = {(int(i), int(j)): v for (i, j), v in zip(data.pairs, data.similarity, strict=True)}
    for first, second in zip(order[:-1], order[1:], strict=True):
        place = (min(int(first), int(second)), max(int(first), int(second)))
        if _swap_is_plausible(table, order, first, second):
            z = data.z.copy()
            z[[first, second]] = z[[second, first]]
            swapped = data._replace(z=z)
            evidence = _log_likelihood(swapped, swapped.distance) - stated
            if {int(first), int(second)} & {int(order[0]), int(order[-1])}:
                evidence -= _END_PENALTY
            yield _Alternative("swap", place, evidence, 1.0, swapped)
        gap = data.z[second] - data.z[first]
        beyond = data.z >= data.z[second]
        across = beyond[data.pairs[:, 0]] != beyond[data.pairs[:, 1]]
        if gap <= 0 or across.sum() < 3 or not _falls_across(data, across):
            continue
        for factor in (2.0, 3.0, 5.0, 8.0):
            wider = data._replace(z=data.z + (factor - 1) * gap * beyond)
            evidence = _log_likelihood(wider, wider.distance) - stated - 1.0
            yield _Alternative("gap", place, evidence, factor, wider)


def _holds(data: _Ladder, found: _Alternative, margin: float) -> bool:
    """Whether the evidence stays above ``margin`` without any one of the pairs whose distance changes."""
    for pair in np.flatnonzero(data.distance != found.data.distance):
        stated, other = (ladder.without(pair) for ladder in (data, found.data))
        if _log_likelihood(other, other.distance) - _log_likelihood(stated, stated.distance) < margin:
            return False
    return True


def _swap_is_plausible(table: dict[tuple[int, int], float], order: np.ndarray, first: int, second: int) -> bool:
    """Whether on each side the farther of the two sections is the more similar one to what lies beyond."""
    at = int(np.flatnonzero(order == first)[0])
    sides = []
    for near, far, beyond in ((first, second, at - 1), (second, first, at + 2)):
        if 0 <= beyond < len(order):
            other = int(order[beyond])
            values = [table.get((min(int(s), other), max(int(s), other))) for s in (near, far)]
            sides.append(None not in values and values[1] > values[0])
    return len(sides) > 0 and all(sides)


def _falls_across(data: _Ladder, across: np.ndarray) -> bool:
    """Whether every pair across a gap is less similar than the median pair of its lag elsewhere."""
    lag = np.abs(np.diff(np.argsort(np.argsort(data.z, kind="stable"), kind="stable")[data.pairs], axis=1)[:, 0])
    for step in np.unique(lag[across]):
        elsewhere = data.similarity[(lag == step) & ~across]
        if len(elsewhere) == 0 or data.similarity[(lag == step) & across].max() >= np.median(elsewhere):
            return False
    return True


def _log_likelihood(data: _Ladder, distance: np.ndarray) -> float:
    """Largest over the spread of quality of the likelihood with level, fall (at least 0) and noise profiled out."""
    n = len(distance)
    sections = np.zeros((n, len(data.z)))
    sections[np.arange(n)[:, None], data.pairs] = 1.0
    unit = distance.mean() if distance.mean() > 0 else 1.0
    best = -np.inf
    for ratio in _QUALITY:
        factor = np.linalg.cholesky(np.eye(n) + ratio**2 * sections @ sections.T)
        design = np.linalg.solve(factor, np.stack([np.ones(n), -distance / unit], 1))
        response = np.linalg.solve(factor, data.similarity)
        level = np.linalg.lstsq(design[:, :1], response, rcond=None)[0]
        residual = response - design[:, :1] @ level
        both = np.linalg.lstsq(design, response, rcond=None)[0]
        if both[1] > 0:
            residual = response - design @ both
        squares = residual @ residual + _NOISE_WEIGHT * _NOISE_SD**2
        log_det = np.log(np.diag(factor)).sum()
        best = max(best, float(-0.5 * (n + _NOISE_WEIGHT) * np.log(squares) - log_det))
    return best


def _sentence(found: _Alternative, first: str, second: str) -> str:
    if found.kind == "swap":
        return (
            f"Sections {first} and {second} seem to have changed places: each is more similar to the section beyond "
            f"the other than to its own neighbour (evidence {found.evidence:.1f})."
        )
    return (
        f"More tissue seems to lie between sections {first} and {second} than stated: similarity falls there as over "
        f"about {found.factor:.0f} times the stated gap (evidence {found.evidence:.1f})."
    )
