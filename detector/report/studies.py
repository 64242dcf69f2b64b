"""Series of runs on the page: diversity of the training classes, and ablation of the residual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from detector.report.markup import Section, cell, figure, paragraph, rate, table
from detector.report.plots import FAINT, Plot, colours


def study_sections(results: Sequence[Mapping[str, Any]], _: Mapping[str, str]) -> list[Section]:
    """A section for each series."""
    return [_section(result) for result in results]


def _section(result: Mapping[str, Any]) -> Section:
    body = paragraph(result["held"])
    body += paragraph(result["simulated"], classes="note") if result["simulated"] else ""
    if not result["outcomes"]:
        return Section(result["title"], body + paragraph("No run is finished yet."))
    body += _table(result)
    if result["kind"] == "diversity":
        body += figure(_curve(result), "Average precision over the number of classes. Thin: each generator.")
    return Section(result["title"], body)


def _table(result: Mapping[str, Any]) -> str:
    published = result["published"] or {}
    heads = [cell(result["varied"], tag="th")]
    heads += [cell(head, tag="th", classes="number") for head in ("images", "Acc", "AP")]
    if published:
        heads.append(cell("published AP [1]", tag="th", classes="number published"))
    rows = []
    for outcome in result["outcomes"]:
        row = [f'<th scope="row">{escape(str(outcome["name"]))}</th>']
        row.append(cell(str(outcome["training_images"]), classes="number"))
        row += [rate(outcome["accuracy"], shaded=True), rate(outcome["average_precision"], shaded=True)]
        if published:
            row.append(rate(published["average_precision"].get(outcome["name"])))
        rows.append(row)
    source = f'<ol class="sources"><li>{escape(published["source"])}</li></ol>\n' if published else ""
    return table([heads], rows) + source


def _curve(result: Mapping[str, Any]) -> str:
    outcomes = result["outcomes"]
    counts = [len(outcome["what"]["classes"]) for outcome in outcomes]
    mean_colour, published_colour = colours(["mean", "published"]).values()
    with Plot(6, 3.4) as plot:
        (axis,) = plot.axes()
        for name in outcomes[0]["generators"]:
            values = [_percent(outcome["generators"][name]["average_precision"]) for outcome in outcomes]
            axis.plot(counts, values, color=FAINT, linewidth=0.7)
        means = [_percent(outcome["average_precision"]) for outcome in outcomes]
        axis.plot(counts, means, color=mean_colour, marker="o", label="mean over the generators")
        if result["published"]:
            figures = result["published"]["average_precision"]
            values = [_percent(figures.get(outcome["name"])) for outcome in outcomes]
            axis.plot(counts, values, color=published_colour, marker="s", linestyle="--", label="published [1]")
        axis.set_xticks(counts)
        axis.set_xlabel("classes trained on")
        axis.set_ylabel("average precision, %")
        axis.legend()
    return plot.svg("Average precision over the number of training classes, as a curve")


def _percent(value: float | None) -> float:
    return float("nan") if value is None else 100 * value
