"""What nvcc makes of the kernels: no spills, tensor-core instructions, wide loads and stores."""

from __future__ import annotations

import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.emulator.compilation import ROOT, cached, run, run_all

TARGETS = ("80", "90", "100", "120")
KERNELS = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))

# The entry points that multiply on tensor cores, by the file that they are in.
TENSOR_CORE_KERNELS = {
    "conv_forward": ("conv_forward_channels_last", "conv_forward_planar"),
    "conv_backward": ("conv_backward_kernel",),
    "moments": ("moments_kernel",),
    "stem_forward": ("stem_forward_kernel",),
    "stem_backward": ("stem_backward_kernel",),
}

OTHERS = ("device", "plain")

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("nvcc")]


def find_nvcc() -> str | None:
    return shutil.which("nvcc", path=os.environ["PATH"] + ":" + os.environ.get("CUDA_HOME", "/usr/local/cuda") + "/bin")


@pytest.fixture(scope="module")
def compiled() -> Path:
    """A folder with an object file of each .cu and what ptxas said about it."""
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("nvcc was not found")
    codes = [f"-gencode=arch=compute_{target},code=sm_{target}" for target in TARGETS]
    flags = ["-std=c++20", "-O3", *codes, f"-I{ROOT / 'csrc'}", "-Xptxas", "-v", "-Werror", "all-warnings"]

    def make(folder: Path) -> None:
        commands = [[nvcc, *flags, "-c", str(path), "-o", str(folder / f"{path.stem}.o")] for path in KERNELS]
        for path, said in zip(KERNELS, run_all(commands), strict=True):
            (folder / f"{path.stem}.txt").write_text(said)

    headers = [*sorted((ROOT / "csrc" / "cuda").glob("*.*h")), ROOT / "csrc" / "npr.h"]
    return cached("nvcc", [*KERNELS, *headers], (nvcc, flags), make)


def sass(compiled: Path, file: str, target: str) -> dict[str, str]:
    """The machine code of each kernel in a file, by its mangled name."""
    folder = compiled / f"{file}.sm_{target}.sass"
    if not folder.exists():
        folder.write_text(run([disassembler(), "--dump-sass", "-arch", f"sm_{target}", str(compiled / f"{file}.o")]))
    sections = folder.read_text().split("Function : ")[1:]
    return {section.split()[0]: section for section in sections}


def disassembler() -> str:
    triton = find_spec("triton")
    beside = Path(triton.origin).parent / "backends/nvidia/bin" if triton and triton.origin else Path()
    found = shutil.which("cuobjdump") or shutil.which("cuobjdump", path=str(beside))
    if found is None:
        pytest.skip("cuobjdump was found neither on PATH nor in Triton's package")
    return found


def test_every_file_is_known():
    assert {path.stem for path in KERNELS} == {*TENSOR_CORE_KERNELS, *OTHERS}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("file", [*TENSOR_CORE_KERNELS, *OTHERS])
def test_nothing_spills(compiled, file, target):
    said = (compiled / f"{file}.txt").read_text()
    frames = re.findall(
        rf"entry function '(\S+)' for 'sm_{target}'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads",
        said,
        re.DOTALL,
    )
    assert len(frames) >= len(TENSOR_CORE_KERNELS.get(file, (file,)))
    assert not [frame for frame in frames if frame[1:] != ("0", "0", "0")]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("file", TENSOR_CORE_KERNELS)
def test_tensor_cores_multiply(compiled, file, target):
    code = sass(compiled, file, target)
    for kernel in TENSOR_CORE_KERNELS[file]:
        variants = {name: text for name, text in code.items() if kernel in name}
        assert variants
        for name, text in variants.items():
            # m16n8k16, matrices from shared memory, and asynchronous copies to it.
            for instruction in ("HMMA.16816.F32", "LDSM.16", "LDGSTS"):
                assert instruction in text, f"{name} has no {instruction}"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("file", "kernel"), [("conv_forward", "conv_forward_channels_last"), ("conv_forward", "conv_forward_planar"),
                         ("stem_forward", "stem_forward_kernel")],
)  # fmt: skip
def test_results_are_stored_16_bytes_at_a_time(compiled, file, kernel, target):
    for name, text in sass(compiled, file, target).items():
        if kernel in name:
            assert re.search(r"STG\.E(\.\w+)*\.128", text), f"{name} has no 16-byte stores"


@pytest.mark.parametrize("target", TARGETS)
def test_no_kernel_uses_local_memory(compiled, target):
    for file in (*TENSOR_CORE_KERNELS, *OTHERS):
        for name, text in sass(compiled, file, target).items():
            assert not re.search(r"\b(LDL|STL)\b", text), f"{name} keeps an array in local memory"
