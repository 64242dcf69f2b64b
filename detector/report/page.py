"""The page: sections one after another, styles inside, nothing fetched from anywhere, no script."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from detector.files import write_text
from detector.report.audit import audit_sections
from detector.report.calibration import calibration_sections
from detector.report.evaluation import evaluation_sections
from detector.report.experiment import experiment_sections
from detector.report.limits import limits
from detector.report.making import making
from detector.report.markup import Section
from detector.report.plots import check_figures, colours, with_own_ids
from detector.report.robustness import robustness_sections
from detector.report.studies import study_sections
from detector.report.style import STYLE
from detector.report.truth import truth_sections

SECTIONS: dict[str, Callable[[Sequence[Mapping[str, Any]], Mapping[str, str]], list[Section]]] = {
    "study": experiment_sections,
    "audit": audit_sections,
    "calibration": calibration_sections,
    "truth": truth_sections,
    "evaluation": evaluation_sections,
    "robustness": robustness_sections,
    "diversity": study_sections,
    "ablation": study_sections,
}
"""What makes sections of the results of a kind, given the colours of detectors; in the order of the page."""


def write_report(path: str | os.PathLike[str], title: str, results: Sequence[Mapping[str, Any]]) -> None:
    """Writes the page, whole or not at all; equal results make equal bytes.

    Args:
        path: the HTML file.
        title: of the page.
        results: as their `to_dict` gives them, or as read from JSON.

    Raises:
        ValueError: a result is of no kind that can be shown, or damaged; or matplotlib is not installed.
        OSError: the file cannot be written.
    """
    write_text(path, render(title, results))


def render(title: str, results: Sequence[Mapping[str, Any]]) -> str:
    """The page's text; arguments and exceptions as of :func:`write_report`."""
    check_figures()
    if unknown := sorted({str(result.get("kind")) for result in results} - set(SECTIONS)):
        raise ValueError(f"no report of results of kind {', '.join(unknown)}; known are {', '.join(SECTIONS)}")
    if not results:
        raise ValueError("no results to report")
    of_detector = colours(str(result["detector"]) for result in results if "detector" in result)
    sections: list[Section] = []
    for kind, make in SECTIONS.items():
        if members := [result for result in results if result["kind"] == kind]:
            try:
                sections += make(members, of_detector)
            except (KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"a damaged result of kind {kind} ({type(error).__name__}: {error})") from error
    simulated = any(result.get("simulated") for result in results)
    sections += [limits(simulated), making(results)]
    return _page(title, sections, simulated)


def _page(title: str, sections: Sequence[Section], simulated: bool) -> str:
    links = "".join(
        f'<li><a href="#section-{i}">{escape(section.title)}</a></li>\n' for i, section in enumerate(sections, 1)
    )
    flag = '<p class="flag">Simulated generators</p>\n' if simulated else ""
    body = "".join(
        f'<section id="section-{i}">\n<h2>{escape(section.title)}</h2>\n{section.body}</section>\n'
        for i, section in enumerate(sections, 1)
    )
    drawings = iter(range(1, body.count("<svg ") + 1))
    body = re.sub(r"<svg .*?</svg>", lambda svg: with_own_ids(svg[0], f"d{next(drawings)}-"), body, flags=re.DOTALL)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{escape(title)}</h1>\n{flag}<nav><ul>\n{links}</ul></nav>\n</header>\n"
        f"<main>\n{body}</main>\n</body>\n</html>\n"
    )
