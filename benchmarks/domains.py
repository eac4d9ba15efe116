"""Accuracy of the methods that find domains, on every labelled set, with one set of defaults.

``python benchmarks/domains.py --methods auto kmeans smoothed smoothed:by=kmeans banksy``

Each method runs on each set with the number of regions given (``--seeds`` times), with the number inferred
(``--infer``), and on random 95 % subsamples (``--subsamples``). A long table may be measured in parts: ``--add`` keeps
the rows of other sets and methods that the results file has. Labels only score: the files are stripped of them
before a method sees anything. Spots without a label, and those that osmFISH calls "Excluded", are clustered with the
others but not scored. Two donors have a row for their sections taken together, scored section by section.

Every method goes through the front door, ``sj.tl.domains``; ``name:option=value,…`` passes options of its factory,
and ``refine`` to the front door. A method that cannot take the features of a set is left out there, with the reason.
"""

from __future__ import annotations

import argparse
import ast
import json
import time
from collections import defaultdict
from typing import Any

import domain_sets
import numpy as np
import record
from domain_sets import Labelled
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata

import spatialjax as sj
from spatialjax.metrics import ari, neighbour_mixing, section_mixing

TARGETS = {
    "DLPFC": "mean ARI over the six sections >= 0.55 with the number given; 151673-74 together >= 0.62",
    "MERFISH": ">= 0.46",
    "mPFC": ">= 0.82",
    "osmFISH": ">= 0.60",
    "mouse anterior": ">= 0.45",
    "every set": "not below smoothed components + k-means by more than the spread over seeds",
    "subsamples": "standard deviation over random 95 % subsamples <= 0.04",
    "confidence": "accuracy rises over the quartiles of confidence in every set over 1,000 spots",
}
SHARE = 0.95
AVERAGED = ("right is surer", "sections mixed", "sections mixed, embedding")


def parsed(text: str) -> tuple[str, dict[str, Any]]:
    """``"smoothed:by=kmeans,alpha=2.0"`` as a name and its options."""
    name, _, rest = text.partition(":")
    options = {}
    for pair in filter(None, rest.split(",")):
        key, _, value = pair.partition("=")
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    return name, options


def found(data: Labelled, method: str, *, number: int | None, seed: int) -> Any:
    """The domains that a user gets."""
    name, options = parsed(method)
    several = len(np.unique(data.section)) > 1
    return sj.tl.domains(
        data.adata,
        n_domains=number,
        method=name,
        feature_key=data.feature_key,
        slice_key="section" if several else None,
        duplicates="allow",
        refine=options.pop("refine", 0),
        method_options=options,
        seed=seed,
        progress=False,
    )


def score(data: Labelled, labels: np.ndarray, confidence: np.ndarray) -> dict[str, Any]:
    """Adjusted Rand index, mean over sections; share of right spots by confidence; chance that a right one is surer.

    Right is a spot whose domain is matched with its region, one domain to one region so that most spots are right. The
    chance is that of a right and a wrong spot drawn at random, ties counting half: 0.5 where confidence says nothing.
    """
    scored = data.truth != ""
    each = [
        ari(labels[rows], data.truth[rows])
        for rows in (scored & (data.section == name) for name in np.unique(data.section))
    ]
    truth, domain = (np.unique(v[scored], return_inverse=True)[1].reshape(-1) for v in (data.truth, labels))
    table = np.zeros((truth.max() + 1, domain.max() + 1), int)
    np.add.at(table, (truth, domain), 1)
    match = dict(zip(*linear_sum_assignment(-table)[::-1], strict=True))
    right = np.array([match.get(k, -1) for k in range(table.shape[1])])[domain] == truth
    order = np.argsort(confidence[scored], kind="stable")
    quartiles = [float(right[part].mean()) for part in np.array_split(order, 4)]
    surer = float("nan")
    if 0 < right.sum() < len(right):
        ranks = rankdata(confidence[scored])
        surer = float((ranks[right].mean() - (right.sum() + 1) / 2) / (~right).sum())
    return {"ari": float(np.mean(each)), "accuracy by confidence": quartiles, "right is surer": surer}


def one(data: Labelled, method: str, *, number: int | None, seed: int) -> dict[str, Any]:
    """One run: its scores, seconds, and the partitions that its members compete for."""
    start = time.perf_counter()
    result = found(data, method, number=number, seed=seed)
    seconds = time.perf_counter() - start
    candidates = [] if result.stability is None else list(result.stability.candidates)
    scores = score(data, np.asarray(result.labels), np.asarray(result.confidence))
    if len(np.unique(data.section)) > 1:
        scores["sections mixed"] = section_mixing(result.labels, data.section)
        if result.embedding is not None:
            scores["sections mixed, embedding"] = neighbour_mixing(result.embedding, data.section)
    return {
        "seconds": seconds,
        "competing": list(result.competing),
        "number": result.number,
        "candidates": candidates,
        **scores,
    }


