"""How far stated compositions can be trusted, and how near they are beside other packages: made at build time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
PEER, OURS = "peer ", "spike_slab"
INTRODUCTION = """\
# Compositions: how near, how sure

Spots of known composition: cells of a tissue measured one by one, summed to spots, with other cells as the reference
(MERFISH, seqFISH of an embryo, STARmap; the published reference of seqFISH+ holds the spots' own cells, which flatters
every method there); and spots drawn from references of olfactory bulb and
pancreatic cancer in the patterns of a published benchmark, some with a factor for each gene between reference and
spots. Every method gets the same two files and its own defaults. Truth is in cells; shares of RNA, as some packages
return them, are divided by the mean depth of each type before they are scored. `{command}` wrote the figures.
"""
SURE = """\
## How sure: intervals and presence

For types that are there, the 90 % interval should hold the true share nine times out of ten. Its *score* (width, and
a penalty for every miss; less is better) stands beside two intervals of one width for all types: one learnt without
the truth, on pseudo-spots of half of the reference (*one width*), and the best one for this very truth (*oracle*), that
nobody can know. Probabilities of presence have a Brier score, beside that of the frequency of all types.

On counts drawn from the model itself nine of ten intervals hold the truth (`pytest tests/methods/test_spike_slab.py`):
what is missing below is what real cells do and no model knows. The calibration sees differences between cells of the
reference; where the tissue differs from it by more than they do among themselves, intervals are too narrow.
"""
NEAR = """\
## How near: beside other packages

