"""Model cards: what a checkpoint says of itself, for people and for programs.

A checkpoint's metadata may hold `card`, a list of sections, each with a `title` and any of `text` (paragraphs),
`columns` and `rows` (a table). What every checkpoint says (architecture, preprocessing, recipe) is put before them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.files import sha256_of
from detector.models.checkpoint import CheckpointError, read_metadata
from detector.verdicts import threshold_text


@dataclass(frozen=True)
class Card:
    """A checkpoint's card.

    Attributes:
        name: of the file.
        sha256: of the file, in hexadecimal.
        size: of the file in bytes.
        metadata: see :mod:`detector.models.checkpoint`.
    """

    name: str
    sha256: str
    size: int
    metadata: dict[str, Any]


def read_card(path: str | os.PathLike[str]) -> Card:
    """The card of a checkpoint.

    Raises:
        OSError: the file cannot be read. CheckpointError: it is none of this project's checkpoints.
    """
    path = Path(path)
    metadata = read_metadata(path)
    if not metadata:
        raise CheckpointError(f"{path}: a foreign checkpoint, which says nothing of itself")
    return Card(path.name, sha256_of(path), path.stat().st_size, metadata)


def as_json(card: Card) -> dict[str, Any]:
    """JSON-able: file, sha256, bytes, and the checkpoint's metadata."""
    return {"file": card.name, "sha256": card.sha256, "bytes": card.size, **card.metadata}


def as_markdown(card: Card) -> str:
    """The card as a page."""
    architecture = card.metadata["architecture"]
    arguments = ", ".join(f"{name} {value}" for name, value in architecture.items() if name != "name")
    lines = [
        f"# Model card: {card.name}",
        "",
        f"- File: {card.size} bytes, SHA-256 `{card.sha256}`",
        f"- Architecture: {architecture['name']}{f' ({arguments})' if arguments else ''}",
        f"- Images: {_pairs(card.metadata['preprocessing'])}",
    ]
    if "threshold" in card.metadata:
        lines.append(f"- Threshold: a score above {threshold_text(card.metadata['threshold'])} is called fake")
    if "recipe" in card.metadata:
        lines.append(f"- Recipe: {_pairs(card.metadata['recipe'])}")
    if "seed" in card.metadata:
        lines.append(f"- Seed: {card.metadata['seed']}")
    if "calibration" in card.metadata:
        lines += _calibration(card.metadata["calibration"])
    if "decoder" in card.metadata:
        named = {name: value for name, value in card.metadata["decoder"].items() if isinstance(value, str)}
        lines.append(f"- Decoder of its images: {_pairs(named)}")
    for section in card.metadata.get("card", []):
        lines += ["", f"## {section['title']}"]
        if "text" in section:
            lines += ["", section["text"]]
        if "rows" in section:
            lines += ["", _line(section["columns"]), _line(["---", *["---:"] * (len(section["columns"]) - 1)])]
            lines += [_line(row) for row in section["rows"]]
    return "\n".join(lines)


def _calibration(record: dict[str, Any]) -> list[str]:
    """The section on what the threshold was certified by; what else the card says was written before."""
    llr = record["llr"]
    evidence = (
        "No fakes were given, so there is no likelihood ratio."
        if llr is None
        else f"The log-likelihood ratio (log10, {llr['method']}) was learnt from {llr['reals']} reals and "
        f"{llr['fakes']} fakes and is kept from {llr['bounds'][0]:.2f} to {llr['bounds'][1]:.2f}."
    )
    lines = [
        "",
        "## Calibration",
        "",
        f"Calibrated {record['date']} with {_pairs(record['versions'])}: at most {100 * record['alpha']:g} % of the "
        f"reals of each group score above {threshold_text(record['threshold'])}, with "
        f"{100 * record['confidence']:g} % confidence, for reals like these. {evidence}",
        "",
        _line(
            ["reals", "folders", "images", "JPEG", "own threshold", "called fake", "certified, at most", "digest"],
        ),
        _line(["---", "---", "---:", "---:", "---:", "---:", "---:", "---"]),
    ]
    for part in record["reals"]:
        rates = threshold_text(part["threshold"]), f"{100 * part['rate']:.2f} %", f"{100 * part['bound']:.2f} %"
        folders = ", ".join(part["folders"])
        lines.append(_line([part["group"], folders, part["images"], _jpeg(part), *rates, _short(part["digest"])]))
    if record["fakes"]:
        lines += ["", _line(["fakes", "folders", "images", "found", "digest"])]
        lines.append(_line(["---", "---", "---:", "---:", "---"]))
        for part in record["fakes"]:
            found = f"{100 * part['rate']:.1f} %"
            lines.append(
                _line([part["source"], ", ".join(part["folders"]), part["images"], found, _short(part["digest"])])
            )
    return lines


def _jpeg(part: dict[str, Any]) -> str:
    """How many of the images are JPEGs, and of which quality; releases before that was recorded say nothing."""
    found = part.get("jpeg")
    if found is None:
        return "-"
    return f"{found['files']}, quality {found['lowest']} to {found['highest']}" if found["files"] else "none"


def _short(digest: str) -> str:
    return f"`{digest[:16]}`"


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _line(cells: list[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
