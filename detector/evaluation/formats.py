"""How rates are written for people."""

from __future__ import annotations


def percent(value: float | None) -> str:
    """With one digit after the point, as the papers print it; a dash for None."""
    return "-" if value is None else f"{100 * value:.1f}"


def percent_cell(value: float | None) -> str:
    """For spreadsheets: with four digits after the point; empty for None."""
    return "" if value is None else f"{100 * value:.4f}"


def bits(value: float | None) -> str:
    """A cost with three digits after the point; a dash for None."""
    return "-" if value is None else f"{value:.3f}"


def bits_cell(value: float | None) -> str:
    """For spreadsheets: with six digits after the point; empty for None."""
    return "" if value is None else f"{value:.6f}"
