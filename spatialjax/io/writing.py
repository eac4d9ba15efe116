"""AnnData to a file on a disk that may be full."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData


def write_h5ad(adata: AnnData, path: Path) -> None:
    """Write an AnnData as ``.h5ad``: made in memory, then written in one piece.

    The HDF5 library cannot close a file on a full disk: it keeps trying until the end of the process, and crashes it
    there. Written by the system alone, a full disk is an ordinary error. Costs the memory of the compressed file.

    Parameters
    ----------
    adata
        The object; columns of repeated strings become categorical in it, as when anndata writes it.
    path
        File, replaced where it exists.

    Raises
    ------
    OSError
        If the system refuses to write.
    """
    import anndata
    import h5py

    adata.strings_to_categoricals()
    with h5py.File(path.name, "w", driver="core", backing_store=False, block_size=2**22) as file:
        anndata.io.write_elem(file, "/", adata, dataset_kwargs={"compression": "gzip"})
        file.flush()
        image = file.id.get_file_image()
    path.write_bytes(image)
