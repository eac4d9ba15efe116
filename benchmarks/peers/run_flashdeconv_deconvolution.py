"""FlashDeconv by its authors' package, all defaults: spatial smoothing along the spots' places included."""

from __future__ import annotations

from typing import Any

import flashdeconv
import pandas as pd

PACKAGES = ("flashdeconv", "numba", "numpy")
#: Its signatures are brought to one depth, so that its shares are shares of the counts.
SHARES_OF = "rna"


def call(spots: Any, reference: Any, options: dict[str, Any]) -> pd.DataFrame:
    """The proportions that it stores."""
    spots = spots.copy()
    flashdeconv.tl.deconvolve(spots, reference, cell_type_key="cell_type", random_state=options["seed"])
    return spots.obsm["flashdeconv"]
