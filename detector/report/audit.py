"""Audits on the page: what each fact tells of the label, duplicates, and what detectors go by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from detector.audit.audit import Audit
from detector.audit.bias import Bias
from detector.audit.hashing import BITS, NEAR
from detector.audit.leaks import DIFFERS, LEAK, LEVEL, Finding
from detector.audit.tables import (
    by_fact,
    duplicate_rows,
    in_order,
    p_text,
    strength_text,
    summary,
    typical_text,
)
from detector.data import FAKE, REAL
from detector.report.markup import Section, cell, coloured, details, figure, paragraph, rate, table
from detector.report.plots import FAINT, FAKES, INK, REALS, Plot, colours, label

# Groups of duplicates that are listed.
_LISTED = 200

_COLOURS = {LEAK: "#d55e00", DIFFERS: "#0072b2"}


def audit_sections(results: Sequence[Mapping[str, Any]], of_detector: Mapping[str, str]) -> list[Section]:
    """A section for each data set, and one for each of its detectors."""
    sections = []
    for result in results:
        audit = Audit.from_dict(result)
        sections.append(Section(f"Audit: {audit.data}", _body(audit)))
        tints = colours(detector.name for detector in audit.detectors)
        sections += [
            Section(f"Bias: {detector.name} on {audit.data}", _bias_body(detector, tints[detector.name]))
            for detector in audit.detectors
        ]
    return sections


def _body(audit: Audit) -> str:
    body = paragraph(
        f"{audit.reals} real and {audit.fakes} fake images. Each fact by itself is used as a score: its area under the "
        "ROC curve (AUC) in the better direction, 50 % being chance, with DeLong's interval of 95 %. p is the chance "
        "that labels dealt out at random are told apart as well, by permutation and corrected for the number of facts "
        f"(Holm); a verdict is given up to {LEVEL:g}. Categories are scored by their frequencies among other images."
    )
    body += paragraph(
        "A leak is a fact of the file: no generator's trace could be why it differs, so a detector trained on the set "
        "may learn it, and one measured on the set may be praised for it. A fact of the pixels that differs may be a "
        "leak, come from other subjects, or be the trace that detectors look for."
    )
    body += "".join(paragraph(f"{line}.", classes="note") for line in [audit.simulated.rstrip(".")] if line)
    body += "".join(paragraph(f"{line[0].upper()}{line[1:]}.") for line in summary(audit))
    body += _findings_table(audit)
    tested = [finding for finding in in_order(audit.findings) if finding.auc is not None]
    if tested:
        body += figure(_plot(tested), "AUC of each fact alone, with intervals of 95 %. Dashed: chance.")
    body += "".join(
        details(f"Categories of {finding.name}", _categories_table(finding))
        for finding in tested
        if finding.found and isinstance(finding.real, Mapping)
    )
    body += "<h3>Images that are there more than once</h3>\n" + _duplicates(audit)
    if audit.bad:
        count = len(audit.bad)
        body += paragraph(f"{count} image{'s' * (count != 1)} could not be read and do not count.", classes="remark")
    return body


def _findings_table(audit: Audit) -> str:
    heads = [cell(text, tag="th") for text in ("fact", "typical real", "typical fake")]
    heads += [cell(text, tag="th", classes="number") for text in ("AUC", "p")]
    heads.append(cell("verdict", tag="th"))
    rows = []
    for finding in in_order(audit.findings):
        typical = (
            _typical(finding, value, images)
            for value, images in ((finding.real, finding.reals), (finding.fake, finding.fakes))
        )
        rows.append(
            [
                _row_head(finding.name),
                *map(cell, typical),
                rate(finding.auc, finding.interval, shaded=True),
                cell(_shown(p_text(finding.p)), classes="number"),
                cell(finding.verdict),
            ]
        )
    return table([heads], rows)


def _typical(finding: Finding, value: float | Mapping[str, int] | None, images: int) -> str:
    text = typical_text(finding, value, images)
    if isinstance(value, Mapping):
        return text
    return _shown(text) + (f"\N{NO-BREAK SPACE}{finding.unit}" if finding.unit and value is not None else "")


def _plot(findings: Sequence[Finding]) -> str:
    with Plot(8.6, 1 + 0.24 * len(findings)) as plot:
        (axis,) = plot.axes()
        for row, finding in enumerate(findings):
            assert finding.auc is not None
            assert finding.interval is not None
            colour = _COLOURS.get(finding.verdict, FAINT)
            axis.plot([100 * end for end in finding.interval], [-row, -row], color=colour, linewidth=1.4)
            axis.scatter([100 * finding.auc], [-row], s=22, color=colour, zorder=3)
        axis.axvline(50, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        for verdict, colour in _COLOURS.items():
            axis.scatter([], [], s=22, color=colour, label=verdict)
        axis.set_yticks(range(0, -len(findings), -1), [label(finding.name) for finding in findings])
        axis.set_ylim(-len(findings) + 0.4, 0.6)
        axis.tick_params(axis="y", length=0)
        axis.set_xlabel("AUC, %")
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return plot.svg("Area under the ROC curve of each fact as a score, with intervals")


def _categories_table(finding: Finding) -> str:
    assert isinstance(finding.real, Mapping)
    assert isinstance(finding.fake, Mapping)
    heads = [cell(finding.name, tag="th")]
    heads += [cell(text, tag="th", classes="number") for text in ("reals", "of them", "fakes", "of them")]
    rows = []
    for name, reals in finding.real.items():
        fakes = finding.fake[name]
        counts = ((reals, finding.reals), (fakes, finding.fakes))
        cells = (cell(str(count), classes="number") + rate(count / images) for count, images in counts)
        rows.append([_row_head(name), *cells])
    return table([heads], rows, classes="dense")


def _duplicates(audit: Audit) -> str:
    heads = [cell("duplicates", tag="th")]
    heads += [cell(text, tag="th", classes="number") for text in ("groups", "images", "across labels", "across splits")]
    rows = [
        [_row_head(kind), *(cell(str(count), classes="number") for count in counts)]
        for kind, *counts in duplicate_rows(audit.duplicates)
    ]
    body = table([heads], rows)
    body += paragraph(
        f"Exact: files that are equal. Near: images whose perceptual hashes of {BITS} bits differ in at most {NEAR}, "
        "or that are linked by such images; crops, mirrored and rotated copies are not seen. Near images of both "
        "labels in one split are no leak where fakes are made from photographs.",
        classes="remark",
    )
    groups = audit.duplicates.groups
    if groups:
        heads = [cell(text, tag="th") for text in ("kind", "labels", "splits", "images")]
        listed = [
            [
                cell(group.kind),
                cell(", ".join(("real", "fake")[of] for of in group.labels)),
                cell(", ".join(group.splits)),
                cell(", ".join(group.members[:6]) + (" ..." if len(group.members) > 6 else "")),
            ]
            for group in groups[:_LISTED]
        ]
        more = f", the first {_LISTED} of {len(groups)}" if len(groups) > _LISTED else ""
        body += details(f"The groups{more}", table([heads], listed, classes="dense"))
    return body


def _bias_body(detector: Bias, colour: str) -> str:
    body = f"<p>{coloured(detector.name, colour)}</p>\n" + paragraph(
        "Within one label every image deserves the same answer, so a score that follows a fact there goes by it. "
        "Numbers: Spearman's correlation of ranks, with its sign; categories: the correlation ratio of the score's "
        f"ranks. A fact is followed where p, corrected for the number of facts and labels, is at most {LEVEL:g}."
    )
    heads = [cell("fact", tag="th")]
    for text in ("reals", "fakes"):
        heads += [cell(text, tag="th", classes="number"), cell("p", tag="th", classes="number")]
    heads.append(cell("verdict", tag="th"))
    rows = []
    for fact, of in by_fact(detector).items():
        cells = []
        for side in (REAL, FAKE):
            found = of.get(side)
            shade = abs(found.strength) if found is not None and found.found else None
            cells.append(cell(_shown(strength_text(found)), classes="number", shade=shade))
            cells.append(cell(_shown(p_text(found.p if found else None)), classes="number"))
        verdict = "follows" if any(each.found for each in of.values()) else "none found"
        rows.append([_row_head(fact), *cells, cell(verdict)])
    body += table([heads], rows)
    means = [each for of in by_fact(detector).values() for each in of.values() if each.found and each.means]
    body += "".join(
        details(
            f"Mean scores of {('reals', 'fakes')[each.label]} by {each.fact}",
            table(
                [[cell(each.fact, tag="th"), cell("mean score", tag="th", classes="number")]],
                [[_row_head(name), cell(f"{mean:.3f}", classes="number")] for name, mean in (each.means or {}).items()],
                classes="dense",
            ),
        )
        for each in means
    )
    body += "<h3>After deliveries</h3>\n" + paragraph(
        "That scores fall when images are compressed or resized is a lack of robustness, not a bias. Reals and fakes "
        f"alike pass each delivery; an image is called fake above a score of {detector.threshold:g}."
    )
    heads = [cell("delivery", tag="th")]
    heads += [
        cell(text, tag="th", classes="number")
        for text in ("AUC", "mean score, reals", "mean score, fakes", "reals called fake", "fakes found")
    ]
    rows = [
        [
            _row_head(after.delivery),
            rate(after.auc, shaded=True),
            *(
                cell("–" if score is None else f"{score:.3f}", classes="number")
                for score in (after.real_score, after.fake_score)
            ),
            rate(after.false_alarms),
            rate(after.found),
        ]
        for after in detector.delivered
    ]
    return body + table([heads], rows) + figure(_delivered_plot(detector), "Mean scores after each delivery.")


def _delivered_plot(detector: Bias) -> str:
    with Plot(8.6, 1.1 + 0.3 * len(detector.delivered)) as plot:
        (axis,) = plot.axes()
        for name, colour, scores in (
            ("reals", REALS, [after.real_score for after in detector.delivered]),
            ("fakes", FAKES, [after.fake_score for after in detector.delivered]),
        ):
            there = {-row: score for row, score in enumerate(scores) if score is not None}
            axis.scatter(list(there.values()), list(there), s=26, color=colour, label=name, zorder=3)
        axis.axvline(detector.threshold, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        names = [label(after.delivery) for after in detector.delivered]
        axis.set_yticks(range(0, -len(names), -1), names)
        axis.set_ylim(-len(names) + 0.4, 0.6)
        axis.set_xlim(-0.03, 1.03)
        axis.tick_params(axis="y", length=0)
        axis.set_xlabel("mean score; dashed: the threshold")
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return plot.svg(f"Mean scores of {detector.name} on reals and fakes after each delivery")


def _shown(text: str) -> str:
    """A number with a true minus sign, and the page's dash for what is not there."""
    if text == "-":
        return "–"
    return f"\N{MINUS SIGN}{text[1:]}" if text.startswith("-") else text


def _row_head(name: str) -> str:
    return f'<th scope="row">{escape(name)}</th>'
