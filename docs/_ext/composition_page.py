"""How far stated compositions can be trusted, and how near they are beside other packages: made at build time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
PEER, OURS = "peer ", "spike_slab"
#: Our re-implementations and the packages they follow, and how far below them *r* may be.
PAIRS = {
    "rctd": "peer RCTD",
    "tangram": "peer Tangram",
    "destvi": "peer DestVI",
    "cell2location": "peer cell2location",
    "stdeconvolve": "peer LDA",
    "spoint": "peer Spoint",
}
NEAR_PEER = 0.02
#: Differences from here on count.
LEVEL = 1e-3
INTRODUCTION = """\
# Compositions: how near, how sure

Spots of known composition: cells of a tissue measured one by one, summed to spots, with other cells as the reference
(MERFISH, seqFISH of an embryo, STARmap; the published reference of seqFISH+ holds the spots' own cells, which flatters
every method there); and spots drawn from references of olfactory bulb and
pancreatic cancer in the patterns of a published benchmark, some with a factor for each gene between reference and
spots. Every method gets the same two files and its own defaults (Stereoscope the epochs of its
tutorial, cell2location its tutorial's settings with 6,000 epochs of spots in place of 30,000, Spoint 20,000
pseudo-spots, batches of 128 and 1,000 rounds in place of 500,000, 1,024 and 5,000). Truth is in cells;
shares of RNA, as some packages return them, are divided by the mean depth of each type before they are scored.
`{command}` wrote the figures.
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
AGAIN = """\
## Re-implementations beside their peers

Methods of this package that follow a published one, with their own defaults (`tl.deconvolve(method=…)`), and the
published package on the same files: ours / theirs. {level}

{explained}
"""
EXPLAINED = """\
What differs in the equations stands in the docstring of each method. The published Tangram maps every cell of the
reference once. On seqFISH+ the reference *is* the cells of the spots, no more and no fewer, so that this is nearly the
truth (*tangram, each cell once* does it too, below); where the reference has its types in other proportions, as in the
olfactory bulb, it is far off. By default `tangram` takes the frequencies of the types from the spots. That, its density
by counts and the mapping of types in place of cells were settled on seqFISH+, STARmap, MERFISH and the first set of the
olfactory bulb, against their truth: of these, its rows say less than of the others.

`destvi` follows the paper but for two things of later releases of the package, which is what was run: the prior of the
latent place of a type weighs as much as the type does in the spot, and the network of the compositions also learns from
pseudo-spots of known composition. On STARmap *r* was .658 with the prior as published, the same whether the type is
there or not, .754 with the weighted one, and .765 and .788 (two seeds) with the pseudo-spots too. The package itself
falls there from .750 to .672 without its pseudo-spots. A softmax of the abundances, a bias of each type and gene in
the decoder, and no dropout where the abundances are found changed *r* by less than .03 in either direction; all else
that is in those releases but the several states of a type (an entropy of the compositions, a likelihood that counts
three times, factors of the genes held near 1 in every spot) gave .728 where the weighted prior alone gave .754. On the
first draw of the olfactory bulb *r* rose by both from .802 to .827 (the package: .870); other seeds gave .86 to .89.

`LDA` is scikit-learn's latent Dirichlet allocation of the spots, the model of `stdeconvolve`, whose authors' package is
written in R. Topics of both go to types by the correlation of their profiles with those of the reference, not by the
truth. Where topics end hangs on where they begin, and the bound does not say which end is nearer the types: on one
draw of the olfactory bulb scikit-learn's *r* was .67 to .86 over seeds and choices of genes, `stdeconvolve`'s .77 to
.82 over four seeds; on seqFISH+ (63 spots, 17 types) .40 to .70 and .22 to .60; on MERFISH `stdeconvolve`'s .15 to .32.
So rows of one seed say little. `stdeconvolve` finds bounds as good as scikit-learn's since its rows begin even in each
step: perplexities of 27.1 instead of 27.4 (olfactory bulb), 48.9 instead of 49.3 (STARmap; scikit-learn 49.1).

`spoint` on STARmap (one seed): spots that weigh in the auto-encoder as their number does, as in the package, gave .754
where spots that weigh as much as pseudo-spots gave .743; four times the turns on twice the pseudo-spots .746, no
matching .740, an auto-encoder trained three times as long .706 and one trained .4 times as long .724. What is left of
the distance to the package is not explained.
"""
OTHERS = """\
### All of our methods

*r* of every method of `tl.deconvolve` with its defaults, and below it the RMSE. Best in bold; a method without a figure
was not run on that set. `stdeconvolve` learns its types from the spots alone.
"""
MEANS = """\
Means over the sets that a method and the default were both run on, default / other:
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
        lines += near_table([row for row in rows if not is_again(row["method"])])
    lines += ["### In short", "", "Beside the packages in each table. Differences below .001 count as level.", ""]
    lines += [
        *verdict(by_set, lambda name: name.startswith(PEER), "other package"),
        "",
        MEANS,
        *averages(by_set, lambda name: name.startswith(PEER)),
    ]
    lines += ["", LEGEND]
    return "\n".join([*lines, *again(found["rows"], by_set)])


def heading(*names: str) -> list[str]:
    """The first two lines of a table."""
    return ["| " + " | ".join(names) + " |", "| " + " | ".join("---" for _ in names) + " |"]


def sure_table(rows: list[dict[str, Any]]) -> list[str]:
    """One line a set."""
    lines = heading("set", "covered", "width", "score", "one width", "oracle", "Brier", "of the frequency")
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
    lines += heading("method", *(name for name, _ in SCORES.values()), "means of")
    for row in rows:
        cells = [f"{row[key]:.3f}" for key in SCORES]
        bold = [is_method(row) and f"{best[key]:.3f}" == cell for key, cell in zip(SCORES, cells, strict=True)]
        shown = [f"**{cell}**" if strong else cell for cell, strong in zip(cells, bold, strict=True)]
        lines.append(f"| {label(row['method'])} | " + " | ".join(shown) + f" | {row['seeds']} |")
    return [*lines, ""]


def verdict(by_set: list[list[dict[str, Any]]], beside: Callable[[str], bool], name: str) -> list[str]:
    """In how many sets the default is not behind the best of some other methods, a line a score.

    Parameters
    ----------
    by_set
        Rows of each set.
    beside
        Whether a method is one of the others.
    name
        What the others are.
    """
    lines = []
    for key, (score, _) in SCORES.items():
        behind, number = [], 0
        for rows in by_set:
            mine = [row[key] for row in rows if row["method"] == OURS]
            others = {row["method"].removeprefix(PEER): row[key] for row in rows if beside(row["method"])}
            if not mine or not others:
                continue
            number += 1
            other = best_of(list(others.values()), key)
            if (other - mine[0] if SCORES[key][1] else mine[0] - other) >= LEVEL:
                who = next(method for method, value in others.items() if value == other)
                behind.append(f"{rows[0]['name']}: {mine[0]:.3f} against {other:.3f} ({who})")
        where = f" Behind in {'; '.join(behind)}." if behind else ""
        lines.append(f"- {score}: not behind the best {name} in {number - len(behind)} of {number} sets.{where}")
    return lines


def averages(by_set: list[list[dict[str, Any]]], beside: Callable[[str], bool]) -> list[str]:
    """The scores of the default and of each of some other methods, means over the sets that both have.

    Parameters
    ----------
    by_set
        Rows of each set.
    beside
        Whether a method is one of the others.
    """
    named = [{row["method"]: row for row in rows} for rows in by_set]
    others = dict.fromkeys(method for rows in named for method in rows if beside(method))
    lines = heading("method", "sets", *(name for name, _ in SCORES.values()))
    for method in others:
        both = [(rows[OURS], rows[method]) for rows in named if OURS in rows and method in rows]
        if not both:
            continue
        means = [[sum(pair[i][key] for pair in both) / len(both) for i in (0, 1)] for key in SCORES]
        cells = " | ".join(f"{mine:.3f} / {other:.3f}" for mine, other in means)
        lines.append(f"| {label(method)} | {len(both)} | {cells} |")
    return lines


def again(rows: list[dict[str, Any]], by_set: list[list[dict[str, Any]]]) -> list[str]:
    """Our re-implementations beside their peers, and all our methods side by side.

    Parameters
    ----------
    rows
        All rows, those that did not finish too.
    by_set
        Rows with scores, of each set.
    """
    table = heading("set", "method", *(name for name, _ in SCORES.values()))
    below, number = [], 0
    for own, peer in PAIRS.items():
        for name, (mine, other) in _pairs(by_set, own, peer):
            cells = [f"{mine[key]:.3f} / {other[key]:.3f}" for key in SCORES]
            table.append(f"| {name} | `{own}` | " + " | ".join(cells) + " |")
            number += 1
            if other["pearson"] - mine["pearson"] > NEAR_PEER:
                below.append(f"`{own}` on {name} ({mine['pearson']:.3f} against {other['pearson']:.3f})")
    within = f"*r* is within {NEAR_PEER} of the peer's, or above it, in {number - len(below)} of {number} rows"
    level = f"{within}; below: {'; '.join(below)}." if below else f"{within}."
    ended = [f"{row['name']}, {label(row['method'])}: {row['status']}" for row in rows if _unfinished(row)]
    lines = [AGAIN.format(level=level, explained=EXPLAINED), *table, ""]
    lines += [f"Without a figure: {'; '.join(ended)}.", ""] if ended else []
    lines += [OTHERS, *side_by_side(by_set, "pearson"), "", *side_by_side(by_set, "rmse"), ""]
    lines += [f"`{OURS}` beside the other methods of this package:", ""]
    lines += [*verdict(by_set, is_again, "of our other methods"), "", MEANS, *averages(by_set, is_again)]
    return [*lines, ""]


def side_by_side(by_set: list[list[dict[str, Any]]], key: str) -> list[str]:
    """One score of all our methods, a line a set.

    Parameters
    ----------
    by_set
        Rows of each set.
    key
        The score.
    """
    own = [[row for row in rows if is_again(row["method"]) or row["method"] == OURS] for rows in by_set]
    own = [rows for rows in own if any(is_again(row["method"]) for row in rows)]
    methods = [OURS, *sorted({row["method"] for rows in own for row in rows} - {OURS})]
    lines = heading(SCORES[key][0], *(f"`{name}`" for name in methods))
    for rows in own:
        best = f"{best_of([row[key] for row in rows], key):.3f}"
        values = {row["method"]: f"{row[key]:.3f}" for row in rows}
        shown = [values.get(name, "") for name in methods]
        shown = [f"**{cell}**" if cell == best else cell for cell in shown]
        lines.append(f"| {rows[0]['name']} | " + " | ".join(shown) + " |")
    return lines


def _pairs(by_set: list[list[dict[str, Any]]], own: str, peer: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Name of the set and rows of a method and its peer, where both were run."""
    for rows in by_set:
        named = {row["method"]: row for row in rows}
        if own in named and peer in named:
            yield rows[0]["name"], [named[own], named[peer]]


def _unfinished(row: dict[str, Any]) -> bool:
    return "pearson" not in row and row.get("status", "finished") != "finished" and not row["set"].startswith("speed")


def best_of(values: list[float], key: str) -> float:
    """The best figure of a score."""
    return max(values) if SCORES[key][1] else min(values)


def is_peer(method: str) -> bool:
    """Whether a method is another package."""
    return method.startswith(PEER)


def is_again(method: str) -> bool:
    """Whether a method is one of ours beside the default."""
    return not method.startswith((PEER, OURS, "null", "oracle"))


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
