"""Withheld verdicts on the page: of each folder how many, what is wrong of them and of the rest, and what signs of
doubt are worth, as risk-coverage curves."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from detector.doubt import REASONS
from detector.evaluation.abstention import EVERYTHING, NOTHING, YARDSTICK, Abstention, Withheld
from detector.report.markup import cell, details, figure, paragraph, rate, table
from detector.report.plots import FAINT, INK, REALS, Plot, colours, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WRONG = "#d55e00"


def abstention_body(of: Abstention, delivery: str) -> str:
    """What is under the heading of one delivery."""
    body = "<h4>Verdicts withheld</h4>\n" + _lead(of) + _table(of)
    body += figure(
        _outcomes_plot(of, delivery),
        "Verdicts by folder: right (green), withheld (grey) and wrong (orange), as shares of its images.",
    )
    if of.signs:
        body += figure(
            _curves_plot(of, delivery),
            "Errors among the images that are judged, as the most doubted ones are left out, both labels weighing the "
            f"same; a sign is worth having where it lies below {YARDSTICK} of the score p (bold). Dotted: a sign that "
            "knows nothing, and one that knows the errors. Ring: what npr detect judges.",
        )
        body += details("Areas under the risk-coverage curves", _signs_table(of))
    return body


def _lead(of: Abstention) -> str:
    reasons = dict.fromkeys(
        code for parts in (of.fakes, of.reals) for withheld in parts.values() for code in withheld.reasons
    )
    text = "A verdict is withheld where the file or the score gives reason to doubt it. "
    if of.coverage is not None and of.risk is not None:
        text += (
            f"Both labels weighing the same, {100 * of.coverage:.1f} % of the images are judged (coverage), "
            f"{100 * of.risk:.1f} % of these wrongly (risk). "
        )
    text += "In the table, wrong is in percent: of all images, of those that are unsure, and of those that are judged. "
    if reasons:
        text += "Reasons: " + "; ".join(f"{code}, {words}" for code, words in REASONS.items() if code in reasons) + "."
    return paragraph(text)


def _table(of: Abstention) -> str:
    names = [cell("folder", tag="th")]
    names += [cell(head, tag="th", classes="number") for head in ("images", "wrong")]
    names += [cell(head, tag="th", span=2) for head in ("unsure", "judged")] + [cell("why (images)", tag="th")]
    units = [cell("", tag="th")] * 3
    units += [cell(head, tag="th", classes="number") for head in ("images", "wrong", "%", "wrong")]
    units.append(cell("", tag="th"))
    rows = [_row(f"{kind}: {name}", withheld) for kind, name, withheld in of.folders() if name is not None]
    foot = [_row(f"all {kind}", withheld) for kind, name, withheld in of.folders() if name is None]
    return table([names, units], rows, foot, classes="dense")


def _row(name: str, of: Withheld) -> list[str]:
    images = of.images
    return [
        _head(name),
        cell(str(images), classes="number"),
        rate(of.wrong / images if images else None),
        cell(str(of.unsure), classes="number"),
        rate(of.wrong_of_unsure),
        rate(of.coverage),
        rate(of.wrong_of_rest),
        cell(of.why),
    ]


def _signs_table(of: Abstention) -> str:
    heads = [cell("doubted first", tag="th"), cell("AURC", tag="th", classes="number")]
    heads.append(cell(f"less than {YARDSTICK}, 95 %", tag="th", classes="number"))
    rows = []
    for name, sign in of.signs.items():
        gain = "" if name == YARDSTICK else " to ".join(f"{100 * end:+.2f}" for end in sign.gain).replace("-", "−")
        rows.append([_head(name), cell(f"{100 * sign.aurc:.2f}", classes="number"), cell(gain, classes="number")])
    return paragraph("In percent; lower is better.") + table([heads], rows, classes="dense")


def _head(name: str) -> str:
    return f'<th scope="row">{escape(name)}</th>'


def _outcomes_plot(of: Abstention, delivery: str) -> str:
    folders = {
        f"all {kind}" if name is None else f"{kind}: {name}": withheld
        for kind, name, withheld in of.folders()
        if withheld.images
    }
    with Plot(8.6, 0.7 + 0.24 * len(folders)) as plot:
        (axis,) = plot.axes()
        _draw_outcomes(axis, folders)
    return plot.svg(f"Shares of right, withheld and wrong verdicts by folder, after {delivery}")


def _draw_outcomes(axis: Axes, folders: Mapping[str, Withheld]) -> None:
    for row, withheld in enumerate(folders.values()):
        wrong = withheld.wrong - withheld.unsure_wrong
        right = withheld.images - withheld.unsure - wrong
        left = 0.0
        for count, colour in ((right, REALS), (withheld.unsure, FAINT), (wrong, _WRONG)):
            width = 100 * count / withheld.images
            axis.barh(-row, width, 0.72, left=left, color=colour)
            left += width
    axis.set_yticks(range(0, -len(folders), -1), [label(name) for name in folders])
    axis.set_ylim(-len(folders) + 0.4, 0.6)
    axis.set_xlim(0, 100)
    axis.set_xlabel("images, %")
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)


def _curves_plot(of: Abstention, delivery: str) -> str:
    # Those that are drawn in ink are no series.
    drawn = {name: sign.curve for name, sign in of.signs.items() if sign.curve}
    series = [name for name in drawn if name not in (YARDSTICK, NOTHING, EVERYTHING)]
    tints = colours(series)
    with Plot(8.6, 3.6) as plot:
        (axis,) = plot.axes()
        for name, curve in drawn.items():
            coverage, risk = ([100 * point[i] for point in curve] for i in (0, 1))
            if name in tints:
                dashes = "-" if series.index(name) < len(set(tints.values())) else "--"
                axis.plot(coverage, risk, color=tints[name], linewidth=1, linestyle=dashes, label=label(name))
            elif name == YARDSTICK:
                axis.plot(coverage, risk, color=INK, linewidth=2, label=label(name), zorder=3)
            else:
                axis.plot(coverage, risk, color=INK, linewidth=0.8, linestyle=":", label=label(name))
        if of.coverage is not None and of.risk is not None:
            axis.scatter([100 * of.coverage], [100 * of.risk], s=40, facecolor="none", edgecolor=INK, zorder=4)
        axis.set_xlabel("images judged, %")
        axis.set_ylabel("wrong of these, %")
        axis.set_xlim(-1, 101)
        axis.set_ylim(bottom=0)
        plot.figure.legend(loc="outside right upper")
    return plot.svg(f"Risk-coverage curves of signs of doubt, after {delivery}")
