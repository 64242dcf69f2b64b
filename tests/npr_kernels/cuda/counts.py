"""Counts what nvcc makes of the tensor-core kernels: registers, instructions, and those of the loops that multiply.

    python -m tests.npr_kernels.cuda.counts [--target 90] [file ...]

Compiles csrc/cuda for one target and prints a line for each kernel: registers a thread, static shared memory and bytes
of spills; its instructions, and those of its innermost loops that multiply on tensor cores, as instructions/MMAs. A
loop is the code between a branch and its target before it; what branches in it skip is counted too. The number in
brackets is that of the residual in csrc/npr.h. Needs nvcc, and cuobjdump of the CUDA toolkit or of Triton.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

from tests.emulator.compilation import ROOT, run
from tests.npr_kernels.cuda.test_compile import TENSOR_CORE_KERNELS, disassembler, find_nvcc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", default=list(TENSOR_CORE_KERNELS), help="of csrc/cuda, without .cu")
    parser.add_argument("--target", default="90", help="the architecture, as in sm_90")
    options = parser.parse_args()
    print(f"{'kernel':72} registers shared spills instructions loops")
    with tempfile.TemporaryDirectory() as folder:
        for file in options.files:
            count(file, options.target, Path(folder) / f"{file}.o")


def count(file: str, target: str, target_file: Path) -> None:
    said, code = compiled(file, target, target_file)
    facts = {
        name: resources(text) for name, text in re.findall(r"entry function '(\S+)'(.*?)(?=Compiling|\Z)", said, re.S)
    }
    for name, instructions in code.items():
        registers, shared, spills = facts[name]
        print(f"{readable(name):72} {registers:9} {shared:6} {spills:6} {len(instructions):12} {loops(instructions)}")


def compiled(file: str, target: str, target_file: Path) -> tuple[str, dict[str, list[tuple[str, str]]]]:
    """What nvcc said, and the instructions of the kernels with MMAs, each with its address, by mangled name."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise SystemExit("nvcc was not found")
    code = f"-gencode=arch=compute_{target},code=sm_{target}"
    source = ROOT / "csrc" / "cuda" / f"{file}.cu"
    said = run([nvcc, "-std=c++20", "-O3", code, f"-I{ROOT / 'csrc'}", "-Xptxas", "-v", "-c", str(source),
                "-o", str(target_file)])  # fmt: skip
    return said, kernels_of(target_file, target)


def kernels_of(binary: Path, target: str) -> dict[str, list[tuple[str, str]]]:
    """The instructions of a binary's kernels with MMAs for one target, as above."""
    kernels = {}
    said = run([disassembler(), "--dump-sass", "-arch", f"sm_{target}", str(binary)])
    for section in said.split("Function : ")[1:]:
        instructions = re.findall(r"^\s+/\*([0-9a-f]{4,5})\*/\s+(.*?);", section, re.MULTILINE)
        if any("MMA." in text for _, text in instructions):
            kernels[section.split()[0]] = instructions
    return kernels


def resources(said: str) -> tuple[int, int, int]:
    """Registers, bytes of static shared memory, and bytes of spills, of what ptxas says of a kernel."""
    number = lambda pattern: sum(int(n) for n in re.findall(pattern, said)[:1])  # noqa: E731
    return number(r"Used (\d+) registers"), number(r"(\d+) bytes smem"), number(r"(\d+) bytes spill stores")


def loops(instructions: list[tuple[str, str]]) -> str:
    """Of each innermost loop with MMAs: its instructions and its MMAs."""
    return " ".join(f"{end + 1 - begin}/{mma}" for begin, end, mma in innermost(instructions))


def innermost(instructions: list[tuple[str, str]]) -> list[tuple[int, int, int]]:
    """The innermost loops with MMAs: first instruction, last one, and how many of them are MMAs."""
    places = {int(address, 16): i for i, (address, _) in enumerate(instructions)}
    found = []
    for end, (_, text) in enumerate(instructions):
        branch = re.search(r"\bBRA.*?(0x[0-9a-f]+)", text)
        begin = places.get(int(branch[1], 16)) if branch else None
        if begin is not None and begin < end:
            found.append((begin, end, sum("MMA." in text for _, text in instructions[begin : end + 1])))
    # Loops are nested; a branch back into another one comes from code that the compiler put behind it.
    found = [(begin, end, mma) for begin, end, mma in found if not any(b < begin <= e < end for b, e, _ in found)]
    return sorted(
        (begin, end, mma)
        for begin, end, mma in found
        if mma and not any(begin <= b and e <= end and (b, e) != (begin, end) and m for b, e, m in found)
    )


def readable(name: str) -> str:
    """The kernel's name and template arguments."""
    plain = subprocess.run(["c++filt", name], capture_output=True, text=True).stdout.strip() or name
    plain = plain.replace("npr::cuda::", "").replace("(anonymous namespace)::", "").removeprefix("void ")
    return plain.split(">(", 1)[0] + ">" if ">(" in plain else plain.split("(", 1)[0]


if __name__ == "__main__":
    main()
