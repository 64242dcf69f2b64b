"""The run that compute-sanitizer watches on a GPU, and how what it said is read."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.npr_kernels import implementations
from tests.npr_kernels.cuda import sanitize, small_run
from tests.npr_kernels.cuda.small_run import DONE, READY


@pytest.mark.slow
def test_small_run_in_the_emulator():
    with implementations.loaded("cuda-emulator") as kernels:
        small_run.run(kernels)


@pytest.mark.gpu
def test_small_run_on_the_device():
    with implementations.loaded("cuda") as kernels:
        small_run.run(kernels)


PREFIX = "========= "
FOUND = PREFIX + "Invalid __global__ read of size 16 bytes\n" + PREFIX + "ERROR SUMMARY: 3 errors"


@pytest.mark.parametrize(
    ("status", "log", "outcome"),
    [
        (0, f"{READY}\n{DONE}\n{PREFIX}ERROR SUMMARY: 0 errors\n", "passed"),
        (0, f"{READY}\n{DONE}\n{PREFIX}RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", "passed"),
        (sanitize.FOUND, f"{READY}\n{DONE}\n{FOUND}\n", "failed: ERROR SUMMARY: 3 errors"),
        (1, f"{READY}\nAcceleratorError: launch failure\n{FOUND}\n", "failed: ERROR SUMMARY: 3 errors"),
        (1, f"{READY}\nAssertionError: relative error 1\n", "failed: AssertionError: relative error 1"),
        (1, f"{PREFIX}Error: Device not supported\nCUDA error: unknown\n", "not run: Error: Device not supported"),
        (1, "torch sees no CUDA device\n", "not run: torch sees no CUDA device"),
        (0, f"{PREFIX}Error: No attachable process found\n", "not run: Error: No attachable process found"),
        (255, "", "not run: no output"),
    ],
)
def test_outcome(status, log, outcome):
    assert sanitize.judge(status, log) == outcome


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Puts a program in compute-sanitizer's place; the folder of its logs."""

    def place(script: str) -> None:
        program = tmp_path / "compute-sanitizer"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sanitize, "sanitizer", lambda: str(program))

    return place


def test_the_tool_is_run_on_the_packages_kernels_without_the_allocators_cache(tool, tmp_path):
    tool(f'echo "$@"; echo "cache $PYTORCH_NO_CUDA_MEMORY_CACHING"; echo "{READY}"; echo "{DONE}"')
    assert sanitize.run("racecheck", 10, tmp_path) == "passed"
    log = (tmp_path / "racecheck.log").read_text()
    assert re.search("--tool racecheck --kernel-name kns=3npr4cuda --error-exitcode 86 .*small_run", log)
    assert "cache 1" in log


def test_a_tool_that_takes_too_long(tool, tmp_path):
    tool("exec sleep 60")
    assert sanitize.run("memcheck", 0.2, tmp_path) == "not run: out of time"


def test_no_tool(monkeypatch, tmp_path):
    monkeypatch.setattr(sanitize, "sanitizer", lambda: None)
    assert sanitize.run("memcheck", 1, tmp_path) == "not run: compute-sanitizer was not found"


def test_the_filter_names_the_kernels(tmp_path):
    """Mangled names carry the namespace as the filter spells it."""
    source = "namespace npr::cuda { void conv_forward_planar() {} }"
    (tmp_path / "a.cpp").write_text(source)
    try:
        subprocess.run(["c++", "-c", "a.cpp"], cwd=tmp_path, check=True)
        symbols = subprocess.run(["nm", "a.o"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert "3npr4cuda" in symbols
