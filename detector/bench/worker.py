"""The process in which one implementation is built and timed: `python -m detector.bench.worker OPTIONS`.

It reads requests from standard input and answers on standard output, a JSON object a line each:

    {}                                     once it is up, unasked: ready, or error
    {"prepare": CASE}                      builds it and calls it twice: seconds of the second call, or error
    {"turn": SECONDS}                      calls it for about that long: seconds, a list, of each call
    {"finish": null}                       forgets it: memory, the most that the process had beyond what it started with
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detector.bench import resident, timing
from detector.bench.answers import one_line, own_stdout, tell
from detector.bench.calls import Call, Caller
from detector.bench.cases import Case
from detector.memory import give_back_memory, keep_freed_memory

_REST = 0.01  # seconds in which an engine's threads, which spin for a while after a call, fall asleep


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--implementation", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--keep-freed-memory", action="store_true")
    args = parser.parse_args()
    answers = own_stdout()
    warnings.simplefilter("ignore")
    if args.keep_freed_memory and not keep_freed_memory():
        tell(answers, {"error": "no glibc, whose allocator could be told to keep freed memory"})
        return
    session = Session(args.implementation, Caller(args.threads, args.folder).prepare)
    tell(answers, {"ready": True})
    for line in sys.stdin:
        ((request, value),) = json.loads(line).items()
        tell(answers, session.answer(request, value))


class Session:
    """Answers requests.

    Args:
        implementation: what is measured.
        prepare: makes the call of a case and an implementation.
    """

    def __init__(
        self,
        implementation: str,
        prepare: Callable[[Case, str], Call],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._implementation, self._prepare, self._clock = implementation, prepare, clock
        self._call: Call | None = None
        self._at_start = resident.now()

    def answer(self, request: str, value: Any) -> dict[str, Any]:
        try:
            return getattr(self, f"_{request}_")(value)
        except Exception as error:  # a failure is a result
            self._call = None
            return {"error": one_line(error)}

    def _prepare_(self, case: dict[str, Any]) -> dict[str, Any]:
        resident.forget_peak()
        self._call = self._prepare(
            Case(**case | {"implementations": tuple(case["implementations"])}), self._implementation
        )
        self._call()  # compiles, starts threads, fills caches
        start = self._clock()
        self._call()
        return {"seconds": self._clock() - start}

    def _turn_(self, seconds: float) -> dict[str, Any]:
        assert self._call is not None
        times = timing.turn(self._call, seconds, self._clock)
        time.sleep(_REST)
        return {"seconds": times}

    def _finish_(self, _: None) -> dict[str, Any]:
        peak = resident.peak()
        self._call = None
        gc.collect()
        give_back_memory()
        return {"memory": None if peak is None or self._at_start is None else max(0, peak - self._at_start)}


if __name__ == "__main__":
    main()
