"""The page that lays this package beside its peers, made from the results of the benchmarks at build time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
PEER = "peer "
INTRODUCTION = """\
# Beside other packages

Every method gets the same two files and runs alone, in a process of an environment of its own, on the CPU.

- **plan**: *accuracy* is the share of the plan's mass that joins spots of one label; a plan that says nothing reaches
  *chance*. A method that finds a map only is given the plan that the atlas makes of a map. *matched* is the share of
  the moved section's spots that the plan matches at all: it costs nothing to leave out what the other one lacks.
- **map**: *displacement* is the median distance from the true map, in spot distances; *accuracy* is the share of spots
  that land by a spot of their own label, relative to what the true map reaches; *parity* says whether the section lies
  the right side up. The map of a peer is the rigid fit of its plan, mirrored where that fits better, as its own code
  does it. For the cortex the true map is the rigid map that fits the layers best.
- Where nothing is labelled, every second gene is kept from the methods; *held-out* is the mean correlation of the 500
  strongest of these genes between matched spots. A plan that spreads a spot over several others averages their noise
  away, so compare plans of one kind there, and maps with maps.
- PASTE and POT's fused GW see the distances inside each section alone, so that turning a section over or round changes
  nothing for them (their plans of a turned and mirrored section were the same to the last digit): their rows as given
  stand for the rotated and mirrored ones.
- **seconds** of the first call, without imports and reading, and of a *second call* where a method compiles. A process
  is stopped after ten minutes. **GB** is its peak memory. **load** is the load average before the run: times taken at a
  load above 1 are upper bounds.

The labels only score. In each table the best figure is bold.
"""
CASES = {
    "whole": "Human cortex (Visium), two whole neighbouring sections",
    "partial": "Human cortex (Visium), crops that overlap in part",
    "stahl": "Breast tumour (ST), neighbouring sections; nothing is labelled",
    "simulated": "Simulated layered tissue, cropped and deformed",
}
COLUMNS: dict[str, tuple[str, bool | None]] = {
    "plan accuracy": ("plan: accuracy", True),
    "chance": ("plan: chance", None),
    "matched": ("plan: matched", None),
    "held-out correlation, plan": ("plan: held-out", True),
    "displacement": ("map: displacement", False),
    "map accuracy": ("map: accuracy", True),
    "parity right": ("map: parity", None),
    "held-out correlation, map": ("map: held-out", True),
    "seconds": ("seconds", None),
    "second call": ("second call", None),
    "peak GB": ("GB", None),
    "load": ("load", None),
}
#: Differences that count as none.
LEVEL = {
    "plan accuracy": 0.005,
    "held-out correlation, plan": 0.005,
    "displacement": 0.05,
    "map accuracy": 0.005,
    "held-out correlation, map": 0.005,
}


def setup(app: Any) -> dict[str, Any]:
    """Register the page writer with Sphinx."""
    app.connect("builder-inited", lambda app: write_page(Path(app.srcdir)))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_page(folder: Path) -> None:
    """Write ``peers.md`` where its text has changed."""
    path, text = folder / "peers.md", page()
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def page() -> str:
    """The page, from the two results."""
    pairs, large = (read(name) for name in ("alignment_peers", "alignment_large"))
    lines = [INTRODUCTION]
    for prefix, title in CASES.items():
        rows = [row for row in pairs["rows"] if row["row"].startswith(prefix)]
        if rows:
            lines += [f"## {title}", ""]
            for name in dict.fromkeys(row["row"] for row in rows):
                lines += table(name, [row for row in rows if row["row"] == name])
    lines += verdict(pairs["rows"]) + large_section(large) + colophon(pairs)
    return "\n".join(lines) + "\n"


def read(name: str) -> dict[str, Any]:
    """A result of the benchmarks; one without rows where it was not run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": []}


def table(name: str, rows: list[dict[str, Any]]) -> list[str]:
    """One pair of sections: a line a method."""
    columns = [column for column in COLUMNS if any(row.get(column) is not None for row in rows)]
    best = {column: best_of(rows, column) for column in columns if COLUMNS[column][1] is not None}
    source, target = rows[0]["spots"]
    lines = [f"### {name}", "", f"{source:,} spots on {target:,}.", ""]
    lines += ["| method | " + " | ".join(COLUMNS[column][0] for column in columns) + " | |"]
    lines += ["| --- | " + " | ".join("---" for _ in columns) + " | --- |"]
    for row in rows:
        cells = [shown(row.get(column), best=best.get(column)) for column in columns]
        remark = row["status"] if row["status"] != "finished" else row.get("note", "")
        lines.append(f"| {label(row['method'])} | " + " | ".join(cells) + f" | {plain(remark)} |")
    return [*lines, ""]


