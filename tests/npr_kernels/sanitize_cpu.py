"""Runs the tests of the ops on CPU kernels that AddressSanitizer and UndefinedBehaviorSanitizer watch.

    python -m tests.npr_kernels.sanitize_cpu [pytest's arguments]

The extension is built with NPR_SANITIZE=1 in build/sanitized, and the package there is what the tests import. torch
itself is not watched, but its allocations are, so that a kernel that reads or writes beside a tensor is found. A
planted overflow must be found first.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from tests.npr_kernels.implementations import CPU_INSTRUCTION_SETS

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "sanitized"
PACKAGES = BUILD / "packages"
HERE = "tests/npr_kernels"
TESTS = [
    "test_conv2d_op.py", "test_moments_op.py", "test_stem_op.py", "test_npr_conv2d.py", "test_npr_stem.py",
    "test_bottleneck.py", "test_trained_bottleneck.py", "test_quantised.py", "test_periodicity.py",
    "test_resampling.py", "test_texture.py",
]  # fmt: skip
# Tests that run on a path of the CPU kernels say so in their names. A reservation of gigabytes is none that
# AddressSanitizer makes for free.
SELECTION = f"({' or '.join(CPU_INSTRUCTION_SETS)}) and not beyond_32_bits"

_PLANTED = "#include <vector>\nint main(int n, char**) { std::vector<int> v(4); return v.data()[3 + n]; }\n"
FOUND = "AddressSanitizer: heap-buffer-overflow"


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CXX", "c++"))


def plant() -> str:
    """What the sanitizer says of a program that reads beside its memory."""
    source, program = BUILD / "planted.cpp", BUILD / "planted"
    source.write_text(_PLANTED)
    subprocess.run([*compiler(), "-fsanitize=address,undefined", "-g", source, "-o", program], check=True)
    return subprocess.run([program], capture_output=True, text=True).stderr


def build() -> None:
    environment = os.environ | {"NPR_SANITIZE": "1", "NPR_CUDA": "0"}
    command = [sys.executable, "setup.py", "-q", "build", "--build-lib", PACKAGES, "--build-temp", BUILD / "objects"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def runtime() -> str:
    """AddressSanitizer's library: first in the process, because Python is not linked to it."""
    found = subprocess.run([*compiler(), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def test(arguments: list[str]) -> int:
    environment = os.environ | {
        "LD_PRELOAD": runtime(),
        # Python and torch leave memory to the end of the process, and free what others allocated.
        "ASAN_OPTIONS": "detect_leaks=0:alloc_dealloc_mismatch=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "OMP_NUM_THREADS": "1",
    }
    # Captured by Python alone: what the sanitizers say as the process ends would be lost with the files of pytest.
    where = ["-o", f"pythonpath={PACKAGES} .", "-p", "no:cacheprovider", "--capture=sys"]
    files = [f"{HERE}/{name}" for name in TESTS]
    command = [sys.executable, "-m", "pytest", "-q", *where, "-k", SELECTION, *files, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def check_watched() -> None:
    library = PACKAGES / "npr_kernels" / "libnpr_kernels.so"
    if b"__asan_report_load" not in library.read_bytes():
        sys.exit(f"sanitize_cpu: {library} is not watched")


def main() -> int:
    BUILD.mkdir(parents=True, exist_ok=True)
    said = plant()
    if FOUND not in said:
        sys.exit(f"sanitize_cpu: the planted overflow was not found: {said or 'nothing was said'}")
    build()
    check_watched()
    return test(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
