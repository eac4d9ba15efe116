"""Where benchmark results go, and what stands beside every figure: versions, device, cores, command."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("spatialjax", "jax", "jaxlib", "numpy", "scipy", "ott-jax", "anndata")


def data_folder() -> Path:
    """The folder with the real data sets: ``$SPATIALJAX_DATA``, or ``shared/data`` beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SPATIALJAX_DATA", beside))
    if not folder.is_dir():
        sys.exit("The real data sets are not here: set SPATIALJAX_DATA to their folder.")
    return folder


def context() -> dict[str, Any]:
    """Versions and machine."""
    import jax

    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "versions": found,
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def write(name: str, rows: list[dict[str, Any]], *, command: str, targets: dict[str, str]) -> Path:
    """Write ``results/<name>.json`` and return its path."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    content = {"command": command, "targets": targets, "context": context(), "rows": [_plain(row) for row in rows]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def _plain(value: Any) -> Any:
    import numpy as np

    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.bool_ | bool):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return round(float(value), 4)
    return value
