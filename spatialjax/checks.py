"""Host-side validators: one clear message, which says what was expected, what was found and how to mend it.

Every refusal is an ``InputError``, so that a command line can print it without a traceback. Nothing here knows about
AnnData: arrays, names and paths in, nothing out.
"""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

#: What the values of a matrix are: raw counts, log-transformed counts, or any other numbers.
ValueKind = Literal["counts", "log1p", "float"]

#: Non-negative fractional values below this are read as log1p values: log(1 + 4.8e8) = 20.
LOG1P_MAX = 20.0
#: Largest extent of a section, µm (ten metres): beyond it float32 no longer resolves a cell.
MAX_EXTENT = 1e7


class InputError(ValueError):
    """The input cannot be used as it is; the message says how to mend it."""


class UnitsError(InputError):
    """The length unit of the coordinates is not known."""


def listed(names: Iterable[Any], *, limit: int = 4) -> str:
    """The first names in quotes and the number of the others: ``'a', 'b' and 7 more``; ``none`` for no name."""
    names = [str(name) for name in names]
    shown = ", ".join(repr(name) for name in names[:limit])
    if not names:
        return "none"
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def nearest(name: str, candidates: Iterable[str], *, number: int = 3) -> list[str]:
    """The candidates that look most like ``name``, upper and lower case alike."""
    by_fold: dict[str, str] = {}
    for candidate in candidates:
        by_fold.setdefault(str(candidate).casefold(), str(candidate))
    close = difflib.get_close_matches(str(name).casefold(), list(by_fold), n=number, cutoff=0.5)
    return [by_fold[fold] for fold in close]


