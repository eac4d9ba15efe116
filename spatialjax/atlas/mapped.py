"""The places of single cells among spots: what stands behind ``tl.map_cells``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from spatialjax.atlas.chosen import made, method_name
from spatialjax.atlas.watch import Event, Watch
from spatialjax.checks import InputError

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True, eq=False)
class CellMapping:
    """Where the single cells of a reference lie among spots; one row a cell, in the order of the reference.

    Attributes
    ----------
    adata
        A copy of the reference with the places in ``obsm`` and ``obs``, and what is known of the run in ``uns``.
    position
        (m, 2) expected place in the section where the cell most probably is, in the units of the spots' coordinates;
        NaN for a cell that was left out, like all that follows.
    sd
        (m,) root of the mean squared distance from that place, same units.
    confidence
        (m,) 0 where all spots are alike, 1 where a single one is possible.
    spots
        (m, n) probabilities of the most probable spots, columns in the order of the spots' table; a row sums to at
        most 1, and is empty for a cell that was left out.
    converged
        Whether the method met its own stopping rule.
    messages
        What was found, assumed, matched or left out.
    """

    adata: AnnData
    position: Float[np.ndarray, "m 2"]
    sd: Float[np.ndarray, " m"]
    confidence: Float[np.ndarray, " m"]
    spots: sp.csr_matrix
    converged: bool
    messages: list[str] = field(default_factory=list)

    def projected(self, values: Any) -> Float[np.ndarray, "n p"]:
        """Mean over the cells of each spot of values of the cells: expression that the spots were not measured for.

        Parameters
        ----------
        values
            (m, p) values of the cells in the order of the reference, sparse or dense, e.g. its log1p expression.

        Returns
        -------
        ndarray
            (n, p) means weighted by the probabilities of the cells at the spot; NaN where no cell lies.

        Raises
        ------
        InputError
            If there is not one row a cell.
        """
        if values.shape[0] != self.spots.shape[0]:
            raise InputError(
                f"Expected values with one row for each of the {self.spots.shape[0]} cells of the reference, found "
                f"{values.shape[0]}."
            )
        total = self.spots.T @ values
        mass = np.asarray(self.spots.sum(0), np.float64).ravel()[:, None]
        dense = np.asarray(total.toarray() if sp.issparse(total) else total, np.float64)
        return np.where(mass > 0, dense / np.where(mass > 0, mass, 1.0), np.nan)


def map_cells(
    adata: AnnData,
    reference: AnnData,
    *,
    cell_type_key: str,
    method: str = "auto",
    layer: str | None = None,
    reference_layer: str | None = None,
    slice_key: str | None = None,
    n_spots: int = 10,
    key_added: str = "mapped",
    spatial_key: str = "spatial",
    ignore_case: bool = False,
    method_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool | Callable[[Event], None] = True,
) -> CellMapping:
    """Find where each single cell of a reference belongs among spots.

    Parameters
    ----------
    adata
        Spots, of one section or of many, with raw counts and coordinates.
    reference
        Annotated single cells of the same tissue, with raw counts.
    cell_type_key
        Column of the reference's ``obs`` with the types.
    method
        ``"auto"`` for the default one, or a method of ``METHODS["mapping"]``.
    layer, reference_layer
        Layers with the raw counts; ``X`` where left out.
    slice_key
        Column of ``obs`` that names the section of each spot. Sections may lie anywhere against each other: a place is
        one in the section where the cell most probably is.
    n_spots
        Number of spots that are kept of each cell, the most probable ones.
    key_added
        Name under which the result is stored.
    spatial_key
        Where the coordinates are, ``obsm[spatial_key]``.
    ignore_case
        Whether gene names that differ in upper and lower case alone are the same gene.
    method_options
        Options of the method's factory.
    seed
        Seed of every random choice.
    checkpoint
        Folder where the steps keep their state, so that an interrupted run can go on.
    resume
        Go on from there; where False the folder is begun anew.
    progress
        Whether to show the steps, or a function that is called with every ``Event``.

    Returns
    -------
    CellMapping
        The inputs are not changed: ``.adata`` is a copy of the reference with ``obsm[key_added + '_position']``,
        ``obsm[key_added + '_spots']`` (sparse) and, in ``obs``, ``…_sd``, ``…_confidence`` and what else the method
        says. ``.projected(values)`` gives values of the cells at the spots.

    Raises
    ------
    InputError
        If the input or an option cannot be used; before any long work.

    Examples
    --------
    >>> import spatialjax as sj
    >>> found = sj.tl.map_cells(spots, cells, cell_type_key="cell_type")  # doctest: +SKIP
    >>> found.adata.obsm["mapped_position"]  # doctest: +SKIP
    """
    from spatialjax import methods
    from spatialjax.atlas.console import listening
    from spatialjax.io.composed import open_composed

    name = method_name("mapping", method)
    if isinstance(n_spots, bool) or not isinstance(n_spots, int | np.integer) or n_spots < 1:
        raise InputError(f"Expected a number of spots of at least 1 for n_spots (--n-spots), found {n_spots!r}.")
    chosen = made("mapping", name, method_options or {}, known={"kept": int(n_spots)})
    if resume and checkpoint is None:
        raise InputError("Expected a folder to go on from with resume, found none. Give checkpoint=.")
    if spatial_key not in getattr(adata, "obsm", {spatial_key: None}):
        raise InputError(
            f"Expected coordinates of the spots in obsm[{spatial_key!r}] (--spatial-key), found the keys "
            f"{', '.join(map(repr, adata.obsm)) or 'none'}."
        )
    with listening(progress) as listener:
        watch = Watch(listener)
        with watch.step("input", "spots and reference"):
            opened = open_composed(
                adata, reference, cell_type_key=cell_type_key, layer=layer, reference_layer=reference_layer,
                slice_key=slice_key, spatial_key=spatial_key, ignore_case=ignore_case,
            )  # fmt: skip
        with watch.step("mapping", f"{len(opened.cells)} cells onto {adata.n_obs} spots by {name!r}"):
            told = None if watch.listener is None else lambda p: watch.say(_progress(p))
            (fit,) = methods.run(
                chosen, jax.random.key(seed), [(opened.spots, opened.reference)], progress=told, checkpoint=checkpoint,
                resume=resume,
            )  # fmt: skip
        if fit.status == "not finite":
            raise InputError(
                f"Expected finite numbers from method {name!r}, found NaN. Look for extreme values in the counts."
            )
        sections = None if slice_key is None else _section_names(adata, slice_key)
        about = {"method": name, "seed": seed, "cell_type_key": cell_type_key}
        return assembled(adata, reference, opened, result=fit.result, sections=sections, key=key_added, about=about)


def assembled(
    adata: AnnData,
    reference: AnnData,
    opened: Any,
    *,
    result: Any,
    sections: list[str] | None,
    key: str,
    about: Mapping[str, Any],
) -> CellMapping:
    """The result in the order of the reference, over the spots in their order.

    Parameters
    ----------
    adata, reference
        What the user gave.
    opened
        What ``io.composed.open_composed`` returned.
    result
        A ``results.CellMap`` of the opened cells and spots.
    sections
        Names of the sections in the order of their numbers; None for one.
    key
        Name under which it is stored.
    about
        What was asked for, kept in ``uns``.
    """
    import pandas as pd

    from spatialjax import __version__

    cells, rows, messages = reference.n_obs, opened.cells, list(opened.messages)
    if not bool(result.converged):
        messages.append(f"Method {about['method']!r} did not converge: look at the result with care.")
    if result.evidence is not None and np.mean(result.evidence) <= 0:
        messages.append(
            "The counts of the cells tell hardly more of their places than their types do (evidence of 0 or below on "
            "average): take the places for those of the types."
        )

    def spread(values: Any, fill: float = np.nan) -> np.ndarray:
        values = np.asarray(values)
        whole = np.full((cells, *values.shape[1:]), fill, np.float64)
        whole[rows] = values
        return whole

    found = CellMapping(
        adata=reference.to_memory() if getattr(reference, "isbacked", False) else reference.copy(),
        position=spread(result.position),
        sd=spread(result.sd),
        confidence=spread(result.confidence),
        spots=_sparse(result, rows, np.asarray(opened.order), shape=(cells, adata.n_obs)),
        converged=bool(result.converged),
        messages=messages,
    )
    found.adata.obsm[f"{key}_position"] = found.position
    found.adata.obsm[f"{key}_spots"] = found.spots
    found.adata.obs[f"{key}_sd"] = found.sd
    found.adata.obs[f"{key}_confidence"] = found.confidence
    for name in ("evidence", "placed"):
        if getattr(result, name) is not None:
            found.adata.obs[f"{key}_{name}"] = spread(getattr(result, name))
    if sections is not None:
        codes = spread(result.section, -1).astype(int)
        found.adata.obs[f"{key}_section"] = pd.Categorical.from_codes(codes, categories=sections)
    found.adata.uns[key] = {
        **about,
        "version": __version__,
        "spots": np.asarray(adata.obs_names, dtype=str),
        "n_genes": len(opened.genes),
        "converged": found.converged,
        "messages": np.array(messages, dtype=str),
    }
    return found


def _sparse(result: Any, rows: np.ndarray, order: np.ndarray, *, shape: tuple[int, int]) -> sp.csr_matrix:
    spots, shares = np.asarray(result.spots), np.asarray(result.probabilities, np.float32)
    there = (spots >= 0) & (shares > 0)
    row = np.broadcast_to(rows[:, None], spots.shape)[there]
    found = sp.csr_matrix((shares[there], (row, order[spots[there]])), shape=shape)
    found.sort_indices()
    return found


def _section_names(adata: Any, slice_key: str) -> list[str]:
    from spatialjax.io.split import split_by

    return [part.name for part in split_by(adata, slice_key)]


def _progress(report: Any) -> str:
    share = report.info.get("share")
    return f"{float(share):.0%} of the cells and spots" if share is not None else f"step {report.steps}"
