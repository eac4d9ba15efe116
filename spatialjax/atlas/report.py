"""The report: one self-contained HTML page with pictures, tables and what to be careful about."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files

import numpy as np

from spatialjax import pl
from spatialjax.atlas import decisions_file, hand
from spatialjax.atlas.console import device_line
from spatialjax.atlas.markup import bullets, picture, section, table
from spatialjax.atlas.reconstruction import Reconstruction
from spatialjax.atlas.report_composition import composition_part
from spatialjax.checks import listed
from spatialjax.viewer.contents import given_key

#: Pairs shown in the before/after picture at the most.
MAX_PAIRS = 12
#: What is said in place of the loops of a run that is not known.
NO_FIRST_RUN = (
    "Not known: no run.json of the first run lay beside the atlas, so that its pairs, loops and similarities cannot be "
    "shown here."
)


def page(result: Reconstruction, *, source: str = "") -> str:
    """The report as HTML; needs no other file and no network.

    Parameters
    ----------
    result
        A finished reconstruction.
    source
        The command or call that made the run, quoted at the end.
    """
    style = files("spatialjax.atlas").joinpath("report.css").read_text(encoding="utf-8")
    body = "\n".join(
        [
            _header(result),
            _attention(result),
            _later(result),
            section("The tissue from four sides", _stack(result)),
            section("Before and after", _overlays(result)),
            section("A marker gene across the sections", _gene(result)),
            section("Domains", _domains(result)),
            composition_part(result.atlas),
            section("Where the sections overlap", _overlap(result)),
            section("How sure the places are", _sureness(result)),
            section("Sections", _sections_table(result)),
            section("Pairs", _pairs_table(result)),
            section("Do the loops close?", _loops(result)),
            section("How well it fits", _fit(result)),
            section("How this was made", _making(result, source)),
        ]
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Reconstruction of {len(result.transforms)} sections</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _header(result: Reconstruction) -> str:
    placed = len(result.transforms) - len(result.unplaced)
    chosen = result.metrics.get("similarity", {})
    loops = [loop["angle_deg"] for loop in result.metrics.get("loops", []) if _known(loop["angle_deg"])]
    tiles = [
        (f"{placed} of {len(result.transforms)}", "sections placed"),
        (f"{result.atlas.n_obs:,}", "cells or spots"),
        (f"{result.atlas.n_vars:,}", "shared genes"),
        (str(_domain_count(result)), "domains"),
        (_number(chosen.get("atlas")), f"similarity of matched places (as given: {_number(chosen.get('identity'))})"),
        (f"{np.median(loops):.1f}°" if loops else "–", "median loop error"),
    ]
    cells = "".join(f"<div><b>{escape(value)}</b><span>{escape(label)}</span></div>" for value, label in tiles)
    anchors = [f"<em>{escape(names[0])}</em>" for names in _groups(result)]
    frame = "No section is placed."
    if anchors:
        frame = f"Lengths are in µm, in the frame of section {' or '.join(anchors)}, which keeps its own coordinates."
    return f'<header><h1>Aligned tissue</h1><p>{frame}</p><div class="tiles">{cells}</div></header>'


def _attention(result: Reconstruction) -> str:
    findings = bullets(result.findings)
    notes = bullets(result.warnings)
    parts = []
    if findings:
        parts.append(f'<section class="alert"><h2>What looks wrong</h2>{findings}</section>')
    if result.unplaced:
        parts.append(f'<section class="alert"><h2>Not placed</h2>{bullets(result.unplaced)}</section>')
    if notes:
        parts.append(f'<section class="note"><h2>Read this first</h2>{notes}</section>')
    groups = _groups(result)
    if len(groups) > 1:
        frames = [f"{', '.join(names)}: in the frame of {names[0]}" for names in groups]
        parts.insert(0, f'<section class="alert"><h2>Groups that nothing joins</h2>{bullets(frames)}</section>')
    if not findings and not result.unplaced and len(groups) == 1:
        judged = len(result.transforms) >= 4 and not _added(result)
        order = "; nothing speaks against their order and gaps" if judged else ""
        parts.insert(0, f'<section class="good"><p>Every section is placed{order}.</p></section>')
    return "\n".join(parts)


def _later(result: Reconstruction) -> str:
    """What this page can say of sections that were added to a finished atlas; nothing where there are none."""
    added = _added(result)
    if not added:
        return ""
    whole = "" if "loops" in result.metrics else f"<p>{NO_FIRST_RUN}</p>"
    return section(
        "Added to the finished atlas",
        f"<p>{escape(listed(added, limit=20))}: compared with the atlas, which was held still. Place, pairs, overlap "
        "and matched places are shown below with those of the other sections; domains are carried over from the "
        "sections beside, not found anew. The loops, and what looks wrong with order and gaps, are those of the first "
        f"run alone; times and memory are those of the last addition.</p>{whole}",
    )


def _added(result: Reconstruction) -> list[str]:
    """Names of the sections that were added to the finished atlas."""
    return [entry["name"] for entry in json.loads(result.atlas.uns["spatialjax"]["options"]).get("added", [])]


def _groups(result: Reconstruction) -> list[list[str]]:
    """Names of the sections of each frame, the anchor first."""
    placed = [p for p in result.transforms.values() if p.placed]
    return [
        sorted((p.name for p in placed if p.component == c), key=lambda name: result.transforms[name].anchor != name)
        for c in sorted({p.component for p in placed})
    ]


def _stack(result: Reconstruction) -> str:
    return picture(
        lambda: pl.stack(result.atlas),
        "Every dot is a cell or spot at its place in the atlas, coloured by domain. Domains that run through the "
        "tissue show "
        "as bands without jumps between heights; a section that sticks out or a band that jumps deserves a look. "
        "Heights are "
        "those given (from z or the gap).",
        "The placed sections from above, from the front, from the side and from an angle",
    )


def _overlays(result: Reconstruction) -> str:
    pairs = list(result.couplings)[:MAX_PAIRS]
    more = len(result.couplings) - len(pairs)
    note = f" The first {len(pairs)} of {len(result.couplings)} pairs are shown." if more > 0 else ""
    return picture(
        lambda: pl.overlay(result.atlas, pairs=pairs, spatial_key=given_key(result.atlas) or "spatial"),
        "Two successive sections on each other, the first in blue and the second in orange: left with the "
        "coordinates as they "
        "were given, right in the atlas. Outlines and holes should agree where both sections show tissue; one may "
        "well be "
        f"cropped.{note}",
        "Successive sections as given and as placed",
    )


def _gene(result: Reconstruction) -> str:
    return picture(
        lambda: pl.gene(result.atlas),
        "The gene that differs most between domains, as log(1 + value), in the frame of the atlas and on one colour "
        "scale. Its "
        "pattern should stay in place from panel to panel.",
        "A marker gene in every placed section",
    )


def _domains(result: Reconstruction) -> str:
    chosen = result.metrics.get("domains")
    how = ""
    if chosen is not None:
        how = f" ({'chosen by the Bayesian information criterion' if chosen['criterion'] else 'as asked for'})"
    return picture(
        lambda: pl.domains(result.atlas),
        f"The {_domain_count(result)} domains{how}, found in all sections together from features smoothed over the "
        "three-dimensional neighbourhood. <code>obs['domain3d_confidence']</code> is the share of the members of the "
        "consensus that agree with each label.",
        "Domains in every placed section",
    )


def _domain_count(result: Reconstruction) -> int:
    return int(result.atlas.obs["domain3d"].nunique())


def _overlap(result: Reconstruction) -> str:
    return picture(
        lambda: pl.overlap(result.atlas),
        "For each spot the probability that the section before or after it shows the same place. Dark areas are seen "
        "in one "
        "section only: expect them where a section was cropped, and distrust them in the middle of the tissue.",
        "Probability of overlap in every placed section",
    )


def _sections_table(result: Reconstruction) -> str:
    count = result.atlas.obs["slice"].value_counts()
    rows = [
        [
            p.name,
            f"{int(count[p.name]):,}",
            f"{p.z:g}",
            "yes" if p.placed else "no",
            f"{_signed(p.angle_deg)} ± {_number(p.angle_sd_deg, 1)}°" if p.placed else "–",
            ("yes" if p.mirrored else "no") if p.placed else "–",
            p.anchor or "–",
            f"{p.um_per_unit:.6g}",
            p.units_source,
        ]
        for p in result.transforms.values()
    ]
    names = ["section", "cells", "z, µm", "placed", "turned by", "mirrored", "frame of", "µm per unit", "units from"]
    return table(names, rows) + (
        "<p class='caption'>Turned counter-clockwise against the anchor; a mirrored section is turned over (y → −y) "
        "first. The full "
        "maps, also for images and other points in the units of the files, are in <code>uns['spatialjax']</code> and "
        "in "
        "<code>run.json</code>.</p>"
    )


def _pairs_table(result: Reconstruction) -> str:
    rows = [
        [
            f"{row['source']} → {row['target']}",
            _number(row["evidence"], 1),
            _number(row["threshold"], 1),
            _number(row["evidence_other_parity"], 1),
            "yes" if row["used"] else "no",
            "yes" if row["mirrored"] else "no",
            _signed(row["angle_deg"]) + "°",
            _number(row["similarity"]),
        ]
        for row in result.pairs
    ]
    names = ["pair", "evidence", "threshold", "other parity", "used", "mirrored", "angle", "similarity"]
    return table(names, rows) + (
        "<p class='caption'>Evidence (nats) of the pose that was used, the threshold that unrelated tissue reaches "
        "by chance, and the "
        "evidence of the best pose with the other side up: a pair is well determined where the first is far above both "
        "others. Pairs below the threshold place nothing.</p>"
    )


def _fit(result: Reconstruction) -> str:
    rows = [
        [
            f"{row['source']} → {row['target']}",
            *(_number(row[name]) for name in ("atlas", "identity", "centered", "permuted")),
            f"{row['atlas_share']:.0%}",
        ]
        for row in result.metrics.get("similarity_pairs", [])
    ]
    names = ["pair", "placed", "as given", "centred", "shuffled", "spots matched"]
    return table(names, rows) + (
        "<p class='caption'>Correlation of the shared features at matched places, beside what it is with the "
        "sections as given, "
        "with only their centres brought together, and with the spots of one section shuffled. The sections were "
        "aligned with "
        "these features, so read the distance to the other columns and not the value.</p>"
    )


def _loops(result: Reconstruction) -> str:
    if "loops" not in result.metrics:
        return f"<p>{NO_FIRST_RUN}</p>"
    rows = [
        [
            " → ".join(loop["sections"]),
            _number(loop["angle_deg"]) + "°",
            _number(loop["angle_sd_deg"]) + "°",
            _number(loop["displacement_um"], 0),
            _number(loop["displacement_sd_um"], 0),
            "yes" if loop["parity_agrees"] else "no",
            "yes" if loop["kept"] else "no",
        ]
        for loop in result.metrics["loops"]
    ]
    if not rows:
        return "<p>Three sections in a row make a loop; there are none.</p>"
    names = ["loop", "angle", "expected", "shift, µm", "expected, µm", "sides agree", "all pairs used"]
    return table(names, rows) + (
        "<p class='caption'>Going once round three sections by the pair maps alone should lead back to the start; this "
        "is what is left over, beside the standard deviation to expect if each pair is as sure as it says. Several "
        "times that much means that one of the three pairs is wrong, or surer than it should be. A loop does not see "
        "a bias that a section brings into all its pairs.</p>"
    )


def _sureness(result: Reconstruction) -> str:
    rows = [
        [
            f"{row['source']} → {row['target']}",
            _number(row.get("probability")),
            _number(row.get("probability_mirrored")),
            _number(row.get("angle_sd_deg"), 1) + "°",
            _number(row.get("shift_sd_um"), 0),
            f"{_number(row.get('overlap'))} ({_number(row.get('overlap_q05'))}–{_number(row.get('overlap_q95'))})",
            "fits in two ways" if row["ambiguous"] else ("" if row["determined"] else "not determined"),
        ]
        for row in result.pairs
    ]
    names = ["pair", "probability", "of mirrored", "angle ±", "shift ±, µm", "overlap (90 %)", ""]
    drawn = picture(
        lambda: pl.uncertainty(result.atlas),
        "Standard deviation of the place of each spot in the plane, relative to the anchor, whose own is 0: it grows "
        "from the middle of a section, and mostly along the stack away from the anchor. Errors in z are not in "
        "it. The same numbers are in <code>obsm['spatial3d_sd']</code>.",
        "Standard deviation of the place in every placed section",
    )
    return (
        drawn
        + table(names, rows)
        + (
            "<p class='caption'>For the pose that was used: its probability among the poses that were kept, and one "
            "standard deviation of its angle and shift. <em>Of mirrored</em> is the probability that one of the two "
            "sections is turned over. <em>Not determined</em>: fewer than about 120 shared spots, or no pose above "
            "chance.</p>"
        )
    )


def _making(result: Reconstruction, source: str) -> str:
    from spatialjax.atlas.outputs import run_card

    card = run_card(result, source=source)
    rows = [
        [
            step["step"],
            f"{step['seconds']:.1f}",
            f"{step['compile_seconds']:.1f}",
            "–" if step["peak_mb"] is None else f"{step['peak_mb']:,.0f}",
        ]
        for step in card["steps"]
    ]
    chosen = {k: v for k, v in card["options"].items() if v is not None and k not in ("decisions", "added")}
    options = ", ".join(f"{escape(str(k))} = {escape(str(v))}" for k, v in chosen.items())
    used = ", ".join(f"{escape(k)} {escape(v)}" for k, v in card["versions"].items())
    where = device_line()
    command = f"<pre>{escape(source)}</pre>" if source else ""
    decided = hand.in_words(decisions_file.read(card["options"].get("decisions")))
    by_hand = f"<p>Decided by hand:</p>{bullets(decided)}" if decided else "<p>Nothing was decided by hand.</p>"
    return (
        table(["step", "seconds", "of these compiling", "memory so far, MB"], rows)
        + f"{by_hand}<p>Method <em>{escape(card['method'])}</em>, {escape(where)}. Options: {options}. Versions: "
        f"{used}.</p>{command}"
    )


def _number(value: float | None, digits: int = 2) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}" if _known(value) else "–"


def _known(value: float | None) -> bool:
    return value is not None and bool(np.isfinite(value))


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")
