"""The journal: what became of each row, as soon as it is known, so that a run goes on where the last one was ended.

A file of JSON objects, a line each, that is appended to and reaches the disk line by line. Files may be put one behind
another: each run begins with a line of its own.

    {"run": FACTS}                    a run begins; lines up to the next such line are of it
    {"plan": [ROW, ...]}              what it means to measure
    {"begun": ROW}
    {"row": ROW, "outcome": {...}}    what became of it: times, or `error` or `wrong` and why
    {"row": ROW, "left": REASON}      it was not reached, and is tried again next time
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

ATTEMPTS = 2
"""Runs that may end while a row is measured; the row is held to be the reason then."""


class Row(NamedTuple):
    step: str  # "smoke", "kernels" or "bench"
    op: str
    work: str
    implementation: str
    layout: str

    @property
    def worker(self) -> str:
        """What the rows have in common that one worker measures: the implementation, in each of its precisions."""
        return self.implementation.partition(", fast")[0]

    def __str__(self) -> str:
        return ", ".join(part for part in (f"{self.op}: {self.work}", self.implementation, self.layout) if part)


@dataclass
class Run:
    """What the journal knows of runs with the same facts `of`: device, input and sources."""

    facts: dict[str, Any]
    planned: list[Row] = field(default_factory=list)
    outcomes: dict[Row, dict[str, Any]] = field(default_factory=dict)
    left: dict[Row, str] = field(default_factory=dict)
    begun: Counter[Row] = field(default_factory=Counter)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row that was planned or measured, with what became of it."""
        for row in dict.fromkeys([*self.planned, *self.outcomes]):
            outcome = self.outcomes.get(row)
            if outcome is None:
                reason = self.left.get(row) or ("the run was ended in it" if self.begun[row] else "not reached")
                outcome = {"error": reason, "left": True}
            yield row._asdict() | {"of": self.facts["of"]} | outcome


def read(path: Path) -> list[Run]:
    """The runs of a journal, which need not exist, in the order in which they began; lines that a kill cut off do not
    count."""
    runs: dict[str, Run] = {}
    run = None
    content = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for text in content.splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if "run" in line:
            run = runs.setdefault(line["run"]["of"], Run({}))
            run.facts = merged(run.facts, line["run"])
        elif run is not None:
            _take(run, line)
    return list(runs.values())


def merged(before: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """Facts, and what only those before them tell."""
    both = {
        name: merged(before[name], value) if isinstance(value, dict) and isinstance(before.get(name), dict) else value
        for name, value in facts.items()
    }
    return before | both


def _take(run: Run, line: dict[str, Any]) -> None:
    if "plan" in line:
        run.planned = list(dict.fromkeys([*run.planned, *(Row(*row) for row in line["plan"])]))
    elif "begun" in line:
        run.begun[Row(*line["begun"])] += 1
    elif "outcome" in line:
        run.outcomes[Row(*line["row"])] = line["outcome"]
    elif "left" in line:
        row = Row(*line["row"])
        run.left[row] = line["left"]
        run.begun[row] = 0


class Journal:
    """A journal that is written to, and the run that it goes on with.

    Args:
        path: of the file; it and its folder are made where there are none.
        facts: of the run. Those before it with the same `of` are gone on with.
        plan: the rows of this run.
    """

    def __init__(self, path: Path, facts: dict[str, Any], plan: Sequence[Row]) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        if self._file.tell():
            self._file.write(b"\n")  # a kill may have left half a line
        self._append({"run": facts})
        self._append({"plan": plan})
        self.run = next(run for run in read(path) if run.facts["of"] == facts["of"])

    def close(self) -> None:
        self._file.close()

    def pending(self, row: Row) -> bool:
        """Whether the row is to be measured. One in which runs were ended too often is not, and fails for that."""
        if row in self.run.outcomes:
            return False
        if self.run.begun[row] >= ATTEMPTS:
            self.end(row, {"error": f"{self.run.begun[row]} runs were ended while it was measured"})
            return False
        return True

    def begin(self, row: Row) -> None:
        self._append({"begun": row})

    def end(self, row: Row, outcome: dict[str, Any]) -> None:
        self._append({"row": row, "outcome": outcome})

    def leave(self, row: Row, reason: str) -> None:
        self._append({"row": row, "left": reason})

    def _append(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        if "run" not in line and hasattr(self, "run"):
            _take(self.run, json.loads(json.dumps(line)))
