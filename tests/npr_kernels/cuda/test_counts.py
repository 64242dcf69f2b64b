"""How the command that counts instructions reads machine code; test_compile.py has what must hold of it."""

from __future__ import annotations

import pytest

from tests.npr_kernels.cuda.counts import innermost, kernels_of, loops, resources
from tests.npr_kernels.cuda.test_compile import binaries

CODE = [
    ("0000", "MOV R1, R2"),
    ("0010", "IADD3 R1, R1, 0x1, RZ"),
    ("0020", "HMMA.16816.F32 R4, R8, R12, R4"),
    ("0030", "@P1 BRA 0x50"),
    ("0040", "HMMA.16816.F32 R4, R8, R14, R4"),
    ("0050", "@P0 BRA 0x10"),
    ("0060", "LDG.E R1, [R2.64]"),
    ("0070", "@P0 BRA 0x60"),
    ("0080", "@P2 BRA 0x0"),
    ("0090", "EXIT"),
]


def test_innermost_loops_that_multiply():
    assert loops(CODE) == "5/2"
    assert loops(CODE[:5]) == ""
    # From behind the loop, back into it: what a warp does where its lanes went apart.
    assert loops([*CODE, ("00a0", "BRA 0x20")]) == "5/2"


def test_resources():
    said = """ for 'sm_90'
    ptxas info : Function properties for kernel
    8 bytes stack frame, 16 bytes spill stores, 12 bytes spill loads
    ptxas info : Used 126 registers, used 1 barriers, 33216 bytes smem"""
    assert resources(said) == (126, 33216, 16)
    assert resources("Used 40 registers, used 0 barriers") == (40, 0, 0)


@pytest.mark.slow
@pytest.mark.xdist_group("nvcc")
@pytest.mark.parametrize("dtype", ["BFloat", "Half"])
def test_the_stem_with_codes_takes_few_instructions(dtype):
    """Its row loop, of npr on sm_90: 696 before keys, in which a sum and its place are one integer."""
    kernels = {name: code for binary in binaries() for name, code in kernels_of(binary, "90").items()}
    (code,) = (code for name, code in kernels.items() if "stem_forward_kernelILi0E" in name and f"{dtype}ELb1E" in name)
    ((begin, end, products),) = innermost(code)
    assert products == 48
    assert end + 1 - begin <= 520
