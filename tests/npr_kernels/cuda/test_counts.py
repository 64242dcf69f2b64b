"""How the command that counts instructions reads machine code; test_compile.py has what must hold of it."""

from __future__ import annotations

from tests.npr_kernels.cuda.counts import loops, resources

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
