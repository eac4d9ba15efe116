"""Labels of some sections carried to others over soft matches, with a confidence and the null beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from spatialjax import checks
from spatialjax.atlas.labelled import Labelled, from_atlas, from_pair
from spatialjax.atlas.reconstruction import PairAlignment, Reconstruction
from spatialjax.checks import InputError, listed
from spatialjax.registration import voting
from spatialjax.registration.coupling import soft_matches
from spatialjax.registration.pairs import pitch_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

#: Largest number of matches of a cell.
MATCHES = 8
#: Directions, rad, in which cells are displaced to see how far places tell labels.
DIRECTIONS = (0.3, 1.87, 3.44, 5.01)


@dataclass(frozen=True)
class LabelTransfer:
    """Labels that were carried over.

    Attributes
    ----------
    table
        One row for each cell of the target sections: ``label`` (missing where the cell has no counterpart),
        ``confidence`` (its probability), ``null`` (the frequency of that label where labels are known, which is the
        confidence of a guess), ``section``.
    probability
        Probability of every label, rows as in ``table``; 0 where a cell has no counterpart.
    agreement
        Share of labelled cells whose own label won the vote, had they been asked for it.
    agreement_null
        The same for votes dealt out at random.
    judged_on
        What that rests on: ``"sections"`` where two labelled sections lie in one frame, else ``"neighbours"``: in its
        own section, the cells around places that lie one cell distance and the uncertainty of the pose off a cell.
        That says how far places tell labels; it sees neither a wrong pose nor tissue that changes between sections.
    judged_cells
        Number of these cells.
    messages
        What the user should know.
    """

    table: pd.DataFrame
    probability: pd.DataFrame
    agreement: float
    agreement_null: float
    judged_on: str
    judged_cells: int
    messages: tuple[str, ...]


def transfer_labels(
    atlas: Reconstruction | AnnData | PairAlignment,
    key: str,
    *,
    source: str | Sequence[str] | AnnData | None = None,
    target: str | Sequence[str] | AnnData | None = None,
    couplings: Mapping[tuple[str, str], sp.csr_matrix] | None = None,
    spatial_key: str = "spatial",
) -> LabelTransfer:
    """Carry labels from sections that have them to those that do not, with a confidence.

    Each cell is given the label that its soft matches in the nearest labelled section on either side vote for. How far
    a vote can be believed is learned where labels are known: labelled sections are asked for each other's labels, and
    where there is only one, its cells for those of the cells around them. A cell without counterpart gets no label.

    Parameters
    ----------
    atlas
        A reconstruction, or its atlas as written to ``atlas.h5ad``; not changed. The reconstruction brings its
        couplings, which know the features of the cells too; the file alone is matched by places. Or what :func:`align`
        returned; then ``source`` and ``target`` are the two sections that it was given.
    key
        Column of ``obs`` with the labels; missing values and empty texts are no label.
    source
        Sections to take labels from; all that have any where left out.
    target
        Sections that receive labels; all with an unlabelled cell where left out.
    couplings
        Soft matches for an atlas that was read from its file: (a, b) -> weights, rows and columns in the order of each
        section's cells, as in ``couplings/``. Those of a reconstruction where left out.
    spatial_key
        Coordinates of the target of a pair, ``obsm[spatial_key]``.

    Returns
    -------
    LabelTransfer
        ``.table`` with label, confidence and null of every cell of the target sections, and what they rest on.

    Raises
    ------
    InputError
        If there is no such column, section or label, or the pose of the pair is not supported.
    """
    if couplings is None and isinstance(atlas, Reconstruction):
        couplings = atlas.couplings
    if isinstance(atlas, PairAlignment):
        if not atlas.supported:
            raise InputError("Expected a supported pose to carry labels over, found one that chance explains.")
        sections, names = from_pair(
            atlas.coordinates, source, target, key=key, spatial_key=spatial_key, spread=_spread(atlas)
        )
        cells = [*source.obs_names, *target.obs_names]
        source = target = None
    else:
        adata = atlas.atlas if isinstance(atlas, Reconstruction) else atlas
        sections, names = from_atlas(adata, key)
        cells = list(adata.obs_names)
    _check_couplings(couplings or {}, sections)
    known = [s.name for s in sections]
    chosen = {}
    for what, given, default in (
        ("source", source, [s.name for s in sections if (s.codes >= 0).any()]),
        ("target", target, [s.name for s in sections if (s.codes < 0).any()]),
    ):
        chosen[what] = default if given is None else [given] if isinstance(given, str) else list(given)
        for name in chosen[what]:
            checks.one_of(name, known, f"{what} section")
    if not chosen["source"] or not chosen["target"]:
        raise InputError(
            f"Expected sections with labels in obs[{key!r}] and others without, found {len(chosen['source'])} with and "
            f"{len(chosen['target'])} with cells that lack one. Name target= to predict labels that are there already."
        )
    return transfer(sections, names, cells, couplings=couplings, **chosen)


def _check_couplings(couplings: Mapping[tuple[str, str], sp.csr_matrix], sections: Sequence[Labelled]) -> None:
    cells = {s.name: len(s.rows) for s in sections}
    for ends, matrix in couplings.items():
        expected = tuple(cells.get(end) for end in ends)
        if matrix.shape != expected:
            raise InputError(
                f"Expected couplings of {ends[0]!r} and {ends[1]!r} with {expected[0]} rows and {expected[1]} columns, "
                f"one a cell of these sections of the atlas, found {matrix.shape[0]} and {matrix.shape[1]}."
            )


def _spread(pair: PairAlignment) -> float:
    """Standard deviation of a cell's place in the units of the target: of the pose, and of what no pose explains."""
    um, units = (float(np.linalg.norm(t.shift)) for t in (pair.transform_um, pair.transform))
    if pair.posterior is None or not units > 0:
        return 0.0
    return float(np.hypot(pair.posterior.shift_sd(pair.pose), np.sqrt(pair.posterior.warp))) * units / um


