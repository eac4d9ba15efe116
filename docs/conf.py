"""Sphinx configuration: prose by hand, tables of methods, options and references from the package itself."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_ext"))

import spatialjax  # noqa: E402

project = "spatialjax"
author = "the spatialjax authors"
copyright = "2026, the spatialjax authors, BSD-3-Clause"
version = release = spatialjax.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "from_package",
    "calibration_page",
    "composition_page",
    "peers_page",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "generated"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
smartquotes_action = "qe"
add_module_names = False
python_use_unqualified_type_names = True
nitpicky = False

html_theme = "furo"
html_title = f"spatialjax {release}"
html_static_path = ["_static"]
html_css_files = ["wide_tables.css"]
