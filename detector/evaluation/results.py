"""Files of results: a JSON object with a "kind", or a list of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detector.files import write_text


def read_results(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The results in a file, in their order.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no results.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # of the encoding too
        raise ValueError(f"{path}: no JSON ({error})") from error
    results = content if isinstance(content, list) else [content]
    if not results or not all(isinstance(result, dict) and isinstance(result.get("kind"), str) for result in results):
        raise ValueError(f'{path}: no result of npr, which is an object with a "kind", or a list of them')
    return results


def as_results(results: Sequence[Mapping[str, Any]]) -> str:
    """One result as an object, several as a list."""
    return json.dumps(results[0] if len(results) == 1 else list(results), indent=1) + "\n"


def write_results(path: str | os.PathLike[str], results: Sequence[Mapping[str, Any]]) -> None:
    """Writes them, whole or not at all."""
    write_text(path, as_results(results))
