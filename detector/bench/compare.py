"""Two results files compared: what of ours got slower, whichever machine each was measured on.

A time says little beside one of another machine or hour. What is compared is our time over those of the rivals that
were measured in turns with it, new over old, for each rival that both files have. The change of a case is the median
over its rivals, so that one rival that got faster or slower by itself does not decide.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

OURS = ("npr", "npr-int8")

Key = tuple[str, str, int, int, str]  # kind, work, batch, size, setting


@dataclass(frozen=True)
class Change:
    """What became of one of our rows.

    Attributes:
        name: of the case and implementation.
        factor: our time over the rivals', new over old: 1.1 is a tenth slower; None where it is no longer measured.
        rivals: that it rests on.
        error: why it is no longer measured.
    """

    name: str
    factor: float | None
    rivals: tuple[str, ...] = ()
    error: str | None = None

    def is_slower(self, tolerance: float) -> bool:
        return self.factor is None or self.factor > 1 + tolerance


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """The changes of what both files have, in the order of the new one.

    Raises:
        ValueError: they have nothing in common.
    """
    changes = list(_changes(_by_case(old), _by_case(new)))
    if not changes:
        raise ValueError("the two files have nothing in common that could be compared")
    return changes


def _changes(old: dict[Key, dict[str, dict]], new: dict[Key, dict[str, dict]]) -> Iterator[Change]:
    for key, rows in new.items():
        before = old.get(key, {})
        both = [name for name in rows if _time(rows, name) and _time(before, name)]
        rivals = tuple(name for name in both if name not in OURS)
        for name in OURS:
            title = f"{_title(key)}: {name}"
            if name in both and rivals:
                factors = [_relative(rows, name, rival) / _relative(before, name, rival) for rival in rivals]
                yield Change(title, statistics.median(factors), rivals)
            elif _time(before, name) and name in rows and not _time(rows, name):
                yield Change(title, None, error=rows[name].get("error"))


def _by_case(results: dict[str, Any]) -> dict[Key, dict[str, dict]]:
    cases: dict[Key, dict[str, dict]] = {}
    for row in results["results"]:
        key = (row["kind"], row["work"], row["batch"], row["size"], row["setting"])
        cases.setdefault(key, {})[row["implementation"]] = row
    return cases


def _time(rows: dict[str, dict], name: str) -> float | None:
    return rows.get(name, {}).get("ms_per_image")


def _relative(rows: dict[str, dict], name: str, rival: str) -> float:
    """Our time over the rival's; by their ratios to npr, which compare round with round, where that was measured."""
    if "ratio" in rows[rival]:
        return rows[name].get("ratio", 1.0) / rows[rival]["ratio"]
    return rows[name]["ms_per_image"] / rows[rival]["ms_per_image"]


def _title(key: Key) -> str:
    _, work, batch, size, setting = key
    return f"{work}, {batch} of {size}x{size}, {setting}"
