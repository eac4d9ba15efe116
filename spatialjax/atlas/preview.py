"""What a run would do: what is in the sections, which pairs would be aligned, and about how long it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spatialjax.atlas.features import shared_capacities
from spatialjax.atlas.pairs import pairs_of
from spatialjax.atlas.reconstruction import Options

if TYPE_CHECKING:
    from spatialjax.atlas.composed import SpotsBesideCells

#: Measured on two CPU cores: seconds to start and write, to compile, for a pair, and for 1,000 spots of a pair.
_START, _COMPILE, _PAIR, _THOUSAND = 10.0, 25.0, 1.0, 1.0
#: Measured: memory of a process with its libraries, MB, and bytes for each spot beside its values.
_PROCESS, _SPOT = 750.0, 8000.0


def preview(stack: Any, options: Options, *, beside: SpotsBesideCells | None = None) -> dict[str, Any]:
    """What was found in the sections and what would be done with them, as plain JSON values.

    Parameters
    ----------
    stack
        What ``io.open_sections`` returned.
    options
        Options that fit the stack.
    beside
        Its spots beside a reference of single cells, where there is one.
    """
    sections = [
        {
            "name": section.name,
            "cells": len(section.xy),
            "z_um": float(section.z),
            "um_per_unit": float(section.um_per_unit),
            "units_source": section.units_source,
            "pitch_um": float(section.pitch),
            "extent_um": np.ptp(section.xy, axis=0).tolist(),
        }
        for section in stack.sections
    ]
    pairs = [[stack.names[a], stack.names[b]] for a, b in pairs_of(len(stack.sections))]
    return {
        "values": stack.kind,
        "features": len(stack.genes),
        "cells": stack.n_cells,
        "sections": sections,
        "messages": list(stack.messages),
        "method": options.resolved_method,
        "anchor": options.anchor or f"{stack.names[0]} if the evidence places it",
        "reflection": options.reflection,
        "pairs": pairs,
        "capacities": sorted(set(shared_capacities([len(section.xy) for section in stack.sections]))),
        "estimate": estimate(stack),
        **({} if beside is None else {"reference": _reference(beside)}),
    }


def _reference(beside: SpotsBesideCells) -> dict[str, Any]:
    """What the composition would be found with."""
    cells, names = beside.opened.reference, beside.opened.reference.names
    sizes = np.bincount(cells.types, minlength=len(names)).tolist()
    return {
        "cells": len(cells.types),
        "types": dict(zip(names, sizes, strict=True)),
        "genes": len(beside.opened.genes),
        "messages": list(beside.opened.messages),
    }


def estimate(stack: Any) -> dict[str, float]:
    """Rough time (seconds, two CPU cores, first run of these sizes) and memory (MB) of the default method."""
    cells = [len(section.xy) for section in stack.sections]
    capacities = set(shared_capacities(cells))
    pairs = pairs_of(len(cells))
    work = sum(_PAIR + _THOUSAND * (cells[a] + cells[b]) / 1000 for a, b in pairs)
    stored = sum(_bytes(section.values) for section in stack.sections)
    return {
        "seconds": round(_START + _COMPILE * len(capacities) ** 2 + work, 0),
        "memory_mb": round(_PROCESS + (3 * stored + _SPOT * sum(cells)) / 1e6, 0),
    }


def show(found: dict[str, Any], console: Any) -> None:
    """Print a preview.

    Parameters
    ----------
    found
        What :func:`preview` returned.
    console
        A ``rich.console.Console``.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table("section", "cells", "z, µm", "pitch, µm", "width × height, µm", "units", box=box.SIMPLE_HEAD)
    for s in found["sections"]:
        size = " × ".join(f"{length:,.0f}" for length in s["extent_um"])
        cells = (s["name"], f"{s['cells']:,}", f"{s['z_um']:g}", f"{s['pitch_um']:.4g}", size, s["units_source"])
        table.add_row(*(escape(str(cell)) for cell in cells))
    console.print(table)
    console.print(f"Values: {found['values']}, {found['features']:,} shared features, {found['cells']:,} cells.")
    for message in found["messages"]:
        console.print(f"[dim]note:[/dim] {escape(message)}", soft_wrap=True)
    if "reference" in found:
        _show_reference(found["reference"], console)
    cost = found["estimate"]
    console.print(
        f"'reconstruct' would align {len(found['pairs'])} pairs (neighbours and next neighbours) by "
        f"{found['method']!r}, "
        f"reflection {found['reflection']!r}, in the frame of {escape(found['anchor'])}.",
        soft_wrap=True,
    )
    console.print(
        f"About {_duration(cost['seconds'])} on two CPU cores at the first run, and {cost['memory_mb'] / 1000:.1f} "
        "GB of memory.",
        soft_wrap=True,
    )


def _show_reference(found: dict[str, Any], console: Any) -> None:
    from rich.markup import escape

    console.print(
        f"Reference: {found['cells']:,} cells of {len(found['types'])} types, {found['genes']:,} genes shared with all "
        "sections.",
        soft_wrap=True,
    )
    for message in found["messages"]:
        console.print(f"[dim]note:[/dim] Composition: {escape(message)}", soft_wrap=True)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _bytes(values: Any) -> int:
    if hasattr(values, "indptr"):
        return values.data.nbytes + values.indices.nbytes + values.indptr.nbytes
    return values.nbytes
