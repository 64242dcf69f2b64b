"""Robustness on the page: curves of all detectors in one plot for each degradation, and the crop against resizing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from detector.evaluation.robustness import UNTOUCHED, Condition, Robustness
from detector.report.markup import Section, cell, coloured, details, figure, paragraph, rate, table
from detector.report.plots import FAINT, INK, Plot, label

# Heads of the panels, and labels of their axes.
_PANELS = {
    "blur": ("Gaussian blur", "standard deviation, pixels"),
    "jpeg": ("JPEG", "quality"),
    "resize": ("Resizing", "factor"),
    "noise": ("Gaussian noise", "standard deviation, grey levels"),
}


def robustness_sections(results: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> list[Section]:
    """A section for each set of images, with all detectors that were measured on it."""
    groups: dict[str, list[Robustness]] = {}
    for result in results:
        robustness = Robustness.from_dict(result)
        groups.setdefault(robustness.data_digest, []).append(robustness)
    return [_section(group, colours) for group in groups.values()]


def _section(results: Sequence[Robustness], colours: Mapping[str, str]) -> Section:
    origin = results[0].provenance
    body = paragraph(
        f"{origin.images} images, degraded one way at a time before the detector's own treatment of them. Means over "
        "the generators, in percent. Guessing reaches 50 % accuracy, and more than 50 % average precision where a "
        "generator has few images."
    )
    for note in dict.fromkeys(result.provenance.simulated for result in results):
        body += paragraph(note, classes="note") if note else ""
    sweeps = [sweep for sweep in _PANELS if any(result.curve(sweep) for result in results if sweep in result.sweeps)]
    if sweeps:
        body += figure(
            _curves(results, sweeps, colours),
            "Above average precision, below accuracy, over the strength of the degradation. Dashed: guessing. "
            "Untouched images are where a strength leaves them alone, and the rings on the left edge of JPEG.",
        )
    conditions = list(dict.fromkeys(condition for result in results for condition in result.points))
    if views := [condition for condition in conditions if condition.sweep == "view"]:
        body += f"<h3>{escape('Crop or resize')}</h3>\n" + paragraph(
            "Two ways to fit images to a network, cutting out the centre or resizing to the same side: "
            + ", ".join(f"{crop} pixels for {names}" for crop, names in _sides(results).items())
            + "."
        )
        body += _table(results, [UNTOUCHED, *views], colours)
    body += details("All conditions", _table(results, conditions, colours))
    return Section(f"Robustness: {origin.data}", body)


def _curves(results: Sequence[Robustness], sweeps: Sequence[str], colours: Mapping[str, str]) -> str:
    chances = [point.chance for result in results for point in result.points.values() if point.chance is not None]
    levels = (100 * float(np.mean(chances)) if chances else 50, 50)
    with Plot(max(2.3 * len(sweeps), 4.6), 4.6) as plot:
        axes = plot.axes(2, len(sweeps), sharey=True, sharex="col")
        for column, sweep in enumerate(sweeps):
            title, unit = _PANELS[sweep]
            for row, rate_name in enumerate(("mean_average_precision", "mean_accuracy")):
                axis = axes[row * len(sweeps) + column]
                for result in results:
                    detector = result.provenance.detector
                    curve = result.curve(sweep) if sweep in result.sweeps else []
                    pairs = [
                        (strength, 100 * value)
                        for strength, point in curve
                        if (value := getattr(point, rate_name)) is not None
                    ]
                    axis.plot(
                        [strength for strength, _ in pairs],
                        [value for _, value in pairs],
                        marker="o",
                        markersize=3,
                        linewidth=1.5,
                        color=colours[detector],
                        label=label(detector) if row == column == 0 else None,
                    )
                    start = getattr(result.points.get(UNTOUCHED), rate_name, None)
                    if sweep == "jpeg" and start is not None:
                        axis.plot(
                            [0],
                            [100 * start],
                            transform=axis.get_yaxis_transform(),
                            marker="o",
                            markersize=5,
                            markerfacecolor="none",
                            color=colours[detector],
                            clip_on=False,
                        )
                axis.axhline(levels[row], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
                if row == 0:
                    axis.set_title(title)
                else:
                    axis.set_xlabel(unit)
            if sweep == "jpeg":
                axes[column].set_xlim(103, 27)
            if sweep == "resize":
                axes[column].axvline(1, color=FAINT, linewidth=0.8)
                axes[column + len(sweeps)].axvline(1, color=FAINT, linewidth=0.8)
        axes[0].set_ylabel("average precision, %")
        axes[len(sweeps)].set_ylabel("accuracy, %")
        axes[0].yaxis.label.set_color(INK)
        if len(results) > 1:
            plot.figure.legend(loc="outside upper right", ncols=min(len(results), 4))
    return plot.svg("Average precision and accuracy over the strength of degradations, as curves")


def _sides(results: Sequence[Robustness]) -> dict[int, str]:
    """Names of detectors by the side that they crop or resize to."""
    sides: dict[int, list[str]] = {}
    for result in results:
        sides.setdefault(result.provenance.preprocessing["crop"], []).append(result.provenance.detector)
    return {side: " and ".join(names) for side, names in sides.items()}


def _table(results: Sequence[Robustness], conditions: Sequence[Condition], colours: Mapping[str, str]) -> str:
    names = [cell("condition", tag="th")] + [
        f'<th colspan="2" scope="colgroup">{coloured(name, colours[name])}</th>'
        for name in (result.provenance.detector for result in results)
    ]
    units = [cell("", tag="th")]
    units += [cell(unit, tag="th", classes="number") for _ in results for unit in ("Acc", "AP")]
    rows = []
    for condition in conditions:
        points = [result.points.get(condition) for result in results]
        cells = [
            rate(getattr(point, name, None), shaded=True)
            for point in points
            for name in ("mean_accuracy", "mean_average_precision")
        ]
        rows.append([f'<th scope="row">{escape(str(condition))}</th>', *cells])
    return table([names, units], rows)
