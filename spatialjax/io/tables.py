"""Tables that platforms write: csv, csv.gz and parquet; and wide count tables read a block at a time."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from spatialjax.checks import InputError, listed

if TYPE_CHECKING:
    import pandas as pd

_BLOCK = 2048


def find(folder: Path, *patterns: str) -> Path | None:
    """The first file or folder (by name) that the first fitting pattern finds; hidden ones are passed over."""
    for pattern in patterns:
        found = sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
        if found:
            return found[0]
    return None


def need(folder: Path, what: str, *patterns: str) -> Path:
    """As ``find``, but nothing found is an ``InputError`` that lists what is there."""
    found = find(folder, *patterns)
    if found is None:
        there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        raise InputError(
            f"Expected {what} ({' or '.join(patterns)}) in {str(folder)!r}, found {listed(there, limit=12)}. Copy the "
            "whole output folder of the platform."
        )
    return found


def read_table(folder: Path, what: str, *patterns: str, **options: Any) -> pd.DataFrame:
    """The first table that fits a pattern; parquet files are passed over where pyarrow is missing and a csv is there.

    Parameters
    ----------
    folder
        Where to look.
    what
        What the table holds, for the message.
    patterns
        File patterns, the preferred one first.
    options
        Passed to ``pandas.read_csv``.
    """
    import pandas as pd

    parquet = [p for p in patterns if p.endswith(".parquet")]
    csv = [p for p in patterns if not p.endswith(".parquet")]
    has_pyarrow = importlib.util.find_spec("pyarrow") is not None
    path = need(folder, what, *(patterns if has_pyarrow else csv + parquet))
    if path.suffix != ".parquet":
        return pd.read_csv(path, **options)
    if not has_pyarrow:
        raise InputError(
            f"Expected the package pyarrow, which reads {path.name!r}, found that it is not installed. Install "
            "spatialjax[spatialdata], or give the table as csv."
        )
    return pd.read_parquet(path)


def as_text(values: Any) -> np.ndarray:
    """Names as text, also where a file holds bytes."""
    return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values], dtype=str)


def read_wide_counts(
    path: Path, *, index: Callable[[list[str]], Sequence[str]]
) -> tuple[pd.DataFrame, list[str], sp.csr_matrix]:
    """A count table with one row a cell and one column a gene, read in blocks so that it is never dense as a whole.

    Parameters
    ----------
    path
        csv or csv.gz.
    index
        Which of the columns name the cell, given all column names.

    Returns
    -------
    tuple
        The columns that name the cells (text), the genes, and the (n, p) counts.

    Raises
    ------
    InputError
        If a gene column holds no numbers.
    """
    import pandas as pd

    header = list(pd.read_csv(path, nrows=0).columns)
    keys = list(index(header))
    genes = [column for column in header if column not in keys]
    names, blocks = [], []
    for block in pd.read_csv(path, chunksize=_BLOCK, dtype=dict.fromkeys(keys, str)):
        names.append(block[keys])
        values = block[genes].to_numpy()
        if values.dtype.kind not in "iuf":
            raise InputError(f"Expected numbers in every gene column of {path.name!r}, found text.")
        if not np.isfinite(values).all():
            raise InputError(f"Expected counts in every cell of {path.name!r}, found empty ones: the file may be cut.")
        blocks.append(sp.csr_matrix(values, dtype=np.float32))
    if not blocks:
        raise InputError(f"Expected a row for each cell in {path.name!r}, found none.")
    return pd.concat(names, ignore_index=True), genes, sp.vstack(blocks, format="csr")


def drop_controls(
    counts: sp.csr_matrix, genes: Sequence[str], control: str
) -> tuple[sp.csr_matrix, list[str], list[str]]:
    """The counts without control probes, the remaining genes and a note that says how many were left out.

    Parameters
    ----------
    counts
        (n, p) counts.
    genes
        Names of the columns.
    control
        Regular expression that a control's name begins with.
    """
    import re

    keep = [i for i, gene in enumerate(genes) if not re.match(control, gene)]
    left = len(genes) - len(keep)
    notes = [f"{left} control probes were left out, {len(keep)} genes kept."] if left else []
    return counts[:, keep], [genes[i] for i in keep], notes
