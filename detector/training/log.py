"""The log of a training: one JSON object a line, and the same curves for TensorBoard where it is installed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Protocol

from detector.console import say
from detector.files import write_text

LOG = "log.jsonl"
TENSORBOARD = "tensorboard"


class _Writer(Protocol):
    def add_scalar(self, tag: str, value: float, step: int) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class RunLog:
    """Lines of `log.jsonl`: {"event", "step", "epoch", ...}.

    A resumed run drops the lines after the step that it goes on from, so that no step is written twice.

    Args:
        folder: of the run.
        step: steps done; 0 starts anew.
        verbose: say so when TensorBoard is missing.
    """

    def __init__(self, folder: Path, step: int, *, verbose: bool = True) -> None:
        path = folder / LOG
        write_text(path, "".join(_lines_until(path, step)))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._writer = _tensorboard(folder / TENSORBOARD, step, verbose)

    def write(self, event: str, step: int, epoch: int, **values: Any) -> None:
        """One line. Lines of one kind have one set of keys; numbers also go to TensorBoard as `event/key`."""
        line = {"event": event, "step": step, "epoch": epoch, **values}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._writer.add_scalar(f"{event}/{name}", value, step)

    def sync(self) -> None:
        """Takes what was written to the disk; to be called before a state that relies on it is saved."""
        os.fsync(self._file.fileno())
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        self._file.close()
        if self._writer is not None:
            self._writer.close()


class NoLog:
    """In place of a RunLog where another process writes it."""

    def write(self, event: str, step: int, epoch: int, **values: Any) -> None:
        """Writes nothing."""

    def sync(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def read_log(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a run's log, without one cut off by a crash."""
    return [json.loads(line) for line in _lines_until(Path(folder) / LOG, None)]


def _lines_until(path: Path, step: int | None) -> list[str]:
    """The log's whole lines of steps up to the given one."""
    if step == 0 or not path.exists():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            number = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            break
        if not line.endswith("\n") or (step is not None and number > step):
            break
        kept.append(line)
    return kept


def _tensorboard(folder: Path, step: int, verbose: bool) -> _Writer | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        if verbose:
            say("TensorBoard is not installed (pip install tensorboard); the log goes to log.jsonl alone")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
