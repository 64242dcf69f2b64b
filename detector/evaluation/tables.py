"""An evaluation as a table on screen, as CSV and as JSON. Percent for people and spreadsheets, fractions in JSON."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from rich.table import Table

from detector.evaluation.evaluate import Evaluation

# Column heads and the metrics under them, in the order in which the papers name them.
COLUMNS = {
    "Acc": "accuracy",
    "AP": "average_precision",
    "Acc real": "real_accuracy",
    "Acc fake": "fake_accuracy",
    "AUC": "auc",
}


def as_table(evaluation: Evaluation, title: str | None = None) -> Table:
    """A row for each generator and the mean, in percent; a dash where a metric is undefined."""
    table = Table(title=title, title_justify="left")
    table.add_column("generator", no_wrap=True)
    table.add_column("images", justify="right")
    for head in COLUMNS:
        table.add_column(head, justify="right")
    for name, row in evaluation.rows.items():
        values = (getattr(row.metrics, metric) for metric in COLUMNS.values())
        table.add_row(name, str(row.images), *map(_percent, values))
    table.add_section()
    table.add_row("mean", str(evaluation.images), *(_percent(evaluation.mean[metric]) for metric in COLUMNS.values()))
    return table


def as_csv(evaluation: Evaluation) -> str:
    """generator, images, reals, fakes and the metrics in percent, empty where undefined; the last row is the mean."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["generator", "images", "reals", "fakes", *COLUMNS.values()])
    rows = evaluation.rows
    for name, row in rows.items():
        values = [getattr(row.metrics, metric) for metric in COLUMNS.values()]
        writer.writerow([name, row.images, row.metrics.reals, row.metrics.fakes, *map(_cell, values)])
    totals = [sum(getattr(row.metrics, count) for row in rows.values()) for count in ("images", "reals", "fakes")]
    writer.writerow(["mean", *totals, *(_cell(evaluation.mean[metric]) for metric in COLUMNS.values())])
    return text.getvalue()


def as_json(evaluation: Evaluation, **context: Any) -> str:
    """`Evaluation.to_dict` and the given context, as one JSON object."""
    return json.dumps(context | evaluation.to_dict(), indent=2) + "\n"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.4f}"