def best_of(rows: list[dict[str, Any]], column: str) -> float | None:
    """The best figure of a column."""
    values = [row[column] for row in rows if isinstance(row.get(column), int | float) and row[column] == row[column]]
    if not values:
        return None
    return max(values) if COLUMNS[column][1] else min(values)


def shown(value: Any, *, best: float | None) -> str:
    """A figure in three digits, bold where it is the best."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "right" if value else "wrong"
    text = f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
    return f"**{text}**" if best is not None and text == f"{best:{'.1f' if abs(best) >= 10 else '.3f'}}" else text


def label(method: str) -> str:
    """How a method is named in the tables."""
    return method.removeprefix(PEER) if method.startswith(PEER) else f"spatialjax `{method}`"


def plain(text: str) -> str:
    """Text that may stand in a cell."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def verdict(rows: list[dict[str, Any]]) -> list[str]:
    """In how many pairs the default method is not behind the best peer, and how much faster it is than moscot."""
    names = list(dict.fromkeys(row["row"] for row in rows))
    lines = ["## In short", "", "Differences up to 0.005 (0.05 spot distances) count as level.", ""]
    for column in LEVEL:
        compared = [found for name in names if (found := against_best([r for r in rows if r["row"] == name], column))]
        if compared:
            lost = [found for found in compared if behind(column, *found[1:]) > LEVEL[column]]
            gaps = [f"{name}: {mine:.3f} against {other:.3f}" for name, mine, other in lost]
            share = f"{len(compared) - len(lost)} of {len(compared)} pairs"
            worse = f" Worse in {'; '.join(gaps)}." if gaps else ""
            lines += [f"- {COLUMNS[column][0]}: `fields` not behind the best peer in {share}.{worse}"]
    for column, words in (("seconds", "first calls"), ("second call", "second calls")):
        ratios = against_moscot(rows, column)
        if ratios:
            lines += [f"- moscot took {min(ratios):.1f} to {max(ratios):.1f} times as long as `fields` ({words})."]
    stopped = [f"{label(row['method'])} ({row['row']})" for row in rows if row["status"].startswith("stopped")]
    lines += [f"- Stopped for time: {', '.join(stopped)}."] if stopped else []
    return [*lines, ""]


def against_best(rows: list[dict[str, Any]], column: str) -> tuple[str, float, float] | None:
    """Name of the pair, figure of ``fields``, best figure of the peers; None where one of them is missing."""
    mine = [row[column] for row in rows if row["method"] == "fields" and row.get(column) is not None]
    others = [row[column] for row in rows if row["method"].startswith(PEER) and row.get(column) is not None]
    best = max if COLUMNS[column][1] else min
    return (rows[0]["row"], mine[0], best(others)) if mine and others else None


def behind(column: str, mine: float, other: float) -> float:
    """How much worse ``mine`` is."""
    return other - mine if COLUMNS[column][1] else mine - other


def against_moscot(rows: list[dict[str, Any]], column: str) -> list[float]:
    """Time of moscot over that of ``fields``, for each pair that has both."""
    times = {(row["row"], row["method"]): row.get(column) for row in rows}
    mine = {row: value for (row, method), value in times.items() if method == "fields" and value}
    return [times[row, f"{PEER}moscot"] / value for row, value in mine.items() if times.get((row, f"{PEER}moscot"))]


def large_section(result: dict[str, Any]) -> list[str]:
    """The section that no peer of the tables above can hold."""
    if not result["rows"]:
        return []
    names = ("row", "seed", "moved cells", "fixed cells", "position error", "angle", "seconds", "peak GB", "load")
    lines = [
        "## A whole mouse brain",
        "",
        "In-situ sequencing, 74,671 cells of a coronal section, against a rotated part of itself that shows other",
        "cells; a dense plan of this size needs tens of GB. *position error* is the median, in median distances of",
        "nearest cells.",
        "",
        "| " + " | ".join(names) + " |",
        "| " + " | ".join("---" for _ in names) + " |",
    ]
    for row in result["rows"]:
        cells = [f"{row[n]:.3g}" if isinstance(row[n], float) else str(row[n]) for n in names]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def colophon(result: dict[str, Any]) -> list[str]:
    """Versions and machine."""
    if not result["rows"]:
        return []
    versions = {}
    for row in result["rows"]:
        if row.get("versions"):
            key = "spatialjax" if not row["method"].startswith(PEER) else row["method"].removeprefix(PEER).split(",")[0]
            versions[key] = ", ".join(f"{name} {number}" for name, number in row["versions"].items())
    machine = result["context"]
    lines = ["## Versions", ""] + [f"- {name}: {text}" for name, text in versions.items()]
    return [*lines, f"- {machine['device']}, {machine['cores']} cores; `{result['command']}`", ""]