def compared(data: Labelled, method: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All runs of one method on one set."""
    runs = [one(data, method, number=data.number, seed=seed) for seed in range(arguments.seeds)]
    row = {
        "family": data.family,
        "set": data.name,
        "spots": len(data.truth),
        "regions": data.number,
        "method": method,
        "ari": np.mean([each["ari"] for each in runs]),
        "ari, spread over seeds": np.std([each["ari"] for each in runs]),
        "ari of each seed": [each["ari"] for each in runs],
        "accuracy by confidence": np.mean([each["accuracy by confidence"] for each in runs], 0).tolist(),
        **{name: np.mean([each[name] for each in runs]) for name in AVERAGED if name in runs[0]},
        "competing partitions": runs[0]["competing"],
        "seconds, first": runs[0]["seconds"],
        "seconds, later": min(each["seconds"] for each in runs),
    }
    if arguments.subsamples:
        parts = [data.subsample(SHARE, seed) for seed in range(arguments.subsamples)]
        scores = [one(part, method, number=data.number, seed=0)["ari"] for part in parts]
        row |= {"ari of subsamples": np.mean(scores), "ari, spread over subsamples": np.std(scores)}
    if arguments.infer:
        free = one(data, method, number=None, seed=0)
        row |= {"number inferred": free["number"], "ari, number inferred": free["ari"]}
        row |= {"candidate numbers": free["candidates"]}
    return row


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean over the sections of each family, the six DLPFC sections, and over families."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["method"], row["family"]].append(row)
        if row["set"].startswith("1515") or row["set"] in ("151673", "151674"):
            groups[row["method"], "DLPFC, six sections"].append(row)
    averaged = ["ari", "ari, spread over seeds", "ari of subsamples", "ari, spread over subsamples"]
    averaged.append("ari, number inferred")
    lines = []
    for (method, family), members in groups.items():
        means = {name: np.mean([m[name] for m in members]) for name in averaged if all(name in m for m in members)}
        lines.append({"summary": family, "method": method, "sets": len(members), **means})
    for method in dict.fromkeys(row["method"] for row in rows):
        families = {row["family"] for row in rows if "together" not in row["family"]}
        own = [each["ari"] for each in lines if each["method"] == method and each["summary"] in families]
        lines.append({"summary": "mean of families", "method": method, "sets": len(own), "ari": np.mean(own)})
    return lines


def earlier(name: str, new: list[dict[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
    """Commands of a results file, and its rows for other sets and methods than the new ones have."""
    path = record.RESULTS / f"{name}.json"
    if not path.exists():
        return [], []
    before = json.loads(path.read_text(encoding="utf-8"))
    again = {(row["set"], row["method"]) for row in new}
    rows = [row for row in before["rows"] if "set" in row and (row["set"], row["method"]) not in again]
    return before["command"].split(" && "), rows


def line(row: dict[str, Any]) -> str:
    """A row for the eye: names first, then figures with three places."""
    hidden = ("family", "ari of each seed", "spots", "regions")
    shown = {name: value for name, value in row.items() if name not in hidden}
    number = lambda v: f"{v:.3f}" if isinstance(v, float | np.floating) else str(v)
    text = {
        name: " ".join(map(number, value)) if isinstance(value, list) else number(value)
        for name, value in shown.items()
    }
    return "; ".join(f"{name} {value}" for name, value in text.items())


def main() -> None:
    """Run the table."""
    names = [*domain_sets.SOURCES, *domain_sets.TOGETHER]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=["auto", "kmeans", "smoothed:by=kmeans", "smoothed", "banksy"])
    parser.add_argument("--sets", nargs="+", default=names, choices=names)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--subsamples", type=int, default=0)
    parser.add_argument("--infer", action="store_true", help="also with the number of domains inferred")
    parser.add_argument("--name", default="domains", help="name of the results file")
    parser.add_argument("--add", action="store_true", help="keep the rows of other sets and methods in that file")
    arguments = parser.parse_args()
    command = "python benchmarks/domains.py --methods " + " ".join(arguments.methods)
    command += f" --seeds {arguments.seeds} --subsamples {arguments.subsamples}"
    command += " --infer" * arguments.infer + " --add" * arguments.add
    rows: list[dict[str, Any]] = []
    for name in arguments.sets:
        data = domain_sets.load(name)
        for method in arguments.methods:
            try:
                rows.append(compared(data, method, arguments))
            except ValueError as reason:
                print(f"{name}, {method}: not run, {reason}", flush=True)
                continue
            print(line(rows[-1]), flush=True)
        # After each set, so that a run that is stopped leaves what it found.
        commands, others = earlier(arguments.name, rows) if arguments.add else ([], [])
        every = sorted(rows + others, key=lambda row: (names.index(row["set"]), row["method"]))
        told = " && ".join(dict.fromkeys([*commands, command]))
        path = record.write(arguments.name, every + summary(every), command=told, targets=TARGETS)
    for row in summary(rows):
        print(line(row))
    print(path.name)


if __name__ == "__main__":
    main()
