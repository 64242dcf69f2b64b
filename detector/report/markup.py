"""The few HTML elements that a report is made of; whatever comes from outside is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from detector.evaluation.formats import percent


@dataclass(frozen=True)
class Section:
    """A part of the page: its heading, as text, and what stands under it, as HTML."""

    title: str
    body: str


def paragraph(text: str, *, classes: str = "") -> str:
    return f"<p{_class(classes)}>{escape(text)}</p>\n"


def code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def cell(text: str, *, classes: str = "", tag: str = "td", shade: float | None = None, span: int = 1) -> str:
    """A table's cell of text.

    Args:
        shade: in 0..1, how strongly it is tinted.
    """
    style = "" if shade is None else f' style="--shade:{min(max(shade, 0), 1):.2f}"'
    columns = "" if span == 1 else f' colspan="{span}"'
    scope = "" if tag == "td" else ' scope="{}"'.format("colgroup" if span > 1 else "col")
    return f"<{tag}{_class(classes)}{columns}{scope}{style}>{escape(text)}</{tag}>"


def rate(value: float | None, interval: tuple[float, float] | None = None, *, shaded: bool = False) -> str:
    """A cell with a rate in percent, tinted from chance, a half, to one if asked for.

    The interval stands small below it, unless it has no width: all resamples agree, which says little.
    """
    shade = f' style="--shade:{max(value - 0.5, 0) * 2:.2f}"' if shaded and value is not None else ""
    ends = (
        ""
        if interval is None or interval[0] == interval[1]
        else f"<small>{percent(interval[0])}–{percent(interval[1])}</small>"
    )
    return f'<td class="number"{shade}>{percent(value).replace("-", "–")}{ends}</td>'


def table(
    heads: Iterable[Sequence[str]],
    rows: Iterable[Sequence[str]],
    foot: Sequence[Sequence[str]] = (),
    *,
    classes: str = "",
) -> str:
    """A table of cells, that scrolls sideways where the page is narrower.

    Args:
        heads, rows: rows of cells; foot: rows that are set off, none if empty.
    """

    def lines(group: Iterable[Sequence[str]]) -> str:
        return "".join(f"<tr>{''.join(row)}</tr>\n" for row in group)

    end = f"<tfoot>\n{lines(foot)}</tfoot>\n" if foot else ""
    return (
        f'<div class="scroll"><table{_class(classes)}>\n<thead>\n{lines(heads)}</thead>\n'
        f"<tbody>\n{lines(rows)}</tbody>\n{end}</table></div>\n"
    )


def figure(svg: str, caption: str = "") -> str:
    text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><div class="scroll">{svg}</div>{text}</figure>\n'


def coloured(name: str, colour: str) -> str:
    """A detector's name behind a dot of its colour."""
    return f'<span class="dot" style="background:{colour}"></span>{escape(name)}'


def details(summary: str, body: str) -> str:
    """Folded away until asked for; on paper, open where the browser can."""
    return f"<details><summary>{escape(summary)}</summary>\n{body}</details>\n"


def _class(classes: str) -> str:
    return f' class="{classes}"' if classes else ""
