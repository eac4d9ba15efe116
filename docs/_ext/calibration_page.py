"""The page on the calibration of the pose posterior, made from the results of its benchmark at build time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
INTRODUCTION = """\
# How far the uncertainty can be trusted

Every pair of sections has a posterior of its pose: the poses that fit with their probabilities, and around each a
normal spread of angle and shift. From there the pose graph gives every section a spread relative to the anchor, and
every cell a standard deviation of its place (`obsm['spatial3d_sd']`). What follows was measured on pairs whose truth is
known: halves of real sections, turned, cropped and thinned; slabs of a thick tissue; simulated tissue with noise,
density and deformation that the model does not assume. The constants of the posterior were settled on the fitting
halves of earlier seeds of the same tissues, with an eye on the other halves; the figures are from one half of the pairs
of new seeds. One set of constants serves all technologies. `{command}` wrote the figures.

A 90 % region should hold the truth nine times out of ten. *Right basin* counts the pairs whose best pose is near the
truth at all; *whatever the basin* takes all pairs that call themselves determined, with the whole mixture. Widths stand
beside a null: the one width for all pairs that covers as often. Few pairs make wide intervals: read them.

Pairs with fewer than about 120 shared spots say *not determined* (the column *too few spots*), and so do pairs with
no pose above chance: of the pairs with enough spots, *of those with enough* are determined.
"""
COVERAGE = {
    "pairs of": "pairs of",
    "pairs": "pairs",
    "too few spots": "too few spots",
    "determined": "determined",
    "determined, of enough spots": "of those with enough",
    "right basin": "right basin",
    "pose": "pose",
    "pose interval": "95 % interval of that",
    "mixture, whatever the basin": "whatever the basin",
    "cell": "place of a cell",
    "cell radius, pitches": "radius for a cell, spacings",
    "cell radius, one for all": "one radius for all",
}
OVERLAP = {
    "pairs of": "pairs of",
    "pairs": "pairs",
    "overlap": "the interval holds the true share",
    "overlap interval": "95 % interval of that",
    "half width": "half width",
    "half width, one for all": "one half width for all",
    "bias": "bias",
}
AFTER = """\
## What it does not tell

- **Errors of z.** Heights are taken as given.
- **A wrong choice between poses that fit equally well.** Such pairs are called ambiguous, and both poses are listed;
  the spread of a section is that of the pose that was used.
