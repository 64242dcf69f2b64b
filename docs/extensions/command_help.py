"""The directive `command-help`: what `npr COMMAND --help` prints, of each command, under a heading of its name."""

from __future__ import annotations

import argparse
import os
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from detector.cli import COMMANDS, _parser

COLUMNS = 100


class CommandHelp(SphinxDirective):
    """Takes no arguments."""

    def run(self) -> list[nodes.Node]:
        return [self.section(command) for command in COMMANDS]

    def section(self, command: str) -> nodes.section:
        title = f"npr {command}"
        section = nodes.section(ids=[nodes.make_id(title)], names=[title])
        text = help_of(command)
        section += nodes.title(title, title)
        section += nodes.literal_block(text, text, language="text")
        self.state.document.note_explicit_target(section)
        return section


def help_of(command: str) -> str:
    (subparsers,) = (each for each in _parser(command)._actions if isinstance(each, argparse._SubParsersAction))
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(COLUMNS)
    try:
        return subparsers.choices[command].format_help()
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
