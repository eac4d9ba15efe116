"""Serial tissue sections in, an aligned 3D tissue out: spatial transcriptomics in JAX.

Importing the package loads nothing heavy: every namespace is loaded when it is first used, no array is made, no flag is
set, no random state is touched.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_NAMESPACES = (
    "algorithm",
    "atlas",
    "checks",
    "clustering",
    "datasets",
    "graphs",
    "histology",
    "io",
    "losses",
    "markers",
    "methods",
    "metrics",
    "nn",
    "pl",
    "pp",
    "preprocess",
    "propagation",
    "registration",
    "results",
    "simulate",
    "slices",
    "tl",
    "transforms",
    "transport",
)
_NAMES = {
    "Slice": "slices",
    "Neighbors": "slices",
    "Affine": "transforms",
    "Algorithm": "algorithm",
    "Model": "algorithm",
    "Fit": "algorithm",
    "fit": "algorithm",
    "citation": "methods",
    "METHODS": "methods",
}
__all__ = ["__version__", *_NAMESPACES, *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _NAMESPACES:
        return importlib.import_module(f"spatialjax.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"spatialjax.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'spatialjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
