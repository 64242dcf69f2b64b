"""The detector in the box: where its weights are. :mod:`detector.weights` makes them."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT = "default"
"""What names the checkpoint in the package wherever a checkpoint is asked for; ./default is a file of that name."""

_FILE = Path(__file__).parent / "weights" / "default.safetensors"


def find(name: str | os.PathLike[str]) -> Path:
    """The checkpoint in the package if the name is DEFAULT, otherwise the path that it is.

    Raises:
        FileNotFoundError: the package was built without its weights.
    """
    if os.fspath(name) != DEFAULT:
        return Path(name)
    if not _FILE.is_file():
        raise FileNotFoundError(f"this installation has no default weights ({_FILE}); `make weights` makes them")
    return _FILE