- **A bias that a section brings into all its pairs**, as a tear or a fold would: loops close all the same.
- **Tissue that changes between sections** in the same direction everywhere: the deeper section is not the same tissue.
"""


def setup(app: Any) -> dict[str, Any]:
    """Register the page writer with Sphinx."""
    app.connect("builder-inited", lambda app: write_page(Path(app.srcdir)))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_page(folder: Path) -> None:
    """Write ``calibration.md`` and its picture into the folder of the sources, where they have changed."""
    found = json.loads((RESULTS / "pose_posterior.json").read_text(encoding="utf-8"))
    path = folder / "calibration.md"
    text = page(found)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
        draw(_row(found, "parity", "all"), folder / "generated" / "reliability.png")


def page(found: dict[str, Any]) -> str:
    """The page as Markdown.

    Parameters
    ----------
    found
        What the benchmark wrote.
    """
    coverage = [row for row in found["rows"] if row["table"] == "pairs"]
    parity, stacks = _row(found, "parity", "all"), next(r for r in found["rows"] if r["table"] == "stacks")
    lines = [INTRODUCTION.format(command=found["command"]), "## Pairs: how often the 90 % region holds the truth", ""]
    lines += [
        *_table(coverage, COVERAGE),
        "",
        "## Which side is up",
        "",
        f"{parity['pairs']} pairs: Brier score {parity['brier']:.3f} (a coin: .25), calibration error "
        f"{parity['calibration error']:.3f}; {parity['ambiguous']:.0%} of the pairs are called ambiguous, the more "
        f"probable side is right in {parity['right']:.0%} of all.",
        "",
        "```{image} generated/reliability.png",
        ":alt: How often a section was mirrored, against the probability that was given for it",
        ":width: 420px",
        "```",
        "",
    ]
    symmetric = [r for r in found["rows"] if r["table"] == "parity" and r["pairs of"] != "all" and r["pairs"]]
    if symmetric:
        said = "; ".join(
            f"{row['pairs of']}, {row['pairs']} pairs of small discs: {row['ambiguous']:.0%} are called ambiguous, "
            f"Brier score {row['brier']:.3f} ± {row['brier standard error']:.3f}, calibration error "
            f"{row['calibration error']:.3f}"
            for row in symmetric
        )
        lines += [
            f"A tissue that is its own mirror image ({said}). A coin has .25, and there is next to nothing to tell the "
            "sides apart by: the probabilities lie near one half; read the scores with their standard errors. At other "
            "seeds, the lower sections were among the pairs that the constants were settled on.",
            "",
            "The evidence of all poses of a pair is divided by the temperature that widens their covariances, for "
            "evidence that halves of the tissue contradict cannot choose a side either.",
            "",
        ]
    lines += _overlap_and_scale(found)
    lines += [
        "## Stacks",
        "",
        f"{stacks['stacks']} stacks with {stacks['sections']} sections beside their anchors: the 90 % region of the "
        f"pose relative to the anchor holds the truth in {_cell(stacks['pose'])} of the sections (95 % interval "
        f"{_cell(stacks['pose interval'])}), that of a cell in {_cell(stacks['cell'])}.",
        "",
        AFTER,
    ]
    return "\n".join(lines)


def _overlap_and_scale(found: dict[str, Any]) -> list[str]:
    overlap = [row for row in found["rows"] if row["table"] == "overlap" and row["pairs"]]
    lines = [
        "## Overlap",
        "",
        "The share of a section's cells on the other's tissue has a 90 % interval. Judged against the share of "
        "cells whose true place has a cell of the target within one spacing. Beside the pose, the interval allows for "
        "the edge of the tissue, which cells show to about half a spacing only, and for the warp.",
        "",
        *_table(overlap, OVERLAP),
        "",
    ]
    scale = next((row for row in found["rows"] if row["table"] == "scales"), None)
    if scale is not None:
        lines += [
            "## Scale, where it is asked for",
            "",
            f"{scale['determined']} simulated pairs whose source was shrunk or swollen by up to 7 %: the 90 % interval "
            f"of the scale holds the true one in {_cell(scale['scale'])} of them (95 % interval "
            f"{_cell(scale['scale interval'])}), at a half width of {scale['half width']:.3f} beside "
            f"{scale['half width, one for all']:.3f} for one width that covers as often; bias {scale['bias']:+.3f}.",
            "",
        ]
    return lines


def _table(rows: list[dict[str, Any]], columns: dict[str, str]) -> list[str]:
    return [
        "| " + " | ".join(columns.values()) + " |",
        "| " + " | ".join("---" for _ in columns) + " |",
        *("| " + " | ".join(_cell(row.get(name)) for name in columns) + " |" for row in rows),
    ]


def draw(row: dict[str, Any], path: Path) -> None:
    """A reliability plot: observed share against predicted probability, with the number of pairs at each point.

    Parameters
    ----------
    row
        With ``predicted``, ``observed`` and ``count`` of each bin.
    path
        Picture to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 4.0), layout="constrained")
    panel = figure.add_subplot()
    panel.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
    points = [p for p in zip(row["predicted"], row["observed"], row["count"], strict=True) if p[2]]
    for predicted, observed, count in points:
        panel.plot(predicted, observed, "o", color="#0072b2", markersize=4 + 1.5 * count**0.5, alpha=0.8)
        panel.annotate(str(count), (predicted, observed), textcoords="offset points", xytext=(7, -9), fontsize=7)
    panel.set_xlabel("probability that a section is mirrored")
    panel.set_ylabel("share that is")
    panel.set_aspect("equal")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)


def _row(found: dict[str, Any], table: str, of: str) -> dict[str, Any]:
    return next(row for row in found["rows"] if row["table"] == table and row["pairs of"] == of)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return "–".join(_cell(v) for v in value)
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.2f}"
    return "–" if value is None else str(value)
