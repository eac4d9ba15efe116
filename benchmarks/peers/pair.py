"""What every runner shares: reading the two sections, timing the call, writing what came out.

It is imported by the interpreters of other environments, so it needs numpy, scipy and anndata only.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import scipy.sparse as sp


def run(call: Callable[..., dict[str, Any]], *, packages: tuple[str, ...]) -> None:
    """Read ``FOLDER/source.h5ad`` and ``FOLDER/target.h5ad``, call, write ``FOLDER/plan.npz`` and ``FOLDER/out.json``.

    With the option ``again`` the same call is timed a second time, for ``FOLDER/again.json``: what compilation takes.

    Parameters
    ----------
    call
        ``(source, target, options) -> {"plan": …, "transform": …, "note": …}``: counts in ``X`` (float, CSR), µm in
        ``obsm['spatial']``; the plan is (n, m), dense or sparse; the transform is (matrix, shift) in µm. Each entry
        may be left out.
    packages
        Distributions whose versions are written down.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("method")
    parser.add_argument("options", type=json.loads, help="JSON: what the table knows of the pair, e.g. the overlap")
    arguments = parser.parse_args()
    options = {"method": arguments.method, **arguments.options}
    source, target = (anndata.read_h5ad(arguments.folder / f"{name}.h5ad") for name in ("source", "target"))
    start = time.perf_counter()
    found = call(source, target, options)
    seconds = time.perf_counter() - start
    if found.get("plan") is not None:
        sp.save_npz(arguments.folder / "plan.npz", sp.csr_matrix(found["plan"]), compressed=False)
    out: dict[str, Any] = {"seconds": seconds, "versions": {name: version(name) for name in packages}}
    out["note"] = found.get("note", "")
    if found.get("transform") is not None:
        out["transform"] = [np.asarray(part, float).tolist() for part in found["transform"]]
    (arguments.folder / "out.json").write_text(json.dumps(out), encoding="utf-8")
    if options.get("again"):
        start = time.perf_counter()
        call(source, target, options)
        seconds = time.perf_counter() - start
        (arguments.folder / "again.json").write_text(json.dumps({"second call": seconds}), encoding="utf-8")
