"""Where the loops that multiply spend their cycles on Hopper, pipe by pipe, counted in the machine code.

    python -m tests.npr_kernels.cuda.pipes [--target 90] [file ...]

Prints, for each innermost loop with MMAs of each kernel, the cycles that one scheduler's quarter of a multiprocessor
needs for one pass of a warp: to issue it, one instruction a cycle, and in each pipe. The longest of them decides, if
enough warps are there to hide what each waits for. Throughputs are those of the CUDA C++ Programming Guide for compute
capability 9.0 (128 float32 results a cycle and multiprocessor, 64 of integers, comparisons and conversions, 32 of
shuffles and of words of shared memory, 16 of special functions); an MMA takes 4 cycles at the tensor cores' peak, of
which mma.sync is known to reach 62 %.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path

from tests.npr_kernels.cuda.counts import compiled, innermost, readable
from tests.npr_kernels.cuda.test_compile import TENSOR_CORE_KERNELS

PIPES = ("alu", "fma", "tensor", "memory", "special")
MMA_SYNC = 0.62

# The first that an instruction's name begins with: its pipe, and its cycles there; None: neither.
COSTS: tuple[tuple[str, str | None, float], ...] = (
    (r"[HI]MMA\.(16816|16832)", "tensor", 4 / MMA_SYNC),
    (r"LDSM\.16\.MT?88\.4", "memory", 16),
    (r"LDSM\.16\.MT?88\.2", "memory", 8),
    (r"(LD|ST)\w*\.(\w+\.)*128", "memory", 16),
    (r"(LD|ST)\w*\.(\w+\.)*64", "memory", 8),
    (r"LD|ST|ATOM|RED|SHFL|VOTE", "memory", 4),
    (r"MUFU|POPC|FLO|BREV", "special", 8),
    (r"FFMA|FADD|FMUL|HFMA2|HADD2|HMUL2", "fma", 1),
    (r"IMAD|IDP", "fma", 2),
    (r"BRA|BSSY|BSYNC|BAR|BREAK|CALL|RET|EXIT|NOP|DEPBAR|WARPSYNC|U\w+|R2UR|S2\w*R|CS2R|ERRBAR|MEMBAR", None, 0),
)


def cost(instruction: str) -> tuple[str | None, float]:
    """The pipe of an instruction and its cycles there: the ALU's, two cycles, if no other is known."""
    name = re.sub(r"^@!?U?P\w+ +", "", instruction).split()[0]
    for pattern, pipe, cycles in COSTS:
        if re.match(pattern, name):
            return pipe, cycles
    return "alu", 2


def cycles(instructions: list[str]) -> dict[str, float]:
    """By pipe, and `issue`."""
    spent = {"issue": float(len(instructions))} | dict.fromkeys(PIPES, 0.0)
    for instruction in instructions:
        pipe, needed = cost(instruction)
        if pipe is not None:
            spent[pipe] += needed
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", default=list(TENSOR_CORE_KERNELS), help="of csrc/cuda, without .cu")
    parser.add_argument("--target", default="90", help="the architecture, as in sm_90")
    options = parser.parse_args()
    print(f"{'kernel':72} MMAs issue {' '.join(f'{pipe:>7}' for pipe in PIPES)}")
    with tempfile.TemporaryDirectory() as folder:
        for file in options.files:
            _, code = compiled(file, options.target, Path(folder) / f"{file}.o")
            for name, instructions in code.items():
                for begin, end, mma in innermost(instructions):
                    spent = cycles([text for _, text in instructions[begin : end + 1]])
                    of_pipes = " ".join(f"{spent[pipe]:7.0f}" for pipe in PIPES)
                    print(f"{readable(name):72} {mma:4} {spent['issue']:5.0f} {of_pipes}")


if __name__ == "__main__":
    main()
