"""The cases of `npr bench --quick` under pytest-benchmark, one implementation after another in this process.

    python -m pytest benchmarks --benchmark-enable -k 'stem and npr'

For work on one of them: pytest-benchmark saves runs and compares them. What is reported comes from `npr bench`, whose
implementations take turns.
"""

from __future__ import annotations

import pytest

from detector.bench import cases
from detector.export.errors import ExportError

ALL = [(case, name) for case in cases.QUICK for name in case.implementations]


@pytest.mark.parametrize(("case", "name"), ALL, ids=[f"{case.title}-{name}" for case, name in ALL])
def test_case(benchmark, caller, case, name):
    try:
        call = caller.prepare(case, name)
    except ExportError as error:
        pytest.skip(str(error))
    benchmark.group = case.title
    benchmark.extra_info.update(kind=case.kind, images=case.batch, size=case.size, implementation=name)
    call()  # compiles
    benchmark.pedantic(call, rounds=5, iterations=1, warmup_rounds=1)
