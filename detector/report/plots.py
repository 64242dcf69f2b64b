"""Plots as SVG that is part of the page: its ink is the page's, light or dark, and equal figures are equal bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that stand for the page's own, which follow light and dark. No plot has these by chance.
INK, FAINT = "#010203", "#010204"

# After Okabe and Ito's colours, which are told apart in all common kinds of colour blindness; two are kept for labels.
_SERIES = ("#0072b2", "#d55e00", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f")

# Of the page for an inch of a plot, so that text in plots is a little smaller than the page's.
_PIXELS = 103

REALS, FAKES = "#009e73", "#b5489a"

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "npr report",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "text.color": INK,
}


def check_figures() -> None:
    """Says before long work that reports cannot be drawn.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError("reports need matplotlib: pip install 'npr-kernels[report]'") from error


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name, in their order; from the seventh on they repeat."""
    return {name: _SERIES[i % len(_SERIES)] for i, name in enumerate(dict.fromkeys(names))}


class Plot:
    """A figure that becomes SVG.

        with Plot(7, 3) as plot:
            left, right = plot.axes(1, 2)
            ...
        svg = plot.svg("what it shows")

    Args:
        width, height: in inches; the page is 8.6 wide.
    """

    def __init__(self, width: float, height: float) -> None:
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        self._width = round(width * _PIXELS)
        self._style = rc_context(_STYLE)
        with rc_context(_STYLE):
            self.figure: Figure = Figure(figsize=(width, height), layout="constrained")

    def __enter__(self) -> Plot:
        self._style.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        if exception[0] is None:
            self._drawing = self._draw()
        self._style.__exit__(*exception)

    def axes(self, rows: int = 1, columns: int = 1, **options: Any) -> list[Axes]:
        return list(self.figure.subplots(rows, columns, squeeze=False, **options).flat)

    def svg(self, description: str) -> str:
        """The element, with a description for those who do not see it. To be called after the block."""
        attributes = f'role="img" aria-label="{escape(description)}" style="max-width:{self._width}px"'
        return self._drawing.replace("<svg ", f"<svg {attributes} ", 1)

    def _draw(self) -> str:
        file = io.StringIO()
        self.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        drawing = file.getvalue()
        drawing = drawing[drawing.index("<svg ") :]
        drawing = re.sub(r"<metadata>.*?</metadata>\s*", "", drawing, flags=re.DOTALL)
        drawing = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"', "", drawing).replace("xlink:href", "href")
        return drawing.replace(INK, "currentColor").replace(FAINT, "var(--faint)")


def with_own_ids(svg: str, prefix: str) -> str:
    """The same drawing with no id that another one on the page could have, and none that nothing refers to."""
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{prefix}{found[1]}"' if found[1] in used else "", svg)
    return re.sub(r'(href="#|url\(#)', lambda found: found[1] + prefix, svg)


def label(text: str) -> str:
    """For matplotlib, which reads formulas between dollar signs."""
    return text.replace("$", r"\$")
