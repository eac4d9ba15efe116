"""Commands for one section more: ``register``, ``add-section`` and ``align``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spatialjax.cli.application import EXIT_UNPLACED, app, guarded
from spatialjax.cli.files import keep_apart, new_file, read_atlas, read_section, refuse_taken, save
from spatialjax.cli.options import (
    AtlasFile,
    FeatureKey,
    Histology,
    Layer,
    Method,
    Name,
    OutFile,
    Pick,
    Pitch,
    Replace,
    Section,
    Seed,
    Side,
    SliceKey,
    SpatialKey,
    Uneven,
    Units,
)
from spatialjax.cli.speech import command_line, escape, greet, note, say

Component = Annotated[int, typer.Option(help="Which frame of the atlas, where it has several.", min=0)]


@app.command(epilog="Example: spatialjax register B7.h5ad --atlas atlas --units um --out B7_placed.h5ad")
@guarded
def register(
    section: Section,
    atlas: AtlasFile,
    out: OutFile,
    z: Annotated[
        float | None, typer.Option(help="Height of the section, µm; that of the most similar if not given.")
    ] = None,
    name: Name = None,
    component: Component = 0,
    method: Method = "auto",
    reflection: Side = "auto",
    units: Units = None,
    pitch: Pitch = None,
    feature_key: FeatureKey = None,
    layer: Layer = None,
    histology: Histology = None,
    spatial_key: SpatialKey = "spatial",
    slice_key: SliceKey = None,
    pick: Pick = None,
    allow_spacing_mismatch: Uneven = False,
    seed: Seed = 0,
    overwrite: Replace = False,
) -> int:
    """Lay a section on an atlas and write it with its place there; the atlas stays as it is."""
    from spatialjax.atlas import console
    from spatialjax.atlas import register as registering
    from spatialjax.atlas.watch import Watch

    given = _sizes(units, pitch) | {"z": z, "component": component, "method": method, "reflection": reflection}
    given |= {"feature_key": feature_key, "layer": layer, "histology": histology}
    given |= {"spatial_key": spatial_key, "seed": seed}
    new_file(out, overwrite=overwrite, inputs=[section, atlas, atlas / "atlas.h5ad"])
    greet()
    with console.progress() as listener:
        watch = Watch(listener)
        with watch.step("input", "reading the atlas and the section"):
            tissue, _ = read_atlas(atlas)
            adata = read_section(section, spatial_key, slice_key=slice_key, pick=pick)
        name = adata.uns["spatialjax"]["name"] if name is None else name
        with watch.step("register", f"laying {name!r} on the atlas"):
            found = registering.register(
                adata, tissue, name=name, allow_spacing_mismatch=allow_spacing_mismatch, **given
            )
        save(found.section, out, watch)
    note(found.messages)
    return _placed(found, out)


@app.command(epilog="Example: spatialjax add-section B7.h5ad --atlas atlas --z 60 --units um --out larger")
@guarded
def add_section(
    section: Section,
    atlas: AtlasFile,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for atlas.h5ad, couplings/, report.html, viewer.html and run.json; or a name that ends in "
            ".h5ad, for the atlas alone.",
            metavar="DIR|OUT.h5ad",
            show_default=False,
        ),
    ],
    z: Annotated[float, typer.Option(help="Height of the section, µm.", show_default=False)],
    name: Name = None,
    component: Component = 0,
    method: Method = "auto",
    reflection: Side = "auto",
    units: Units = None,
    pitch: Pitch = None,
    feature_key: FeatureKey = None,
    layer: Layer = None,
    histology: Histology = None,
    spatial_key: SpatialKey = "spatial",
    slice_key: SliceKey = None,
    pick: Pick = None,
    allow_spacing_mismatch: Uneven = False,
    seed: Seed = 0,
    overwrite: Replace = False,
) -> int:
    """Write an atlas with one section more; nothing else in it moves."""
    from spatialjax.atlas import console, coupled, enlarged, files, outputs
    from spatialjax.atlas import register as registering
    from spatialjax.atlas.watch import Watch

    given = _sizes(units, pitch) | {"component": component, "method": method, "reflection": reflection, "seed": seed}
    given |= {"feature_key": feature_key, "layer": layer, "histology": histology, "spatial_key": spatial_key}
    alone = out.suffix == ".h5ad"
    if alone:
        new_file(out, overwrite=overwrite, inputs=[section, atlas, atlas / "atlas.h5ad"])
    else:
        outputs.check_directory(out, overwrite=overwrite)
        keep_apart(out, [atlas, atlas.parent] if atlas.suffix == ".h5ad" else [atlas])
    greet()
    with console.progress() as listener:
        watch = Watch(listener)
        with watch.step("input", "reading the atlas and the section"):
            tissue, file = read_atlas(atlas)
            couplings = {} if alone else coupled.read(file.parent, tissue)
            adata = read_section(section, spatial_key, slice_key=slice_key, pick=pick)
        name = adata.uns["spatialjax"]["name"] if name is None else name
        with watch.step("register", f"laying {name!r} on the atlas"):
            larger, found = registering.add_section(
                tissue, adata, z=z, name=name, allow_spacing_mismatch=allow_spacing_mismatch, **given
            )
        if alone:
            save(larger, out, watch)
        else:
            record = {"before": files.finished_card(file.parent) or {}, "source": command_line()}
            enlarged.write(larger, found, out, couplings=couplings, watch=watch, **record)
    note(found.messages)
    return _placed(found, out)


@app.command(epilog="Example: spatialjax align B2.h5ad B1.h5ad --units um --out B2_on_B1.h5ad")
@guarded
def align(
    source: Annotated[Path, typer.Argument(help="The section that is moved.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="The section it is laid on.", show_default=False)],
    out: OutFile,
    method: Method = "auto",
    units: Units = None,
    pitch: Pitch = None,
    reflection: Side = "auto",
    feature_key: FeatureKey = None,
    layer: Layer = None,
    histology: Histology = None,
    spatial_key: SpatialKey = "spatial",
    allow_spacing_mismatch: Uneven = False,
    scale: Annotated[
        bool, typer.Option("--scale", help="The section may have shrunk or swollen: find the scale, too.")
    ] = False,
    seed: Seed = 0,
    key_added: Annotated[str, typer.Option(help="Key of obsm and uns for the result.")] = "aligned",
    overwrite: Replace = False,
) -> int:
    """Lay one section on another and write it with its places there."""
    from spatialjax.atlas import console
    from spatialjax.atlas.watch import Watch
    from spatialjax.tl import align as lay_on

    given = _sizes(units, pitch) | {"method": method, "reflection": reflection, "seed": seed, "layer": layer}
    given |= {"feature_key": feature_key, "histology": histology, "spatial_key": spatial_key, "scale": scale}
    new_file(out, overwrite=overwrite, inputs=[source, target])
    greet()
    with console.progress() as listener:
        watch = Watch(listener)
        with watch.step("input", "reading two sections"):
            first, second = (read_section(path, spatial_key) for path in (source, target))
            refuse_taken(first, key_added, where="obsm", option="--key-added")
        with watch.step("align", f"laying {source.name!r} on {target.name!r}"):
            found = lay_on(first, second, allow_spacing_mismatch=allow_spacing_mismatch, **given)
        first.obsm[key_added] = found.coordinates
        first.obs[f"{key_added}_overlap"] = found.overlap
        first.uns[key_added] = {
            "matrix": found.transform.matrix,
            "shift": found.transform.shift,
            "shift_um": found.transform_um.shift,
            "angle_deg": found.angle,
            "mirrored": found.mirrored,
            "evidence": found.evidence,
            "threshold": found.threshold,
            "supported": found.supported,
            "source": command_line(),
            **_scale(found, scale),
        }
        save(first, out, watch)
    note(found.messages)
    side = "turned over and " if found.mirrored else ""
    say(
        f"{side}rotated by {found.angle:.1f}°; evidence {found.evidence:.1f}, chance reaches {found.threshold:.1f}: "
        f"{'supported' if found.supported else 'not supported, do not use it'}; {escape(str(out))}"
    )
    return 0 if found.supported else EXIT_UNPLACED


def _sizes(units: str | None, pitch: float | None) -> dict[str, Any]:
    return {"units": units, "pitch": pitch}


def _scale(found: Any, wanted: bool) -> dict[str, Any]:
    """The scale for ``uns``, where it was asked for and a pose was found."""
    posterior = found.posterior
    if not wanted or posterior is None:
        return {}
    low, high = posterior.scale_interval(found.pose)
    return {
        "scale": found.scale,
        "scale_sd": float(posterior.scale_sd[found.pose]),
        "scale_q05": low,
        "scale_q95": high,
    }


def _placed(found: Any, out: Path) -> int:
    place = found.placement
    if not found.placed:
        say(f"{escape(repr(place.name))} is not placed: its coordinates in {escape(str(out))} are NaN")
        return EXIT_UNPLACED
    side = "turned over and " if place.mirrored else ""
    say(
        f"{escape(repr(place.name))} is placed at {place.z:g} µm, {side}rotated by {place.angle_deg:.1f}° ± "
        f"{place.angle_sd_deg:.1f}°; {escape(str(out))}"
    )
    return 0
