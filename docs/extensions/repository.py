"""What the repository's pages need to be a site: links to its folders are text there, and index.html leads to docs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx


def unlink_folders(app: Sphinx, docname: str, source: list[str]) -> None:
    """A link to a folder, which the site does not have, becomes its text."""
    here = Path(app.env.doc2path(docname)).parent

    def text_of(link: re.Match[str]) -> str:
        return link[1] if (here / link[2]).is_dir() else link[0]

    source[0] = re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", text_of, source[0])


def write_front_page(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.name == "html":
        first = f"{app.config.root_doc}.html"
        page = (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={first}">'
            f'<title>{app.config.project}</title><a href="{first}">{app.config.project}</a></html>\n'
        )
        Path(app.outdir, "index.html").write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", unlink_folders)
    app.connect("build-finished", write_front_page)
    return {"parallel_read_safe": True}
