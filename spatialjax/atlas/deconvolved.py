"""The composition of spots: what stands behind ``tl.deconvolve``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from spatialjax.atlas.chosen import made, method_name
from spatialjax.atlas.watch import Event, Watch
from spatialjax.checks import InputError
from spatialjax.tables import stored_names

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


@dataclass(frozen=True, eq=False)
class Composition:
    """Composition of the spots of a tissue; tables have one row a spot, in input order, and one column a type.

    Attributes
    ----------
    adata
        A copy of the input with the tables in ``obsm`` and what is known of the run in ``uns``.
    proportions
        Share of the cells of each type; NaN in a spot without counts.
    abundance
        Number of cells of each type: of the given numbers of cells where there are any, else on the scale of the
        reference's depth.
    sd
        Standard deviation of the proportions; None without uncertainty, like all that follows.
    q05, q95
        Ends of the 90 % interval of the share where the type is there; ``q05`` is 0 where absence is likelier.
    presence
        Probability that the type is there.
    converged
        Whether the method met its own stopping rule.
    messages
        What was found, assumed, matched or left out.
    """

    adata: AnnData
    proportions: pd.DataFrame
    abundance: pd.DataFrame
    sd: pd.DataFrame | None
    q05: pd.DataFrame | None
    q95: pd.DataFrame | None
    presence: pd.DataFrame | None
    converged: bool
    messages: list[str] = field(default_factory=list)


def deconvolve(
    adata: AnnData,
    reference: AnnData,
    *,
    cell_type_key: str,
    method: str = "auto",
    layer: str | None = None,
    reference_layer: str | None = None,
    slice_key: str | None = None,
    batch_key: str | None = None,
    n_cells: str | float | None = None,
    uncertainty: bool = True,
    key_added: str = "proportions",
    spatial_key: str = "spatial",
    ignore_case: bool = False,
    method_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool | Callable[[Event], None] = True,
) -> Composition:
    """Find which cell types each spot holds, and how much of each.

    Parameters
    ----------
    adata
        Spots, of one section or of many, with raw counts. Counts that are left in a file (h5ad opened with
        ``backed="r"``, or ``anndata.io.sparse_dataset`` of a zarr store as ``X``) are read from there in blocks of
        rows, in the order of the file, and stay there in the result.
    reference
        Annotated single cells of the same tissue, with raw counts.
    cell_type_key
        Column of the reference's ``obs`` with the types.
    method
        ``"auto"`` for the default one, or a method of ``METHODS["deconvolution"]``.
    layer, reference_layer
        Layers with the raw counts; ``X`` where left out.
    slice_key
        Column of ``obs`` that names the section of each spot. Methods with neighbours (``"card"``) join no spots of
        different sections; the default has none and treats the spots of all sections alike.
    batch_key
        Column of the reference's ``obs`` with the batch of each cell: for ``method="cell2location"``, whose signatures
        are then without the effects of the batches, and for ``"nnls"`` with the option ``weighted=True``, which weighs
        genes by how they vary between batches. Others refuse it.
    n_cells
        Column of ``obs`` with the number of cells of each spot (nuclei that were counted), or one number for all.
        ``abundance`` then counts these cells, and intervals are as narrow as that knowledge makes them.
    uncertainty
        Whether to state it; without, the proportions are those of the best fit, in a fraction of the time.
    key_added
        Name under which the result is stored.
    spatial_key
        Where the coordinates are, ``obsm[spatial_key]``; the default method needs none.
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
    Composition
        The input is not changed: ``.adata`` is a copy with ``obsm[key_added]`` and, as tables beside it,
        ``…_sd``, ``…_q05``, ``…_q95``, ``…_presence``, and ``obsm['abundance']``.

    Raises
    ------
    InputError
        If the input or an option cannot be used; before any long work.

    Examples
    --------
    >>> import spatialjax as sj
    >>> found = sj.tl.deconvolve(spots, cells, cell_type_key="cell_type")  # doctest: +SKIP
    >>> found.proportions.loc[:, "B cells"].describe()  # doctest: +SKIP
    """
    from spatialjax import methods
    from spatialjax.atlas.console import listening
    from spatialjax.io.composed import open_composed

    name = method_name("deconvolution", method)
    chosen = made("deconvolution", name, method_options or {}, known={"uncertainty": uncertainty})
    uses_batches = name == "cell2location" or (name == "nnls" and (method_options or {}).get("weighted"))
    if batch_key is not None and not uses_batches:
        raise InputError(
            f"Expected no batch_key={batch_key!r} for method {name!r}, which does not use batches: leave it "
            "out, or choose method 'cell2location', or 'nnls' with the option weighted=True."
        )
    if resume and checkpoint is None:
        raise InputError("Expected a folder to go on from with resume, found none. Give checkpoint=.")
    with listening(progress) as listener:
        watch = Watch(listener)
        with watch.step("input", "spots and reference"):
            opened = open_composed(
                adata, reference, cell_type_key=cell_type_key, layer=layer, reference_layer=reference_layer,
                slice_key=slice_key, batch_key=batch_key, n_cells=n_cells, spatial_key=spatial_key,
                ignore_case=ignore_case,
            )  # fmt: skip
        with watch.step("composition", f"{len(opened.reference.names)} types by {name!r}"):
            told = None if watch.listener is None else lambda p: watch.say(progress_of(p))
            (fit,) = methods.run(
                chosen, jax.random.key(seed), [(opened.spots, opened.reference)], progress=told, checkpoint=checkpoint,
                resume=resume,
            )  # fmt: skip
        if fit.status == "not finite":
            raise InputError(
                f"Expected finite numbers from method {name!r}, found NaN. Look for extreme values in the counts."
            )
        about = {"method": name, "seed": seed, "cell_type_key": cell_type_key, "uncertainty": uncertainty}
        about["checks"] = gene_checks(opened, fit.result)
        return assembled(adata, opened, fit.result, key=key_added, about=about)


def assembled(adata: AnnData, opened: Any, result: Any, *, key: str, about: Mapping[str, Any]) -> Composition:
    """The result in the order of the input, in a copy of it.

    Parameters
    ----------
    adata
        What the user gave.
    opened
        What ``io.composed.open_composed`` returned.
    result
        A ``results.Proportions`` in the order of the opened spots.
    key
        Name under which it is stored.
    about
        What was asked for, kept in ``uns``.
    """
    return tables_into(_own(adata), opened, result, key=key, about=about)


def _own(adata: AnnData) -> AnnData:
    """A copy to write into; counts that are left in a file stay there."""
    from anndata import AnnData

    from spatialjax.io.blocks import left_in_file

    if adata.X is None or not left_in_file(adata.X) or adata.raw is not None:
        return adata.to_memory() if adata.isbacked else adata.copy()
    parts = ("obs", "var", "uns", "obsm", "varm", "layers", "obsp", "varp")
    return AnnData(adata.X, **{part: getattr(adata, part).copy() for part in parts})


def tables_into(adata: AnnData, opened: Any, result: Any, *, key: str, about: Mapping[str, Any]) -> Composition:
    """The result written into an object of our own.

    Parameters
    ----------
    adata
        Gets the tables.
    opened
        What ``io.composed.open_composed`` returned; its ``order`` is the row of ``adata`` of each spot.
    result, key, about
        As for :func:`assembled`.
    """
    import pandas as pd

    from spatialjax import __version__

    names = list(opened.reference.names)
    messages = list(opened.messages)
    columns = stored_names(names)
    if columns != names:
        messages.append("A file cannot hold '/' in the name of a column: it is written as '|' there.")
    if not bool(result.converged):
        messages.append(f"Method {about['method']!r} did not converge: look at the result with care.")
    back = np.argsort(opened.order, kind="stable")

    def table(values: Any) -> Any:
        if values is None:
            return None
        return pd.DataFrame(np.asarray(values, np.float32)[back], index=adata.obs_names.copy(), columns=columns)

    found = Composition(
        adata=adata,
        proportions=table(result.values),
        abundance=table(result.abundance),
        sd=table(result.sd),
        q05=table(result.low),
        q95=table(result.high),
        presence=table(result.present),
        converged=bool(result.converged),
        messages=messages,
    )
    for name, values in tables_of(found, key).items():
        adata.obsm[name] = values
    adata.uns[key] = {
        **about,
        "version": __version__,
        "types": np.array(names, dtype=str),
        "n_genes": len(opened.genes),
        "converged": found.converged,
        "messages": np.array(messages, dtype=str),
    }
    return found


def gene_checks(opened: Any, result: Any, *, worst: int = 10) -> dict[str, Any]:
    """Whether cells of the reference, in the shares that were found, would show the genes that the spots show.

    Parameters
    ----------
    opened
        What ``io.composed.open_composed`` returned.
    result
        A ``results.Proportions`` in the order of the opened spots.
    worst
        Number of genes that are named.

    Returns
    -------
    dict
        ``outside``: share of the genes whose counts in all spots together are outside of the 99 % range of such cells,
        about .01 where spots and reference were measured alike; ``worst_genes``, those outside by the largest factors,
        and their ``worst_log_ratio``, the natural logarithm of seen over expected counts.
    """
    from spatialjax.composition import cell_spread, cells_of_shares, mean_signatures, pooled_counts
    from spatialjax.probability import gene_total_misfit

    cells = opened.reference
    signatures = mean_signatures(cells.counts, cells.types, number=len(cells.names))
    means = np.asarray(signatures.means, np.float64)
    amount = cells_of_shares(np.nan_to_num(result.values), opened.spots, means.sum(1)).sum(0)
    found = gene_total_misfit(
        pooled_counts(opened.spots), amount, means=means, variances=cell_spread(cells).cells, cells=signatures.cells
    )
    size = np.where(found.outside, np.abs(found.log_ratio), 0.0)
    named = np.argsort(-size, kind="stable")[: min(worst, int(found.outside.sum()))]
    return {
        "outside": float(found.outside.mean()),
        "worst_genes": np.asarray(opened.genes, str)[named],
        "worst_log_ratio": found.log_ratio[named].astype(np.float32),
    }


def tables_of(found: Composition, key: str) -> dict[str, Any]:
    """The tables under the names that they have in ``obsm``; those that there are."""
    amount = "abundance" if key == "proportions" else f"{key}_abundance"
    tables = {
        key: found.proportions,
        f"{key}_sd": found.sd,
        f"{key}_q05": found.q05,
        f"{key}_q95": found.q95,
        f"{key}_presence": found.presence,
        amount: found.abundance,
    }
    return {name: values for name, values in tables.items() if values is not None}


def progress_of(report: Any) -> str:
    """A few words on how far a method has come."""
    rows = report.info.get("rows")
    return f"{int(rows)} spots" if rows is not None else f"step {report.steps}"
