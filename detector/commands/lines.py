"""Lines of JSON that say what a detector says of files: what is in one, and files of them that are gone on with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from detector.verdicts import PRECISIONS

if TYPE_CHECKING:
    from pathlib import Path

    from detector.console import Meter
    from detector.detection import Detection
    from detector.facts import Facts
    from detector.journal import Journal


def identity_of(
    weights: Path, policy: str | None, confidence: float | None, precision: str = PRECISIONS[0]
) -> dict[str, Any]:
    """What gave the scores: enough to tell two stored lines apart, each by itself, and to get either again.

    Args:
        policy: where it is not the detector's own.
        confidence: of large images' scores; None where all of them is read.
        precision: of the detector.
    """
    from detector.data import find_decoder
    from detector.files import sha256_of
    from detector.versions import find_versions

    return {
        "model": sha256_of(weights),
        "decoder": str(find_decoder()),
        "versions": find_versions(),
        **({} if policy is None else {"policy": policy}),
        **({} if confidence is None else {"confidence": confidence}),
        **({} if precision == PRECISIONS[0] else {"precision": precision}),
    }


def as_line(detection: Detection, identity: dict[str, Any], facts: Facts | None = None) -> dict[str, Any]:
    found = detection.to_dict() | (identity if detection.error is None else {})
    return found if facts is None else found | {"facts": facts.to_dict()}


def open_journal(
    path: str, identity: dict[str, Any], *, threshold: float, facts: bool = False, unsure: bool = True
) -> Journal:
    """The file of --resume, for lines as :func:`as_line` makes them.

    Args:
        identity: of the lines, see :func:`identity_of`.
        threshold: the detector's, or the one asked for.
        facts, unsure: whether lines have facts, and reasons.

    Raises:
        ValueError, OSError: see :class:`detector.journal.Journal`.
    """
    from detector.journal import Journal

    expected: dict[str, Any] = {"threshold": threshold} | identity
    expected |= {name: None for name, wanted in {"facts": facts, "reasons": unsure}.items() if wanted}
    return Journal(path, _settings, _settings(expected))


def not_done(files: Iterable[str | Detection], journal: Journal, meter: Meter) -> Iterator[str | Detection]:
    """Those that have no line, each path once."""
    for file in files:
        if journal.begin(file if isinstance(file, str) else file.path):
            yield file
        else:
            meter.skip(1)


def _settings(line: dict[str, Any]) -> dict[str, str]:
    """What a line with a score rests on, but for the file."""
    versions = line.get("versions")
    return {
        "model": str(line.get("model")),
        "decoder": str(line.get("decoder")),
        "versions": ", ".join(" ".join(pair) for pair in versions.items()) if isinstance(versions, dict) else "unknown",
        "policy": str(line.get("policy", "none")),
        "threshold": str(line.get("threshold")),
        "confidence": str(line.get("confidence", "exact")),
        "precision": str(line.get("precision", PRECISIONS[0])),
        "facts": str("facts" in line).lower(),
        "unsure": str("reasons" in line).lower(),
    }
