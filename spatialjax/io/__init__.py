"""The input side of the front door: files and folders to AnnData, AnnData to checked sections in µm."""

from __future__ import annotations

from spatialjax.io.door import open_sections
from spatialjax.io.reading import read, read_table
from spatialjax.io.sections import Section, SectionStack

__all__ = ["Section", "SectionStack", "open_sections", "read", "read_table"]
