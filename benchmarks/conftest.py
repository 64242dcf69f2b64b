"""How many threads the benchmarks use."""

from __future__ import annotations

import os

import pytest

from detector.bench.calls import Caller

THREADS = int(os.environ.get("NPR_BENCH_THREADS", "2"))


@pytest.fixture(scope="session")
def caller(tmp_path_factory) -> Caller:
    return Caller(THREADS, tmp_path_factory.mktemp("files"))
