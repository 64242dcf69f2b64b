"""What can be wrong with an exported file or with what is to run it, in one line."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

_EXTRAS = {"onnx": "export", "onnxruntime": "export", "openvino": "openvino"}


class ExportError(ValueError):
    """A detector that cannot be exported, a package that is missing, or a file that is no export, or a damaged one."""


def import_engine(package: str, what: str) -> ModuleType:
    """One of the packages of _EXTRAS, which are optional.

    Raises:
        ExportError: it is not installed; the message says how it is.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ExportError(
            f"an exported detector {what} {package}, which is not here ({error}): "
            f"pip install 'npr-kernels[{_EXTRAS[package]}]'"
        ) from error


@contextmanager
def damaged(path: Path, engine: str) -> Iterator[None]:
    """Turns what an engine says of a file that it cannot read, exceptions of many kinds, into one line.

    Raises:
        ExportError: see there.
    """
    try:
        yield
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(f"{path}: {engine} cannot read it ({lines[-1].strip()})") from error
