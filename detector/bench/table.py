"""A results file as tables in Markdown, and a comparison as lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detector.bench.compare import Change

LEGEND = """\
times faster: that npr is than this row, round by round in the same run. of the floor: the share of the time that the
machine's own multiply-adds and copies would take, for float32; convolutions count as they are defined, and Winograd's
need fewer multiply-adds. MB: resident memory at most, beyond that of the process before it built anything.
default: the allocator as it is; kept: glibc keeps freed memory, as the commands of npr tell it to."""


def as_tables(results: dict[str, Any]) -> str:
    """The machine, a table a case, what was not measured, and what the columns mean."""
    settings = list(dict.fromkeys(row["setting"] for row in results["results"]))
    cases: dict[tuple, list[dict[str, Any]]] = {}
    for row in results["results"]:
        cases.setdefault((row["kind"], row["work"], row["batch"], row["size"]), []).append(row)
    parts = [heading(results)]
    parts += [_case_table(key, rows, settings) for key, rows in cases.items()]
    return "\n\n".join(part for part in [*parts, _failures(results["results"]), LEGEND] if part)


def heading(results: dict[str, Any]) -> str:
    """The machine, the software, and the floors, in one line."""
    machine, per_second, load = results["machine"], results["floors_per_second"], results["load_average"]
    rivals = [f"{name} {version}" for name, version in results["rivals"].items() if version]
    facts = [
        f"{machine['cpu']}, {machine['threads']} threads, {machine['instruction_set'] or 'no kernels'}",
        ", ".join([f"torch {machine['torch']}", *rivals]),
        results["date"],
    ]
    if load:
        facts.append(f"load average {load['least']} to {load['most']}")
    peaks = []
    if per_second["multiply_adds"]:
        peaks.append(f"{per_second['multiply_adds'] / 1e9:.0f} G multiply-adds/s")
    if per_second["bytes"]:
        peaks.append(f"{per_second['bytes'] / 1e9:.0f} GB/s copied")
    return f"{'; '.join(facts)}. Floors: {', '.join(peaks) or 'not measured'}."


def _case_table(key: tuple, rows: Sequence[dict[str, Any]], settings: Sequence[str]) -> str:
    _, work, batch, size = key
    of = {(row["implementation"], row["setting"]): row for row in rows}
    columns = [
        column for setting in settings for column in (f"{setting}, ms/image", "times faster", "of the floor", "MB")
    ]
    lines = [[f"{work}, {batch} of {size}x{size}", *columns]]
    for name in dict.fromkeys(row["implementation"] for row in rows):
        lines.append([name, *(cell for setting in settings for cell in _cells(of.get((name, setting))))])
    return align(lines)


def _cells(row: dict[str, Any] | None) -> list[str]:
    if row is None or "error" in row:
        return ["not measured", "", "", ""]
    time, floor, memory = row["ms_per_image"], row["floor_ms"], row["memory"]
    return [
        f"{time:.4g}" if time >= 100 else f"{time:.3g}",
        f"{row['ratio']:.2f}" if "ratio" in row else "",
        f"{100 * floor / time:.0f} %" if floor else "",
        "" if memory is None else f"{memory / 2**20:.0f}",
    ]


def align(lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown whose columns also line up as plain text; the first line is its head."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return f"| {' | '.join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)])} |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([line(lines[0]), f"|{rule}|", *map(line, lines[1:])])


def _failures(rows: Sequence[dict[str, Any]]) -> str:
    """Why rows were not measured, each reason once a case."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if "error" in row:
            case = f"{row['work']}, {row['batch']} of {row['size']}x{row['size']}"
            reasons.setdefault((case, row["error"]), []).append(row["implementation"])
    return "\n".join(
        f"Not measured: {case}: {', '.join(dict.fromkeys(names))}: {error}" for (case, error), names in reasons.items()
    )


def as_lines(changes: Sequence[Change], tolerance: float) -> list[str]:
    """What got slower, by name, then what was compared."""
    lines = []
    for change in changes:
        if change.is_slower(tolerance):
            what = (
                f"no longer measured: {change.error}"
                if change.factor is None
                else f"{100 * (change.factor - 1):.1f} % slower beside {', '.join(change.rivals)}"
            )
            lines.append(f"{change.name}: {what}")
    factors = [change.factor for change in changes if change.factor is not None]
    faster = sum(factor < 1 / (1 + tolerance) for factor in factors)
    lines.append(
        f"{len(changes)} compared: {len(lines)} slower by more than {100 * tolerance:g} %, {faster} faster by as much"
    )
    return lines
