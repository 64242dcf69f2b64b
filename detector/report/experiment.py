"""A study on the page: what its detectors were trained on, and the commands that it consists of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from detector.report.markup import Section, cell, paragraph, rate, table


def experiment_sections(results: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> list[Section]:
    """A section for each study."""
    return [_section(result) for result in results]


def _section(result: Mapping[str, Any]) -> Section:
    body = paragraph(
        "How each detector was trained. The papers train on far more images, and CNNDetection from ImageNet weights; "
        "what is compared here are these runs. Acc and AP are those of the validation images, which chose the weights."
    )
    names, numbers = ("detector", "recipe", "started from"), ("images", "seen", "steps", "Acc", "AP")
    head = [cell(text, tag="th") for text in names] + [cell(text, tag="th", classes="number") for text in numbers]
    body += table([head], [_training(name, training) for name, training in result["trainings"].items()])
    body += paragraph("The stages, each a command that can be given by itself:")
    rows = [
        [cell(stage["name"]), cell(_duration(stage), classes="number"), _command(stage["command"])]
        for stage in result["finished"]
    ]
    body += table([[cell(text, tag="th") for text in ("stage", "took", "command")]], rows)
    return Section("The study", body)


def _training(name: str, training: Mapping[str, Any]) -> list[str]:
    validation = training["validation"]
    counts = [f"{training[field]:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") for field in ("images", "seen", "steps")]
    return [
        f'<th scope="row">{escape(name)}</th>',
        cell(training["recipe"]),
        cell(training["start"]),
        *(cell(count, classes="number") for count in counts),
        rate(validation["accuracy"]),
        rate(validation["average_precision"]),
    ]


def _duration(stage: Mapping[str, Any]) -> str:
    minutes = f"{stage['seconds'] / 60:.1f} min"
    return f"{minutes}, resumed" if stage["resumed"] else minutes


def _command(command: str) -> str:
    """A cell that breaks between words alone: browsers also break after hyphens, of which options have two."""
    words = "</span> <span>".join(escape(word) for word in command.split(" "))
    return f'<td class="command"><code><span>{words}</span></code></td>'
