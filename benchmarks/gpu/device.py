"""The device as a worker measures on it: torch's, a GPU or, to try things out, the CPU."""

from __future__ import annotations

import contextlib
import functools
import gc
import math
import statistics
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import check, plan
from benchmarks.gpu.journal import Row
from detector.bench import floors, machine, timing, works
from detector.bench.answers import one_line
from detector.bench.works import Call, Case, Work

ROUNDS = 5
SMOKE = (2, works.CHANNELS, 38, 70)
"""Images whose cells are odd in number, so that no tile of any kernel is full, and more than one."""


class TorchDevice:
    """See :class:`benchmarks.gpu.serve.Device`.

    Args:
        batch: images of a call.
        size: their height and width.
    """

    def __init__(self, device: torch.device, batch: int, size: int) -> None:
        if device.type == "cuda":
            if not torch.cuda.is_available():
                raise RuntimeError("torch sees no CUDA device")
            torch.cuda.set_device(device)
        self.device, self.batch, self.size = device, batch, size

    def facts(self) -> dict[str, Any]:
        """`name` of the device, `machine`."""
        facts = machine.describe(torch.get_num_threads())
        if self.device.type != "cuda":
            return {"name": machine.cpu_name(), "machine": facts}
        return {
            "name": torch.cuda.get_device_name(self.device),
            "machine": facts | {"gpu": machine.describe_gpu(self.device)},
        }

    def fault(self) -> str | None:
        if self.device.type != "cuda":
            return None
        try:
            torch.cuda.synchronize()
        except Exception as error:  # of whatever kind: nothing else works in this process any more
            return one_line(error)
        return None

    def measure(self, row: Row) -> dict[str, Any]:
        """`deviation` and times; or `wrong`, without any; bandwidth, of memory alone."""
        if row.op == plan.MEMORY:
            return {"bytes_per_second": floors.bandwidth(row.work, self.device, 2048 if self._on_gpu else 16)}
        work = plan.work_of(row)
        try:
            images = self._tiny() if row.step == "smoke" else self._rotation
            placed = [batch.contiguous(memory_format=works.LAYOUTS[row.layout]) for batch in images]
            case = Case(row.implementation, row.layout, self._dtype(work), placed, work.residual)
            with case.backend():
                call = work.prepare(case)
                outcome = judged(work, case, call(0))
                if "wrong" not in outcome and row.step != "smoke":
                    outcome |= self._times(work, call)
            return outcome
        finally:
            self._forget()

    @property
    def _on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @staticmethod
    def _dtype(work: Work) -> torch.dtype:
        return work.dtype if work.dtype.is_floating_point else torch.float32

    def _times(self, work: Work, call: Call) -> dict[str, Any]:
        calls = 2 if work.op == "NPRDetector" else 10
        seconds = sorted(timing.seconds(call, self.device, rounds=ROUNDS, calls=calls))
        milliseconds = [1e3 * each / self.batch for each in seconds]
        return {
            "ms_per_image": statistics.median(milliseconds),
            "of": [milliseconds[0], milliseconds[-1]],
            "calls": len(milliseconds),
        }

    def _tiny(self) -> list[Tensor]:
        return [self._draw(SMOKE, torch.Generator(self.device).manual_seed(0))]

    @functools.cached_property
    def _rotation(self) -> list[Tensor]:
        """Batches of random images, together at least four times the GPU's second-level cache."""
        shape = (self.batch, works.CHANNELS, self.size, self.size)
        cache = torch.cuda.get_device_properties(self.device).L2_cache_size if self._on_gpu else 0
        generator = torch.Generator(self.device).manual_seed(0)
        return [self._draw(shape, generator) for _ in range(max(2, math.ceil(4 * cache / math.prod(shape))))]

    def _draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device, generator=generator)

    def _forget(self) -> None:
        """Memory that the next row may need; of a device that does not answer any more there is none."""
        if self._on_gpu:
            gc.collect()
            with contextlib.suppress(Exception):
                torch.cuda.empty_cache()


def judged(work: Work, case: Case, result: Any) -> dict[str, Any]:
    """How far the result of call(0) is off, and `wrong` where that is more than rounding explains."""
    off, most = check.deviation(work, case, result), check.allowed(work, case)
    outcome: dict[str, Any] = {"deviation": off if math.isfinite(off) else str(off)}
    return outcome if off <= most else outcome | {"wrong": f"off by {off:.2g}, at most {most:.2g} is right"}
