"""The page: sections one after another, styles inside, nothing fetched from anywhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from detector.files import write_text


def write_report(path: str | os.PathLike[str], title: str, results: Sequence[Mapping[str, Any]]) -> None:
    """Writes the page, whole or not at all.

    Args:
        path: the HTML file.
        title: of the page.
        results: as their `to_dict` gives them, or as read from JSON.

    Raises:
        ValueError: a result is of no kind that can be shown, or damaged.
        OSError: the file cannot be written.
    """
    write_text(path, f"<!doctype html>\n<title>{escape(title)}</title>\n<h1>{escape(title)}</h1>\n")
