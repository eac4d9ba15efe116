"""Reads whatever a path holds."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spatialjax.checks import InputError, listed, nearest
from spatialjax.io.cosmx import is_cosmx, read_cosmx
from spatialjax.io.merscope import is_merscope, read_merscope
from spatialjax.io.split import natural, split_by
from spatialjax.io.stored import is_zarr, read_h5ad, read_zarr
from spatialjax.io.visium import is_visium, is_visium_hd, read_visium, read_visium_hd
from spatialjax.io.xenium import is_xenium, read_xenium

if TYPE_CHECKING:
    from anndata import AnnData

#: What tells the folder of a platform, and what reads it; the first that fits is used.
_FOLDERS: tuple[tuple[str, Callable[[Path], bool], Callable[..., Any]], ...] = (
    ("zarr", is_zarr, read_zarr),
    ("Xenium", is_xenium, read_xenium),
    ("Visium HD", is_visium_hd, read_visium_hd),
    ("Visium", is_visium, read_visium),
    ("MERSCOPE", is_merscope, read_merscope),
    ("CosMx", is_cosmx, read_cosmx),
)
_KNOWN = (
    "an .h5ad file, an AnnData or SpatialData .zarr, a folder written by Space Ranger (Visium, Visium HD), Xenium, "
    "MERSCOPE or CosMx, or a folder of these"
)
_DAMAGE = (OSError, EOFError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, IndexError, zlib.error)


def read(
    path: str | os.PathLike[str],
    *,
    slice_key: str | None = None,
    spatial_key: str = "spatial",
    name: str | None = None,
) -> list[AnnData]:
    """Sections from a file or a folder.

    Knows ``.h5ad`` and ``.zarr`` (AnnData, SpatialData), the folders of Visium, Visium HD, Xenium, MERSCOPE and CosMx,
    and a folder of these, which is read in natural order (2 before 10).

    Parameters
    ----------
    path
        The file or folder.
    slice_key
        Column of ``obs`` that says which section a cell belongs to: the file is split by it.
    spatial_key
        Key of ``obsm`` with the coordinates; the readers of platforms write them there.
    name
        Name of the section; the name of the file, or of the folder around ``outs``, where left out. Where the path
        holds several sections, their own names follow it.

    Returns
    -------
    list
        One AnnData a section, with its name in ``uns["spatialjax"]["name"]``. Where the platform says how long a unit
        of the coordinates is, ``um_per_unit`` and ``units_source`` stand beside it.

    Raises
    ------
    InputError
        If nothing is there, it is of no known kind, or it is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"Expected {_KNOWN}, found nothing at {str(path)!r}.{_beside(path)}")
    named = _read_any(path, spatial_key)
    if slice_key is not None:
        parts = [(label, part) for label, adata in named for part in split_by(adata, slice_key)]
        several = len(named) > 1
        named = [(f"{label} {p.name}" if several else p.name, p.adata.copy()) for label, p in parts]
    for label, adata in named:
        full = label if name is None else name if len(named) == 1 else f"{name} {label}"
        adata.uns["spatialjax"] = {**adata.uns.get("spatialjax", {}), "name": full}
    return [adata for _, adata in named]


def read_table(path: str | os.PathLike[str]) -> AnnData:
    """One table of cells or of spots, with or without coordinates: an ``.h5ad`` file, or what ``read`` knows.

    Raises
    ------
    InputError
        If nothing is there, it is of no known kind, damaged, or holds several sections.
    """
    path = Path(path)
    if path.is_file() and path.suffix == ".h5ad":
        return _guarded("h5ad file", read_h5ad, path, None)
    found = read(path)
    if len(found) != 1:
        raise InputError(f"Expected one table in {str(path)!r}, found {len(found)} sections. Give one of their files.")
    return found[0]


def _read_any(path: Path, spatial_key: str) -> list[tuple[str, AnnData]]:
    if path.is_file():
        if path.suffix != ".h5ad":
            raise InputError(f"Expected {_KNOWN}, found the file {str(path)!r}. Give the folder that holds it, if any.")
        return [(path.stem, _guarded("h5ad file", read_h5ad, path, spatial_key))]
    found = _known(path)
    if found is None and (path / "outs").is_dir():
        path = path / "outs"
        found = _known(path)
    if found is not None:
        kind, reader = found
        result = _guarded(f"{kind} folder", reader, path, spatial_key)
        if not isinstance(result, list):
            return [(_label(path), result)]
        return [(_label(path) if len(result) == 1 else str(a.uns["spatialjax"]["name"]), a) for a in result]
    members = sorted((p for p in path.iterdir() if _is_member(p)), key=lambda p: natural(p.name))
    if not members:
        there = sorted(p.name for p in path.iterdir())
        raise InputError(f"Expected {_KNOWN}, found the folder {str(path)!r} with {listed(there, limit=12)}.")
    return [pair for member in members for pair in _read_any(member, spatial_key)]


def _known(folder: Path) -> tuple[str, Callable[..., Any]] | None:
    for kind, fits, reader in _FOLDERS:
        if fits(folder):
            return kind, reader
    return None


def _is_member(path: Path) -> bool:
    if path.is_file():
        return path.suffix == ".h5ad" and not path.name.startswith(".")
    return _known(path) is not None or ((path / "outs").is_dir() and _known(path / "outs") is not None)


def _guarded(what: str, reader: Callable[..., Any], path: Path, spatial_key: str | None) -> Any:
    try:
        return reader(path, spatial_key=spatial_key)
    except InputError:
        raise
    except _DAMAGE as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"Expected a {what} that can be read, found {str(path)!r} cut or damaged ({reason}). Copy it again, or "
            "write it anew."
        ) from error


def _label(path: Path) -> str:
    """A name for a section: that of the folder, or of the one around ``outs`` or the bins of Visium HD."""
    path = path.resolve()
    if path.parent.name == "binned_outputs":
        path = path.parent.parent
    if path.name == "outs":
        path = path.parent
    return path.stem if path.suffix == ".zarr" else path.name


def _beside(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    close = nearest(path.name, [p.name for p in path.parent.iterdir()], number=1)
    return f" Did you mean {str(path.parent / close[0])!r}?" if close else ""
