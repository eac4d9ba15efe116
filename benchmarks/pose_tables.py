"""What the rows of single pairs and stacks say together: coverage, widths beside a null, reliability."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import chi2

from spatialjax.metrics.calibration import coverage, region_coverage, reliability, width_against_null
from spatialjax.registration.calibration import CALIBRATION, mode_weights, tempering

#: Probability of the regions and intervals that are judged.
LEVEL = 0.9


def fitted(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The constants that the fitting half asks for: narrowest covariance that covers, best log-loss of the parity."""
    own = [r for r in rows if r["use"] == "fit"]
    sure = [r for r in own if r.get("right basin") and r["determined"]]
    spots, old, heat = (np.array([r[name] for r in sure]) for name in ("spots", "factor", "temperature"))
    distance = np.array([r["pose distance"] for r in sure]) * old
    tried = []
    for power in (0.0, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0):
        for small in (0.0, 15.0, 30.0, 60.0, 100.0):
            shape = np.asarray(tempering(heat, CALIBRATION._replace(power=power))) * (1 + small / spots)
            base = float(np.quantile(distance / shape, LEVEL) / chi2.ppf(LEVEL, 3))
            tried.append((np.log(base * shape).mean(), base, base * small, power))
    _, base, small, power = min(tried)
    losses = {c: float(np.mean([log_loss(r, c) for r in own if r["evidence"]])) for c in (1.5, 2.0, 3.0, 4.0, 6.0, 9.0)}
    best = min(losses, key=losses.get)
    return {
        "table": "fitted",
        "pairs": len(sure),
        "base": base,
        "small": small,
        "power": power,
        "chance": best,
        **{f"log-loss at {c}": loss for c, loss in losses.items()},
    }


def log_loss(row: dict[str, Any], chance: float) -> float:
    """Of the parity of one pair, see ``Calibration.chance``."""
    constants = CALIBRATION._replace(chance=chance)
    evidence, right = np.array(row["evidence"]), np.array(row["mode parity right"])
    weight = mode_weights(evidence, row["pair's temperature"], row["threshold"], constants=constants)
    return -float(np.log(max((np.asarray(weight) * right).sum(), 1e-6)))


