"""How a report's results were made: detectors, images, treatment, versions and commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from detector.report.markup import Section, cell, code, paragraph, table

# Hexadecimal digits of a digest that tell weights apart in practice.
_DIGITS = 16


def making(results: Sequence[Mapping[str, Any]]) -> Section:
    """The section: a row for each result that was measured on images, versions, and the commands that made them."""
    heads = [[cell(head, tag="th") for head in ("result", "detector", "images", "treatment", "weights")]]
    body = table(heads, [_row(result) for result in results if "data" in result])
    versions = dict.fromkeys(_versions(result) for result in results if result.get("versions"))
    body += paragraph(f"Versions: {'; '.join(versions) or 'unknown'}.")
    if commands := list(dict.fromkeys(str(result["command"]) for result in results if result.get("command"))):
        lines = escape("\n".join(commands))
        body += paragraph("Commands, as they were given:") + f"<pre>{lines}</pre>\n"
    return Section("How this was made", body)


def _row(result: Mapping[str, Any]) -> list[str]:
    data = str(result.get("data", ""))
    images = f"{result['images']} in {data}" if "images" in result else data
    digest = str(result.get("digest", ""))[:_DIGITS]
    weights = escape(str(result.get("weights", "")))
    return [
        cell(str(result["kind"])),
        cell(str(result.get("detector", ""))),
        cell(images),
        cell(_treatment(result.get("preprocessing"))),
        f"<td>{weights}{' ' if weights and digest else ''}{code(digest) if digest else ''}</td>",
    ]


def _versions(result: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in result["versions"].items())


def _treatment(preprocessing: Mapping[str, Any] | None) -> str:
    """The test view in words."""
    match (preprocessing or {}).get("policy"):
        case "native":
            return "whole images, not resized"
        case "resize":
            return f"resized to {preprocessing['resize']}x{preprocessing['resize']}"  # type: ignore[index]
        case "centre":
            return f"centre crop of {preprocessing['crop']}x{preprocessing['crop']}"  # type: ignore[index]
    return ""
