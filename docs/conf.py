"""How Sphinx builds the site: `make docs`.

The source folder is the repository, so that links between pages are those that work beside each other on disk, and
links to source files lead to the files. Pages of the site: docs, and the Markdown of the top folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "extensions")]

from npr_kernels.installation import __version__  # noqa: E402

project = "npr-kernels"
author = "The npr-kernels developers"
copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "command_help",
    "repository",
    "speed",
]

root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md"]
exclude_patterns = [
    # Folders that hold no page, some of which are large.
    *(".*", "build", "csrc", "detector", "npr_kernels", "benchmarks", "tests", "docker", "release"),
    *("runs", "demo", "weights"),
    "docs/extensions",
]

html_theme = "furo"
html_title = f"npr-kernels {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False

myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_use_rtype = False
