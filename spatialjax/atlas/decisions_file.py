"""Decisions of a person from a JSON or TOML file, a mapping, or a table of landmarks; see ``hand``."""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from spatialjax import checks
from spatialjax.atlas.hand import Decisions, Fix, Forbid, Landmark, Redo
from spatialjax.checks import InputError

_COLUMNS = ("source", "target", "x1", "y1", "x2", "y2")


def read(given: Decisions | Mapping[str, Any] | str | Path | None) -> Decisions:
    """Decisions from a JSON or TOML file, a mapping of the same form, or as they are.

    Parameters
    ----------
    given
        Path of a file that ends in ``.json`` or ``.toml``, a mapping, ``Decisions``, or None for no decision.
        ``landmarks`` is a list, or the path of a CSV file, relative to the file of decisions.

    Raises
    ------
    InputError
        If the file cannot be read or holds something else.
    """
    if given is None or isinstance(given, Decisions):
        return Decisions() if given is None else given
    folder, where = Path(), "the decisions"
    if not isinstance(given, Mapping):
        path = Path(given)
        folder, where = path.parent, f"{str(path)!r}"
        given = _parsed(path)
    _known(given, [f.name for f in fields(Decisions)], where=where)
    landmarks = given.get("landmarks", ())
    if isinstance(landmarks, str | Path):
        points = read_landmarks(folder / landmarks)
    else:
        rows = _rows(landmarks, f"landmarks in {where}")
        points = tuple(_made(Landmark, {"name": f"point {i}", **row}, where) for i, row in enumerate(rows, 1))
    exclude = given.get("exclude", ())
    if isinstance(exclude, str) or not all(isinstance(name, str) for name in exclude):
        raise InputError(f"Expected 'exclude' in {where} to be a list of names of sections, found {exclude!r}.")
    return Decisions(
        exclude=tuple(exclude),
        landmarks=points,
        **{
            name: tuple(_made(kind, row, where) for row in _rows(given.get(name, ()), f"{name!r} in {where}"))
            for name, kind in (("fix", Fix), ("forbid", Forbid), ("redo", Redo))
        },
    )


def gathered(
    given: Decisions | Mapping[str, Any] | str | Path | None,
    *,
    exclude: Iterable[str] = (),
    landmarks: str | Path | None = None,
) -> Decisions:
    """Decisions together with what a command line adds to them.

    Parameters
    ----------
    given
        As for :func:`read`.
    exclude
        Further sections to leave out.
    landmarks
        A CSV file with further landmarks.

    Raises
    ------
    InputError
        If a file cannot be read or holds something else.
    """
    found = read(given)
    more = () if landmarks is None else read_landmarks(landmarks)
    names = tuple(dict.fromkeys((*found.exclude, *exclude)))
    return replace(found, exclude=names, landmarks=(*found.landmarks, *more))


def read_landmarks(path: str | Path) -> tuple[Landmark, ...]:
    """Landmarks from a CSV file with the columns ``source,target,x1,y1,x2,y2`` and perhaps ``sd`` (µm).

    Parameters
    ----------
    path
        The file; its first line names the columns.

    Raises
    ------
    InputError
        If the file or a column is missing, or a value is no number; the message names the line.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            rows = list(reader)
            columns = [name.strip() for name in reader.fieldnames or ()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"Expected landmarks in {str(path)!r}, found no readable CSV file: {error}.") from error
    missing = [name for name in _COLUMNS if name not in columns]
    if missing or not rows:
        raise InputError(
            f"Expected the columns {','.join(_COLUMNS)} and perhaps sd, and at least one point, in {str(path)!r}; "
            f"found the columns {checks.listed(columns, limit=12)} and {len(rows)} points."
        )
    points = []
    for number, row in enumerate(rows, 2):
        values = {str(k).strip(): v.strip() for k, v in row.items() if k is not None and v is not None}
        kept = {name: values[name] for name in (*_COLUMNS, "sd") if values.get(name)}
        points.append(_made(Landmark, {**kept, "name": f"line {number}"}, f"line {number} of {str(path)!r}"))
    return tuple(points)


def _parsed(path: Path) -> Mapping[str, Any]:
    checks.one_of(path.suffix.lower(), (".json", ".toml"), "ending of a file of decisions")
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise InputError(f"Expected decisions in {str(path)!r}, found no readable file: {error}.") from error
    if not isinstance(found, Mapping):
        raise InputError(f"Expected a table of decisions in {str(path)!r}, found {type(found).__name__}.")
    return found


def _rows(given: Any, what: str) -> list[Mapping[str, Any]]:
    rows = list(given) if isinstance(given, Iterable) and not isinstance(given, str | Mapping) else [given]
    if not all(isinstance(row, Mapping) for row in rows):
        raise InputError(f"Expected {what} to be a list of tables, found {given!r}.")
    return rows


def _known(given: Mapping[str, Any], allowed: Sequence[str], *, where: str) -> None:
    for name in given:
        checks.one_of(name, allowed, f"entry in {where}:")


def _made(kind: type, row: Mapping[str, Any], where: str) -> Any:
    row = dict(row)
    allowed = [f.name for f in fields(kind)]
    if kind in (Fix, Forbid):
        _known(row, [*allowed, "section"], where=where)
        if "section" in row:
            if {"source", "target"} & set(row):
                raise InputError(f"Expected section, or source and target, in {where}, found both in {row!r}.")
            row["source"] = row.pop("section")
        elif ("source" in row) != ("target" in row):
            raise InputError(f"Expected both source and target (or section alone) in {where}, found {row!r}.")
    _known(row, allowed, where=where)
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in row]
    if missing:
        raise InputError(f"Expected {checks.listed(missing)} in {where}, found {row!r}.")
    return kind(**{name: _value(name, value, where) for name, value in row.items()})


def _value(name: str, value: Any, where: str) -> Any:
    """A value of the type that its field asks for."""
    if value is None:
        return None
    if name in ("source", "target", "method", "units", "name"):
        good, wanted = isinstance(value, str), "a text"
    elif name == "mirrored":
        good, wanted = isinstance(value, bool), "true or false"
    elif name == "seed":
        good, wanted = isinstance(value, int) and not isinstance(value, bool), "a whole number"
    elif name == "shift":
        good, wanted = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2, "two numbers"
        value = tuple(_value("x", part, where) for part in value) if good else value
    else:
        number = _number(value)
        good, wanted = number is not None, "a finite number"
        value = number if good else value
    if good and name in ("sd", "angle_tolerance_deg", "shift_tolerance"):
        value = checks.positive(value, f"{name} in {where}")
    if not good:
        raise InputError(f"Expected {name} in {where} to be {wanted}, found {value!r}.")
    return value


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float | np.number):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
