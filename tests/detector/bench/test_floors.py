"""Peaks that are measured, and floors that follow from them."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from detector.bench import floors
from npr_kernels.backends import native
from tests import needs


@needs.facts
def test_multiply_adds_are_done_and_counted():
    once = native.facts.multiply_adds(1)
    assert once in {12 * lanes for lanes in (4, 8, 16)}
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(native.facts.multiply_adds, [1000, 0])) == [1000 * once, 0]
    assert floors.multiply_add_peak(1, runs=1, steps=1000) > 0


def test_without_facts(monkeypatch):
    monkeypatch.setattr(native, "facts", None)
    assert floors.multiply_add_peak(1) is None


def test_the_floor_is_the_larger_of_arithmetic_and_memory():
    per_second = {"multiply_adds": 1e9, "bytes": 1e8}
    assert floors.floor_ms({"multiply_adds": 5e6, "bytes": 1e5}, per_second) == pytest.approx(5)
    assert floors.floor_ms({"multiply_adds": 5e6, "bytes": 1e6}, per_second) == pytest.approx(10)
    assert floors.floor_ms({"multiply_adds": 5e6}, per_second) == pytest.approx(5)


def test_no_floor():
    assert floors.floor_ms({}, {"multiply_adds": 1e9, "bytes": 1e8}) is None
    assert floors.floor_ms({"multiply_adds": 1e6}, {"multiply_adds": None, "bytes": 1e8}) is None
    assert floors.floor_ms({"multiply_adds": 1e6, "bytes": 0}, {"bytes": 1e8}) is None
