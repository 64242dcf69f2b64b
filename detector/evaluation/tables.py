"""Evaluations as tables on screen, as CSV and as JSON. Percent for people and spreadsheets, fractions in JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from detector.evaluation.bootstrap import Interval
from detector.evaluation.comparison import Cell, Comparison
from detector.evaluation.evaluate import Evaluation, Row
from detector.evaluation.formats import bits, bits_cell, percent, percent_cell
from detector.evaluation.metrics import BITS
from detector.evaluation.robustness import Robustness

# Column heads and the metrics under them, the papers' first and in their order.
COLUMNS = {
    "Acc": "accuracy",
    "AP": "average_precision",
    "Acc real": "real_accuracy",
    "Acc fake": "fake_accuracy",
    "AUC": "auc",
    "best Acc": "best_accuracy",
    "ECE": "ece",
    "FPR95": "fpr95",
}

# What forensics reports, where there is room for it.
FORENSIC_COLUMNS = {
    "EER": "eer",
    "TPR 1%": "tpr_at_1_percent_fpr",
    "TPR .1%": "tpr_at_0_1_percent_fpr",
    "Cllr": "cllr",
    "Cllr min": "cllr_min",
}

# Columns of text that no table needs more of.
_WIDEST = 10_000

_WITH_INTERVALS = ("accuracy", "average_precision", "auc")


def as_table(
    evaluation: Evaluation, title: str | None = None, *, classes: bool = False, forensic: bool = False
) -> Table:
    """A row for each generator and the mean, in percent, costs in bits; a dash where a metric is undefined.

    Args:
        evaluation: intervals are shown below their values where it has some.
        title: of the table.
        classes: a row for each class too.
        forensic: the columns of FORENSIC_COLUMNS too.
    """
    columns = COLUMNS | FORENSIC_COLUMNS if forensic else COLUMNS
    table = Table(title=_title(title, evaluation.provenance.simulated), title_justify="left", padding=(0, 1))
    table.add_column("generator", no_wrap=True)
    table.add_column("images", justify="right")
    for head in columns:
        table.add_column(head, justify="right")
    for name, row in evaluation.rows.items():
        _add_row(table, name, row, columns.values())
        for category, inner in row.classes.items() if classes else ():
            _add_row(table, f"  {category}", inner, columns.values())
    table.add_section()
    mean = evaluation.mean
    cells = [_metric(metric, mean[metric], evaluation.mean_intervals) for metric in columns.values()]
    table.add_row("mean", str(evaluation.images), *cells)
    return table


def as_comparison_table(comparison: Comparison, simulated: str = "") -> Table:
    """Generators as rows, accuracy and average precision of each detector side by side, the mean last, in percent.

    Published columns are numbered; their sources stand below the table.
    """
    table = Table(title=_title(comparison.title, simulated), title_justify="left", padding=(0, 1))
    table.add_column("generator", no_wrap=True)
    for column in comparison.columns:
        table.add_column(Text(f"{column.detector}{comparison.mark(column)}\nAcc"), justify="right")
        table.add_column("\nAP", justify="right")
    for name in comparison.generators:
        cells = [column.cells.get(name, Cell()) for column in comparison.columns]
        table.add_row(Text(name), *(text for cell in cells for text in _pair(cell)))
    table.add_section()
    table.add_row("mean", *(text for column in comparison.columns for text in _pair(column.mean)))
    if comparison.sources:
        table.caption = Text("\n".join(f"[{i}] {source}" for i, source in enumerate(comparison.sources, 1)))
        table.caption_justify = "left"
    return table


def as_robustness_table(results: Sequence[Robustness]) -> Table:
    """Conditions as rows; means over the generators of accuracy and average precision of each detector, in percent."""
    notes = dict.fromkeys(result.provenance.simulated for result in results)
    table = Table(title=_title("means over the generators", "\n".join(notes)), title_justify="left", padding=(0, 1))
    table.add_column("condition", no_wrap=True)
    for result in results:
        table.add_column(Text(f"{result.provenance.detector}\nAcc"), justify="right")
        table.add_column("\nAP", justify="right")
    for condition in dict.fromkeys(condition for result in results for condition in result.points):
        points = [result.points.get(condition) for result in results]
        cells = [
            Cell() if point is None else Cell(point.mean_accuracy, point.mean_average_precision) for point in points
        ]
        table.add_row(str(condition), *(text for cell in cells for text in _pair(cell)))
    return table


def print_table(table: Table) -> None:
    """On standard output; at its full width where that is no terminal."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, _width(console, table))
    console.print(table)


