"""How instructions are told apart by the pipe that they take on Hopper."""

from __future__ import annotations

import pytest

from tests.npr_kernels.cuda.pipes import MMA_SYNC, PIPES, cost, cycles


@pytest.mark.parametrize(
    ("instruction", "pipe", "needed"),
    [
        ("LOP3.LUT R1, R2, 0xf, RZ, 0xc0, !PT", "alu", 2),
        ("@!P0 VIMNMX3 R1, R2, R3, R4, !PT", "alu", 2),
        ("F2FP.BF16.F32.PACK_AB R1, R2, R3", "alu", 2),
        ("IMAD.MOV.U32 R1, RZ, RZ, R2", "fma", 2),
        ("@P1 FFMA R1, R2, R3, R4", "fma", 1),
        ("HMMA.16816.F32 R4, R8, R12, R4", "tensor", 4 / MMA_SYNC),
        ("LDSM.16.M88.4 R4, [R8]", "memory", 16),
        ("STG.E.EF.128 desc[UR4][R2.64], R8", "memory", 16),
        ("LDGSTS.E.BYPASS.LTC128B.128 [R4], desc[UR8][R2.64]", "memory", 16),
        ("LDS.U8 R4, [R8]", "memory", 4),
        ("SHFL.BFLY PT, R1, R2, 0x1, 0x1f", "memory", 4),
        ("MUFU.RSQ R1, R2", "special", 8),
        ("@P0 BRA 0x10", None, 0),
        ("UIADD3 UR4, UR4, 0x1, URZ", None, 0),
        ("@!UP0 USEL UR4, UR4, UR5, UP0", None, 0),
    ],
)
def test_costs(instruction, pipe, needed):
    assert cost(instruction) == (pipe, needed)


def test_cycles_add_up():
    spent = cycles(["LOP3.LUT R1, R2, R3", "@P0 SEL R1, R2, R3", "FADD R1, R2, R3", "EXIT"])
    assert spent == {"issue": 4, "alu": 4, "fma": 1, **dict.fromkeys(PIPES[2:], 0)}
