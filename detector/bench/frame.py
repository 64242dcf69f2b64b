"""The frame of all measurements: implementations take turns, in both settings of the allocator, while there is time."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

from detector.bench.cases import Case


class Asked(Protocol):
    """What the frame needs of :class:`detector.bench.processes.Workers`."""

    def start(self, implementations: Iterable[str], setting: str) -> None: ...

    def ask(self, implementation: str, setting: str, request: str, value: Any, timeout: float) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Effort:
    """How long is measured.

    Attributes:
        seconds: for all of it. No round begins that would end later; what is built for longer is ended a little later.
        turn: seconds of one turn of an implementation, or one call that takes longer.
        rounds: turns of each implementation, fewer where a case's share of the time is up.
        least_rounds: that a case gets even then.
    """

    seconds: float
    turn: float
    rounds: int
    least_rounds: int = 2

    @property
    def patience(self) -> float:
        """Seconds after which nothing is waited for."""
        return 1.1 * self.seconds


def measure(
    cases: Sequence[Case],
    settings: Sequence[str],
    workers: Asked,
    effort: Effort,
    report: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> tuple[list[dict[str, Any]], list[float]]:
    """The rows of a results file, one for each case, setting and implementation, and the load averages meanwhile.

    Args:
        report: told of every case when it is done.

    A row has kind, work, batch, size, setting and implementation, and either `error` or

        ms_per_image    the median over the rounds of a turn's median
        of              the least and the largest of them
        ratio           to our time: the median over the rounds, which are compared one by one; not in our own row
        calls           that were timed
        memory          bytes that the process had at most beyond what it had before it built anything; None where the
                        system does not tell
    """
    begin = clock()
    rows, loads = [], []
    parts = [(case, setting) for case in cases for setting in settings]
    for number, (case, setting) in enumerate(parts):
        start = clock()
        left = begin + effort.seconds - start
        limits = _Limits(start + left / (len(parts) - number), start + left, begin + effort.patience)
        rows_of_case = _take_turns(case, setting, workers, effort, limits, clock)
        rows += rows_of_case
        loads.append(os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0)
        report(
            f"{number + 1}/{len(parts)}  {case.title}, {setting}: {_in_short(rows_of_case)}  ({clock() - start:.0f} s)"
        )
    return rows, loads


class _Limits(NamedTuple):
    """Times of the clock: when the case's share is up, when all is to end, and when nothing is waited for."""

    share: float
    end: float
    patience: float


def _take_turns(
    case: Case, setting: str, workers: Asked, effort: Effort, limits: _Limits, clock: Callable[[], float]
) -> list[dict[str, Any]]:
    errors: dict[str, str] = {}
    memory: dict[str, int | None] = {}
    turns: dict[str, list[list[float]]] = {}
    round_seconds = 0.0

    def ask(name: str, request: str, value: Any, until: float = limits.patience) -> dict[str, Any]:
        answer = workers.ask(name, setting, request, value, until - clock())
        if "error" in answer:
            errors[name] = answer["error"]
            turns.pop(name, None)
        return answer

    if clock() < limits.end:
        workers.start(case.implementations, setting)
    for name in case.implementations:
        if clock() >= limits.end:
            errors[name] = "out of time"
            continue
        # What takes half of the time that is left to build would leave none to measure the others.
        most = max((limits.end - clock()) / 2, effort.seconds / 20)
        answer = ask(name, "prepare", asdict(case), clock() + most)
        if "error" not in answer:
            turns[name] = []
            round_seconds += max(effort.turn, answer["seconds"])
    for number in range(effort.rounds):
        start = clock()
        if start + round_seconds > (limits.share if number >= effort.least_rounds else limits.end):
            break
        for name in list(turns):
            answer = ask(name, "turn", effort.turn)
            if name in turns:
                turns[name].append(answer["seconds"])
        round_seconds = clock() - start
    for name in list(turns):
        memory[name] = ask(name, "finish", None).get("memory")
        if name in turns and not turns[name]:
            errors[name] = "out of time"

    medians = {
        name: [1e3 * statistics.median(turn) / case.batch for turn in of_name]
        for name, of_name in turns.items()
        if name not in errors
    }
    ours = medians.get(case.implementations[0])
    rows = []
    for name in case.implementations:
        row: dict[str, Any] = {
            "kind": case.kind,
            "work": case.work,
            "batch": case.batch,
            "size": case.size,
            "setting": setting,
            "implementation": name,
        }
        if name in errors:
            rows.append(row | {"error": errors[name]})
            continue
        times = medians[name]
        row |= {
            "ms_per_image": statistics.median(times),
            "of": [min(times), max(times)],
            "calls": sum(map(len, turns[name])),
            "memory": memory[name],
        }
        if ours is not None and name != case.implementations[0]:
            row["ratio"] = statistics.median(time / our for time, our in zip(times, ours, strict=True))
        rows.append(row)
    return rows


def _in_short(rows: list[dict[str, Any]]) -> str:
    times = [f"{row['implementation']} {row['ms_per_image']:.3g}" for row in rows if "error" not in row]
    return f"{', '.join(times)} ms an image" if times else "nothing"
