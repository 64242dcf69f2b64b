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
        lines.append(f"- Threshold: a score above {card.metadata['threshold']:g} is called fake")
    if "recipe" in card.metadata:
        lines.append(f"- Recipe: {_pairs(card.metadata['recipe'])}")
    if "seed" in card.metadata:
        lines.append(f"- Seed: {card.metadata['seed']}")
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


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _line(cells: list[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
