"""AnnData files (h5ad, zarr) and SpatialData."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spatialjax.checks import InputError, listed
from spatialjax.io.build import remember
from spatialjax.io.coordinates import missing_key
from spatialjax.io.units import NAMED_UNITS, Scale

if TYPE_CHECKING:
    from anndata import AnnData


def read_h5ad(path: Path, *, spatial_key: str | None) -> AnnData:
    """One h5ad file, in memory; without a ``spatial_key`` it may lack coordinates.

    Raises
    ------
    InputError
        If it is no HDF5 file, was cut, or holds no coordinates.
    """
    import anndata
    import h5py

    if not h5py.is_hdf5(path):
        start = path.read_bytes()[:16]
        raise InputError(
            f"Expected an h5ad file, which is HDF5, found {str(path)!r} of {path.stat().st_size} bytes that begins "
            f"with {start!r}. Copy or download it again."
        )
    adata = anndata.read_h5ad(path)
    return adata if spatial_key is None else _with_coordinates(adata, spatial_key, path)


def is_zarr(folder: Path) -> bool:
    """Whether the folder is a zarr group."""
    return any((folder / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs"))


def read_zarr(folder: Path, *, spatial_key: str) -> list[AnnData]:
    """An AnnData or SpatialData zarr folder; SpatialData gives one object for each region of its tables.

    Raises
    ------
    InputError
        If it is neither, SpatialData is not installed, or there are no coordinates.
    """
    import anndata
    import zarr

    group = zarr.open_group(str(folder), mode="r")
    if group.attrs.get("encoding-type") == "anndata" or {"obs", "var"} <= set(group.keys()):
        return [_with_coordinates(anndata.read_zarr(folder), spatial_key, folder)]
    if "spatialdata_attrs" in group.attrs or "tables" in group:
        return _read_spatialdata(folder, spatial_key)
    raise InputError(
        f"Expected a zarr folder with AnnData or SpatialData, found {str(folder)!r} with the groups "
        f"{listed(sorted(group.keys()), limit=8)}."
    )


def _with_coordinates(adata: Any, spatial_key: str, path: Path) -> AnnData:
    if spatial_key not in adata.obsm:
        raise InputError(missing_key(adata, spatial_key, path.name))
    return adata


def _read_spatialdata(folder: Path, spatial_key: str) -> list[AnnData]:
    if importlib.util.find_spec("spatialdata") is None:
        raise InputError(
            f"Expected the package spatialdata, which reads {str(folder)!r}, found that it is not installed. Install "
            "spatialjax[spatialdata], or write the table as h5ad."
        )
    import spatialdata

    data = spatialdata.read_zarr(folder)
    tables = [table for table in data.tables.values() if "spatialdata_attrs" in table.uns]
    if not tables:
        raise InputError(
            f"Expected a table that annotates regions in {str(folder)!r}, found the tables {listed(data.tables)}."
        )
    return [
        _region(data, table, region, spatial_key)
        for table in tables
        for region in np.atleast_1d(table.uns["spatialdata_attrs"]["region"]).tolist()
    ]


def _region(data: Any, table: Any, region: str, spatial_key: str) -> AnnData:
    keys: Mapping[str, Any] = table.uns["spatialdata_attrs"]
    adata = table[(table.obs[keys["region_key"]] == region).to_numpy()].copy()
    scale = None
    if spatial_key not in adata.obsm:
        adata.obsm[spatial_key], scale = _centroids(data, region, adata.obs[keys["instance_key"]])
    del adata.uns["spatialdata_attrs"]
    if "um_per_unit" not in adata.uns.get("spatialjax", {}):
        remember(adata, scale=scale, spatial_key=spatial_key, platform="SpatialData")
    adata.uns["spatialjax"]["name"] = region
    return adata


def _centroids(data: Any, region: str, instances: Any) -> tuple[np.ndarray, Scale | None]:
    """Centres of the shapes or labels of a region, in a coordinate system named after a unit where there is one."""
    import spatialdata
    from spatialdata.transformations import get_transformation

    if region not in data:
        raise InputError(f"Expected the element {region!r} that the table annotates, found {listed(_elements(data))}.")
    systems = list(get_transformation(data[region], get_all=True))
    named = [system for system in systems if system.casefold() in NAMED_UNITS]
    system = named[0] if named else "global" if "global" in systems else systems[0]
    centres = spatialdata.get_centroids(data[region], coordinate_system=system).compute()
    place = centres.index.get_indexer(np.asarray(instances))
    if (place < 0).any():
        raise InputError(f"Expected a shape in {region!r} for every cell, found {int((place < 0).sum())} without one.")
    scale = Scale(NAMED_UNITS[named[0].casefold()], f"SpatialData: coordinate system {named[0]!r}") if named else None
    return centres[["x", "y"]].to_numpy(np.float64)[place], scale


def _elements(data: Any) -> list[str]:
    return [name for _, name, _ in data.gen_elements()]