def one_of(value: Any, allowed: Collection[Any], what: str) -> Any:
    """``value`` if it is one of ``allowed``.

    Parameters
    ----------
    value
        What the user gave.
    allowed
        Every value that may be given.
    what
        What the value is, for the message: ``"method"``, ``"option reflection"``.

    Raises
    ------
    InputError
        If it is not; the message lists the allowed values and proposes the nearest.
    """
    if any(value is choice or (type(value) is type(choice) and value == choice) for choice in allowed):
        return value
    close = nearest(str(value), [str(choice) for choice in allowed], number=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise InputError(f"Unknown {what} {value!r}: expected one of {listed(allowed, limit=30)}.{hint}")


def positive(value: Any, what: str) -> float:
    """``value`` as a float, if it is a finite number above 0."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (np.isfinite(number) and number > 0) or isinstance(value, bool):
        raise InputError(f"Expected {what} to be a number above 0, found {value!r}.")
    return number


def unique_names(names: Sequence[Any] | np.ndarray, *, what: str, where: str, fix: str) -> None:
    """Refuse names that occur twice.

    Parameters
    ----------
    names
        The names.
    what
        What they name, in the plural: ``"cell names"``.
    where
        Where they stand: ``"section 'A1'"``.
    fix
        How to mend it, a sentence without its full stop.

    Raises
    ------
    InputError
        If a name occurs twice.
    """
    values, counts = np.unique(np.asarray(names, dtype=str), return_counts=True)
    repeated = values[counts > 1]
    if len(repeated):
        raise InputError(
            f"Expected {what} without repeats in {where}, found {len(repeated)} that occur more than once: "
            f"{listed(repeated)}. {fix}."
        )


def finite_coordinates(xy: Float[np.ndarray, "n d"], *, cells: Sequence[str] | np.ndarray, where: str) -> None:
    """Refuse coordinates that are not numbers, are infinite, or are too large for any unit.

    Parameters
    ----------
    xy
        (n, d) coordinates in the units of the input.
    cells
        Names of the cells.
    where
        Which section, for the message.

    Raises
    ------
    InputError
        If a coordinate is NaN, infinite or beyond 1e30; the message counts them and names a few cells.
    """
    for bad, name in (
        (np.isnan(xy).any(1), "NaN"),
        (np.isinf(xy).any(1), "infinite"),
        ((np.abs(xy) > 1e30).any(1), "beyond 1e30, which overflows single precision, as"),
    ):
        if bad.any():
            raise InputError(
                f"Expected finite coordinates in {where}, found {name} coordinates in {int(bad.sum())} of {len(xy)} "
                f"cells: {listed(np.asarray(cells)[bad])}. Correct these coordinates or remove these cells."
            )


def shared_places(xy: Float[np.ndarray, "n d"]) -> np.ndarray:
    """True for each cell that has exactly the coordinates of another one."""
    _, inverse, counts = np.unique(xy, axis=0, return_inverse=True, return_counts=True)
    return counts[inverse.ravel()] > 1


def representable_extent(xy: Float[np.ndarray, "n 2"], *, where: str) -> None:
    """Refuse a section whose extent in µm single precision cannot resolve.

    Raises
    ------
    InputError
        If the section is more than ten metres wide.
    """
    extent = float(np.ptp(xy, axis=0).max()) if len(xy) else 0.0
    if not extent <= MAX_EXTENT:
        raise InputError(
            f"Expected a section of at most {MAX_EXTENT:.0e} µm, found {extent:.3g} µm in {where}: single precision "
            "cannot resolve its cells. Check units= (--units), or single cells that lie far outside the tissue."
        )


def value_kind(values: Any) -> ValueKind:
    """What the values look like.

    Parameters
    ----------
    values
        (n, p), sparse or dense.

    Returns
    -------
    str
        ``"counts"``: whole numbers, none negative (also when stored as floats). ``"log1p"``: none negative, some
        fractional, none above 20. ``"float"``: anything else.
    """
    data = values.data if sp.issparse(values) else np.asarray(values)
    if data.dtype.kind in "bu":
        return "counts"
    if data.size == 0:
        return "counts"
    if data.min() < 0:
        return "float"
    if data.dtype.kind == "i" or bool((data == np.floor(data)).all()):
        return "counts"
    return "log1p" if data.max() <= LOG1P_MAX else "float"


def require_counts(values: Any, *, what: str, layers: Mapping[str, Any] | None = None) -> None:
    """Refuse values that are not raw counts.

    Parameters
    ----------
    values
        (n, p), sparse or dense.
    what
        Who needs counts, the subject of the message: ``"method 'poisson'"``.
    layers
        Other matrices of the same cells by name; the ones that hold counts are named in the message.

    Raises
    ------
    InputError
        If the values are negative or fractional.
    """
    kind = value_kind(values)
    if kind == "counts":
        return
    found = {
        "log1p": "fractional values without negatives, which look log-transformed",
        "float": "fractional or negative values",
    }[kind]
    raise InputError(f"{what[:1].upper()}{what[1:]} needs raw counts, found {found}. {counts_hint(layers or {})}")


def counts_hint(layers: Mapping[str, Any]) -> str:
    """The sentence that says which of ``layers`` holds raw counts, and how to ask for it."""
    holding = [name for name, matrix in layers.items() if value_kind(matrix) == "counts"]
    if holding:
        return f"Layer {holding[0]!r} holds counts: give layer={holding[0]!r} (--layer {holding[0]})."
    return "No layer holds counts: give the file with the raw counts, or choose a method that takes log values."


def writable_directory(path: str | os.PathLike[str]) -> Path:
    """The output folder, if it can be written to; nothing is left behind, and it is not made here.

    Parameters
    ----------
    path
        The folder; it and its parents need not exist yet.

    Raises
    ------
    InputError
        If it is a file, or the nearest folder that exists cannot be written to.
    """
    folder = Path(path)
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise InputError(
            f"Expected {str(folder)!r} to be a folder that can be written to, found that {str(existing)!r} is a file. "
            "Choose another output folder."
        )
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(
            f"Expected {str(folder)!r} to be a folder that can be written to, found that {str(existing)!r} refuses a "
            f"new file ({error.strerror or error}). Choose another output folder, or change its permissions."
        ) from error
    return folder
