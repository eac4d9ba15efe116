"""The command line: one module for each kind of command.

``stack`` (``reconstruct``, ``validate``, ``demo``), ``sections`` (``register``, ``add-section``, ``align``), ``labels``
(``transfer-labels``), ``regions`` (``domains``), ``deconvolution`` (``deconvolve``), ``cells`` (``map-cells``),
``pictures`` (``warp-images``) and ``about`` (``info``, ``methods``, ``cite``).

Exit codes: 0 all is well, 1 a file could not be written, 2 the input cannot be used, 3 finished but a section could
not be placed, 130 interrupted.
"""

from __future__ import annotations

from spatialjax.cli.application import app, main

# isort: split
from spatialjax.cli import stack, sections, labels, regions, deconvolution, cells, pictures, about  # noqa: F401, I001 - registered in the order of the help

__all__ = ["app", "main"]
