"""Makes a notebook of a page: its Python as code, run, with what it prints; the rest as Markdown.

    python docs/make_notebook.py            # docs/tutorials/layer.ipynb, from layer.md

The page is the source; tests/test_tutorials.py holds the notebook's text to it.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "tutorials" / "layer.md"


def cells(page: str) -> list[tuple[str, str]]:
    """The page's pieces in order: "code" or "markdown", and text."""
    pieces = re.split(r"^```python\n(.*?)^```\n", page, flags=re.DOTALL | re.MULTILINE)
    found = [("code" if i % 2 else "markdown", piece.strip("\n")) for i, piece in enumerate(pieces)]
    return [(kind, text) for kind, text in found if text]


def notebook(page: str, outputs: list[str] | None = None) -> dict[str, Any]:
    """The notebook (format 4.5) of a page; `outputs` has what each of its pieces of code printed."""
    printed = iter(outputs or ())
    made = []
    for number, (kind, text) in enumerate(cells(page)):
        cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": lines(text)}
        if kind == "code":
            output = next(printed, "")
            cell |= {"execution_count": None, "outputs": []}
            if output:
                cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": lines(output)}]
        made.append(cell)
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return {"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


def lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def run(page: str) -> list[str]:
    """What each piece of code prints."""
    names: dict[str, Any] = {"__name__": "__main__"}
    outputs = []
    for kind, text in cells(page):
        if kind == "code":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(text, "cell", "exec"), names)
            outputs.append(printed.getvalue())
    return outputs


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    text = json.dumps(notebook(page, run(page)), indent=1, ensure_ascii=False) + "\n"
    PAGE.with_suffix(".ipynb").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
