"""Workers: one process for each implementation and setting of the allocator, see :mod:`detector.bench.worker`."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: What glibc does with freed memory: by default it hands large blocks back to the system, so that every new output
#: costs page faults; "kept" keeps them, as the commands of `npr` do.
SETTINGS: dict[str, list[str]] = {"default": [], "kept": ["--keep-freed-memory"]}

_STARTING = 120.0  # seconds for a process to import torch on a busy machine
_ENDING = 20.0  # seconds for a killed one to be gone


class Worker:
    """A process that answers requests.

    Args:
        command: that starts it.
        environment: of the process.
        log: the file in which what it says of itself is kept; by default it is forgotten with the process.
    """

    def __init__(self, command: list[str], environment: dict[str, str], log: Path | None = None) -> None:
        self._said = tempfile.TemporaryFile() if log is None else log.open("w+b")  # noqa: SIM115
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, env=environment, text=True
        )
        self._answers: queue.Queue[str] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.broken: str | None = None
        """Why it answers no more."""
        self._is_up = False

    def wait(self, timeout: float) -> None:
        """Waits until it is up, or broken."""
        if not self._is_up and self.broken is None:
            self._is_up = "error" not in self._answer(timeout, late="its process did not start in time")

    def ask(self, request: str, value: Any, timeout: float) -> dict[str, Any]:
        """Its answer; one with `error` alone if it has none in time, and then it is ended."""
        if not self._is_up:
            self.wait(min(_STARTING, timeout))
        if self.broken is not None:
            return {"error": self.broken}
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # if it has ended, its missing answer tells
            self._process.stdin.write(json.dumps({request: value}) + "\n")
            self._process.stdin.flush()
        return self._answer(timeout, late="out of time")

    def close(self) -> None:
        """Ends it. One that a driver does not let go is left behind after a while."""
        if self._process.poll() is None:
            self._process.kill()
        self._listener.join(_ENDING)  # until its output ends
        if self._listener.is_alive():
            return
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._said):
            if pipe is not None:
                with contextlib.suppress(OSError):  # of what it never read
                    pipe.close()

    def _answer(self, timeout: float, late: str) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=max(0.0, timeout))
        except queue.Empty:
            self.broken = late
            self._process.kill()
            return {"error": late}
        if not line:
            self.broken = self._last_words()
            return {"error": self.broken}
        answer = json.loads(line)
        if not self._is_up:
            self.broken = answer.get("error")
        return answer

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _last_words(self) -> str:
        status = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return f"its process ended with status {status}" + (f": {lines[-1][:300]}" if lines else "")


class Workers:
    """The workers that have been asked for, which live until the end.

        with Workers(threads=2, folder=folder) as workers:
            workers.start(["npr", "eager"], "kept")
            answer = workers.ask("npr", "kept", "turn", 0.2, timeout=10)

    Args:
        threads: that implementations use.
        folder: for the pipeline's files.
    """

    def __init__(self, threads: int, folder: Path) -> None:
        self._threads, self._folder = threads, folder
        self._workers: dict[tuple[str, str], Worker] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.close()

    def start(self, implementations: Iterable[str], setting: str) -> None:
        """Starts those that do not run, or run no more, without waiting for them."""
        for implementation in implementations:
            worker = self._workers.get((implementation, setting))
            if worker is not None and worker.broken is not None:
                worker.close()
                worker = None
            if worker is None:
                self._workers[implementation, setting] = Worker(
                    self._command(implementation, setting), self._environment()
                )

    def ask(self, implementation: str, setting: str, request: str, value: Any, timeout: float) -> dict[str, Any]:
        """See :meth:`Worker.ask`."""
        return self._workers[implementation, setting].ask(request, value, timeout)

    def _command(self, implementation: str, setting: str) -> list[str]:
        return [
            sys.executable, "-m", "detector.bench.worker", "--implementation", implementation, "--threads",
            str(self._threads), "--folder", str(self._folder), *SETTINGS[setting],
        ]  # fmt: skip

    def _environment(self) -> dict[str, str]:
        """This process's, with the allocator as it is by default, with the threads, and with the packages of here."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
        path = os.pathsep.join(dict.fromkeys([*sys.path, *kept.get("PYTHONPATH", "").split(os.pathsep)]))
        return kept | {"OMP_NUM_THREADS": str(self._threads), "PYTHONPATH": path}
