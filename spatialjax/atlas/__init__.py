"""The main job, step by step: sections in, an aligned three-dimensional tissue out.

The steps are pure functions with small frozen records between them: ``features`` (shared features), ``pairs`` (how two
sections may lie on each other), ``placing`` (all sections together), ``domains``, ``quality``, ``assemble`` (the
AnnData) and ``outputs`` (the files); ``run`` calls them in order, ``steps`` keeps their results, and
``job`` gives them a folder and goes on from an interrupted run. ``spatialjax.tl.reconstruct`` is the front door.
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "Destination": "job",
    "Options": "reconstruction",
    "Placement": "reconstruction",
    "Reconstruction": "reconstruction",
    "reconstruct_stack": "run",
    "run_job": "job",
    "OutputError": "files",
    "write": "outputs",
    "Event": "watch",
    "Watch": "watch",
}
__all__ = list(_NAMES)


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"spatialjax.atlas.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'spatialjax.atlas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
