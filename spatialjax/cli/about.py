"""Commands about the package itself: ``info``, ``methods`` and ``cite``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from spatialjax.cli.application import app, guarded
from spatialjax.cli.options import Json
from spatialjax.cli.speech import echo, print_table


@app.command()
@guarded
def info(as_json: Json = False) -> None:
    """Versions, devices, and where data are looked for."""
    import jax

    from spatialjax import datasets
    from spatialjax.atlas.assemble import versions

    devices = [{"platform": d.platform, "kind": d.device_kind} for d in jax.devices()]
    folder = datasets.data_folder()
    facts = {"versions": versions(), "devices": devices, "data": None if folder is None else str(folder)}
    facts["compilation_cache"] = jax.config.jax_compilation_cache_dir
    if as_json:
        echo(json.dumps(facts, indent=2))
        return
    rows = [*facts["versions"].items()]
    rows += [(f"device {i}", f"{d['kind']} ({d['platform']})") for i, d in enumerate(devices)]
    rows += [("data folder", facts["data"] or "none: set $SPATIALJAX_DATA")]
    rows += [
        ("compilation cache", facts["compilation_cache"] or "none: set $JAX_COMPILATION_CACHE_DIR to compile once")
    ]
    print_table(("", ""), rows)


@app.command()
@guarded
def methods(as_json: Json = False) -> None:
    """The methods, what they need and how faithful they are."""
    from dataclasses import asdict

    from spatialjax.methods import CARDS

    cards = [card for by_name in CARDS.values() for card in by_name.values()]
    if as_json:
        echo(json.dumps([asdict(card) for card in cards], indent=2))
        return
    rows = [(c.task, c.name, c.expects, c.fidelity, c.summary) for c in cards]
    print_table(("task", "method", "needs", "fidelity", "summary"), rows)


@app.command()
@guarded
def cite(method: Annotated[str, typer.Argument(help="Name of a method.", metavar="METHOD")]) -> None:
    """BibTeX entry of a method."""
    from spatialjax.checks import one_of
    from spatialjax.methods import CARDS, citation

    names = [name for by_name in CARDS.values() for name in by_name]
    echo(citation(one_of(method, names, "method")).strip())
