"""Results of steps as plain JSON beside arrays: no code in a file, and every value comes back to the bit.

What may be kept: numbers, strings, None, lists, tuples, dicts, arrays of numpy and jax, compressed sparse rows, and
dataclasses and named tuples that this package defines, nested in any way.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

_PLAIN = (bool, int, float, str, type(None))
_ARRAY_KINDS = "biufcUS"


def encode(value: Any) -> tuple[Any, list[np.ndarray]]:
    """A JSON tree that says how ``value`` is built, and the arrays that it refers to by number.

    Arrays are brought to row order; one that occurs several times is listed once.

    Raises
    ------
    TypeError
        If something in ``value`` cannot be kept without code.
    """
    writer = _Writer()
    return writer.node(value), writer.arrays


def decode(tree: Any, arrays: Sequence[np.ndarray]) -> Any:
    """The value that :func:`encode` took apart."""
    if not isinstance(tree, dict):
        return tree
    ((tag, content),) = tree.items()
    if tag == "array":
        return arrays[content]
    if tag == "device array":
        return jnp.asarray(arrays[content])
    if tag == "scalar":
        return arrays[content][()]
    if tag == "csr":
        data, indices, indptr = (arrays[i] for i in content["arrays"])
        return sp.csr_matrix((data, indices, indptr), shape=tuple(content["shape"]))
    if tag == "dict":
        return {decode(key, arrays): decode(item, arrays) for key, item in content}
    if tag == "record":
        fields = {name: decode(item, arrays) for name, item in content["fields"].items()}
        return _record_type(content["type"])(**fields)
    parts = [decode(item, arrays) for item in content]
    return tuple(parts) if tag == "tuple" else parts


def settled(value: Any) -> Any:
    """``value`` as it would come back from a file, so that a run goes on with the same bits as one that reads it."""
    return decode(*encode(value))


def write(path: Path, value: Any, *, mark: str) -> None:
    """Write ``value`` to one file.

    Parameters
    ----------
    path
        File, replaced where it exists.
    value
        What :func:`encode` accepts.
    mark
        Which run the value belongs to; see :func:`read`.
    """
    tree, arrays = encode(value)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("tree.json", json.dumps({"mark": mark, "arrays": len(arrays), "tree": tree}))
        for number, array in enumerate(arrays):
            with archive.open(f"{number}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def read(path: Path, *, mark: str) -> Any:
    """The value in a file that :func:`write` wrote.

    Raises
    ------
    ValueError
        If the file belongs to another run, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            head = json.loads(archive.read("tree.json"))
            if head["mark"] != mark:
                raise ValueError(f"Expected {path.name!r} to belong to this run, found the result of another one.")
            arrays = [_read_array(archive, f"{number}.npy") for number in range(head["arrays"])]
    except (zipfile.BadZipFile, EOFError, KeyError, OSError) as error:
        raise ValueError(
            f"Expected {path.name!r} to hold the result of a step, found a damaged file: {error}"
        ) from error
    return decode(head["tree"], arrays)


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        file.read(1)  # the checksum is compared at the end of the file
    return array


class _Writer:
    """Collects the arrays of one value."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []

    def node(self, value: Any) -> Any:
        """The JSON tree of ``value``."""
        if type(value) in _PLAIN:
            return value
        if isinstance(value, np.generic):
            return {"scalar": self._array(np.asarray(value))}
        if isinstance(value, np.ndarray):
            return {"array": self._array(value)}
        if isinstance(value, jax.Array):
            return {"device array": self._array(value)}
        if isinstance(value, sp.csr_matrix):
            parts = [self._array(part) for part in (value.data, value.indices, value.indptr)]
            return {"csr": {"arrays": parts, "shape": [int(size) for size in value.shape]}}
        if type(value) is dict:
            return {"dict": [[self.node(key), self.node(item)] for key, item in value.items()]}
        if type(value) in (list, tuple):
            return {type(value).__name__: [self.node(item) for item in value]}
        name = _record_name(value)
        fields = {field: self.node(getattr(value, field)) for field in _fields(type(value))}
        return {"record": {"type": name, "fields": fields}}

    def _array(self, value: Any) -> int:
        if id(value) not in self._numbers:
            if getattr(value.dtype, "kind", "?") not in _ARRAY_KINDS:
                raise TypeError(f"Expected an array of numbers or strings to keep, found one of type {value.dtype}.")
            self._numbers[id(value)] = len(self.arrays)
            self._alive.append(value)
            self.arrays.append(np.ascontiguousarray(value).reshape(value.shape))
        return self._numbers[id(value)]


def _fields(kind: type) -> tuple[str, ...]:
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    return tuple(getattr(kind, "_fields", ()))


def _record_name(value: Any) -> str:
    kind = type(value)
    name = f"{kind.__module__}:{kind.__qualname__}"
    if not _fields(kind) or _find(name) is not kind:
        raise TypeError(
            "Expected numbers, strings, arrays, lists, tuples, dicts, and dataclasses or named tuples of spatialjax "
            f"in the result of a step, found {name}: return one of these."
        )
    return name


def _record_type(name: str) -> type:
    found = _find(name)
    if found is None:
        raise ValueError(f"Expected the name of a record of spatialjax in the result of a step, found {name!r}.")
    return found


def _find(name: str) -> type | None:
    """The dataclass or named tuple of this package with that name; None for anything else."""
    module, _, qualified = name.partition(":")
    if not module.startswith("spatialjax.") or not qualified.isidentifier():
        return None
    found = getattr(importlib.import_module(module), qualified, None)
    return found if isinstance(found, type) and _fields(found) else None
