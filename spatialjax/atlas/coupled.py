"""The soft matches of an atlas as files beside it, with their index in ``run.json``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import scipy.sparse as sp

from spatialjax.atlas.files import atomically, finished_card, folder_made, remove_temporaries, safe_name
from spatialjax.checks import InputError

if TYPE_CHECKING:
    from anndata import AnnData

_FILE = re.compile(r"couplings/[A-Za-z0-9._-]+\.npz")


def write(couplings: Mapping[tuple[str, str], sp.csr_matrix], folder: Path) -> list[dict[str, Any]]:
    """Write one file a pair, numbered, so that names that look alike on disk stay apart; earlier ones are replaced.

    Parameters
    ----------
    couplings
        (name, name) -> weights, rows and columns in the order of each section's cells.
    folder
        Folder of the atlas; the files go into ``couplings/``.

    Returns
    -------
    list
        The index for ``run.json``: ``file``, ``source``, ``target``, ``shape`` and ``entries`` of each pair.

    Raises
    ------
    OutputError
        If the system refuses to write.
    """
    remove(folder)
    folder_made(folder / "couplings")
    index = []
    for number, ((first, second), matrix) in enumerate(couplings.items()):
        name = f"couplings/{number:03d}_{safe_name(first)}--{safe_name(second)}.npz"
        atomically(folder / name, lambda path, matrix=matrix: sp.save_npz(path, matrix))
        index.append(
            {"file": name, "source": first, "target": second, "shape": list(matrix.shape), "entries": matrix.nnz}
        )
    return index


def remove(folder: Path) -> None:
    """Take away the soft matches that an earlier run wrote into a folder, whole or half-written, and nothing else."""
    place = folder / "couplings"
    remove_temporaries(place)
    for old in place.glob("[0-9][0-9][0-9]_*--*.npz"):
        old.unlink()


def read(folder: Path, atlas: AnnData) -> dict[tuple[str, str], sp.csr_matrix]:
    """The soft matches that the finished run in a folder wrote; none where no run has finished there.

    Parameters
    ----------
    folder
        Folder of the atlas.
    atlas
        The atlas in it.

    Raises
    ------
    InputError
        If a file is missing or damaged, or belongs to another atlas.
    """
    cells = atlas.obs["slice"].value_counts()
    found = {}
    for row in (finished_card(folder) or {}).get("couplings", []):
        name, ends = str(row["file"]), (str(row["source"]), str(row["target"]))
        shape = tuple(int(cells.get(end, 0)) for end in ends)
        try:
            if not _FILE.fullmatch(name):
                raise ValueError("a name that run.json may not hold")
            matrix = sp.csr_matrix(sp.load_npz(folder / name))
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise InputError(
                f"Expected soft matches in {str(folder / name)!r}, found no such file: {error}."
            ) from error
        if matrix.shape != shape:
            raise InputError(
                f"Expected soft matches of {shape[0]} and {shape[1]} cells in {str(folder / name)!r}, found "
                f"{matrix.shape[0]} and {matrix.shape[1]}: run.json and atlas.h5ad belong to different runs. Move the "
                "atlas to a folder of its own to go on without them."
            )
        found[ends] = matrix
    return found
