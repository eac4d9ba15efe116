"""Files that are missing, cut, or something else: one clear message with the path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spatialjax import io
from spatialjax.checks import InputError


@pytest.fixture
def pair(make_adatas: Any) -> list[Any]:
    """Two good sections."""
    return make_adatas(2, n_spots=40, n_genes=24)


def test_missing_file(tmp_path: Path, pair: list[Any]) -> None:
    """A near name in the folder is proposed."""
    pair[0].write_h5ad(tmp_path / "slice1.h5ad")
    with pytest.raises(InputError, match=r"found nothing at .*Did you mean '.*slice1\.h5ad'"):
        io.read(tmp_path / "slice_1.h5ad")


def test_text_named_h5ad(tmp_path: Path) -> None:
    """A page that was saved under the name of a file."""
    (tmp_path / "a.h5ad").write_text("<html>not found</html>")
    with pytest.raises(InputError, match=r"which is HDF5, found .* of 22 bytes that begins with b'<html>"):
        io.read(tmp_path / "a.h5ad")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_truncated_h5ad(tmp_path: Path, pair: list[Any], share: float) -> None:
    """A download that stopped."""
    path = tmp_path / "a.h5ad"
    pair[0].write_h5ad(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=r"a\.h5ad' cut or damaged"):
        io.read(path)


def test_h5ad_without_coordinates(tmp_path: Path, pair: list[Any]) -> None:
    """Said when the file is read, with its name."""
    del pair[0].obsm["spatial"]
    pair[0].write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match=r"section 'a\.h5ad', found the keys none"):
        io.read(tmp_path / "a.h5ad")


def test_unknown_file_and_folder(tmp_path: Path) -> None:
    """What can be read is listed, and what was found."""
    (tmp_path / "notes.txt").write_text("x")
    for path in (tmp_path / "notes.txt", tmp_path):
        with pytest.raises(InputError, match=r"Expected an \.h5ad file, .* found the f.*notes\.txt"):
            io.read(path)