def transfer(
    sections: Sequence[Labelled],
    labels: Sequence[str],
    cells: Sequence[str],
    *,
    source: Sequence[str],
    target: Sequence[str],
    couplings: Mapping[tuple[str, str], sp.csr_matrix] | None = None,
) -> LabelTransfer:
    """Carry labels from the nearest labelled sections on either side of each target section.

    Parameters
    ----------
    sections
        All sections.
    labels
        Names of the labels.
    cells
        Name of each row of the table of cells.
    source, target
        Names of the sections that labels are taken from, and of those that receive them.
    couplings
        Soft matches that are there already, (a, b) -> (n_a, n_b); others are made from the places alone.

    Raises
    ------
    InputError
        If no source has a label.
    """
    import pandas as pd

    by_name = {s.name: s for s in sections}
    sources = [by_name[name] for name in source]
    counts = np.bincount(np.concatenate([s.codes[s.codes >= 0] for s in sources]), minlength=len(labels))
    if counts.sum() == 0:
        raise InputError(f"Expected labels in at least one of the sections {listed(source)}, found none.")
    base = counts / counts.sum()
    calibration, judged_on = _judge(sources, base, couplings or {})
    frames, probability, messages = [], [], []
    for name in target:
        section = by_name[name]
        shares, used = _shares(section, sources, len(labels), couplings=couplings or {})
        found, matched = voting.probabilities(shares, calibration)
        best = found.argmax(1)
        frames.append(
            pd.DataFrame(
                {
                    "label": pd.Categorical.from_codes(np.where(matched, best, -1), categories=list(labels)),
                    "confidence": np.where(matched, found.max(1), np.nan),
                    "null": np.where(matched, base[best], np.nan),
                    "section": name,
                },
                index=np.asarray(cells)[section.rows],
            )
        )
        probability.append(pd.DataFrame(found, index=frames[-1].index, columns=list(labels)))
        messages += _said(section, used, matched=matched)
    messages.append(_worth(calibration, judged_on))
    table = pd.concat(frames)
    table["section"] = pd.Categorical(table["section"], categories=list(target))
    return LabelTransfer(
        table,
        pd.concat(probability),
        agreement=calibration.agreement,
        agreement_null=calibration.null,
        judged_on=judged_on,
        judged_cells=calibration.cells,
        messages=tuple(messages),
    )


