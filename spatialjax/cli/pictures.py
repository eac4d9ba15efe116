"""The command ``warp-images``: pictures of sections laid into the frame of an atlas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from spatialjax.cli.application import app, guarded
from spatialjax.cli.files import read_atlas
from spatialjax.cli.options import AtlasFile, Replace
from spatialjax.cli.speech import escape, note, say

if TYPE_CHECKING:
    from anndata import AnnData

    from spatialjax.atlas.watch import Watch
    from spatialjax.io.images import WarpedImage
    from spatialjax.transforms import Affine

#: Cells that must lie on the picture of their section, and the part of it that is small for them, as shares.
ON_PICTURE, SMALL_PART = 0.9, 0.2


@dataclass(frozen=True)
class Picture:
    """One picture to warp: its section, its file, the map from its pixels to µm, and where the cells lie there."""

    name: str
    file: Path
    to_um: Affine
    cells_um: np.ndarray


@app.command(
    epilog="Example: spatialjax warp-images --atlas atlas --image B1=B1.png --image B2=B2.png --pixels-per-unit 0.08 "
    "--out pictures"
)
@guarded
def warp_images(
    atlas: AtlasFile,
    image: Annotated[
        list[str],
        typer.Option(
            help="A picture of a section of the atlas: .tif, .png, .jpg or .npy; may be repeated.",
            metavar="NAME=FILE",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to.", metavar="DIR", show_default=False)],
    um_per_pixel: Annotated[
        float | None,
        typer.Option(help="Width of a pixel of the result, µm; that of the coarsest picture if not given."),
    ] = None,
    pixels_per_unit: Annotated[
        list[str] | None,
        typer.Option(
            help="Pixels of the pictures in a unit of the coordinates, for smaller copies (tissue_hires_scalef of "
            "Visium), or NAME=NUMBER for one of them; 1 if not given.",
            metavar="[NAME=]NUMBER",
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="µm around the cells that the results show; 5 % of the longer side if not given.", min=0.0),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Show all of each picture, instead of one frame around the cells of all.")
    ] = False,
    nearest: Annotated[
        bool, typer.Option("--nearest", help="Take the nearest pixel instead of interpolating, for pictures of labels.")
    ] = False,
    form: Annotated[str, typer.Option("--format", help="tif, png or npy.")] = "tif",
    overwrite: Replace = False,
) -> None:
    """Lay pictures of sections into the frame of an atlas, one frame for all of them."""
    from spatialjax.atlas import console
    from spatialjax.atlas.watch import Watch
    from spatialjax.checks import one_of, positive

    suffix = f".{one_of(form, ('tif', 'png', 'npy'), 'format (--format)')}"
    if um_per_pixel is not None:
        positive(um_per_pixel, "--um-per-pixel")
    with console.progress() as listener:
        watch = Watch(listener)
        with watch.step("input", f"looking at {len(image)} picture{'s' * (len(image) != 1)}"):
            tissue, _ = read_atlas(atlas)
            names = [str(name) for name in tissue.uns["spatialjax"]["sections"]]
            files = {name: Path(file) for name, file in _named(image, "--image", names).items()}
            pictures = _pictures(tissue, files, _scales(pixels_per_unit, list(files)))
            targets = _targets(pictures, out, suffix, overwrite=overwrite)
            note(sentence for picture in pictures for sentence in _looked_at(picture))
        step = max(_pixel_width(p) for p in pictures) if um_per_pixel is None else um_per_pixel
        bounds = None if whole else _around([p.cells_um for p in pictures], margin)
        with watch.step("warp", f"pixels of {step:.4g} µm"):
            _warp_each(pictures, targets, watch, um_per_pixel=step, bounds=bounds, smooth=not nearest)
    say(f"{len(pictures)} picture{'s' * (len(pictures) != 1)} of {step:.4g} µm per pixel written to {escape(str(out))}")


def _named(given: Sequence[str], option: str, names: Sequence[str]) -> dict[str, str]:
    """``NAME=VALUE`` taken apart; where there are several ``=``, at the first one with a known name before it."""
    from spatialjax.checks import InputError, one_of

    found: dict[str, str] = {}
    for text in given:
        splits = [(text[:i], text[i + 1 :]) for i, sign in enumerate(text) if sign == "="]
        if not splits or not splits[0][0] or not splits[-1][1]:
            raise InputError(f"Expected NAME=VALUE for {option}, found {text!r}.")
        name, value = next((split for split in splits if split[0] in names), splits[0])
        one_of(name, names, f"section in {option}:")
        if name in found:
            raise InputError(f"Expected one {option} for each section, found two for {name!r}.")
        found[name] = value
    return found


def _scales(given: Sequence[str] | None, names: Sequence[str]) -> dict[str, float]:
    from spatialjax.checks import positive

    given = list(given or ())
    common = [text for text in given if "=" not in text]
    scales = dict.fromkeys(names, positive(common[-1], "--pixels-per-unit") if common else 1.0)
    for name, value in _named([text for text in given if "=" in text], "--pixels-per-unit", names).items():
        scales[name] = positive(value, f"--pixels-per-unit of {name!r}")
    return scales


def _pictures(atlas: AnnData, files: Mapping[str, Path], scales: Mapping[str, float]) -> list[Picture]:
    from spatialjax.atlas.labelled import sections_of
    from spatialjax.checks import InputError
    from spatialjax.io import images

    maps, sections = images.transforms(atlas), {s.name: s for s in sections_of(atlas)}
    found = []
    for name, file in files.items():
        if name not in maps:
            raise InputError(
                f"Section {name!r} is not placed in the atlas: nothing says where its picture lies. Leave it out."
            )
        found.append(Picture(name, file, images.pixel_map(maps[name], pixels_per_unit=scales[name]), sections[name].xy))
    return found


def _looked_at(picture: Picture) -> list[str]:
    """Refuse a picture on which the cells of its section do not lie; a sentence where they fill little of it."""
    from spatialjax.checks import InputError
    from spatialjax.io import images

    height, width = images.read_image(picture.file).shape[:2]
    places = picture.to_um.inverse()(picture.cells_um)
    inside = ((places > -0.5) & (places < np.array([width, height]) - 0.5)).all(1)
    (x0, y0), (x1, y1) = places.min(0), places.max(0)
    if inside.mean() < ON_PICTURE:
        raise InputError(
            f"Expected a picture that shows the cells of {picture.name!r}, which lie at x {x0:.0f} to {x1:.0f} and y "
            f"{y0:.0f} to {y1:.0f} pixels, found one of {width} × {height} in {str(picture.file)!r}, on which "
            f"{inside.mean():.0%} of them lie. Is it the picture of this section, and is --pixels-per-unit right?"
        )
    share = (x1 - x0) * (y1 - y0) / (width * height)
    if share >= SMALL_PART:
        return []
    return [f"The cells of {picture.name!r} fill {share:.0%} of its picture: is --pixels-per-unit right?"]


def _targets(pictures: Sequence[Picture], out: Path, suffix: str, *, overwrite: bool) -> list[Path]:
    """One file a picture; names that look alike on disk are numbered."""
    from spatialjax.atlas.files import safe_name
    from spatialjax.checks import InputError, listed, writable_directory

    writable_directory(out)
    stems = [safe_name(p.name) for p in pictures]
    alike = [stem.casefold() for stem in stems]
    stems = [f"{stem}_{i + 1}" if alike.count(alike[i]) > 1 else stem for i, stem in enumerate(stems)]
    targets = [out / f"{stem}{suffix}" for stem in stems]
    read = {p.file.resolve() for p in pictures}
    mixed = [str(t) for t in targets if t.resolve() in read]
    if mixed:
        raise InputError(f"Expected another folder for --out than that of the pictures, found {listed(mixed)} in both.")
    there = [str(p) for t in targets for p in (t, _record_of(t)) if p.exists()]
    if there and not overwrite:
        raise InputError(
            f"Expected no file yet, found {listed(there)}. Choose another folder for --out, or replace the files with "
            "--overwrite."
        )
    return targets


def _warp_each(pictures: Sequence[Picture], targets: Sequence[Path], watch: Watch, **options: Any) -> None:
    from spatialjax.io import images

    for number, (picture, target) in enumerate(zip(pictures, targets, strict=True)):
        watch.say(picture.name, share=number / len(pictures))
        _save(images.warp(images.read_image(picture.file), picture.to_um, **options), target, picture.name)


def _pixel_width(picture: Picture) -> float:
    return float(np.sqrt(abs(np.linalg.det(picture.to_um.matrix))))


def _around(places: Sequence[np.ndarray], margin: float | None) -> tuple[float, float, float, float]:
    every = np.concatenate(places)
    margin = 0.05 * float(np.ptp(every, axis=0).max()) if margin is None else margin
    (x0, y0), (x1, y1) = every.min(0) - margin, every.max(0) + margin
    return float(x0), float(y0), float(x1), float(y1)


def _record_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


def _save(image: WarpedImage, target: Path, name: str) -> None:
    """The picture and then its record, each whole or not there."""
    from spatialjax.atlas.files import atomically, folder_made
    from spatialjax.io.images import write_image

    said: list[str] = []

    def write(path: Path) -> None:
        record = _record_of(path)
        try:
            write_image(image, path, name=name)
            said.append(record.read_text(encoding="utf-8"))
        finally:
            record.unlink(missing_ok=True)

    folder_made(target.parent)
    _record_of(target).unlink(missing_ok=True)
    atomically(target, write)
    atomically(_record_of(target), lambda path: path.write_text(said[0], encoding="utf-8"))
