"""Results as lines of JSON in a file that outlives whatever ends the process: what is in it is not done again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

Line = dict[str, Any]

_START = b'{"path": "'
"""Of every line: tells what a kill has left of one from a file of another kind."""


class Journal:
    """A file of results, one line of JSON for each, that is appended to.

    Lines are written by one call each, so a process that is killed leaves whole lines and at most one that is cut off,
    which the next Journal of the file takes away. No second process writes to it meanwhile, where the system has locks.

    Args:
        path: of the file, made where there is none.
        settings: of a line with a result, all that it rests on, by the words that an error names it with.
        expected: the same of the lines that will be written.

    Attributes:
        failed: how many lines are errors.

    Raises:
        ValueError: it holds something else, or results of other settings; nothing of it is changed then.
        OSError: it cannot be read or written, or another process does.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: Callable[[Line], Mapping[str, Any]],
        expected: Mapping[str, Any],
    ) -> None:
        self.path = Path(path)
        self.failed = 0
        self._begun: set[str] = set()
        self._file = FileIO(self.path, "a+")  # unbuffered
        try:
            self._lock()
            whole = 0
            for line, end in self._read():
                self._check(line, settings, expected)
                self._begun.add(line["path"])
                self.failed += "error" in line
                whole = end
            if whole < self.path.stat().st_size:
                self._file.truncate(whole)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def begin(self, path: str) -> bool:
        """Whether the path has no line, and was not begun before; it counts as begun from then on."""
        new = path not in self._begun
        self._begun.add(path)
        return new

    def append(self, line: Line) -> None:
        """Writes a line, which has a "path" first, and an "error" where there is no result.

        Raises:
            OSError: it cannot be written.
        """
        content = json.dumps(line).encode() + b"\n"
        if (written := self._file.write(content)) != len(content):
            raise OSError(f"{self.path}: only {written} bytes of {len(content)} were written")
        self.failed += "error" in line

    def lines(self) -> Iterator[Line]:
        """Those of the file, in its order."""
        return (line for line, _ in self._read())

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(f"{self.path}: another process writes to it") from error
        except OSError:  # a file system without locks
            return

    def _read(self) -> Iterator[tuple[Line, int]]:
        """Every whole line, and where it ends."""
        end = 0
        with open(self.path, "rb") as file:
            for number, content in enumerate(file, start=1):
                if not content.endswith(b"\n"):
                    if not (content.startswith(_START) or _START.startswith(content)):
                        raise ValueError(f"{self.path}: line {number} is no result of this command")
                    return
                end += len(content)
                yield self._parse(content, number), end

    def _parse(self, content: bytes, number: int) -> Line:
        try:
            line = json.loads(content)
        except ValueError:  # of text that is no UTF-8, too
            line = None
        if not isinstance(line, dict) or not isinstance(line.get("path"), str):
            raise ValueError(f"{self.path}: line {number} is no result of this command")
        return line

    def _check(self, line: Line, settings: Callable[[Line], Mapping[str, Any]], expected: Mapping[str, Any]) -> None:
        if "error" in line:  # which no setting changes
            return
        found = settings(line)
        for name, value in expected.items():
            if found[name] != value:
                raise ValueError(
                    f"{self.path}: its results are of another {name}, {found[name]}, not {value}; name another file"
                )
