"""Evaluations on the page: the comparison as the papers print it, average precision by generator, and each detector's
ROC curves, scores and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from detector.data import FAKE, REAL
from detector.evaluation.bootstrap import Interval
from detector.evaluation.comparison import Cell, Column, Comparison, compare
from detector.evaluation.evaluate import Evaluation, Row
from detector.evaluation.formats import bits
from detector.evaluation.metrics import BITS, chance_average_precision, reliability, roc_curve
from detector.evaluation.tables import COLUMNS, FORENSIC_COLUMNS
from detector.report.markup import Section, cell, coloured, details, figure, paragraph, rate, table
from detector.report.plots import FAINT, FAKES, INK, REALS, Plot, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OTHER = "other"

_METRICS = (*COLUMNS.values(), *FORENSIC_COLUMNS.values())


def evaluation_sections(results: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> list[Section]:
    """A section for each data set, with all detectors that were measured on it."""
    groups: dict[tuple[Any, ...], list[Evaluation]] = {}
    for result in results:
        evaluation = Evaluation.from_dict(result)
        origin = evaluation.provenance
        groups.setdefault((origin.data, origin.split, origin.preset, tuple(evaluation.rows)), []).append(evaluation)
    return [_section(group, colours) for group in groups.values()]


def _section(evaluations: Sequence[Evaluation], colours: Mapping[str, str]) -> Section:
    comparison = compare(evaluations)
    body = _lead(evaluations, comparison)
    body += _comparison_table(comparison, evaluations, colours)
    body += figure(
        _precision_bars(evaluations, colours),
        "Average precision by generator"
        + (", with 95 % intervals of resampled images." if evaluations[0].mean_intervals else ".")
        + " Dashed: guessing.",
    )
    body += "<h3>Scores</h3>\n" + paragraph(
        "For each detector, from left to right: ROC curves of all images together (bold) and of each generator (thin); "
        "how reals and fakes score, an image being called fake right of the dashed line; and calibration, the fakes "
        "among the images of a score, which for calibrated scores are on the diagonal."
    )
    for evaluation in evaluations:
        detector = evaluation.provenance.detector
        body += f"<h4>{coloured(detector, colours[detector])}</h4>\n"
        body += figure(_detector_panels(evaluation, colours[detector]))
    body += "".join(
        details(f"All metrics of {evaluation.provenance.detector}", _metrics_table(evaluation))
        for evaluation in evaluations
    )
    return Section(f"Evaluation: {comparison.title}", body)


def _lead(evaluations: Sequence[Evaluation], comparison: Comparison) -> str:
    count = len(comparison.generators)
    images = max(evaluation.images for evaluation in evaluations)
    lead = paragraph(
        f"{count} generator{'s' * (count != 1)}, {images} images. Accuracy (Acc) at the threshold 0.5 and average "
        "precision (AP) in percent; means are over generators, not images."
        + (" Small figures are 95 % bootstrap intervals." if evaluations[0].mean_intervals else "")
    )
    for note in dict.fromkeys(evaluation.provenance.simulated for evaluation in evaluations):
        lead += paragraph(note, classes="note") if note else ""
    remarks = [remark for evaluation in evaluations for remark in evaluation.undefined]
    unread = {bad.path for evaluation in evaluations for bad in evaluation.bad}
    if unread:
        remarks.append(f"{len(unread)} image{'s' * (len(unread) != 1)} could not be read and do not count")
    return lead + "".join(paragraph(f"{remark}.", classes="remark") for remark in dict.fromkeys(remarks))


def _comparison_table(comparison: Comparison, evaluations: Sequence[Evaluation], colours: Mapping[str, str]) -> str:
    names = [cell("generator", tag="th")]
    units = [cell("", tag="th")]
    for column in comparison.columns:
        if column.source:
            name = column.detector + comparison.mark(column)
            names.append(cell(name, tag="th", classes="published", span=2))
        else:
            name = coloured(column.detector, colours[column.detector])
            names.append(f'<th colspan="2" scope="colgroup">{name}</th>')
        units += [cell("Acc", tag="th", classes="number"), cell("AP", tag="th", classes="number")]
    rows: list[list[str]] = []
    width = 1 + 2 * len(comparison.columns)
    for kind, members in _by_kind(comparison.generators, evaluations).items():
        if kind:
            rows.append([f'<th class="kind" colspan="{width}" scope="rowgroup">{escape(kind)}</th>'])
        for name in members:
            cells = [_pair(column.cells.get(name, Cell()), column) for column in comparison.columns]
            rows.append([f'<th scope="row">{escape(name)}</th>', *cells])
    foot = ['<th scope="row">mean</th>', *(_pair(column.mean, column) for column in comparison.columns)]
    notes = "".join(f"<li>{escape(source)}</li>\n" for source in comparison.sources)
    return table([names, units], rows, [foot]) + (f'<ol class="sources">\n{notes}</ol>\n' if notes else "")


def _pair(values: Cell, column: Column) -> str:
    shaded = not column.source
    return rate(values.accuracy, values.accuracy_interval, shaded=shaded) + rate(
        values.average_precision, values.average_precision_interval, shaded=shaded
    )


def _by_kind(generators: Sequence[str], evaluations: Sequence[Evaluation]) -> dict[str, list[str]]:
    """Generators by their kind, in order of appearance; all under "" where the data set names no kinds."""
    kinds = {name: kind for evaluation in evaluations for name, kind in evaluation.provenance.kinds.items()}
    groups: dict[str, list[str]] = {}
    for name in generators:
        groups.setdefault(kinds.get(name, _OTHER if kinds else ""), []).append(name)
    return groups


def _metrics_table(evaluation: Evaluation) -> str:
    heads = [cell("generator", tag="th"), cell("reals", tag="th", classes="number")]
    heads += [cell("fakes", tag="th", classes="number")]
    heads += [cell(head, tag="th", classes="number") for head in COLUMNS | FORENSIC_COLUMNS]
    rows = []
    for name, row in evaluation.rows.items():
        rows.append(_metrics_row(name, row, "row"))
        rows += [_metrics_row(category, inner, "row", classes="class") for category, inner in row.classes.items()]
    mean = evaluation.mean
    foot = ['<th scope="row">mean</th>', cell(""), cell("")]
    foot += [_metric_cell(metric, mean[metric], evaluation.mean_intervals) for metric in _METRICS]
    return paragraph(
        "In percent. Best Acc is the accuracy at the threshold that suits these very images best, an upper bound. "
        "ECE is the mean gap between score and fraction of fakes over 15 bins of the score (after Guo et al. "
        "2017). FPR95 is the fraction of reals called fake where 95 % of the fakes are found, EER the error rate where "
        "both labels have the same, TPR the fraction of fakes found where 1 % and 0.1 % of these reals are called "
        "fake. Cllr is the cost of the logit as a log-likelihood ratio, in bits, of which Cllr min would be left by "
        "the best calibration; 1 says nothing."
    ) + table([heads], rows, [foot], classes="dense")


def _metrics_row(name: str, row: Row, scope: str, classes: str = "") -> list[str]:
    metrics = row.metrics
    marked = f' class="{classes}"' if classes else ""
    return [
        f'<th scope="{scope}"{marked}>{escape(name)}</th>',
        cell(str(metrics.reals), classes="number"),
        cell(str(metrics.fakes), classes="number"),
        *(_metric_cell(metric, getattr(metrics, metric), row.intervals) for metric in _METRICS),
    ]


def _metric_cell(metric: str, value: float | None, intervals: Mapping[str, Interval]) -> str:
    if metric in BITS:
        return cell(bits(value).replace("-", "–"), classes="number")
    return rate(value, intervals.get(metric))


def _precision_bars(evaluations: Sequence[Evaluation], colours: Mapping[str, str]) -> str:
    """Horizontal bars, a group for each generator, under the heading of its kind."""
    names = list(dict.fromkeys(name for evaluation in evaluations for name in evaluation.rows))
    positions: dict[str, float] = {}
    headings: dict[str, float] = {}
    at = 0.0
    for kind, members in _by_kind(names, evaluations).items():
        if kind:
            headings[kind] = at + 0.1
            at += 1
        for name in members:
            positions[name] = at
            at += 1
    thickness = 0.8 / len(evaluations)
    with Plot(8.6, 1 + at * max(0.24, 0.13 * len(evaluations) + 0.06)) as plot:
        (axis,) = plot.axes()
        for i, evaluation in enumerate(evaluations):
            rows = {name: row for name, row in evaluation.rows.items() if row.metrics.average_precision is not None}
            values = [100 * (row.metrics.average_precision or 0) for row in rows.values()]
            heights = [positions[name] - 0.4 + (i + 0.5) * thickness for name in rows]
            detector = evaluation.provenance.detector
            axis.barh(heights, values, 0.88 * thickness, color=colours[detector], label=label(detector))
            for height, row in zip(heights, rows.values(), strict=True):
                if (interval := row.intervals.get("average_precision")) is not None:
                    axis.plot([100 * end for end in interval], [height, height], color=INK, linewidth=0.8)
        axis.axvline(100 * _chance(evaluations), color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axis.set_yticks([*positions.values()], [label(name) for name in positions])
        for kind, height in headings.items():
            axis.text(
                -0.01, height, label(kind), transform=axis.get_yaxis_transform(), ha="right", va="center", weight="bold"
            )
        axis.set_ylim(at - 0.4, -0.6)
        axis.set_xlim(0, 100)
        axis.set_xlabel("average precision, %")
        axis.grid(axis="y", visible=False)
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
        if len(evaluations) > 1:
            plot.figure.legend(loc="outside upper right", ncols=min(len(evaluations), 4))
    return plot.svg("Average precision by generator, as bars")


def _chance(evaluations: Sequence[Evaluation]) -> float:
    """The mean over generators of the average precision of guessing."""
    metrics = [row.metrics for evaluation in evaluations for row in evaluation.rows.values()]
    chances = [chance_average_precision(of.reals, of.fakes) for of in metrics]
    return float(np.mean([chance for chance in chances if chance is not None] or [0.5]))


def _detector_panels(evaluation: Evaluation, colour: str) -> str:
    with Plot(8.6, 2.9) as plot:
        roc, histogram, calibration = plot.axes(1, 3)
        _draw_roc(roc, evaluation, colour)
        _draw_scores(histogram, evaluation)
        _draw_calibration(calibration, evaluation, colour)
    return plot.svg(f"ROC curves, scores and calibration of {evaluation.provenance.detector}")


def _draw_roc(axis: Axes, evaluation: Evaluation, colour: str) -> None:
    for row in evaluation.rows.values():
        if (curve := roc_curve(*_scores([row]))) is not None:
            axis.plot(100 * curve.false_rate, 100 * curve.true_rate, color=colour, alpha=0.25, linewidth=0.7)
    if (curve := roc_curve(*_scores(evaluation.rows.values()))) is not None:
        axis.plot(100 * curve.false_rate, 100 * curve.true_rate, color=colour, linewidth=2)
    axis.plot([0, 100], [0, 100], color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
    axis.set_title("ROC")
    axis.set_xlabel("reals called fake, %")
    axis.set_ylabel("fakes found, %")
    axis.set_aspect("equal")


def _draw_scores(axis: Axes, evaluation: Evaluation) -> None:
    labels, scores = _scores(evaluation.rows.values())
    edges = np.linspace(0, 1, 26)
    for which, name, colour in ((REAL, "reals", REALS), (FAKE, "fakes", FAKES)):
        members = scores[labels == which]
        if len(members):
            shares = 100 * np.histogram(members, edges)[0] / len(members)
            axis.stairs(shares, edges, fill=True, color=colour, alpha=0.35, label=name)
            axis.stairs(shares, edges, color=colour, linewidth=1.2)
    axis.axvline(0.5, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
    axis.set_title("Scores")
    axis.set_xlabel("score")
    axis.set_ylabel("share of the images, %")
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.3 * axis.get_ylim()[1])  # room for the legend
    axis.legend(loc="upper center", ncols=2)


def _draw_calibration(axis: Axes, evaluation: Evaluation, colour: str) -> None:
    bins = reliability(*_scores(evaluation.rows.values()))
    filled = bins.images > 0
    if filled.any():
        sizes = 8 + 90 * bins.images[filled] / bins.images.max()
        axis.plot(bins.scores[filled], 100 * bins.fakes[filled], color=colour, linewidth=1, alpha=0.6)
        axis.scatter(bins.scores[filled], 100 * bins.fakes[filled], s=sizes, color=colour, zorder=3)
    axis.plot([0, 1], [0, 100], color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
    axis.set_title("Calibration")
    axis.set_xlabel("mean score of the bin")
    axis.set_ylabel("fakes in it, %")
    axis.set_xlim(-0.04, 1.04)
    axis.set_ylim(-4, 104)


def _scores(rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores of all these rows' images."""
    reals = [score for row in rows for score in row.real_scores]
    fakes = [score for row in rows for score in row.fake_scores]
    return np.repeat([REAL, FAKE], [len(reals), len(fakes)]), np.array(reals + fakes, dtype=np.float64)
