"""Files that a command reads, and the one that it writes, whose name is checked before any work."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anndata import AnnData


def read_sections(paths: Iterable[Path], spatial_key: str) -> list[AnnData]:
    """All sections of all paths, in their order."""
    from spatialjax import io

    return [adata for path in paths for adata in io.read(path, spatial_key=spatial_key)]


def read_section(path: Path, spatial_key: str, *, slice_key: str | None = None, pick: str | None = None) -> AnnData:
    """The one section of a path, with its name in ``uns['spatialjax']['name']``.

    Parameters
    ----------
    path
        File or folder.
    spatial_key
        Key of ``obsm`` with the coordinates.
    slice_key
        Column of ``obs`` that names the section of each cell.
    pick
        Name of the section, where there are several.

    Raises
    ------
    InputError
        If there is no such section, or there are several and none is named.
    """
    from spatialjax import io
    from spatialjax.checks import InputError, listed, one_of

    found = io.read(path, slice_key=slice_key, spatial_key=spatial_key)
    names = [str(adata.uns["spatialjax"]["name"]) for adata in found]
    if pick is not None:
        one_of(pick, names, f"section in {str(path)!r}:")
        found = [adata for adata, name in zip(found, names, strict=True) if name == pick]
    if len(found) != 1:
        raise InputError(
            f"Expected one section in {str(path)!r}, found {listed(names, limit=20)}. Say which with --section, or "
            "give the file of the section itself."
        )
    return found[0]


def read_atlas(path: Path) -> tuple[AnnData, Path]:
    """An atlas, and the file that it was read from.

    Parameters
    ----------
    path
        ``atlas.h5ad`` or the folder that it is in.

    Raises
    ------
    InputError
        If nothing is there, or it is not an atlas of this package.
    """
    from spatialjax import io
    from spatialjax.atlas.labelled import sections_of
    from spatialjax.checks import InputError

    file = path / "atlas.h5ad" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"Expected an atlas at {str(path)!r} (--atlas), found no file {file.name!r} there.")
    try:
        (atlas,) = io.read(file, spatial_key="spatial3d")
    except InputError as error:
        raise InputError(f"{str(file)!r} is no atlas that 'spatialjax reconstruct' wrote. {error}") from error
    record: dict[str, Any] = dict(atlas.uns["spatialjax"])
    record.pop("name")
    if "matrix_from_units" not in record:
        raise InputError(
            f"Expected an atlas made by reconstruct in {str(file)!r}, found an AnnData without transforms in its uns. "
            "Give the atlas.h5ad that 'spatialjax reconstruct' wrote."
        )
    atlas.uns["spatialjax"] = record
    sections_of(atlas)
    return atlas, file


def new_file(path: Path, *, overwrite: bool, inputs: Iterable[Path], ending: str = ".h5ad") -> Path:
    """The name of a file to write; nothing is written.

    Parameters
    ----------
    path
        The file.
    overwrite
        Whether it may be there already.
    inputs
        What the command reads, which is never written to.
    ending
        How the name must end.

    Raises
    ------
    InputError
        If the name ends in another way, is taken, is that of an input, or its folder cannot be written to.
    """
    from spatialjax.checks import InputError, writable_directory

    if path.suffix != ending:
        raise InputError(f"Expected a file that ends in {ending} for --out, found {str(path)!r}.")
    keep_apart(path, inputs)
    if path.is_dir() or (path.exists() and not overwrite):
        raise InputError(
            f"Expected no file at {str(path)!r} yet, found one. Choose another name for --out, or replace it with "
            "--overwrite."
        )
    writable_directory(path.parent)
    return path


def keep_apart(path: Path, inputs: Iterable[Path]) -> None:
    """Refuse to write what is read.

    Raises
    ------
    InputError
        If the output is one of the inputs.
    """
    from spatialjax.checks import InputError

    if path.resolve() in {p.resolve() for p in inputs}:
        raise InputError(f"Expected another file for --out than the one that is read, found {str(path)!r} for both.")


def refuse_taken(adata: AnnData, key: str, *, where: str, option: str) -> None:
    """Refuse a key that the file has already.

    Raises
    ------
    InputError
        If it has.
    """
    from spatialjax.checks import InputError

    if key in getattr(adata, where):
        raise InputError(f"Expected no {where}[{key!r}] in the input, found one. Choose another key with {option}.")


def save(adata: AnnData, out: Path, watch: Any) -> None:
    """Write the file, whole or not at all, as a step of the work."""
    from spatialjax.atlas.files import atomically, folder_made
    from spatialjax.io.writing import write_h5ad

    with watch.step("outputs", f"writing {out.name!r}"):
        folder_made(out.parent)
        atomically(out, lambda path: write_h5ad(adata, path))
