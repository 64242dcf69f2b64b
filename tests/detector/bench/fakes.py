"""Workers without processes, on a machine whose speed and clock the test decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


class Machine:
    """Workers of known speed.

    Args:
        seconds: of a call, by implementation and setting or by implementation alone.
        slowness: by which all of it is multiplied, from the clock's time.
        errors: by implementation and request, such as ("eager", "prepare").
        preparing: seconds that building takes, of all or by implementation.
    """

    def __init__(
        self,
        seconds: dict[Any, float],
        *,
        slowness: Callable[[float], float] = lambda now: 1.0,
        errors: dict[tuple[str, str], str] | None = None,
        preparing: float | dict[str, float] = 0.0,
    ) -> None:
        self.seconds, self.slowness, self.errors, self.preparing = seconds, slowness, errors or {}, preparing
        self.now = 0.0
        self.log: list[tuple[str, str, str]] = []  # implementation, setting, request
        self.started: list[tuple[str, str]] = []

    def clock(self) -> float:
        return self.now

    def start(self, implementations: Iterable[str], setting: str) -> None:
        self.started += [(name, setting) for name in implementations]

    def ask(self, implementation: str, setting: str, request: str, value: Any, timeout: float) -> dict[str, Any]:
        assert (implementation, setting) in self.started
        self.log.append((implementation, setting, request))
        if timeout <= 0:
            return {"error": "out of time"}
        if (error := self.errors.get((implementation, request))) is not None:
            return {"error": error}
        if request == "finish":
            return {"memory": 1000}
        if request == "prepare":
            building = self.preparing
            building = building.get(implementation, 0.0) if isinstance(building, dict) else building
            self.now += min(building, timeout)
            if building > timeout:
                return {"error": "out of time"}
        of = self.seconds.get((implementation, setting), self.seconds.get(implementation))
        took = of * self.slowness(self.now)
        if request == "prepare":
            self.now += 2 * took
            return {"seconds": took}
        calls = max(1, round(value / took))
        self.now += calls * took
        return {"seconds": [took] * calls}


def results(times: dict[str, float], **changed: Any) -> dict[str, Any]:
    """A results file of one case in one setting: ms an image, by implementation, or what is wrong with it."""
    ours = times.get("npr")
    rows = []
    for name, time in times.items():
        row = {"kind": "model", "work": "model in inference", "batch": 4, "size": 256, "setting": "kept"}
        row |= {"implementation": name}
        if isinstance(time, str):
            rows.append(row | {"error": time, "floor_ms": None})
            continue
        row |= {"ms_per_image": time, "of": [time, time], "calls": 3, "memory": 3 << 20, "floor_ms": 1.0}
        if name != "npr" and isinstance(ours, float):
            row["ratio"] = time / ours
        rows.append(row)
    return {
        "schema": "npr bench 1",
        "date": "2000-01-01",
        "machine": {"cpu": "Some CPU", "cpus": 2, "threads": 2, "instruction_set": "avx2", "torch": "2.13.0"},
        "rivals": {"onnxruntime": "1.2", "openvino": None},
        "load_average": {"least": 0.5, "most": 1.0},
        "floors_per_second": {"multiply_adds": 1e11, "bytes": 1e10},
        "results": rows,
    } | changed
