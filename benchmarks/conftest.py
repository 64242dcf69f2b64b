"""The input of all benchmarks, and how one is recorded.

`measure` runs a function under pytest-benchmark and notes what it is: the table groups by `op` and `work`, compares
`implementation`s fed with images of one `layout`, and sets the times beside the floors that `multiply_adds` and `bytes`
give.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

THREADS = int(os.environ.get("NPR_BENCH_THREADS", "2"))
BATCH, SIZE = 16, 256


@pytest.fixture(autouse=True)
def _threads():
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    """uint8 [16, 3, 256, 256]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)


@pytest.fixture
def measure(benchmark) -> Callable[..., None]:
    def run(
        function: Callable[[], Any], *, op: str, work: str, implementation: str, layout: str, **costs: float
    ) -> None:
        """costs: multiply_adds and bytes of one image, for the floors."""
        benchmark.group = f"{op} {work}"
        benchmark.extra_info.update(
            op=op, work=work, implementation=implementation, layout=layout, images=BATCH, **costs
        )
        for _ in range(3):  # compilation, thread pools, allocator
            function()
        benchmark.pedantic(function, rounds=15, iterations=1, warmup_rounds=1)

    return run