*r*: correlation of the estimated with the true shares across the types of a spot, mean over the spots. *RMSE*: root
mean square error of all shares. *JSD*: Jensen-Shannon divergence of a spot (base 2), mean over the spots. *AUPR*: area
under precision and recall of types with more than 1 % of a spot. Best in bold. Nulls that say the same of every spot
stand below. A package that is not in a table was not run on that set.
"""
LEGEND = """\
Power, constants and the choice of genes of `spike_slab`, and that its estimate is the mean of two fits and two
posteriors, were settled on these sets (on other draws of those that are drawn): that it does well here is what
it was made for. Rows say how many draws or seeds they are means of.
"""
SCORES: dict[str, tuple[str, bool]] = {
    "pearson": ("r", True),
    "rmse": ("RMSE", False),
    "jsd": ("JSD", False),
    "aupr": ("AUPR", True),
}


def setup(app: Any) -> dict[str, Any]:
    """Register the page writer with Sphinx."""
    app.connect("builder-inited", lambda app: write_page(Path(app.srcdir)))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_page(folder: Path) -> None:
    """Write ``compositions.md`` and its picture where the text has changed."""
    found = json.loads((RESULTS / "deconvolution.json").read_text(encoding="utf-8"))
    path, text = folder / "compositions.md", page(found)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
        draw(found["rows"], folder / "generated" / "compositions.png")


def page(found: dict[str, Any]) -> str:
    """The page as Markdown.

    Parameters
    ----------
    found
        What the benchmark wrote.
    """
    scored = [row for row in found["rows"] if "pearson" in row and not row["set"].startswith("speed")]
    sets = list(dict.fromkeys(row["set"] for row in scored))
    by_set = [[row for row in scored if row["set"] == name] for name in sets]
    lines = [INTRODUCTION.format(command=found["command"]), SURE, *sure_table(scored)]
    lines += ["", "```{image} generated/compositions.png", ":alt: Coverage and interval score of each set"]
    lines += [":width: 640px", "```", "", NEAR]
    for rows in by_set:
        lines += near_table(rows)
    return "\n".join([*lines, *verdict(by_set), LEGEND])


def sure_table(rows: list[dict[str, Any]]) -> list[str]:
    """One line a set."""
    head = ["set", "covered", "width", "score", "one width", "oracle", "Brier", "of the frequency"]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    for row in rows:
        if row["method"] != OURS or "interval" not in row:
            continue
        stated, there = row["interval"], row["presence"]
        cells = [stated[key] for key in ("coverage", "width", "score", "fair null", "oracle null")]
        cells += [there["Brier"], there["Brier of the frequency"]]
        lines.append(f"| {row['name']} | " + " | ".join(f"{value:.2f}" for value in cells) + " |")
    return lines


def near_table(rows: list[dict[str, Any]]) -> list[str]:
    """One set: a line a method, nulls last."""
    spots, genes, types = rows[0]["spots, genes, types"]
    best = {key: best_of([row[key] for row in rows if is_method(row)], key) for key in SCORES}
    lines = [f"### {rows[0]['name']}", "", f"{spots:,} spots, {genes:,} genes, {types} types.", ""]
    lines += ["| method | " + " | ".join(name for name, _ in SCORES.values()) + " | means of |"]
    lines += ["| --- | " + " | ".join("---" for _ in SCORES) + " | --- |"]
    for row in rows:
        cells = [f"{row[key]:.3f}" for key in SCORES]
        bold = [is_method(row) and f"{best[key]:.3f}" == cell for key, cell in zip(SCORES, cells, strict=True)]
        shown = [f"**{cell}**" if strong else cell for cell, strong in zip(cells, bold, strict=True)]
        lines.append(f"| {label(row['method'])} | " + " | ".join(shown) + f" | {row['seeds']} |")
    return [*lines, ""]


def verdict(by_set: list[list[dict[str, Any]]]) -> list[str]:
    """In how many sets the default is not behind the best of the other packages."""
    lines = ["### In short", "", "Beside the packages in each table. Differences below .001 count as level.", ""]
    for key, (name, _) in SCORES.items():
        behind, number = [], 0
        for rows in by_set:
            mine = [row[key] for row in rows if row["method"] == OURS]
            others = [row[key] for row in rows if row["method"].startswith(PEER)]
            if not mine or not others:
                continue
            number += 1
            other = best_of(others, key)
            if (other - mine[0] if SCORES[key][1] else mine[0] - other) >= 1e-3:
                behind.append(f"{rows[0]['name']}: {mine[0]:.3f} against {other:.3f}")
        where = f" Behind in {'; '.join(behind)}." if behind else ""
        lines.append(f"- {name}: not behind the best other package in {number - len(behind)} of {number} sets.{where}")
    return [*lines, ""]


def best_of(values: list[float], key: str) -> float:
    """The best figure of a score."""
    return max(values) if SCORES[key][1] else min(values)


def is_method(row: dict[str, Any]) -> bool:
    """Whether a row is neither a null nor an oracle."""
    return not row["method"].startswith(("null", "oracle"))


def label(method: str) -> str:
    """How a method is named in the tables."""
    if method.startswith(("null", "oracle")):
        return f"*{method}*"
    return method.removeprefix(PEER) if method.startswith(PEER) else f"spatialjax `{method}`"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Coverage, and interval score relative to that of one width for all, of each set.

    Parameters
    ----------
    rows
        Of the benchmark.
    path
        Picture to write.
    """
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["method"] == OURS and "interval" in row][::-1]
    figure = Figure(figsize=(7.0, 0.9 + 0.26 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.axvspan(0.8, 0.96, color="#e8f1f8")
    left.axvline(0.9, color="#bbbbbb", linewidth=1)
    right.axvline(1.0, color="#bbbbbb", linewidth=1)
    for place, row in enumerate(rows):
        stated = row["interval"]
        left.plot(stated["coverage"], place, "o", color="#0072b2")
        right.plot(stated["score"] / stated["fair null"], place, "o", color="#0072b2")
    left.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8)
    left.set_xlim(0.6, 1.0)
    left.set_xlabel("present types\nin their 90 % interval", fontsize=9)
    right.set_xlabel("interval score\nover that of one width", fontsize=9)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
