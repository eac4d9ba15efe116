"""Files that are whole or not there: written beside their final name, brought to the disk, and then renamed."""

from __future__ import annotations

import errno
import json
import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than the system allows here",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "no permission to write there",
    errno.EIO: "the disk reports an error",
}
_TEMPORARY = re.compile(r"\.[^/]*~[0-9a-f]{12}(\.[A-Za-z0-9]+)?")


class OutputError(OSError):
    """A file could not be written; what stood under its name before is still there."""


def atomically(path: Path, write_to: Callable[[Path], Any]) -> None:
    """Let ``write_to`` fill a temporary file in the same folder, then give it its name: never a half-written file.

    Parameters
    ----------
    path
        The final name.
    write_to
        Called with the temporary path; leaves a complete file there.

    Raises
    ------
    OutputError
        If the system refuses to write, e.g. on a full disk.
    """
    temporary = path.with_name(f".{path.stem}~{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        try:
            write_to(temporary)
            _to_disk(temporary)
            temporary.replace(path)
            _to_disk(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(_refused(path, error)) from error


def folder_made(folder: Path) -> Path:
    """The folder, made with its parents where it does not exist.

    Raises
    ------
    OutputError
        If the system refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(_refused(folder, error)) from error
    return folder


def is_temporary(name: str) -> bool:
    """Whether a file of that name is what a killed run left of an unfinished write."""
    return _TEMPORARY.fullmatch(name) is not None


def remove_temporaries(folder: Path) -> None:
    """Remove what killed runs left of unfinished writes, and nothing else."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if is_temporary(entry.name):
            entry.unlink(missing_ok=True)


def finished_card(folder: Path) -> dict[str, Any] | None:
    """What ``run.json`` says; None where no run has finished in the folder."""
    try:
        card = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return card if isinstance(card, dict) else None


def safe_name(name: str) -> str:
    """A section's name with only letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._")[:60] or "section"


def _refused(path: Path, error: OSError) -> str:
    reason = _REASONS.get(error.errno or 0, f"the system refuses ({error.strerror or error})")
    return (
        f"Expected to write {str(path)!r}, but {reason}. Nothing half-written was left behind. Make room or choose "
        "another place, then repeat the run."
    )


def _to_disk(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # a folder has no handle to flush there
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
