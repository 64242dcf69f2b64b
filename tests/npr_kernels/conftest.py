"""The fixtures that run one test over every implementation of an op, or wherever the public functions run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

import npr_kernels as nk
from tests.npr_kernels import implementations, places
from tests.npr_kernels.inputs import RESIDUALS

ON_A_GPU = ("cuda", "triton")

# Kernels on the CPU, at a thousandth of their speed. Both residuals in one reach almost all that "haar" alone does.
INTERPRETED = ("triton-interpreter", "cuda-emulator")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if params.get("residual") == "haar" and (params.get("implementation") or params.get("place")) in INTERPRETED:
            item.add_marker(pytest.mark.slow)


def marked(names: Iterable[str]) -> list:
    return [pytest.param(name, marks=[pytest.mark.gpu] if name in ON_A_GPU else []) for name in names]


@pytest.fixture(params=marked(implementations.NAMES))
def implementation(request: pytest.FixtureRequest) -> Iterator[implementations.Implementation]:
    with implementations.loaded(request.param) as loaded:
        yield loaded


@pytest.fixture(params=implementations.CPU_INSTRUCTION_SETS)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test on each path of the CPU kernels, for tests of what public functions compute there."""
    with implementations.instruction_set(request.param):
        yield request.param


@pytest.fixture(params=["reference", *implementations.CPU_INSTRUCTION_SETS])
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test on the reference and on each path of the CPU kernels, for ops that have no others."""
    if request.param == "reference":
        with nk.backend("reference"):
            yield request.param
    else:
        with implementations.instruction_set(request.param):
            yield request.param


@pytest.fixture(params=marked(places.PLACES))
def place(request: pytest.FixtureRequest) -> Iterator[places.Place]:
    with places.at(request.param) as place:
        yield place


@pytest.fixture(params=marked(ON_A_GPU))
def gpu(request: pytest.FixtureRequest) -> Iterator[places.Place]:
    """The places on a CUDA device only."""
    with places.at(request.param) as place:
        yield place


@pytest.fixture(params=RESIDUALS)
def residual(request: pytest.FixtureRequest) -> str:
    return request.param
