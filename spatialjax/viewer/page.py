"""One HTML file from an atlas: library, program, style and data inlined, and nothing loaded from anywhere."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import uuid
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from spatialjax.checks import InputError
from spatialjax.viewer.contents import contents
from spatialjax.viewer.packing import inert_json

if TYPE_CHECKING:
    from anndata import AnnData

#: Our own scripts, in the order in which they run.
SCRIPTS = ("data.js", "colours.js", "scene.js", "overlay.js", "panel.js", "main.js")

# K3D is published as a module for RequireJS; this is the one call of it that the bundle makes.
_TAKE_MODULE = "var define = function (name, needs, make) { window.k3d = make(); };"


def page(
    atlas: AnnData,
    *,
    genes: Sequence[str] | None = None,
    max_genes: int = 500,
    max_megabytes: float = 20.0,
    layer: str | None = None,
    spatial_key: str = "spatial",
) -> str:
    """The interactive page as HTML; the same atlas gives the same text.

    Parameters
    ----------
    atlas
        A reconstruction's atlas: ``obsm['spatial3d']`` in µm, NaN where a cell is not placed. Used where present:
        ``obsm['spatial3d_sd']`` in µm, ``obsm[spatial_key]`` in the units of the files, every column of ``obs``.
    genes
        Genes that the page must hold beside those it chooses.
    max_genes
        Genes in the page at the most; the page says how many of how many it holds.
    max_megabytes
        Size of the gene values in the page at the most, in 10⁶ bytes.
    layer
        Layer with the expression; ``X`` where left out.
    spatial_key
        Where the given coordinates are.

    Raises
    ------
    InputError
        If this is no atlas of ours, a gene is unknown or does not fit, or the library is not installed.
    """
    held = contents(
        atlas,
        genes=genes,
        max_genes=max_genes,
        max_megabytes=max_megabytes,
        layer=layer,
        spatial_key=spatial_key,
    )
    source = files("spatialjax.viewer")
    style = source.joinpath("viewer.css").read_text(encoding="utf-8")
    body = source.joinpath("viewer.html").read_text(encoding="utf-8")
    program = "\n".join(source.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS)
    scripts = (f"{_TAKE_MODULE}\n{_library()}", program)
    licence = inert_json(_licence())
    return "".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>Aligned tissue: {len(held['sections'])} sections</title>\n<style>\n{style}</style>\n</head>\n",
            f"<body>\n{body}\n",
            f'<script type="application/json" id="licence">{licence}</script>\n',
            f'<script type="application/json" id="atlas">{inert_json(held)}</script>\n',
            *(f"<script>{script}</script>\n" for script in scripts),
            "</body>\n</html>\n",
        ]
    )


def write_viewer(
    atlas: AnnData,
    path: str | os.PathLike[str],
    *,
    genes: Sequence[str] | None = None,
    max_genes: int = 500,
    max_megabytes: float = 20.0,
    layer: str | None = None,
    spatial_key: str = "spatial",
) -> Path:
    """Write the interactive page of an atlas to one file, which needs no other file and no network.

    The file appears under its name only when it is complete; a file of that name is replaced.

    Parameters
    ----------
    atlas, genes, max_genes, max_megabytes, layer, spatial_key
        See :func:`page`.
    path
        The file to write.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        As :func:`page`.
    """
    text = page(
        atlas,
        genes=genes,
        max_genes=max_genes,
        max_megabytes=max_megabytes,
        layer=layer,
        spatial_key=spatial_key,
    )
    path = Path(path)
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:12]}")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


@cache
def _library() -> str:
    """The text of K3D's bundle, read without importing ``k3d`` (which loads the notebook's widgets)."""
    folder = find_spec("k3d")
    bundle = None
    if folder is not None and folder.submodule_search_locations:
        bundle = Path(folder.submodule_search_locations[0]) / "static" / "standalone.js"
    if bundle is None or not bundle.is_file():
        found = "no such package" if folder is None else "a package without static/standalone.js"
        raise InputError(f"The page needs the package k3d, found {found}: install it with `pip install 'k3d>=3.2,<4'`.")
    text = bundle.read_text(encoding="utf-8").replace("\r\n", "\n")
    # Fonts for formulae, which the page has none of: the browser would look for them in the folder of the page.
    text = re.sub(r",url\(fonts/[^)]*\) format\([^)]*\)", "", text)
    # Inside a script these two sequences end or change the element; in JavaScript's strings the escapes mean the same.
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _licence() -> str:
    """The notices that K3D's licence asks to keep with every copy."""
    try:
        package = distribution("k3d")
    except PackageNotFoundError:
        return "K3D, MIT licence"
    notices = [
        file.read_text(encoding="utf-8") for file in package.files or () if file.name.upper().startswith("LICENSE")
    ]
    notices += [f.read_text(encoding="utf-8") for f in package.files or () if f.name == "standalone.js.LICENSE.txt"]
    return f"K3D {package.version}\n\n" + "\n\n".join(notices)


def _policy(scripts: Sequence[str]) -> str:
    """What a browser lets the page do: run these very scripts and nothing else, and load nothing from anywhere."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode('utf-8')).digest()).decode('ascii')}'"
        for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
