"""How many µm one unit of the coordinates is: from metadata or from the user, never a guess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from spatialjax.checks import InputError, UnitsError, listed, nearest, positive

#: µm in one of the units that have a name.
NAMED_UNITS = {"um": 1.0, "µm": 1.0, "μm": 1.0, "micron": 1.0, "microns": 1.0, "mm": 1e3, "nm": 1e-3}
#: Distance between neighbouring Visium spots, µm, and the width of the spot that Space Ranger writes down.
VISIUM_PITCH, VISIUM_SPOT = 100.0, 65.0
#: Largest ratio of the median spacings of two sections of one stack.
SPACING_RATIO = 1.2


class Scale(NamedTuple):
    """The unit of a section.

    Attributes
    ----------
    um_per_unit
        µm in one unit of the coordinates.
    source
        A phrase that says where that figure comes from.
    """

    um_per_unit: float
    source: str


def from_user(units: Any, pitch: Any, steps: Sequence[Float[np.ndarray, " m"]]) -> Scale | None:
    """The scale that the user asked for, the same for all sections; None where nothing was asked for.

    Parameters
    ----------
    units
        ``"um"``, ``"mm"``, ``"nm"`` or the number of µm in one unit.
    pitch
        Distance between neighbouring spots, µm.
    steps
        ``graphs.lattice_steps`` of each section, in the units of the input.

    Raises
    ------
    InputError
        If both are given, or one of them is no length.
    """
    if units is not None and pitch is not None:
        raise InputError("Expected units= (--units) or pitch= (--pitch), found both. Give the one that you know.")
    if pitch is not None:
        pitch = positive(pitch, "pitch= (--pitch), µm between neighbouring spots,")
        pooled = float(np.median(np.concatenate(steps)))
        return Scale(pitch / pooled, f"pitch: neighbouring spots, {pooled:.5g} units apart, are {pitch:g} µm apart")
    if units is None:
        return None
    if isinstance(units, str) and units.strip().casefold() in NAMED_UNITS:
        return Scale(NAMED_UNITS[units.strip().casefold()], f"units: {units.strip()}")
    try:
        return Scale(positive(units, "units= (--units)"), f"units: {float(units):g} µm per unit, as given")
    except InputError as error:
        close = nearest(str(units), NAMED_UNITS, number=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise InputError(
            f"Expected units= (--units) to be 'um', 'mm', 'nm' or the number of µm in one unit (above 0), found "
            f"{units!r}.{hint}"
        ) from error


def from_metadata(adata: Any, xy: Float[np.ndarray, "n 2"], *, spatial_key: str, name: str) -> Scale | None:
    """The scale that a reader of this package or scanpy's Visium reader left in ``adata.uns``; else None.

    Parameters
    ----------
    adata
        One section.
    xy
        Its coordinates, in their units.
    spatial_key
        Where the coordinates come from; the metadata speaks of the ones it was written with.
    name
        Name of the section.
    """
    own = adata.uns.get("spatialjax")
    if isinstance(own, Mapping) and "um_per_unit" in own and own.get("spatial_key", "spatial") == spatial_key:
        factor = positive(own["um_per_unit"], f"uns['spatialjax']['um_per_unit'] of section {name!r}")
        return Scale(factor, str(own.get("units_source", "uns['spatialjax']['um_per_unit']")))
    libraries = adata.uns.get("spatial")
    if spatial_key != "spatial" or not isinstance(libraries, Mapping):
        return None
    factors = _scalefactors(adata, libraries, name)
    if factors is None:
        return None
    columns = {"array_row", "array_col"} <= set(adata.obs.columns)
    array = adata.obs[["array_row", "array_col"]].to_numpy(float) if columns else None
    return visium_scale(xy, array, factors)


def _scalefactors(adata: Any, libraries: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    chosen = libraries.get(name) if len(libraries) != 1 else next(iter(libraries.values()))
    if chosen is None and "library_id" in adata.obs.columns:
        used = adata.obs["library_id"].astype(str).unique()
        chosen = libraries.get(used[0]) if len(used) == 1 else None
    factors = chosen.get("scalefactors") if isinstance(chosen, Mapping) else None
    return factors if isinstance(factors, Mapping) else None


def visium_scale(
    xy: Float[np.ndarray, "n 2"], array: Float[np.ndarray, "n 2"] | None, factors: Mapping[str, Any]
) -> Scale | None:
    """The scale of Visium coordinates.

    Parameters
    ----------
    xy
        (n, 2) coordinates.
    array
        (n, 2) ``array_row`` and ``array_col`` of the spots, or None.
    factors
        What Space Ranger's ``scalefactors_json.json`` says.

    Returns
    -------
    Scale
        From ``microns_per_pixel`` (Visium HD), else from the lattice of the spots (rows and columns of a hexagonal grid
        100 µm wide), else from ``spot_diameter_fullres`` (65 µm); None where there is none of them. The lattice goes
        before the diameter because it measures the coordinates at hand.
    """
    if "microns_per_pixel" in factors:
        factor = positive(factors["microns_per_pixel"], "microns_per_pixel of the scale factors")
        return Scale(factor, "Visium HD metadata: microns_per_pixel")
    diameter = factors.get("spot_diameter_fullres")
    by_spot = None if diameter is None else VISIUM_SPOT / positive(diameter, "spot_diameter_fullres")
    by_lattice = None if array is None else lattice_scale(xy, array)
    if by_lattice is None:
        return None if by_spot is None else Scale(by_spot, "Visium metadata: spot_diameter_fullres is 65 µm")
    source = "Visium metadata: the lattice of the spots has a pitch of 100 µm"
    if by_spot is not None and abs(np.log(by_spot / by_lattice)) > np.log(1.15):
        source += (
            f" (spot_diameter_fullres says {by_spot:.4g} µm per unit instead: the coordinates may have been rescaled)"
        )
    return Scale(by_lattice, source)


def lattice_scale(xy: Float[np.ndarray, "n 2"], array: Float[np.ndarray, "n 2"]) -> float | None:
    """µm per unit from a robust affine regression of the coordinates on the rows and columns of Visium's lattice.

    One row is 50√3 µm, one column 50 µm; Tukey's biweight leaves out spots that were misplaced.

    Returns
    -------
    float
        None where the map is no similarity to 5 % (another lattice), or too few spots are there.
    """
    if len(xy) < 3:
        return None
    step = VISIUM_PITCH / 2
    design = np.column_stack([array[:, 1] * step, array[:, 0] * step * np.sqrt(3.0), np.ones(len(xy))])
    if np.linalg.matrix_rank(design[:, :2] - design[:, :2].mean(0)) < 2:
        return None
    weight = np.ones(len(xy))
    for _ in range(20):
        root = np.sqrt(weight)[:, None]
        map_, *_ = np.linalg.lstsq(design * root, xy * root, rcond=None)
        residual = np.linalg.norm(xy - design @ map_, axis=1)
        width = 4.685 * max(1.4826 * float(np.median(residual)), 1e-9 * float(np.abs(map_).max() * step))
        weight = np.where(residual < width, (1 - (residual / width) ** 2) ** 2, 0.0)
    singular = np.linalg.svd(map_[:2], compute_uv=False)
    if singular[1] <= 0 or singular[0] / singular[1] > 1.05:
        return None
    return float(1.0 / np.sqrt(singular[0] * singular[1]))


def unknown_units(names: Sequence[str], *, lattice: bool, spacing_units: float) -> UnitsError:
    """The refusal that asks for the unit.

    Parameters
    ----------
    names
        Sections without metadata.
    lattice
        Whether they carry Visium's ``array_row`` and ``array_col``.
    spacing_units
        Median spacing in the units of the input.
    """
    hint = (
        " They carry array_row and array_col, as Visium does: pitch=100 (--pitch 100) may be right." if lattice else ""
    )
    return UnitsError(
        f"Expected to know the length unit of the coordinates, found no platform metadata in {listed(names)} "
        f"(neighbouring cells are {spacing_units:.4g} units apart). Give units= (--units): um, mm, nm or µm per unit; "
        "or pitch= (--pitch): µm between neighbouring spots, usually 100 for Visium and 200 for ST, whose units are "
        f"often grid steps.{hint}"
    )


def refuse_other_spacing(names: Sequence[str], pitches: Sequence[float], *, allow: bool) -> str | None:
    """Refuse sections whose median spacings (µm) differ by more than 20 %: their units may differ.

    Returns
    -------
    str
        What was found, where it is allowed; None where the spacings agree.
    """
    low, high = int(np.argmin(pitches)), int(np.argmax(pitches))
    ratio = pitches[high] / pitches[low]
    if ratio <= SPACING_RATIO:
        return None
    found = (
        f"neighbouring cells lie {pitches[low]:.4g} µm apart in {names[low]!r} and {pitches[high]:.4g} µm apart in "
        f"{names[high]!r} (ratio {ratio:.3g})"
    )
    if allow:
        return f"{found[:1].upper()}{found[1:]}; allowed as asked."
    raise UnitsError(
        f"Expected sections with the same spacing to 20 %, found that {found}. Their units may differ: bring all "
        "coordinates to one unit, or give allow_spacing_mismatch=True (--allow-spacing-mismatch) if the tissue is "
        "that uneven."
    )
