"""PASTE by its authors' package: ``pairwise_align`` with its defaults, or with ``norm=True``."""

from __future__ import annotations

from typing import Any

import pair
import paste


def call(source: Any, target: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The plan."""
    return {"plan": paste.pairwise_align(source, target, norm=options["norm"])}


if __name__ == "__main__":
    pair.run(call, packages=("paste-bio", "POT", "numpy"))