def fits(table: Table) -> bool:
    """Whether `print_table` would show it at its full width."""
    console = Console()
    return not console.is_terminal or _width(console, table) <= console.width


def as_csv(*evaluations: Evaluation) -> str:
    """Metrics in percent, empty where undefined: a row for each generator, class and mean of each detector.

    Columns: detector, generator ("mean" in the last row of a detector), class, images, reals, fakes, the metrics, the
    best threshold, the ends of the intervals, and the forensic metrics, of which costs are in bits.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = [f"{metric}_{end}" for metric in _WITH_INTERVALS for end in ("low", "high")]
    names = ["detector", "generator", "class", "images", "reals", "fakes"]
    writer.writerow([*names, *COLUMNS.values(), "best_threshold", *ends, *FORENSIC_COLUMNS.values()])
    for evaluation in evaluations:
        detector = evaluation.provenance.detector
        for name, row in evaluation.rows.items():
            for category, inner in {"": row, **row.classes}.items():
                writer.writerow([detector, name, category, *_counts([inner]), *_values(inner)])
        mean = evaluation.mean
        rates = [percent_cell(mean[metric]) for metric in COLUMNS.values()]
        forensic = [_metric_cell(metric, mean[metric]) for metric in FORENSIC_COLUMNS.values()]
        counts = _counts(evaluation.rows.values())
        writer.writerow([detector, "mean", "", *counts, *rates, "", *_ends(evaluation.mean_intervals), *forensic])
    return text.getvalue()


def as_json(evaluation: Evaluation, **context: Any) -> str:
    """`Evaluation.to_dict` and the given context, as one JSON object."""
    return json.dumps(context | evaluation.to_dict(), indent=2) + "\n"


def _width(console: Console, table: Table) -> int:
    return Measurement.get(console, console.options.update(width=_WIDEST), table).maximum


def _add_row(table: Table, name: str, row: Row, metrics: Iterable[str]) -> None:
    cells = [_metric(metric, getattr(row.metrics, metric), row.intervals) for metric in metrics]
    table.add_row(Text(name), str(row.images), *cells)


def _pair(cell: Cell) -> tuple[str, str]:
    return (
        _with_interval(cell.accuracy, cell.accuracy_interval),
        _with_interval(cell.average_precision, cell.average_precision_interval),
    )


def _metric(metric: str, value: float | None, intervals: Mapping[str, Interval]) -> str:
    return bits(value) if metric in BITS else _with_interval(value, intervals.get(metric))


def _metric_cell(metric: str, value: float | None) -> str:
    return bits_cell(value) if metric in BITS else percent_cell(value)


def _with_interval(value: float | None, interval: Interval | None) -> str:
    return percent(value) if interval is None else f"{percent(value)}\n{percent(interval[0])}..{percent(interval[1])}"


def _title(title: str | None, simulated: str) -> Text | None:
    return Text("\n".join(filter(None, (title, simulated)))) if title or simulated else None


def _counts(rows: Iterable[Row]) -> tuple[int, int, int]:
    """Images, reals and fakes of all of them."""
    counts = [(row.images, row.metrics.reals, row.metrics.fakes) for row in rows]
    images, reals, fakes = map(sum, zip(*counts, strict=True)) if counts else (0, 0, 0)
    return images, reals, fakes


def _values(row: Row) -> list[str]:
    """Cells from the metrics on."""
    threshold = row.metrics.best_threshold
    rates = [percent_cell(getattr(row.metrics, metric)) for metric in COLUMNS.values()]
    forensic = [_metric_cell(metric, getattr(row.metrics, metric)) for metric in FORENSIC_COLUMNS.values()]
    return [*rates, "" if threshold is None else f"{threshold:.6g}", *_ends(row.intervals), *forensic]


def _ends(intervals: dict[str, Interval]) -> Sequence[str]:
    return [percent_cell(end) for metric in _WITH_INTERVALS for end in intervals.get(metric, (None, None))]
