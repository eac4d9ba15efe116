"""Numbers and names as short text that is safe inside a page: one byte a cell, deflated, base64."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

#: Code of a cell without a value.
MISSING = 255
#: Largest code of a value.
LEVELS = 254
#: Share of codes other than 0 up to which gaps take less room (at a twentieth a third less).
SPARSE_BELOW = 0.2


@dataclass(frozen=True)
class Quantised:
    """Values as one byte a cell: ``low + code / 254 * (high - low)``; code 255 is a missing value.

    Attributes
    ----------
    codes
        (n,) codes.
    low, high
        Smallest and largest value, in the unit of the values.
    limits
        Where the colours start and end: the range without the outermost percent of the cells.
    """

    codes: UInt8[np.ndarray, " n"]
    low: float
    high: float
    limits: tuple[float, float]


def quantise(
    values: Float[np.ndarray, " n"], *, limits: tuple[float, float] | None = None, from_zero: bool = False
) -> Quantised:
    """Round values to 255 levels between the smallest and the largest one.

    Parameters
    ----------
    values
        Any unit; NaN and infinity are missing values.
    limits
        Where the colours start and end; the 1st and 99th percentile where left out.
    from_zero
        Let the colours start at the smallest value instead of the 1st percentile (expression: 0 is a value like any
        other).

    Returns
    -------
    Quantised
        The error of a value is at most ``(high - low) / 508``.
    """
    values = np.asarray(values, np.float64)
    finite = np.isfinite(values)
    codes = np.full(values.shape, MISSING, np.uint8)
    if not finite.any():
        return Quantised(codes, 0.0, 1.0, (0.0, 1.0) if limits is None else limits)
    found = values[finite]
    low, high = float(found.min()), float(found.max())
    width = high - low
    if width > 0:
        codes[finite] = np.rint((found - low) / width * LEVELS).astype(np.uint8)
    else:
        codes[finite] = 0
    if limits is None:
        lower, upper = np.percentile(found, [1.0, 99.0])
        lower = low if from_zero else float(lower)
        limits = (float(lower), float(upper)) if upper > lower else (low, high if high > low else low + 1.0)
    return Quantised(codes, low, high, limits)


def deflated(data: bytes) -> str:
    """Bytes as base64 of a zlib stream, which browsers inflate themselves."""
    return base64.b64encode(zlib.compress(data, 4)).decode("ascii")


def deflated_codes(codes: UInt8[np.ndarray, " n"]) -> dict[str, Any]:
    """Codes of all cells, or where few of them differ from 0 only these with the gaps between them.

    Returns
    -------
    dict
        ``codes``, and for the second kind ``nonzero``, the number of codes: the stream then holds first the gaps and
        then the codes. A gap is the number of zeros before a code, as bytes: 255 as often as it fits, then the rest.
    """
    places = np.flatnonzero(codes)
    if len(places) > len(codes) * SPARSE_BELOW:
        return {"codes": deflated(codes.tobytes())}
    gaps = np.diff(places, prepend=-1) - 1
    full, rest = np.divmod(gaps, 255)
    stream = np.full(int(full.sum()) + len(gaps), 255, np.uint8)
    stream[np.cumsum(full + 1) - 1] = rest
    return {"codes": deflated(stream.tobytes() + codes[places].tobytes()), "nonzero": len(places)}


def deflated_floats(values: Float[np.ndarray, "..."]) -> str:
    """An array as little-endian float32."""
    return deflated(np.ascontiguousarray(values, "<f4").tobytes())


def deflated_names(names: Sequence[str] | np.ndarray) -> str:
    """Names as a JSON list, deflated: no character of a name reaches the page itself."""
    return deflated(json.dumps([str(name) for name in names], ensure_ascii=False).encode("utf-8", "surrogatepass"))


def inert_json(value: Any) -> str:
    """JSON that a page may hold inside a script element: ASCII only, without ``<``, ``>`` and ``&``.

    A name such as ``</script>`` would otherwise end the element and be read as HTML.
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
