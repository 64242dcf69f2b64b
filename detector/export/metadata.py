"""What an exported file says of itself: strings of JSON by name, as in checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.data import Preprocessing
from detector.export.errors import ExportError
from detector.models import Detector
from detector.verdicts import check_threshold
from npr_kernels import __version__

FORMAT = "npr-kernels export"
FORMAT_VERSION = 1

INPUT = "images"
OUTPUTS = ("logit", "score")
"""Names in the graph: uint8 [batch, 3, height, width] -> float32 [batch, 1] each."""


@dataclass(frozen=True)
class Metadata:
    """What an exported file says of itself.

    Attributes:
        architecture: the model's name and arguments, the residual among them.
        preprocessing: what happens to a decoded image before the graph sees it; the graph itself normalises.
        threshold: the score above which an image is called generated.
        calibration: what the threshold was certified by, None where it was not.
        checkpoint: SHA-256 of the checkpoint file that it was made of, in hexadecimal.
        npr_kernels: the version that wrote it.
    """

    architecture: dict[str, Any]
    preprocessing: Preprocessing
    threshold: float
    calibration: dict[str, Any] | None
    checkpoint: str
    npr_kernels: str


def describe(model: Detector, checkpoint: str) -> dict[str, str]:
    """What is written to a file: strings of JSON."""
    values = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "npr_kernels": __version__,
        "checkpoint": checkpoint,
        "architecture": {"name": type(model).__name__, **model.architecture},
        "preprocessing": model.preprocessing.to_dict(),
        "threshold": check_threshold(model.threshold),
        "calibration": model.calibration,
    }
    return {name: json.dumps(value) for name, value in values.items()}


def understand(path: Path, strings: Mapping[str, str]) -> Metadata:
    """The inverse of :func:`describe`.

    Raises:
        ExportError: they are not this project's, of another format version, or damaged; the message names the file.
    """
    if "format_version" not in strings or strings.get("format") != json.dumps(FORMAT):
        raise ExportError(f"{path}: not written by npr export, as it does not say what it is")
    if strings["format_version"] != json.dumps(FORMAT_VERSION):
        raise ExportError(
            f"{path}: has format version {strings['format_version']}, this release reads {FORMAT_VERSION}: export "
            "the checkpoint again"
        )
    try:
        values = {name: json.loads(value) for name, value in strings.items()}
        return Metadata(
            architecture=values["architecture"],
            preprocessing=Preprocessing.from_dict(values["preprocessing"]),
            threshold=check_threshold(values["threshold"]),
            calibration=values["calibration"],
            checkpoint=values["checkpoint"],
            npr_kernels=values["npr_kernels"],
        )
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise ExportError(f"{path}: its metadata are damaged ({reason})") from error
