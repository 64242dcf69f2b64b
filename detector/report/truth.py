"""Truths on the page: for each delivery, every source of fakes against every pool, and every folder of reals."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from detector.evaluation.pools import OWN
from detector.evaluation.truth import SUMMARIES, Measurement, Share, Truth
from detector.evaluation.truth_tables import HEADERS_NOTE, encodings_text
from detector.report.abstention import abstention_body
from detector.report.markup import Section, cell, coloured, details, figure, paragraph, rate, table
from detector.report.plots import INK, REALS, Plot, colours, label
from detector.verdicts import threshold_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def truth_sections(results: Sequence[Mapping[str, Any]], of_detector: Mapping[str, str]) -> list[Section]:
    """A section for each detector on each set of images."""
    return [_section(Truth.from_dict(result), of_detector) for result in results]


def _section(truth: Truth, of_detector: Mapping[str, str]) -> Section:
    detector = truth.provenance.detector
    body = f"<p>{coloured(detector, of_detector[detector])}</p>\n" + _lead(truth)
    for part in truth.measurements:
        body += f"<h3>After {escape(part.delivery)}</h3>\n"
        body += _sources_table(truth, part) + _reals_table(truth, part)
        body += figure(
            _plot(truth, part),
            "Balanced average precision of each source of fakes against each set of reals, dashed: guessing; and reals "
            "called fake by folder, with 95 % intervals.",
        )
        if part.abstention is not None:
            body += abstention_body(part.abstention, part.delivery)
        body += details("Areas under the ROC curve, and intervals of the fakes found", _more_table(truth, part))
    return Section(f"Truth: {detector} on {truth.provenance.data}", body)


def _lead(truth: Truth) -> str:
    text = paragraph(
        f"{truth.images} images, real and generated alike passed through each delivery before they are scored; an "
        f"image is called fake above a score of {threshold_text(truth.threshold)}. Balanced AP is average precision "
        "with reals and fakes weighing one half each, whatever their counts, so that guessing reaches 50 %. Means are "
        "over sources, those against own reals over the sources that have some; the worst source differs from column "
        "to column. Intervals are exact ones of 95 % (Clopper and Pearson), for images of the same kind."
    )
    if truth.told_by_headers:
        text += paragraph(HEADERS_NOTE, classes="remark")
    for pool, parts in truth.pools.items():
        text += paragraph(f"Pool {pool}: {', '.join(parts)}.", classes="remark")
    if truth.provenance.simulated:
        text += paragraph(truth.provenance.simulated, classes="note")
    remarks = list(truth.remarks)
    if truth.bad:
        remarks.append(f"{len(truth.bad)} image{'s' * (len(truth.bad) != 1)} could not be read and do not count")
    return text + "".join(paragraph(f"{remark}.", classes="remark") for remark in remarks)


def _sources_table(truth: Truth, part: Measurement) -> str:
    pools = truth.columns
    names = [cell(head, tag="th") for head in ("source of fakes", "images", "files")]
    if pools:
        names.append(cell("balanced AP against", tag="th", span=len(pools)))
    names.append(cell("found", tag="th", classes="number"))
    units = [cell("", tag="th")] * 3 + [cell(_name(pool), tag="th", classes="number") for pool in pools]
    units.append(cell("", tag="th"))
    rows = []
    for name, source in part.sources.items():
        found = (source.against.get(pool) for pool in pools)
        rows.append(
            [
                *_first_cells(name, source.recall, truth.fake_encodings[name]),
                *(rate(of.balanced_average_precision if of else None, shaded=True) for of in found),
                rate(source.recall.rate),
            ]
        )
    foot = []
    for name, summary in SUMMARIES.items():
        figures = (rate(summary(part.precisions(pool)), shaded=True) for pool in pools)
        foot.append([_row_head(name), cell(""), cell(""), *figures, rate(summary(part.recalls))])
    return table([names, units], rows, foot)


def _reals_table(truth: Truth, part: Measurement) -> str:
    heads = [cell(head, tag="th") for head in ("folder of reals", "images", "files", "pool")]
    heads.append(cell("called fake", tag="th", classes="number"))
    rows = []
    for name, share in part.reals.items():
        pools = ", ".join(pool for pool, parts in truth.pools.items() if name in parts)
        first = _first_cells(name, share, truth.real_encodings[name])
        rows.append([*first, cell(pools), rate(share.rate, share.interval)])
    foot = [
        [*_first_cells(f"pool {name}", share, {}), cell(""), rate(share.rate, share.interval)]
        for name, share in part.pools.items()
    ]
    foot.append([_row_head("worst folder"), cell(""), cell(""), cell(""), rate(part.worst_false_alarms)])
    return table([heads], rows, foot)


def _more_table(truth: Truth, part: Measurement) -> str:
    pools = truth.columns
    heads = [cell("source of fakes", tag="th"), cell("found", tag="th", classes="number")]
    heads += [cell(f"AUC, {_name(pool)}", tag="th", classes="number") for pool in pools]
    rows = []
    for name, source in part.sources.items():
        found = (source.against.get(pool) for pool in pools)
        recall = rate(source.recall.rate, source.recall.interval)
        rows.append([_row_head(name), recall, *(rate(of.auc if of else None) for of in found)])
    return table([heads], rows, classes="dense")


def _first_cells(name: str, share: Share, encodings: Mapping[str, int]) -> list[str]:
    return [_row_head(name), cell(str(share.images), classes="number"), cell(encodings_text(encodings))]


def _row_head(name: str) -> str:
    return f'<th scope="row">{escape(name)}</th>'


def _name(pool: str) -> str:
    return "own reals" if pool == OWN else pool


def _plot(truth: Truth, part: Measurement) -> str:
    rows = max(len(part.sources), len(part.reals))
    with Plot(8.6, 1.2 + 0.24 * rows) as plot:
        sources, reals = plot.axes(1, 2)
        _draw_precisions(sources, truth, part)
        _draw_false_alarms(reals, part)
    return plot.svg(f"Balanced average precision by source and reals called fake by folder, after {part.delivery}")


def _draw_precisions(axis: Axes, truth: Truth, part: Measurement) -> None:
    position = {name: -row for row, name in enumerate(part.sources)}
    for pool, colour in colours(truth.columns).items():
        found = part.precisions(pool)
        heights = [position[name] for name in found]
        axis.scatter([100 * value for value in found.values()], heights, s=18, color=colour, label=label(_name(pool)))
    axis.axvline(50, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    _name_rows(axis, part.sources)
    axis.set_xlabel("balanced average precision, %")
    if part.sources and truth.columns:
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)


def _draw_false_alarms(axis: Axes, part: Measurement) -> None:
    for row, share in enumerate(part.reals.values()):
        if share.rate is not None and share.interval is not None:
            axis.plot([100 * end for end in share.interval], [-row, -row], color=REALS, linewidth=1.2)
            axis.scatter([100 * share.rate], [-row], s=18, color=REALS, zorder=3)
    _name_rows(axis, part.reals)
    axis.set_xlabel("reals called fake, %")


def _name_rows(axis: Axes, names: Collection[str]) -> None:
    axis.set_yticks(range(0, -len(names), -1), [label(name) for name in names])
    axis.set_ylim(-len(names) + 0.4, 0.6)
    axis.set_xlim(-3, 103)
    axis.tick_params(axis="y", length=0)
