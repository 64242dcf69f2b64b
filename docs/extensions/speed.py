"""The directive `speed`: tables of the newest committed results of `npr bench`, of the kinds that its content names,
one a line, or of all."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from benchmarks import plots
from detector.bench import results, table


class Speed(SphinxDirective):
    """Content: kinds, those of `npr bench --only`."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        path = plots.newest()
        if path is None:
            raise self.error("no results of npr bench are committed")
        self.env.note_dependency(str(path))
        found = results.read(path)
        kinds = {line.strip() for line in self.content if line.strip()}
        if kinds:
            found["results"] = [row for row in found["results"] if row["kind"] in kinds]
        if not found["results"]:
            raise self.error(f"{path.name} has no rows of {', '.join(sorted(kinds))}")
        container = nodes.container(classes=["speed"])
        self.state.nested_parse(
            StringList(table.as_tables(found).splitlines(), path.name), self.content_offset, container
        )
        return [container]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("speed", Speed)
    return {"parallel_read_safe": True}
