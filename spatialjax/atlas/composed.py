"""The composition of all spots of a reconstruction: opened with the sections, found in one step, put into the atlas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import jax
import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Int

from spatialjax.atlas.assemble import shared_names
from spatialjax.atlas.deconvolved import gene_checks, progress_of, tables_into
from spatialjax.atlas.intake import Intake
from spatialjax.checks import InputError, listed
from spatialjax.io.composed import Composed, open_composed
from spatialjax.io.matrices import layers_of

if TYPE_CHECKING:
    from spatialjax.results import Proportions

#: Name of the tables in the atlas, and of the column with the most frequent type.
KEY, DOMINANT = "proportions", "dominant_type"


@dataclass(frozen=True, eq=False)
class ReferenceOptions:
    """The reference of single cells that the user gave for a reconstruction.

    Attributes
    ----------
    reference
        The annotated cells, or the file they are in; None where there is no reference.
    cell_type_key
        Column of its ``obs`` with the types.
    layer
        Its layer with raw counts; ``X`` where left out.
    counts_layer
        Layer of the sections with raw counts; that of the features, or ``X``, where left out.
    """

    reference: Any = None
    cell_type_key: str | None = None
    layer: str | None = None
    counts_layer: str | None = None

    def check(self) -> None:
        """Refuse half of a reference; nothing is read.

        Raises
        ------
        InputError
            If the cells are given without the column of their types, or an option without the cells.
        """
        if self.reference is not None and self.cell_type_key is None:
            raise InputError(
                "Expected the column with the cell types beside the reference: give cell_type_key= (--cell-type-key)."
            )
        lonely = {
            "cell_type_key (--cell-type-key)": self.cell_type_key,
            "reference_layer (--reference-layer)": self.layer,
            "counts_layer (--counts-layer)": self.counts_layer,
        }
        given = [name for name, value in lonely.items() if value is not None]
        if self.reference is None and given:
            raise InputError(f"Expected reference= (--reference) beside {listed(given)}, found none.")


@dataclass(frozen=True, eq=False)
class SpotsBesideCells:
    """Counts of all spots of a run beside those of its reference.

    Attributes
    ----------
    opened
        Both on their shared genes, checked.
    cell_type_key
        Column of the reference with the types.
    """

    opened: Composed
    cell_type_key: str


def with_reference(entry: Intake, options: ReferenceOptions, *, layer: str | None) -> Intake:
    """The opened sections with counts of all their spots and of the reference, checked before any long work.

    Parameters
    ----------
    entry
        The opened sections that the run works on.
    options
        The reference.
    layer
        Layer with the values of the genes, as the run was told.

    Raises
    ------
    InputError
        If the reference cannot be used with these sections: no such column, log values, no shared genes, another
        organism.
    """
    options.check()
    if options.reference is None:
        return entry
    reference = options.reference
    if isinstance(reference, str | Path):
        from spatialjax import io

        reference = io.read_table(Path(reference))
    spots = _spots(entry, options.counts_layer if options.counts_layer is not None else layer)
    key = str(options.cell_type_key)
    try:
        opened = open_composed(spots, reference, cell_type_key=key, reference_layer=options.layer, slice_key="section")
    except InputError as error:
        text = str(error).replace("give layer=", "give counts_layer=").replace("(--layer ", "(--counts-layer ")
        raise InputError(text) from None
    return replace(entry, beside=SpotsBesideCells(opened, key))


def _spots(entry: Intake, layer: str | None) -> anndata.AnnData:
    """Counts of the genes that all sections share, one section after the other, cells as in the input."""
    sections = entry.stack.sections
    sources = [s.adata.to_memory() if s.adata.isbacked else s.adata for s in sections]
    for section, source in zip(sections, sources, strict=True):
        if layer is not None and layer not in source.layers:
            raise InputError(
                f"Expected layer {layer!r} in section {section.name!r} for its composition, found the layers "
                f"{listed(source.layers, limit=8)}. Give counts_layer= (--counts-layer)."
            )
        if layer is None and source.X is None:
            raise InputError(
                f"Expected counts in X of section {section.name!r} for its composition, found none. Give "
                f"counts_layer= (--counts-layer): {listed(layers_of(source), limit=8)}."
            )
    genes = shared_names(sources)
    number = np.repeat(np.arange(len(sections)), [len(s.xy) for s in sections])
    kept = [source[:, genes] for source in sources]
    agreeing = [c for c in kept[0].var.columns if all(c in k.var and k.var[c].equals(kept[0].var[c]) for k in kept)]
    found = anndata.AnnData(
        sp.vstack([sp.csr_matrix(k.X if layer is None else k.layers[layer]) for k in kept], format="csr"),
        obs=pd.DataFrame({"section": number}, index=[str(i) for i in range(len(number))]),
        var=kept[0].var[agreeing].copy(),
    )
    found.obsm["spatial"] = np.concatenate([s.in_input_order(s.xy) for s in sections])
    # Any layer of counts is named where these are none.
    for name in set.intersection(*(set(source.layers) for source in sources)) - {layer}:
        found.layers[name] = sp.vstack([sp.csr_matrix(k.layers[name]) for k in kept], format="csr")
    return found


def find_composition(beside: SpotsBesideCells, *, key: Any, say: Callable[[str], None] | None = None) -> Proportions:
    """The composition of all spots by the default method of the task.

    Parameters
    ----------
    beside
        Spots and reference.
    key
        Random key.
    say
        Called with a few words on the progress.

    Returns
    -------
    Proportions
        Of numpy arrays, in the order of the opened spots.

    Raises
    ------
    InputError
        If the numbers are not finite.
    """
    from spatialjax import methods

    name = methods.DEFAULTS["deconvolution"]
    told = None if say is None else lambda report: say(progress_of(report))
    given = (beside.opened.spots, beside.opened.reference)
    (fit,) = methods.run(methods.METHODS["deconvolution"][name](), key, [given], progress=told)
    if fit.status == "not finite":
        raise InputError(
            f"Expected finite numbers from method {name!r}, found NaN. Look for extreme values in the counts."
        )
    return jax.tree.map(np.asarray, fit.result)


def put_into(
    atlas: anndata.AnnData, beside: SpotsBesideCells, found: Proportions, *, rows: Int[np.ndarray, " n"], seed: int
) -> list[str]:
    """Write the tables of the composition into the atlas, in its order, and the most frequent type of each spot.

    Parameters
    ----------
    atlas
        The atlas.
    beside, found
        Spots with their reference, and their composition.
    rows
        Row of the atlas of each cell, one section after the other.
    seed
        Of the run, for the record.

    Returns
    -------
    list
        Sentences on what was matched, left out or renamed.
    """
    from spatialjax import methods

    about = {
        "method": methods.DEFAULTS["deconvolution"],
        "seed": seed,
        "cell_type_key": beside.cell_type_key,
        "uncertainty": True,
        "checks": gene_checks(beside.opened, found),
    }
    opened = replace(beside.opened, order=rows[beside.opened.order])
    filled = tables_into(atlas, opened, found, key=KEY, about=about)
    messages = [f"Composition: {message}" for message in filled.messages]
    if DOMINANT in atlas.obs:
        atlas.obs[f"{DOMINANT}_input"] = atlas.obs.pop(DOMINANT)
        messages.append(f"The column obs[{DOMINANT!r}] of the input is kept as obs['{DOMINANT}_input'].")
    shares = filled.proportions.to_numpy()
    codes = np.where(np.isnan(shares).any(1), -1, np.nan_to_num(shares).argmax(1))
    atlas.obs[DOMINANT] = pd.Categorical.from_codes(codes, categories=list(opened.reference.names))
    return messages
