"""What nvcc makes of the kernels: no spills, tensor-core instructions, wide loads and stores."""

from __future__ import annotations

import functools
import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from npr_kernels.backends import native
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

# Part of the names of the entry points of the other files.
OTHERS = {"device": "probe", "plain": "_plain"}

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("nvcc")]


def find_nvcc() -> str | None:
    return shutil.which("nvcc", path=os.environ["PATH"] + ":" + os.environ.get("CUDA_HOME", "/usr/local/cuda") + "/bin")


def binaries() -> list[Path]:
    """What has the machine code of all kernels for all targets: the built library, where it is of these sources, else
    an object file of each .cu."""
    sources = [*sorted((ROOT / "csrc" / "cuda").glob("*.*")), ROOT / "csrc" / "npr.h"]
    targets = set() if native.extension is None else set(native.extension.cuda_targets())
    newest = max(path.stat().st_mtime for path in sources)
    if targets >= {f"sm_{target}" for target in TARGETS} and native.LIBRARY.stat().st_mtime > newest:
        return [native.LIBRARY]
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("the built library is not of these sources and targets, and nvcc was not found")
    codes = [f"-gencode=arch=compute_{target},code=sm_{target}" for target in TARGETS]
    flags = ["-std=c++20", "-O3", *codes, f"-I{ROOT / 'csrc'}", "-Werror", "all-warnings"]

    def make(folder: Path) -> None:
        run_all([[nvcc, *flags, "-c", str(path), "-o", str(folder / f"{path.stem}.o")] for path in KERNELS])

    return sorted(cached("nvcc", sources, (nvcc, flags), make).glob("*.o"))


# A line of machine code: its address, perhaps a predicate, and the instruction.
_OPCODE = re.compile(r"^\s+/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)


@functools.cache
def opcodes(target: str) -> dict[str, frozenset[str]]:
    """The instructions of each kernel, without operands, by its mangled name."""
    found = {}
    for binary in binaries():
        said = run([disassembler(), "--dump-sass", "-arch", f"sm_{target}", str(binary)])
        for section in said.split("Function : ")[1:]:
            instructions = re.findall(
                r"^\s+/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", section, re.MULTILINE
            )
            found[section.split()[0]] = frozenset(instructions)
    return found


@functools.cache
def frames(target: str) -> dict[str, tuple[int, int]]:
    """Bytes of stack, where registers spill to, and of local memory of each kernel."""
    found = {}
    for binary in binaries():
        said = run([disassembler(), "--dump-resource-usage", "-arch", f"sm_{target}", str(binary)])
        for name, stack, local in re.findall(r"Function (\S+):\s+REG:\d+ STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", said):
            found[name] = int(stack), int(local)
    return found


def variants(target: str, kernel: str) -> dict[str, frozenset[str]]:
    found = {name: instructions for name, instructions in opcodes(target).items() if kernel in name}
    assert found, f"no kernel {kernel} for sm_{target}"
    return found


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
def test_nothing_spills_or_lies_in_local_memory(target):
    code = opcodes(target)
    assert code.keys() == frames(target).keys()
    for kernel in (name for kernels in (*TENSOR_CORE_KERNELS.values(), OTHERS.values()) for name in kernels):
        assert variants(target, kernel)
    assert {name: frame for name, frame in frames(target).items() if frame != (0, 0)} == {}
    assert [
        name for name, instructions in code.items() if any(each[:3] in ("LDL", "STL") for each in instructions)
    ] == []


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("file", TENSOR_CORE_KERNELS)
def test_tensor_cores_multiply(file, target):
    for kernel in TENSOR_CORE_KERNELS[file]:
        for name, instructions in variants(target, kernel).items():
            # Matrices from shared memory; m16n8k32 of bytes, or m16n8k16 of numbers and asynchronous copies.
            own = ("IMMA.16832.U8.U8",) if kernel == "moments_kernel" else ("HMMA.16816.F32", "LDGSTS")
            for wanted in ("LDSM.16", *own):
                assert any(each.startswith(wanted) for each in instructions), f"{name} has no {wanted}"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kernel", ["conv_forward_channels_last", "conv_forward_planar", "stem_forward_kernel"])
def test_results_are_stored_16_bytes_at_a_time(kernel, target):
    for name, instructions in variants(target, kernel).items():
        assert any(re.match(r"STG\.E(\.\w+)*\.128", each) for each in instructions), f"{name} has no 16-byte stores"
