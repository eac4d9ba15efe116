"""Sections to try things on: simulated ones with known truth, and real ones from a folder of yours.

Real data are not part of the package. They are read from the folder in ``$SPATIALJAX_DATA``, or from ``shared/data``
beside a source checkout.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spatialjax.checks import InputError, one_of

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Entry:
    """Where a data set lies and what it is.

    Attributes
    ----------
    files
        Paths inside the data folder, one a section, or one file of many sections.
    um_per_unit
        Length of a unit of the coordinates, µm.
    units_source
        Where that is known from.
    summary
        What it is.
    slice_key
        Column of ``obs`` that names the sections, where one file holds many.
    """

    files: tuple[str, ...]
    um_per_unit: float
    units_source: str
    summary: str
    slice_key: str | None = None


_VISIUM = "Visium: neighbouring spots, 137 pixels apart, are 100 µm apart"
_ST = "Spatial Transcriptomics: neighbouring spots are 200 µm apart"
#: The real data sets by name.
REAL: dict[str, Entry] = {
    "dlpfc": Entry(
        ("dlpfc_visium_allspots/151673.h5ad", "dlpfc_visium_allspots/151674.h5ad"),
        100 / 137,
        _VISIUM,
        "Visium, human cortex, two neighbouring sections; obs['layer']",
    ),
    "dlpfc_crops": Entry(
        ("dlpfc_visium_allgenes/151673.h5ad", "dlpfc_visium_allgenes/151674.h5ad"),
        100 / 137,
        _VISIUM,
        "the same sections cropped to parts that overlap only partly",
    ),
    "stahl": Entry(
        ("stahl_breast_4slices/paste_slices.h5ad",),
        200.0,
        _ST,
        "ST, breast cancer, four successive sections, each turned by an unknown angle",
        "slice",
    ),
    "merfish": Entry(
        ("merfish_hypothalamus/animal1_4slices.h5ad",),
        1.0,
        "MERFISH: coordinates in µm",
        "MERFISH, mouse hypothalamus, four sections; obs['cell_type']",
        "bregma",
    ),
    **{
        f"her2_{patient}": Entry(
            (f"her2st/patient_{patient}.h5ad",),
            200.0,
            _ST,
            f"ST, HER2-positive breast tumour, patient {patient}, {number} successive sections",
            "section",
        )
        for patient, number in (("A", 6), ("B", 6), ("C", 6), ("E", 3))
    },
}


def simulated(
    *,
    seed: int = 0,
    n_sections: int = 5,
    spots: int = 900,
    genes: int = 200,
    crop: float = 0.75,
    deformation: float = 15.0,
    **options: Any,
) -> list[AnnData]:
    """Sections of a simulated layered tissue: cut, turned, mirrored, cropped and slightly deformed, with the truth.

    Parameters
    ----------
    seed
        Seed; the same seed gives the same sections.
    n_sections
        Number of sections.
    spots
        Spots of a whole section.
    genes
        Number of genes.
    crop
        Smallest share of the tissue that a section shows.
    deformation
        Standard deviation of the smooth deformation, µm.
    **options
        Passed to ``simulate.simulate_tissue``.

    Returns
    -------
    list
        One AnnData a section: raw counts in ``X``, slide coordinates in µm in ``obsm['spatial']``, the true places in
        µm in ``obsm['true3d']``, the true layer in ``obs['layer']``; ``uns['truth']`` holds the rigid map from the
        slide to the tissue.
    """
    import anndata
    import jax
    import pandas as pd

    from spatialjax.simulate import simulate_tissue

    key = jax.random.key(seed)
    stack = simulate_tissue(
        key, n_sections=n_sections, spots=spots, genes=genes, crop=crop, deformation=deformation, **options
    )
    adatas = []
    for i, section in enumerate(stack.sections):
        name = f"section{i + 1}"
        cells = [f"{name}-{j}" for j in range(len(section.xy))]
        adata = anndata.AnnData(
            section.counts, obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=list(stack.genes))
        )
        adata.obs["layer"] = pd.Categorical([f"layer {d + 1}" for d in section.domain])
        adata.obsm["spatial"] = np.asarray(section.xy, np.float64)
        adata.obsm["true3d"] = np.asarray(section.xyz, np.float64)
        adata.uns["spatialjax"] = {"um_per_unit": 1.0, "units_source": "simulated in µm", "name": name}
        adata.uns["truth"] = {"matrix": section.pose.matrix, "shift": section.pose.shift}
        adatas.append(adata)
    return adatas


def data_folder() -> Path | None:
    """The folder of the real data sets, or None where there is none."""
    import spatialjax

    beside = Path(spatialjax.__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ["SPATIALJAX_DATA"]) if os.environ.get("SPATIALJAX_DATA") else beside
    return folder if folder.is_dir() else None


def load(name: str) -> list[AnnData]:
    """A real data set, one AnnData a section, in order, with the unit of its coordinates.

    Parameters
    ----------
    name
        A key of ``REAL``.

    Raises
    ------
    InputError
        If the name is unknown or the files are not there.
    """
    import anndata

    entry = REAL[one_of(name, list(REAL), "data set")]
    folder = data_folder()
    missing = [f for f in entry.files if folder is None or not (folder / f).is_file()]
    if missing:
        raise InputError(
            f"Expected {missing[0]!r} in the folder of the data sets, found no such file. Set $SPATIALJAX_DATA to the "
            "folder that holds it; the data are not part of the package. datasets.simulated() needs none."
        )
    adatas = []
    for file in entry.files:
        whole = anndata.read_h5ad(folder / file)
        adatas += _split(whole, entry.slice_key, default=Path(file).stem)
    for section, adata in adatas:
        facts = {"um_per_unit": entry.um_per_unit, "units_source": entry.units_source, "name": section}
        adata.uns["spatialjax"] = facts
    return [adata for _, adata in adatas]


def _split(whole: AnnData, slice_key: str | None, *, default: str) -> list[tuple[str, AnnData]]:
    if slice_key is None:
        return [(default, whole)]
    from spatialjax.io.split import split_by

    return [(part.name, part.adata.copy()) for part in split_by(whole, slice_key)]