def _judge(
    sources: Sequence[Labelled], base: np.ndarray, couplings: Mapping[tuple[str, str], sp.csr_matrix]
) -> tuple[voting.Calibrated, str]:
    """How far votes can be believed: labelled sections vote on each other, or else neighbours on each other."""
    shares = [_shares(s, sources, len(base), couplings=couplings)[0] for s in sources]
    truth = np.concatenate([s.codes for s in sources])
    if any((votes.sum(1) > 0)[s.codes >= 0].any() for s, votes in zip(sources, shares, strict=True)):
        return voting.calibrate(np.concatenate(shares), truth, base), "sections"
    placed = [s for s in sources if s.frame >= 0]
    around = [votes for s in placed for votes in _around(s, len(base))]
    truth = [s.codes for s in placed for _ in DIRECTIONS]
    if not placed:
        around, truth = [np.zeros((0, len(base)))], [np.zeros(0, int)]
    found = voting.calibrate(np.concatenate(around), np.concatenate(truth), base)
    return found._replace(cells=found.cells // len(DIRECTIONS)), "neighbours"


def _around(section: Labelled, number: int) -> list[np.ndarray]:
    """Votes of the cells around places that lie off each cell as far as matched cells of two sections do."""
    pitch = pitch_of(section.xy)
    off = float(np.hypot(pitch, section.spread))
    found = []
    for direction in DIRECTIONS:
        step = off * np.array([np.cos(direction), np.sin(direction)])
        matches = soft_matches(section.xy + step, section.xy, bandwidth=pitch, k=MATCHES + 1)
        found.append(voting.votes(voting.without_self(matches), section.codes, number))
    return found


def _shares(
    section: Labelled,
    sources: Sequence[Labelled],
    number: int,
    *,
    couplings: Mapping[tuple[str, str], sp.csr_matrix],
) -> tuple[np.ndarray, list[str]]:
    """Votes of the nearest labelled sections on either side, the nearer one counting for more; and their names."""
    total, used = np.zeros((len(section.rows), number)), []
    for other in _beside(section, sources):
        given = _given(section, other, couplings)
        found = voting.votes(_matches(section, other) if given is None else given, other.codes, number)
        total += found / max(abs(other.z - section.z), 1e-6)
        used.append(other.name)
    mass = total.sum(1, keepdims=True)
    return np.divide(total, mass, out=np.zeros_like(total), where=mass > 0), used


def _beside(section: Labelled, sources: Sequence[Labelled]) -> list[Labelled]:
    others = [
        s
        for s in sources
        if s.name != section.name and s.frame == section.frame and s.frame >= 0 and (s.codes >= 0).any()
    ]
    below = [s for s in others if s.z <= section.z]
    above = [s for s in others if s.z > section.z]
    return [*sorted(below, key=lambda s: -s.z)[:1], *sorted(above, key=lambda s: s.z)[:1]]


def _given(
    section: Labelled, other: Labelled, couplings: Mapping[tuple[str, str], sp.csr_matrix]
) -> sp.csr_matrix | None:
    if (section.name, other.name) in couplings:
        return couplings[section.name, other.name]
    if (other.name, section.name) in couplings:
        return sp.csr_matrix(couplings[other.name, section.name].T)
    return None


def _matches(section: Labelled, other: Labelled) -> sp.csr_matrix:
    """Soft matches by place: as wide as the distance between cells and the uncertainty of their places."""
    pitch = max(pitch_of(section.xy), pitch_of(other.xy))
    width = float(np.hypot(pitch, np.hypot(section.spread, other.spread)))
    return soft_matches(section.xy, other.xy, bandwidth=width, k=MATCHES)


def _said(section: Labelled, used: Sequence[str], *, matched: np.ndarray) -> list[str]:
    if section.frame < 0:
        return [f"Section {section.name!r} is not placed: its cells get no label."]
    if not used:
        return [f"No labelled section lies in the frame of {section.name!r}: its cells get no label."]
    lost = int((~matched).sum())
    if not lost:
        return []
    return [
        f"{lost} of {len(matched)} cells of {section.name!r} have no labelled counterpart in {listed(used)}: they get "
        "no label."
    ]


def _worth(found: voting.Calibrated, judged_on: str) -> str:
    how = {
        "sections": "labelled sections, each asked from the others, agree",
        "neighbours": "no two labelled sections can be compared; cells and those around them agree",
    }[judged_on]
    return (
        f"Confidence rests on {found.cells} labelled cells: {how} in {found.agreement:.0%}, where chance gives "
        f"{found.null:.0%}."
    )
