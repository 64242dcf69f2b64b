"""The loop of a worker's process: it reads requests from standard input and answers on standard output.

    {}                     once it is up, unasked: ready
    {"facts": null}        about the device
    {"measure": ROW}       what became of the row

An answer has `error` if there is nothing else to tell, and `fault` where the device is not usable by this process any
more: it should be killed then, since its own way out may wait for the device.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import Any, Protocol

from benchmarks.gpu.journal import Row
from detector.bench.answers import one_line, own_stdout, tell


class Device(Protocol):
    def facts(self) -> dict[str, Any]: ...

    def measure(self, row: Row) -> dict[str, Any]: ...

    def fault(self) -> str | None:
        """What is wrong with the device for all that follows in this process, such as after an illegal access."""
        ...


def serve(device: Device) -> None:
    answers = own_stdout()
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    tell(answers, {"ready": True})
    while True:
        ((request, value),) = json.loads(lines.get()).items()
        tell(answers, _answer(device, request, value))


def _listen(lines: queue.Queue[str]) -> None:
    """Ends the process with whoever asks, also in the middle of a row."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def _answer(device: Device, request: str, value: Any) -> dict[str, Any]:
    try:
        return device.measure(Row(*value)) if request == "measure" else device.facts()
    except Exception as error:  # a failure is a result
        answer = {"error": one_line(error)}
        fault = device.fault()
        return answer if fault is None else answer | {"fault": fault}
