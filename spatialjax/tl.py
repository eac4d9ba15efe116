"""Tools: sections in, an aligned three-dimensional tissue out.

Lengths are in µm, angles in degrees unless a name says otherwise. Inputs are never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spatialjax.atlas.deconvolved import Composition, deconvolve
from spatialjax.atlas.labels import LabelTransfer, transfer_labels
from spatialjax.atlas.mapped import CellMapping, map_cells
from spatialjax.atlas.reconstruction import Options, PairAlignment, Reconstruction
from spatialjax.atlas.regions import Regions, domains
from spatialjax.atlas.register import Registration, add_section, register
from spatialjax.atlas.watch import Event, Watch
from spatialjax.transforms import Affine

if TYPE_CHECKING:
    from anndata import AnnData

    from spatialjax.atlas.hand import Decisions

__all__ = [
    "CellMapping",
    "Composition",
    "LabelTransfer",
    "PairAlignment",
    "Regions",
    "Registration",
    "add_section",
    "align",
    "deconvolve",
    "domains",
    "map_cells",
    "reconstruct",
    "register",
    "transfer_labels",
]


def reconstruct(
    adatas: AnnData | Sequence[AnnData] | Mapping[str, AnnData],
    *,
    names: Sequence[str] | None = None,
    method: str = "auto",
    units: str | float | None = None,
    pitch: float | None = None,
    gap: float | None = None,
    z: Sequence[float] | None = None,
    order_by: str | None = None,
    anchor: str | None = None,
    reflection: str = "auto",
    feature_key: str | None = None,
    layer: str | None = None,
    histology: str | None = None,
    spatial_key: str = "spatial",
    slice_key: str | None = None,
    duplicates: str = "error",
    allow_spacing_mismatch: bool = False,
    n_domains: int | None = None,
    reference: AnnData | str | Path | None = None,
    cell_type_key: str | None = None,
    reference_layer: str | None = None,
    counts_layer: str | None = None,
    decisions: Decisions | Mapping[str, Any] | str | Path | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    keep_checkpoint: bool = False,
    reuse: str | Path | None = None,
    progress: bool | Callable[[Event], None] = True,
) -> Reconstruction:
    """Align serial sections into one three-dimensional tissue.

    Parameters
    ----------
    adatas
        Sections in their order along the tissue: a list, a dict from name to section, or one AnnData whose column
        ``slice_key`` says which cell belongs to which section.
    names
        Names of the sections; taken from the dict, the column or the position where left out.
    method
        Alignment method, ``"auto"`` for the default one; see ``METHODS["alignment"]``.
    units
        What one unit of the coordinates is: ``"um"``, ``"mm"``, ``"nm"`` or µm as a number. Read from the metadata of
        the platform where they are there.
    pitch
        Distance between neighbouring spots in µm, another way to say what a unit is: 100 for Visium, 200 for ST.
    gap
        Distance between successive sections, µm.
    z
        Height of each section, µm; gives the order too.
    order_by
        Column of ``obs`` with one value in each section, by which the sections are ordered.
    anchor
        Name of the section that keeps its coordinates; the first placed one where left out.
    reflection
        ``"never"`` turns no section over, ``"auto"`` does on clear evidence, ``"allow"`` treats both sides alike.
    feature_key
        Align on ``obsm[feature_key]`` (an embedding that the sections share) or on the categories ``obs[feature_key]``
        instead of on genes.
    layer
        Layer with the values of the genes; ``X`` where left out.
    histology
        Key of ``obsm`` with columns of the sections' H&E pictures (``pp.histology_features``), which then add to the
        evidence of the poses; every section must have them.
    spatial_key
        Where the coordinates are, ``obsm[spatial_key]``.
    slice_key
        Column of ``obs`` that names the section of each cell.
    duplicates
        ``"error"`` refuses several cells at one place, ``"allow"`` accepts them.
    allow_spacing_mismatch
        Whether sections may differ in spacing by more than 20 %, which otherwise looks like two units.
    n_domains
        Number of cross-section domains; chosen from the data where left out.
    reference
        Annotated single cells of the same tissue with raw counts, or their file: the composition of every spot is then
        found too, by the default method of :func:`deconvolve` for all sections at once.
    cell_type_key
        Column of the reference's ``obs`` with the types.
    reference_layer
        Layer of the reference with raw counts; ``X`` where left out.
    counts_layer
        Layer of the sections with raw counts, where ``layer`` or ``X`` holds others.
    decisions
        What you decided yourself: sections to leave out, poses to fix or forbid, landmarks, pairs to align anew. A
        file, a mapping, or ``atlas.hand.Decisions``; see the page "My alignment is wrong".
    seed
        Seed of every random choice.
    out
        Folder to write ``atlas.h5ad``, ``couplings/``, ``report.html``, ``viewer.html`` and ``run.json`` to; nothing is
        written where left out.
    overwrite
        Whether the files of an earlier run in ``out`` may be replaced.
    checkpoint
        Folder where the result of each step is kept until the run is finished, so that an interrupted run can go on;
        ``.steps`` in ``out`` where left out, nothing is kept without ``out``.
    resume
        Go on from the results that an interrupted run of the same sections and options kept there, to the same bits
        as without interruption; start where there are none. Where left out a run starts afresh.
    keep_checkpoint
        Keep the results of the steps after the run, too.
    reuse
        Output folder of an earlier run with ``keep_checkpoint`` and other decisions, anchor, reflection or number of
        domains: its features, and the pairs that are not aligned anew, are taken over. Needs ``out``.
    progress
        Whether to show the steps, or a function that is called with every ``Event``.

    Returns
    -------
    Reconstruction
        ``.atlas`` holds every cell, in input order, with its place in ``obsm['spatial3d']``; with a reference, its
        composition in ``obsm['proportions']`` and the tables beside it.

    Raises
    ------
    InputError
        If the input cannot be used as it is, or ``resume`` meets a run of other sections or options, and then the
        message names what differs; raised before any long work and before anything is written.
    OutputError
        If the system refuses to write, e.g. on a full disk; finished steps are kept.

    Examples
    --------
    >>> import spatialjax as sj
    >>> result = sj.tl.reconstruct(sj.datasets.simulated(seed=0), progress=False)  # doctest: +SKIP
    >>> result.atlas.obsm["spatial3d"]  # doctest: +SKIP
    """
    from spatialjax.atlas import composed, decided, decisions_file, intake, job
    from spatialjax.atlas.console import listening
    from spatialjax.atlas.reuse import begun_from

    cells = composed.ReferenceOptions(reference, cell_type_key, layer=reference_layer, counts_layer=counts_layer)
    cells.check()
    chosen = decisions_file.read(decisions) or None
    options = Options(method, reflection, anchor=anchor, n_domains=n_domains, seed=seed, decisions=chosen)
    options.check()
    destination = job.Destination(
        _path(out), _path(checkpoint), resume=resume, overwrite=overwrite, keep_checkpoint=keep_checkpoint
    )
    destination.check()
    with listening(progress) as listener:
        watch = Watch(listener)
        with watch.step("input", "reading the sections"):
            entry = intake.open_in_order(
                adatas, names=names, order_by=order_by, slice_key=slice_key, units=units, pitch=pitch, gap=gap, z=z,
                feature_key=feature_key, layer=layer, histology=histology, spatial_key=spatial_key,
                duplicates=duplicates, allow_spacing_mismatch=allow_spacing_mismatch,
            )  # fmt: skip
            entry = composed.with_reference(decided.followed(entry, options), cells, layer=layer)
        destination = begun_from(reuse, entry, options, destination=destination)
        return job.run_job(entry, options, destination, watch=watch, source="spatialjax.tl.reconstruct")


def align(
    source: AnnData,
    target: AnnData,
    *,
    method: str = "auto",
    units: str | float | None = None,
    pitch: float | None = None,
    reflection: str = "auto",
    feature_key: str | None = None,
    layer: str | None = None,
    histology: str | None = None,
    spatial_key: str = "spatial",
    duplicates: str = "error",
    allow_spacing_mismatch: bool = False,
    scale: bool = False,
    seed: int = 0,
) -> PairAlignment:
    """Lay one section on another.

    Parameters
    ----------
    source, target
        The two sections.
    method, units, pitch, reflection, feature_key, layer, histology, spatial_key, duplicates
        As in :func:`reconstruct`.
    allow_spacing_mismatch, seed
        As in :func:`reconstruct`.
    scale
        Whether the source may have shrunk or swollen against the target, by up to a fifth, the same in all
        directions. The map and the coordinates then hold the scale, and ``posterior`` says what it is and how sure;
        evidence, probabilities and the spread of angle and shift stay those of the rigid pose. Give it where sections
        were fixed differently, and leave it out otherwise: a map without it is surer.

    Returns
    -------
    PairAlignment
        The map in the units of the sections, the moved coordinates, the evidence. A pose is returned in any case: look
        at ``supported``.

    Raises
    ------
    InputError
        If the input cannot be used as it is.
    """
    import jax

    from spatialjax.atlas import intake, pairs
    from spatialjax.atlas.features import histology_lost, prepare
    from spatialjax.atlas.tables import scale_messages

    options = Options(method=method, reflection=reflection, seed=seed)
    options.check()
    stack = intake.open_in_order(
        [source, target], names=["source", "target"], units=units, pitch=pitch, feature_key=feature_key, layer=layer,
        histology=histology, spatial_key=spatial_key, duplicates=duplicates,
        allow_spacing_mismatch=allow_spacing_mismatch,
    ).stack  # fmt: skip
    options.check_with(stack)
    prepared = prepare(stack, method=options.resolved_method)
    (pair,) = pairs.align_pairs(
        prepared, [(0, 1)], method=options.resolved_method, key=jax.random.key(seed), scale=scale
    )
    pick = pairs.preferred(pair, reflection)
    scaled = None if pair.posterior is None else pair.posterior.scaled
    pose = pair.poses[pick] if scaled is None else scaled[pick]
    said = [] if scaled is None else scale_messages(pair.posterior, pick)
    first, second = stack.sections
    unit = first.um_per_unit / second.um_per_unit
    transform = Affine(pose.matrix * unit, pose.shift / second.um_per_unit)
    given = np.asarray(source.obsm[spatial_key], np.float64)[:, :2]
    return PairAlignment(
        transform=transform,
        transform_um=pose,
        coordinates=transform(given),
        overlap=first.in_input_order(pairs.pose_overlap(prepared, (0, 1), pose)),
        evidence=float(pair.evidence[pick]),
        threshold=pair.threshold,
        angle=float(np.degrees(pose.angle)),
        mirrored=bool(pose.mirrored),
        pose=pick,
        posterior=pair.posterior,
        messages=(*histology_lost(stack, prepared.added), *stack.messages, *said),
    )


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
