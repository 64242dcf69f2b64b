"""How a worker's process speaks: answers on standard output, a JSON object a line each, and errors in one line."""

from __future__ import annotations

import json
import os
from typing import Any, TextIO


def own_stdout() -> TextIO:
    """Standard output; what others print goes to standard error from now on."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return own


def tell(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def one_line(error: Exception) -> str:
    """What is wrong, in the words of the error's first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
