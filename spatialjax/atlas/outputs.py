"""The files of a run: written beside their final name and then renamed, ``run.json`` last."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spatialjax import viewer
from spatialjax.atlas import coupled, report, steps
from spatialjax.atlas.assemble import versions
from spatialjax.atlas.files import atomically, finished_card, folder_made, is_temporary, remove_temporaries
from spatialjax.atlas.reconstruction import Reconstruction
from spatialjax.atlas.watch import Watch
from spatialjax.checks import InputError, writable_directory
from spatialjax.io.writing import write_h5ad

#: What a run writes at the top of its folder.
FILES = ("atlas.h5ad", "report.html", "viewer.html", "run.json")


def check_directory(out: str | Path, *, overwrite: bool = False, resume: bool = False) -> Path:
    """The output folder, refused before any work where it cannot be used; nothing is written.

    Parameters
    ----------
    out
        Folder, made later where it does not exist. What an interrupted run left may be there, and nothing else.
    overwrite
        Whether the files of an earlier run there may be replaced.
    resume
        Whether a run that was begun there is to go on.

    Raises
    ------
    InputError
        If it is a file, cannot be written, or holds anything that may not be replaced.
    """
    path = Path(out)
    writable_directory(path)
    if overwrite and resume:
        raise InputError(
            "Expected resume (--resume) or overwrite (--overwrite), found both: one goes on with the run in the "
            "folder, the other starts afresh. Leave one out."
        )
    if overwrite or interrupted(path) or not path.is_dir() or not any(path.iterdir()):
        return path
    begun = steps.kept_fingerprint(path / steps.FOLDER) is not None or finished_fingerprint(path) is not None
    if not (resume and begun):
        raise InputError(
            f"Expected a new or an empty output folder, found files in {str(path)!r}: choose another one, or replace "
            "the files of an earlier run with overwrite (--overwrite on the command line)."
        )
    return path


def interrupted(folder: Path) -> bool:
    """Whether a folder holds what an interrupted run left, and nothing else."""
    if not (folder / steps.FOLDER).is_dir() or (folder / "run.json").exists():
        return False
    ours = {steps.FOLDER, "couplings", *FILES}
    return all(entry.name in ours or is_temporary(entry.name) for entry in folder.iterdir())


def finished_fingerprint(folder: Path) -> dict[str, Any] | None:
    """What the finished run in a folder depended on; None where there is none, or it does not say."""
    return (finished_card(folder) or {}).get("fingerprint")


def unfinish(folder: Path) -> None:
    """Take the sign of a finished run away before another one begins in the folder."""
    (folder / "run.json").unlink(missing_ok=True)


def write(
    result: Reconstruction,
    out: str | Path,
    *,
    watch: Watch | None = None,
    source: str = "",
    fingerprint: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``atlas.h5ad``, ``couplings/``, ``report.html``, ``viewer.html`` and, after all of these, ``run.json``.

    Parameters
    ----------
    result
        A finished reconstruction.
    out
        Folder.
    watch
        Measures and reports the step.
    source
        The command or call that made the run, for the record.
    fingerprint
        What the bits of the run depend on, for the record and for a later ``resume``.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    OutputError
        If the system refuses to write, e.g. on a full disk; ``run.json`` is not there then.
    """
    folder = Path(out)
    watch = Watch(timings=list(result.timings)) if watch is None else watch
    with watch.step("outputs", f"writing to {folder.name!r}"):
        folder_made(folder)
        _remove_earlier(folder)
        watch.say("atlas.h5ad", share=0.1)
        atomically(folder / "atlas.h5ad", lambda path: write_h5ad(result.atlas, path))
        watch.say("couplings", share=0.4)
        index = coupled.write(result.couplings, folder)
        watch.say("report.html", share=0.6)
        page = report.page(result, source=source)
        atomically(folder / "report.html", lambda path: path.write_text(page, encoding="utf-8"))
        watch.say("viewer.html", share=0.8)
        tissue = viewer.page(result.atlas)
        atomically(folder / "viewer.html", lambda path: path.write_text(tissue, encoding="utf-8"))
    card = run_card(result, couplings=index, timings=watch.timings, source=source, fingerprint=fingerprint)
    text = json.dumps(card, indent=2, allow_nan=False)
    atomically(folder / "run.json", lambda path: path.write_text(text + "\n", encoding="utf-8"))
    return folder


def run_card(
    result: Reconstruction,
    *,
    couplings: list[dict[str, Any]] | None = None,
    timings: Any = None,
    source: str = "",
    fingerprint: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything needed to know how a result came about, as plain JSON values (NaN and infinity as null).

    Parameters
    ----------
    result
        A finished reconstruction.
    couplings
        Index of the files in ``couplings/``.
    timings
        Time and memory of the steps; those of ``result`` where left out.
    source
        The command or call that made the run.
    fingerprint
        What the bits of the run depend on.
    """
    facts = result.atlas.uns["spatialjax"]
    sections = [
        {
            "name": p.name,
            "cells": int((result.atlas.obs["slice"] == p.name).sum()),
            "placed": p.placed,
            "component": p.component,
            "anchor": p.anchor,
            "z_um": p.z,
            "um_per_unit": p.um_per_unit,
            "units_source": p.units_source,
            "matrix": p.transform.matrix.tolist(),
            "shift_um": p.transform.shift.tolist(),
            "angle_deg": p.angle_deg,
            "mirrored": p.mirrored,
            "matrix_from_units": p.from_units.matrix.tolist(),
            "angle_sd_deg": p.angle_sd_deg,
            "pose_covariance": p.covariance.tolist(),
            "pose_center_um": p.center.tolist(),
            "warp_um2": p.warp,
        }
        for p in result.transforms.values()
    ]
    steps = [asdict(t) for t in (result.timings if timings is None else timings)]
    card = {
        "format": 1,
        "source": source,
        "versions": versions(),
        "device": device(),
        "method": facts["method"],
        "options": json.loads(facts["options"]),
        "histology": json.loads(facts.get("histology", "null")),
        "fingerprint": fingerprint,
        "cells": result.atlas.n_obs,
        "genes": result.atlas.n_vars,
        "sections": sections,
        "pairs": result.pairs,
        "metrics": result.metrics,
        "findings": result.findings,
        "warnings": result.warnings,
        "couplings": couplings or [],
        "steps": steps,
        "seconds": sum(step["seconds"] for step in steps),
    }
    return plain(card)


def device() -> dict[str, Any]:
    """The device that JAX computes on."""
    first = jax.devices()[0]
    return {"platform": first.platform, "kind": first.device_kind, "count": jax.device_count(), "cores": os.cpu_count()}


def plain(value: Any) -> Any:
    """The same nested value with plain Python numbers; NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _remove_earlier(folder: Path) -> None:
    """Take away what an earlier run wrote, ``run.json`` first, so that no mixture of two runs looks finished."""
    unfinish(folder)
    remove_temporaries(folder)
    coupled.remove(folder)