def summary(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Coverage and width of some pairs."""
    decided = [r for r in rows if r["determined"]]
    sure = [r for r in decided if r["right basin"]]
    large = [r for r in rows if r["spots"] >= CALIBRATION.least_spots]
    row: dict[str, Any] = {
        "table": "pairs",
        "pairs of": name,
        "pairs": len(rows),
        "too few spots": len(rows) - len(large),
        "determined": len(decided),
        "determined, of enough spots": float(np.mean([r["determined"] for r in large] or [np.nan])),
    }
    if not sure:
        return row
    held = coverage([r["pose distance"] <= chi2.ppf(LEVEL, 3) for r in sure])
    away = [np.array(r["cell away"]) for r in sure]
    cells = [np.array(r["cell covariance"]) for r in sure]
    inside = [region_coverage(e, c, level=LEVEL).mean() for e, c in zip(away, cells, strict=True)]
    radius = np.concatenate([np.sqrt(chi2.ppf(LEVEL, 2)) * np.linalg.det(c) ** 0.25 for c in cells])
    place = width_against_null(np.concatenate([np.linalg.norm(e, axis=1) for e in away]), radius)
    turn = width_against_null([abs(r["angle error"]) for r in sure], [1.645 * r["angle sd"] for r in sure])
    return row | {
        "right basin": len(sure),
        "pose": held.share,
        "pose interval": [held.low, held.high],
        "mixture, whatever the basin": float(np.mean([r["mixture held"] for r in decided])),
        "cell": float(np.mean(inside)),
        "angle": turn.coverage,
        "cell radius, pitches": place.median,
        "cell radius, one for all": place.null,
        "angle half width, degrees": turn.median,
        "angle half width, one for all": turn.null,
        "seconds for the posterior": float(np.median([r["seconds for the posterior"] for r in rows])),
    }


def parity(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Reliability of the probability of being mirrored, both parities."""
    if not rows:
        return {"table": "parity", "pairs of": name, "pairs": 0}
    said = np.array([r["mirrored"] for r in rows])
    true = np.array([r["truly mirrored"] for r in rows], bool)
    found = reliability(np.concatenate([said, 1 - said]), np.concatenate([true, ~true]), bins=10)
    return {
        "table": "parity",
        "pairs of": name,
        "pairs": len(rows),
        "ambiguous": float(np.mean([r["ambiguous"] for r in rows])),
        "right": float(np.mean([r["probability of the parity"] > 0.5 for r in rows])),
        "predicted": found.predicted.tolist(),
        "observed": found.observed.tolist(),
        "count": found.count.tolist(),
        "brier": found.brier,
        "brier standard error": float(((said - true) ** 2).std() / len(rows) ** 0.5),
        "brier of the base rate": found.brier_base,
        "calibration error": found.calibration_error,
    }


def overlaps(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Whether the interval of the overlap holds the true share, to half a cell; its width beside one for all."""
    sure = [r for r in rows if r["determined"] and r["right basin"]]
    row: dict[str, Any] = {"table": "overlap", "pairs of": name, "pairs": len(sure)}
    if not sure:
        return row
    low, mean, high = np.array([r["overlap said"] for r in sure]).T
    true, grain = np.array([r["true overlap"] for r in sure]), np.array([0.5 / r["cells"] for r in sure])
    held = coverage((low - grain <= true) & (true <= high + grain))
    width = width_against_null(true - mean, (high - low) / 2)
    return row | {
        "overlap": held.share,
        "overlap interval": [held.low, held.high],
        "half width": width.median,
        "half width, one for all": float(np.quantile(np.abs(true - mean), held.share, method="higher")),
        "bias": float((mean - true).mean()),
        "root mean square error": float(np.sqrt(((mean - true) ** 2).mean())),
    }


def scales(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Coverage of the scale, with its width beside one width for all."""
    sure = [r for r in rows if r["determined"]]
    if not sure:
        return []
    held = coverage([r["held"] for r in sure])
    error = np.array([r["scale"] - r["truth"] for r in sure])
    return [
        {
            "table": "scales",
            "pairs": len(rows),
            "determined": len(sure),
            "scale": held.share,
            "scale interval": [held.low, held.high],
            "half width": float(np.median([r["half width"] for r in sure])),
            "half width, one for all": float(np.quantile(np.abs(error), held.share, method="higher")),
            "bias": float(error.mean()),
        }
    ]


def stacks(rows: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """Coverage of the poses and cells of sections of stacks."""
    if not rows:
        return []
    held = coverage([r["pose held"] for r in rows])
    return [
        {
            "table": "stacks",
            "stacks": number,
            "sections": len(rows),
            "pose": held.share,
            "pose interval": [held.low, held.high],
            "cell": float(np.mean([r["cells held"] for r in rows])),
            "pose by distance": [
                float(np.mean([r["pose held"] for r in rows if r["section"] == n] or [np.nan])) for n in range(1, 5)
            ],
        }
    ]


def tables(pairs: list[dict[str, Any]], symmetric: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of all that is said of single pairs."""
    judge = [r for r in pairs if r["use"] == "judge"]
    kinds = {kind: [r for r in judge if r["kind"] == kind] for kind in sorted({r["kind"] for r in judge})}
    rows = [fitted(pairs + symmetric), summary("all", judge)]
    rows += [summary(kind, own) for kind, own in kinds.items()]
    for low, high in [(0.0, 0.1), (0.1, 0.4), (0.4, 0.7), (0.7, 2.0)]:
        own = [r for r in judge if r["kind"] == "simulated" and low <= r["true warp"] < high]
        rows.append(summary(f"simulated, warp sd {low} to {high} pitch", own))
    rows += [overlaps("all", judge), *(overlaps(kind, own) for kind, own in kinds.items())]
    rows.append(parity("all", judge))
    rows.append(parity("merfish types", symmetric))
    rows.append(parity("merfish types, upper sections", [r for r in symmetric if r["use"] == "judge"]))
    return rows
