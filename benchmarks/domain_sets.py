"""The labelled sections of the domain benchmarks, each as AnnData with one column of truth. Labels only score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import anndata
import numpy as np
import record
import scipy.sparse as sp

#: Labels that name no region; such spots are clustered with the others, but not scored.
UNLABELLED = ("", "nan", "NA", "None", "unknown", "undetermined", "Undetermined")
#: Key of ``obsm`` under which components that a file has in X are handed over.
COMPONENTS = "components"


@dataclass(frozen=True)
class Source:
    """Where a labelled section lies in the data folder.

    Attributes
    ----------
    family
        Sections of one kind, averaged in the summary.
    file
        Path below the data folder.
    column
        Column of ``obs`` with the truth.
    rows
        ``(column, value)`` that picks the section out of a file with several, or None.
    components
        Whether X holds components instead of counts.
    excluded
        Further labels that are not scored.
    """

    family: str
    file: str
    column: str
    rows: tuple[str, str] | None = None
    components: bool = False
    excluded: tuple[str, ...] = ()


def _sources() -> dict[str, Source]:
    """Every set by name."""
    found = {
        name: Source("DLPFC components", f"region_benchmark/dlpfc_pcs/{name}.h5ad", "layer", components=True)
        for name in ("151507", "151508", "151509", "151510")
    }
    for name in ("151673", "151674"):
        found[name] = Source("DLPFC counts", f"dlpfc_visium_allspots/{name}.h5ad", "layer")
    for name in ("-0.04", "-0.09", "-0.14"):
        file = f"region_benchmark/merfish_regions/{name}.h5ad"
        found[f"merfish{name}"] = Source("MERFISH", file, "region", components=True)
    for name in ("BZ5", "BZ9"):
        found[name] = Source("mPFC", "starmap_mpfc/mpfc_BZ5_BZ9.h5ad", "domain", ("slice", name))
    found["osmfish"] = Source("osmFISH", "osmfish_sscortex/osmfish.h5ad", "region", excluded=("Excluded",))
    found["anterior"] = Source("mouse anterior", "region_benchmark/mouse_anterior/MA.h5ad", "region", components=True)
    for patient in "ABCE":
        file = f"her2st/patient_{patient}.h5ad"
        found[f"{patient}1"] = Source("HER2", file, "region", ("section", f"{patient}1"))
    found["mob"] = Source("mOB", "mob_st/mOB_rep.h5ad", "layer")
    found["breast"] = Source("breast", "breast_visium_he/BlockA_Section.h5ad", "fine_annot_type")
    return found


SOURCES = _sources()
#: Sections of one donor with shared features, taken together.
TOGETHER = {"151673+151674": ("151673", "151674"), "BZ5+BZ9": ("BZ5", "BZ9")}


@dataclass(frozen=True, eq=False)
class Labelled:
    """One set: what a method is given, and the truth that it is not.

    Attributes
    ----------
    name, family
        Of the set.
    adata
        Values and coordinates; no label.
    truth
        Region of each spot; empty where it is not scored.
    feature_key
        Key of ``obsm`` with the features, or None for the counts in X.
    section
        Name of the section of each spot.
    """

    name: str
    family: str
    adata: anndata.AnnData
    truth: np.ndarray
    feature_key: str | None
    section: np.ndarray

    @property
    def numbers(self) -> np.ndarray:
        """The sections, numbered from 0."""
        return np.unique(self.section, return_inverse=True)[1].reshape(-1).astype(np.int32)

    @property
    def number(self) -> int:
        """Number of regions that are scored."""
        return len(set(self.truth) - {""})

    def subsample(self, share: float, seed: int) -> Labelled:
        """A random part of the spots, in their order."""
        size = len(self.truth)
        rows = np.sort(np.random.default_rng(seed).choice(size, round(share * size), replace=False))
        return Labelled(
            self.name, self.family, self.adata[rows].copy(), self.truth[rows], self.feature_key, self.section[rows]
        )


def load(name: str) -> Labelled:
    """A set of ``SOURCES``, or the sections of one donor of ``TOGETHER`` with their shared genes."""
    if name in TOGETHER:
        parts = [load(each) for each in TOGETHER[name]]
        joined = anndata.concat([part.adata for part in parts], join="inner", index_unique="-")
        truth, section = (np.concatenate([getattr(part, field) for part in parts]) for field in ("truth", "section"))
        return Labelled(name, f"{parts[0].family}, together", _with_section(joined, section), truth, None, section)
    source = SOURCES[name]
    adata = anndata.read_h5ad(record.data_folder() / source.file)
    if source.rows is not None:
        column, value = source.rows
        adata = adata[adata.obs[column].astype(str) == value].copy()
    truth = adata.obs[source.column].astype(str).to_numpy(object)
    truth = np.where(np.isin(truth.astype(str), UNLABELLED + source.excluded), "", truth).astype(str)
    section = np.full(adata.n_obs, name)
    return Labelled(name, source.family, _bare(adata, source, section), truth, _key(source), section)


def _key(source: Source) -> str | None:
    return COMPONENTS if source.components else None


def _bare(adata: Any, source: Source, section: np.ndarray) -> anndata.AnnData:
    """Values and coordinates alone, so that no label can be read by mistake."""
    xy = np.asarray(adata.obsm["spatial"], float)[:, :2]
    if source.components:
        values = np.asarray(adata.X.toarray() if sp.issparse(adata.X) else adata.X, np.float32)
        bare = anndata.AnnData(values, obsm={COMPONENTS: values, "spatial": xy})
    else:
        bare = anndata.AnnData(sp.csr_matrix(adata.X), obsm={"spatial": xy})
        bare.var_names = adata.var_names
    bare.obs_names = [str(each) for each in adata.obs_names]
    return _with_section(bare, section)


def _with_section(adata: anndata.AnnData, section: np.ndarray) -> anndata.AnnData:
    adata.obs["section"] = section
    return adata
