"""What the bits of a run depend on, by name: two runs with one fingerprint end with the same bits."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
import scipy.sparse as sp

from spatialjax.algorithm.checkpoint import digest
from spatialjax.atlas.assemble import versions
from spatialjax.atlas.reconstruction import Options

#: Differences that a message lists at the most.
_LISTED = 6
_CONTENT = re.compile(r"contents [0-9a-f]{12}")


def fingerprint_of(stack: Any, options: Options, *, beside: Any = None) -> dict[str, Any]:
    """Everything that the results of the steps depend on.

    Parameters
    ----------
    stack
        What ``io.open_sections`` returned: the sections as read, not the files they came from.
    options
        Checked options.
    beside
        Counts of the spots beside a reference of single cells; None without one.

    Returns
    -------
    dict
        Name of each part -> a number, a string, or ``contents`` with a digest; fit for JSON.
    """
    marks: dict[str, Any] = {"sections": stack.names, "kind of features": stack.kind}
    marks["names of the features"] = _contents(np.asarray(stack.genes, str))
    for section in stack.sections:
        name = f"section {section.name!r}"
        marks[f"{name}, cells"] = len(section.xy)
        marks[f"{name}, depth in µm"] = float(section.z)
        marks[f"{name}, µm per unit"] = float(section.um_per_unit)
        marks[f"{name}, coordinates"] = _contents(section.xy)
        marks[f"{name}, features"] = _contents(section.values)
        if section.added is not None:
            marks[f"{name}, columns of its picture"] = _contents(section.added)
        marks[f"{name}, names of the cells"] = _contents(section.cells)
    if beside is not None:
        marks |= _reference_marks(beside.opened)
    for name, value in (asdict(options) | {"method": options.resolved_method}).items():
        marks[f"option {name}"] = value
    marks |= {f"version of {name}": version for name, version in versions().items()}
    marks["code of spatialjax"] = _code()
    marks["device"] = jax.devices()[0].device_kind
    marks["64-bit numbers"] = bool(jax.config.jax_enable_x64)
    return json.loads(json.dumps(marks))


def _reference_marks(composed: Any) -> dict[str, Any]:
    """What the composition depends on beside the sections; each name begins with ``reference``."""
    reference = composed.reference
    return {
        "reference, cells": len(reference.types),
        "reference, cell types": list(reference.names),
        "reference, counts": _contents(reference.counts),
        "reference, type of each cell": _contents(np.asarray(reference.types)),
        "reference, shared genes": _contents(np.asarray(composed.genes, str)),
        "reference, counts of the spots": _contents(composed.spots.counts),
    }


def mark_of(fingerprint: Mapping[str, Any]) -> str:
    """One short digest of a whole fingerprint."""
    return _digest(json.dumps(fingerprint, sort_keys=True).encode())


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differs between two fingerprints, each part with its value there and here; empty where nothing does.

    Parameters
    ----------
    there
        Fingerprint of a run that was begun earlier.
    here
        Fingerprint of the run that is asked for now.
    """
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    if there.get("sections") != here.get("sections"):
        common = {f"section {name!r}" for name in set(there.get("sections", ())) & set(here.get("sections", ()))}
        names = [n for n in names if not n.startswith("section ") or n.rpartition(", ")[0] in common]
    if any(name.startswith("version of") for name in names):
        names = [name for name in names if name != "code of spatialjax"]
    said = [_said(name, there.get(name), here.get(name)) for name in names]
    more = f"; and {len(said) - _LISTED} more" if len(said) > _LISTED else ""
    return "; ".join(said[:_LISTED]) + more


def _said(name: str, there: Any, here: Any) -> str:
    if all(isinstance(value, str) and _CONTENT.fullmatch(value) for value in (there, here)):
        return f"{name}: other contents"
    return f"{name}: {_shown(there)} -> {_shown(here)}"


def _shown(value: Any) -> str:
    return "none" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _contents(values: Any) -> str:
    if sp.issparse(values):
        values = (values.data, values.indices, values.indptr, np.asarray(values.shape))
    elif values.dtype.kind in "OUS":
        return f"contents {_digest(json.dumps([str(value) for value in values]).encode())}"
    return f"contents {digest(values)[:12]}"


def _code() -> str:
    """Digest of the sources of this package: an edited version computes other bits under the same number."""
    import spatialjax

    root = Path(spatialjax.__file__).parent
    total = hashlib.blake2b(digest_size=6)
    for path in sorted(root.rglob("*.py")):
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return f"contents {total.hexdigest()}"


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=6).hexdigest()
