"""PASTE2 by its authors' package: the overlap estimated by their rule, or given."""

from __future__ import annotations

from typing import Any

import pair
from paste2 import PASTE2, model_selection


def call(source: Any, target: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The plan; ``options["overlap"]`` is the share that is matched, None to estimate it."""
    share = options["overlap"]
    note = "overlap given: the true one" if share is not None else ""
    if share is None:
        share = model_selection.select_overlap_fraction(source, target)
        note = f"overlap estimated: {share:.2f}"
    return {"plan": PASTE2.partial_pairwise_align(source, target, s=share, verbose=False), "note": note}


if __name__ == "__main__":
    pair.run(call, packages=("paste2", "POT", "numpy"))
