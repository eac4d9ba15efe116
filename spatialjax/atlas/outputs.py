"""The files of a run: written beside their final name and then renamed, ``run.json`` last."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
import scipy.sparse as sp

from spatialjax.atlas import report
from spatialjax.atlas.assemble import versions
from spatialjax.atlas.reconstruction import Reconstruction
from spatialjax.atlas.watch import Watch
from spatialjax.checks import InputError, writable_directory

#: What a run writes at the top of its folder.
FILES = ("atlas.h5ad", "report.html", "run.json")


def check_directory(out: str | Path, *, overwrite: bool = False) -> Path:
    """The output folder, refused before any work where it cannot be used; nothing is written.

    Parameters
    ----------
    out
        Folder, made later where it does not exist.
    overwrite
        Whether the files of an earlier run there may be replaced.

    Raises
    ------
    InputError
        If it is a file, holds something and ``overwrite`` is False, or cannot be written.
    """
    path = Path(out)
    writable_directory(path)
    if not overwrite and path.is_dir() and any(path.iterdir()):
        raise InputError(
            f"Expected a new or an empty output folder, found files in {str(path)!r}: choose another one, or replace "
            "the "
            "files of an earlier run with overwrite (--overwrite on the command line)."
        )
    return path


def write(result: Reconstruction, out: str | Path, *, watch: Watch | None = None, source: str = "") -> Path:
    """Write ``atlas.h5ad``, ``couplings/``, ``report.html`` and, when all of these are there, ``run.json``.

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

    Returns
    -------
    Path
        The folder.
    """
    folder = Path(out)
    watch = Watch(timings=list(result.timings)) if watch is None else watch
    with watch.step("outputs", f"writing to {folder.name!r}"):
        folder.mkdir(parents=True, exist_ok=True)
        _remove_earlier(folder)
        watch.say("atlas.h5ad", share=0.1)
        atomically(folder / "atlas.h5ad", lambda path: result.atlas.write_h5ad(path, compression="gzip"))
        watch.say("couplings", share=0.4)
        index = _write_couplings(result.couplings, folder)
        watch.say("report.html", share=0.6)
        page = report.page(result, source=source)
        atomically(folder / "report.html", lambda path: path.write_text(page, encoding="utf-8"))
    card = run_card(result, couplings=index, timings=watch.timings, source=source)
    text = json.dumps(card, indent=2, allow_nan=False)
    atomically(folder / "run.json", lambda path: path.write_text(text + "\n", encoding="utf-8"))
    return folder


def run_card(
    result: Reconstruction, *, couplings: list[dict[str, Any]] | None = None, timings: Any = None, source: str = ""
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


def atomically(path: Path, write_to: Callable[[Path], Any]) -> None:
    """Let ``write_to`` fill a temporary file in the same folder, then give it its name: never a half-written file."""
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        write_to(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def safe_name(name: str) -> str:
    """A section's name with only letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._")[:60] or "section"


def _write_couplings(couplings: Mapping[tuple[str, str], sp.csr_matrix], folder: Path) -> list[dict[str, Any]]:
    """One file a pair, numbered, so that names that look alike on disk stay apart; and the index of them."""
    index = []
    (folder / "couplings").mkdir(exist_ok=True)
    for number, ((first, second), matrix) in enumerate(couplings.items()):
        name = f"couplings/{number:03d}_{safe_name(first)}--{safe_name(second)}.npz"
        atomically(folder / name, lambda path, matrix=matrix: sp.save_npz(path, matrix))
        index.append(
            {"file": name, "source": first, "target": second, "shape": list(matrix.shape), "entries": matrix.nnz}
        )
    return index


def _remove_earlier(folder: Path) -> None:
    """Take away what an earlier run wrote, ``run.json`` first, so that no mixture of two runs looks finished."""
    (folder / "run.json").unlink(missing_ok=True)
    for old in (folder / "couplings").glob("[0-9][0-9][0-9]_*--*.npz"):
        old.unlink()
