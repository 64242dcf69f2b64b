"""Calibrations on the page: the certified threshold by group of reals, the fakes found, and what the scores are worth
as evidence: ROC, DET, Tippett and reliability plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detector.data import FAKE, REAL
from detector.evaluation.calibration import Calibration, Reference
from detector.evaluation.calibration_curves import ratio_reliability, tippett
from detector.evaluation.calibration_llr import Llr
from detector.evaluation.calibration_tables import guarantee_text, measure_rows
from detector.evaluation.metrics import roc_curve
from detector.report.markup import Section, cell, code, coloured, figure, paragraph, rate, table
from detector.report.plots import FAINT, FAKES, INK, REALS, Plot, colours, label
from detector.verdicts import threshold_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Rates at the ticks of DET plots.
_TICKS = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95)

# Hexadecimal digits of a digest that tell sets of images apart in practice.
_DIGITS = 16


def calibration_sections(results: Sequence[Mapping[str, Any]], of_detector: Mapping[str, str]) -> list[Section]:
    """A section for each."""
    return [_section(Calibration.from_dict(result), of_detector) for result in results]


def _section(calibration: Calibration, of_detector: Mapping[str, str]) -> Section:
    detector = calibration.provenance.detector
    body = f"<p>{coloured(detector, of_detector[detector])}</p>\n" + _lead(calibration) + _reals_table(calibration)
    body += figure(
        _scores_plot(calibration),
        "How the images score, as logits; dashed: the threshold, right of which an image is called fake.",
    )
    if calibration.llr is not None:
        body += "<h3>Fakes found</h3>\n" + _fakes_table(calibration)
        body += "<h3>Scores as evidence</h3>\n" + _evidence_text(calibration.llr) + _measures_table(calibration)
        body += figure(
            _evidence_plot(calibration, calibration.llr, of_detector[detector]),
            "ROC and DET curves of all images together (bold) and of each source of fakes against all reals (thin), "
            "with the certified threshold as a ring, at the edge of the DET plot where it is beyond it. Tippett plot: "
            "images whose likelihood ratio is at least so large; right of the dashed line reals, left of it fakes are "
            "misleading. Reliability: the fakes among images of a probability, both labels weighing one half, for the "
            "learnt ratio (bold) and the score itself (thin); calibrated ones are on the diagonal.",
        )
    return Section(f"Calibration: {detector}", body)


def _lead(calibration: Calibration) -> str:
    sentence = guarantee_text(calibration)
    text = paragraph(f"{sentence[0].upper()}{sentence[1:]}.")
    text += paragraph(
        "Each group's own threshold is an order statistic of its scores, chosen by its number of images alone, so that "
        "the guarantee assumes nothing of the detector or of its scores (Clopper and Pearson 1934, Wilks 1941); the "
        "largest of these thresholds holds for all groups at once, and for any mixture of them. It is a guarantee for "
        "reals drawn as these were. Reals of another history have other scores, and it says nothing of them."
    )
    text += paragraph(f"Calibrated {calibration.date}. Copies of a file count once.", classes="remark")
    if calibration.bad:
        count = len(calibration.bad)
        text += paragraph(f"{count} image{'s' * (count != 1)} could not be read and do not count.", classes="remark")
    if calibration.provenance.simulated:
        text += paragraph(calibration.provenance.simulated, classes="note")
    return text


def _reals_table(calibration: Calibration) -> str:
    heads = [cell(head, tag="th") for head in ("reals", "folders")]
    numbers = ("images", "own threshold", "rank", "called fake", "certified, at most")
    heads += [cell(head, tag="th", classes="number") for head in numbers] + [cell("digest", tag="th")]
    rows = []
    for name, part in calibration.reals.items():
        own = calibration.certified[name]
        rows.append(
            [
                *_first_cells(name, part),
                cell(threshold_text(own.threshold), classes="number"),
                cell(str(own.rank), classes="number"),
                cell(f"{part.share.called} ({100 * (part.share.rate or 0):.2f} %)", classes="number"),
                cell(f"{100 * own.bound:.2f} %", classes="number"),
                _digest(part),
            ]
        )
    return table([heads], rows)


def _fakes_table(calibration: Calibration) -> str:
    heads = [cell(head, tag="th") for head in ("fakes", "folders")]
    heads += [cell(head, tag="th", classes="number") for head in ("images", "found")] + [cell("digest", tag="th")]
    rows = [
        [*_first_cells(name, part), rate(part.share.rate, part.share.interval), _digest(part)]
        for name, part in calibration.fakes.items()
    ]
    return paragraph("In percent, at that threshold; small figures are exact 95 % intervals.") + table([heads], rows)


def _evidence_text(llr: Llr) -> str:
    how = {
        "logistic": "a straight line of the logit (logistic regression with even priors)",
        "pav": "any function that grows with the score (pool adjacent violators)",
    }[llr.method]
    low, high = llr.bounds
    return paragraph(
        f"The log-likelihood ratio of fake over real, to base 10, is {how}, learnt from {llr.reals} reals and "
        f"{llr.fakes} fakes and kept from {low:.2f} to {high:.2f}, beyond which so many images cannot support it "
        "(ELUB, Vergeer et al. 2016). It holds for images like these. Costs are in bits (Brümmer and du Preez 2006): 0 "
        "for a perfect ratio, 1 for one that says nothing."
    )


def _measures_table(calibration: Calibration) -> str:
    heads = [cell("measure", tag="th"), cell("value", tag="th", classes="number"), cell("95 %, or remark", tag="th")]
    rows = [
        [f'<th scope="row">{escape(name)}</th>', cell(value, classes="number"), cell(remark)]
        for name, value, remark in measure_rows(calibration)
    ]
    return table([heads], rows)


def _first_cells(name: str, part: Reference) -> list[str]:
    return [
        f'<th scope="row">{escape(name)}</th>',
        cell(", ".join(part.folders)),
        cell(str(part.share.images), classes="number"),
    ]


def _digest(part: Reference) -> str:
    return f"<td>{code(part.digest[:_DIGITS])}</td>"


def _scores_plot(calibration: Calibration) -> str:
    """Cumulated shares: with a threshold far in the tail, histograms show nothing."""
    groups = calibration.real_logits | {f"{name} (fakes)": logits for name, logits in calibration.fake_logits.items()}
    of_group = colours(groups)
    with Plot(8.6, 3) as plot:
        (axis,) = plot.axes()
        for name, logits in groups.items():
            shares = 100 * (1 - np.arange(len(logits)) / len(logits))
            fake = name not in calibration.real_logits
            style = "--" if fake else "-"
            axis.step(logits, shares, where="pre", color=of_group[name], linestyle=style, label=label(name))
        threshold = math.log(calibration.threshold) - math.log1p(-calibration.threshold)
        axis.axvline(threshold, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_xlabel("logit of the score")
        axis.set_ylabel("images that score as much, %")
        plot.figure.legend(loc="outside upper right", ncols=min(len(groups), 4))
    return plot.svg("Share of each group's images above a score, as curves")


def _evidence_plot(calibration: Calibration, llr: Llr, colour: str) -> str:
    reals, fakes = (
        _scores([logit for logits in groups.values() for logit in logits])
        for groups in (calibration.real_logits, calibration.fake_logits)
    )
    sources = [_scores(logits) for logits in calibration.fake_logits.values()]
    with Plot(8.6, 7.4) as plot:
        roc, det, shares, calibrated = plot.axes(2, 2)
        for source in sources if len(sources) > 1 else []:
            _draw_curves(roc, det, reals, source, color=colour, alpha=0.4, linewidth=0.8)
        _draw_curves(roc, det, reals, fakes, color=colour, linewidth=2)
        # As counted, not from the logits, which are rounded: the threshold is one of the scores.
        alarms, found = (
            sum(part.share.called for part in parts.values()) / sum(part.share.images for part in parts.values())
            for parts in (calibration.reals, calibration.fakes)
        )
        ring: dict[str, Any] = {"s": 40, "facecolor": "none", "edgecolor": INK, "zorder": 3, "clip_on": False}
        roc.scatter([100 * alarms], [100 * found], **ring)
        # The axes of the other have no 0 and no 100: it lies at their ends.
        det.scatter(*(_probit([min(max(value, _TICKS[0]), _TICKS[-1])]) for value in (alarms, 1 - found)), **ring)
        _finish_roc(roc)
        _finish_det(det)
        _draw_tippett(shares, llr(reals), llr(fakes))
        _draw_reliability(calibrated, reals, fakes, llr, colour)
    return plot.svg(f"ROC, DET, Tippett and reliability plots of {calibration.provenance.detector}")


def _draw_curves(roc: Axes, det: Axes, reals: NDArray, fakes: NDArray, **style: Any) -> None:
    curve = roc_curve(np.repeat([REAL, FAKE], [len(reals), len(fakes)]), np.concatenate([reals, fakes]))
    assert curve is not None, "there are reals and fakes"
    roc.plot(100 * curve.false_rate, 100 * curve.true_rate, **style)
    inside = (curve.false_rate > 0) & (curve.false_rate < 1) & (curve.true_rate > 0) & (curve.true_rate < 1)
    det.plot(_probit(curve.false_rate[inside]), _probit(1 - curve.true_rate[inside]), **style)


def _finish_roc(axis: Axes) -> None:
    axis.plot([0, 100], [0, 100], color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
    axis.set_title("ROC")
    axis.set_xlabel("reals called fake, %")
    axis.set_ylabel("fakes found, %")


def _finish_det(axis: Axes) -> None:
    ticks = _probit(_TICKS)
    names = [f"{100 * tick:g}" for tick in _TICKS]
    axis.plot(ticks, ticks, color=FAINT, linewidth=0.8)  # equal rates
    axis.set_xticks(ticks, names)
    axis.set_yticks(ticks, names)
    axis.set_xlim(ticks[0], ticks[-1])
    axis.set_ylim(ticks[0], ticks[-1])
    axis.set_title("DET")
    axis.set_xlabel("reals called fake, %")
    axis.set_ylabel("fakes missed, %")


def _draw_tippett(axis: Axes, real_llrs: NDArray, fake_llrs: NDArray) -> None:
    curve = tippett(real_llrs, fake_llrs)
    for shares, name, colour in ((curve.reals, "reals", REALS), (curve.fakes, "fakes", FAKES)):
        axis.step(curve.llrs, 100 * shares, where="pre", color=colour, label=name)
    axis.axvline(0, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
    axis.set_title("Tippett")
    axis.set_xlabel("log10 likelihood ratio")
    axis.set_ylabel("images with at least that, %")
    axis.set_ylim(-3, 103)
    axis.legend(loc="best")


def _draw_reliability(axis: Axes, reals: NDArray, fakes: NDArray, llr: Llr, colour: str) -> None:
    # At even odds, the score itself is the probability that its logit as a ratio gives.
    raw = [np.log(group) - np.log1p(-group) for group in (reals, fakes)]
    learnt = [math.log(10) * llr(group) for group in (reals, fakes)]
    for ratios, style in ((raw, {"alpha": 0.4, "linewidth": 0.8}), (learnt, {"linewidth": 2})):
        points = ratio_reliability(*ratios)
        filled = points.weights > 0
        axis.plot(points.stated[filled], 100 * points.observed[filled], color=colour, marker="o", markersize=3, **style)
    axis.plot([0, 1], [0, 100], color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
    axis.set_title("Reliability")
    axis.set_xlabel("stated probability of fake, at even odds")
    axis.set_ylabel("fakes in it, %")
    axis.set_xlim(-0.04, 1.04)
    axis.set_ylim(-4, 104)


def _scores(logits: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(logits, dtype=np.float64)
    return np.exp(-np.logaddexp(0, -values))


def _probit(rates: Any) -> list[float]:
    normal = NormalDist()
    return [normal.inv_cdf(float(rate)) for rate in rates]
