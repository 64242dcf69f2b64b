"""What Triton's compiler makes of the kernels for GPUs that need not be here: no spills, tensor-core instructions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("triton")

# Shared memory that a block may use, in bytes: sm_80's and sm_90's own limits; LDS on AMD.
SHARED = {"cuda:80": 163 * 1024, "cuda:90": 227 * 1024, "cuda:100": 227 * 1024, "hip:gfx942": 64 * 1024}
TENSOR_CORES = {
    "cuda:80": {"mma.sync"},
    "cuda:90": {"mma.sync", "wgmma.mma_async"},
    "cuda:100": {"mma.sync", "tcgen05.mma"},
    "hip:gfx942": {"v_mfma"},
}
PRODUCTS = {"_partial_moments", "_conv2d", "_partial_sums", "_stem"}
ALGEBRA = {"_fold", "_finish"}


@pytest.fixture(scope="module", params=SHARED)
def target(request) -> str:
    return request.param


def compiled(target: str, calls: str) -> list[dict]:
    """Facts of every kernel, compiled in a process of its own: in this one, kernels may be interpreted."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    root = Path(__file__).resolve().parents[3]
    environment |= {"NPR_TRITON_TUNE": "0", "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    command = [sys.executable, str(Path(__file__).with_name("compile_kernels.py")), target, calls]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def kernels(target: str) -> list[dict]:
    return compiled(target, "common")


def test_corners_compile():
    assert {kernel["kernel"] for kernel in compiled("cuda:80", "corners")} == PRODUCTS | ALGEBRA


def test_every_kernel_compiles(kernels):
    assert {kernel["kernel"] for kernel in kernels} == PRODUCTS | ALGEBRA


def test_products_run_on_tensor_cores(kernels, target):
    for kernel in kernels:
        instructions = kernel["tensor_core_instructions"]
        if kernel["kernel"] in PRODUCTS:
            assert sum(instructions.values()) > 0, kernel
            assert set(instructions) <= TENSOR_CORES[target], kernel
        else:
            assert not instructions, kernel  # their algebra is float64


def test_two_terms_cost_two_products(kernels):
    count = {k["call"]: sum(k["tensor_core_instructions"].values()) for k in kernels if k["kernel"] == "_conv2d"}
    assert count["npr conv2d float32"] == count["npr conv2d bfloat16"] == 2 * count["npr conv2d fast float16 nchw"]


def test_shared_memory_fits(kernels, target):
    for kernel in kernels:
        assert kernel["shared"] <= SHARED[target], kernel


def test_nothing_spills(kernels):
    if any(kernel["stack"] is None for kernel in kernels):
        pytest.skip("no cuobjdump, which counts registers")
    for kernel in kernels:
        assert kernel["stack"] == 0, kernel
