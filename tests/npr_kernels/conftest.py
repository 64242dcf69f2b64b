"""The fixture that runs one test over every implementation of an op."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.npr_kernels import implementations

ON_A_GPU = ("cuda", "triton")


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.gpu] if name in ON_A_GPU else [])
        for name in implementations.NAMES
    ]
)  # fmt: skip
def implementation(request: pytest.FixtureRequest) -> Iterator[implementations.Implementation]:
    with implementations.loaded(request.param) as loaded:
        yield loaded
