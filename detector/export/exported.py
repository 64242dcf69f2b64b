"""Exported detectors: written from a model, and read again to score images with the engine that they are for."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from detector.data import Preprocessing
from detector.export import FORMATS
from detector.export.errors import ExportError
from detector.export.metadata import Metadata, describe, understand
from detector.models import Detector, NPRDetector
from detector.models.folding import fold
from detector.models.plain_periodicity import LEAST_SIDE


class Outputs(NamedTuple):
    """What an exported detector gives: float64 [N] each, on the CPU.

    Attributes:
        logits: positive means generated, before the threshold is asked.
        scores: 0..1.
    """

    logits: Tensor
    scores: Tensor


class Exported:
    """A detector in an engine's format. Made by :func:`load_exported`.

    Attributes:
        format: one of FORMATS.
        metadata: what the file says of itself.
    """

    def __init__(self, path: Path, format: str, metadata: Metadata, threads: int | None) -> None:
        self.format = format
        self.metadata = metadata
        self._engine = _module(format).Engine(path, threads)

    @property
    def preprocessing(self) -> Preprocessing:
        """What is to happen to decoded images, see :meth:`detector.data.Preprocessing.test_view`."""
        return self.metadata.preprocessing

    @property
    def threshold(self) -> float:
        """The score above which an image is called generated."""
        return self.metadata.threshold

    def __call__(self, images: Tensor) -> Outputs:
        """Scores images in one pass, which takes some 400 bytes a pixel.

        Args:
            images: uint8 [N, 3, H, W], H and W >= 2, on the CPU; at least 18 where the detector reads periodicity.

        Raises:
            TypeError, ValueError: other types or shapes.
        """
        if not isinstance(images, Tensor):
            raise TypeError(f"images must be a Tensor, got {type(images).__name__}")
        if images.dtype != torch.uint8:
            raise TypeError(f"images must be uint8, got {images.dtype}")
        least = LEAST_SIDE if self.metadata.architecture.get("periodicity") else 2
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < least:
            raise ValueError(f"images must be [N, 3, H, W] with H and W >= {least}, got {list(images.shape)}")
        if len(images) == 0:  # for which engines give errors, or the results of the call before
            return Outputs(*torch.empty(2, 0, dtype=torch.float64))
        logits, scores = self._engine(images.contiguous().numpy())
        return Outputs(*(torch.from_numpy(values).double().flatten() for values in (logits, scores)))


def save_exported(model: Detector, path: str | os.PathLike[str], format: str, *, checkpoint: str) -> None:
    """Writes a detector for an engine, whole or not at all.

    Args:
        model: an NPRDetector whose residual is a plain convolution, see :func:`detector.models.folding.stem_on_pixels`.
        path: with the suffix of the format.
        format: one of FORMATS.
        checkpoint: SHA-256 of the model's checkpoint file, in hexadecimal.

    Raises:
        ValueError: the path has another suffix. ExportError: it is no such detector, what writes the format is not
            installed, or it cannot be compiled. OSError: the file cannot be written.
    """
    path = Path(path)
    check_suffix(path, format)
    if not isinstance(model, NPRDetector):
        raise ExportError(f"only the NPRDetector is exported, not the {type(model).__name__}")
    try:
        plain = fold(model)
    except ValueError as error:
        raise ExportError(f"the detector cannot be exported: {error}") from error
    _module(format).write(plain, describe(model, checkpoint), path)


def load_exported(path: str | os.PathLike[str], threads: int | None = None) -> Exported:
    """Reads a file that :func:`save_exported` wrote. An AOTInductor archive runs code of its own: trust it first.

    Args:
        path: its suffix says which format it has.
        threads: that the engine uses; None for as many as it chooses.

    Raises:
        OSError: the file cannot be read.
        ExportError: it is no exported detector, of another format version, or damaged, or its engine is not installed.
    """
    path = Path(path)
    format = next((name for name, suffix in FORMATS.items() if suffix == path.suffix), None)
    if format is None:
        raise ExportError(f"{path}: not named like an exported detector ({', '.join(FORMATS.values())})")
    with open(path, "rb"):
        pass  # whatever is wrong with the file itself is said as of any file, not as the engine says it
    metadata = understand(path, _module(format).read_metadata(path))
    return Exported(path, format, metadata, threads)


def check_suffix(path: Path, format: str) -> None:
    """Raises ValueError where the path does not end as the format's files do."""
    if path.suffix != FORMATS[format]:
        raise ValueError(f"{path}: files of the format {format} end with {FORMATS[format]}")


def _module(format: str) -> ModuleType:
    return importlib.import_module(f"detector.export.{format}_format")
