"""STCC's golden case: ``python benchmarks/authors/stcc.py --source FOLDER`` with the package STCC unpacked in it.

Needs torch (for the shared part), pandas, scikit-learn and cvxopt. The package has no licence.
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

import case
import numpy as np
import pandas as pd

DOMAINS, MEMBERS, WRONG = 3, 8, 0.25
VARIANTS = {"average": "Average-based", "one-hot": "Onehot-based", "wnmf": "wNMF-based"}


def make(source: Path) -> dict[str, Any]:
    """The consensus of eight partitions with a quarter of the labels drawn at random, in the variants of their code."""
    case.package(source / "STCC", "STCC")
    from STCC.consensus_STCC import consensus_STCC

    truth = np.repeat(np.arange(DOMAINS), [30, 20, 10])
    generator = np.random.default_rng(17)
    noise = generator.random((MEMBERS, len(truth))) < WRONG
    members = np.where(noise, generator.integers(0, DOMAINS, noise.shape), truth)
    # Names of labels have no meaning: each member has its own.
    members = np.array([generator.permutation(DOMAINS)[member] for member in members])
    table = pd.DataFrame(members.T, columns=[f"member{i}" for i in range(MEMBERS)])
    kept: dict[str, Any] = {"labels": members.T, "truth": truth}
    with contextlib.redirect_stdout(io.StringIO()):
        for name, method in VARIANTS.items():
            found = consensus_STCC(table, n_clusters=DOMAINS, methods=method)
            kept[name], weights = found if isinstance(found, tuple) else (found, None)
    return kept | {"member_weights": weights}


if __name__ == "__main__":
    sys.exit(case.run("stcc", make, packages=("scikit-learn", "cvxopt", "pandas", "numpy")))
