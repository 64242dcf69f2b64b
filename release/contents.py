"""What must be in the wheel, and what must not."""

from __future__ import annotations

import io
import platform
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from email.parser import Parser
from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

from release.old_glibc import GLIBC

PLATFORM = f"manylinux_{'_'.join(map(str, GLIBC))}_{platform.machine()}"
LIMIT = 100_000_000  # bytes of a file on the package index
LIBRARY = "npr_kernels/libnpr_kernels.so"
# The C library's and the compiler's, which every system has, torch's, and our own.
_NEEDED = {
    "libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0", "libstdc++.so.6", "libgcc_s.so.1",
    "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "libtorch_cpu.so", "libnpr_kernels.so",
}  # fmt: skip


def check(wheel: Path, source: Path, pythons: Iterable[str]) -> None:
    """Ends the program with what is wrong, if anything, with a wheel that was built from ``source`` for ``pythons``."""
    found = problems(wheel, source, {facts_of(python) for python in (sys.executable, *pythons)})
    if found:
        sys.exit(f"{wheel}:\n" + "\n".join(f"  {problem}" for problem in found))


def problems(wheel: Path, source: Path, facts: set[str]) -> list[str]:
    """What is wrong with a wheel of an unpacked source distribution that should have the modules ``facts``."""
    project = Parser().parsestr((source / "PKG-INFO").read_text(encoding="utf-8"))
    stem = f"{project['Name'].replace('-', '_')}-{project['Version']}"
    found = []
    if wheel.name != (name := f"{stem}-py3-none-{PLATFORM}.whl"):
        found.append(f"it should be {name}")
    if wheel.stat().st_size > LIMIT:
        found.append(f"{wheel.stat().st_size} bytes are more than {LIMIT}")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        inside = {name for name in names if not name.startswith(f"{stem}.dist-info/")}
        wanted = packaged(source) | {LIBRARY} | facts
        found += [f"{name} is missing" for name in sorted(wanted - inside)]
        found += [f"{name} should not be in it" for name in sorted(inside - wanted)]
        if f"{stem}.dist-info/licenses/LICENSE" not in names:
            found.append("its licence is missing")
        metadata = Parser().parsestr(archive.read(f"{stem}.dist-info/METADATA").decode())
        for field in ("Requires-Python", "Requires-Dist"):
            if metadata.get_all(field) != project.get_all(field):
                found.append(f"its {field} is {metadata.get_all(field)}, not {project.get_all(field)}")
        for name in sorted(inside & ({LIBRARY} | facts)):
            found += [f"{name} {problem}" for problem in binary_problems(archive.read(name), source)]
    return found


def packaged(source: Path) -> set[str]:
    """The files of the packages, as the source tree has them."""
    kept = [path for package in ("npr_kernels", "detector") for path in (source / package).rglob("*") if path.is_file()]
    return {path.relative_to(source).as_posix() for path in kept if path.suffix not in (".pyc", ".so")}


def binary_problems(content: bytes, source: Path) -> list[str]:
    sections = [part for part in ELFFile(io.BytesIO(content)).iter_sections() if isinstance(part, DynamicSection)]
    tags = [tag for section in sections for tag in section.iter_tags()]
    needed = {str(getattr(tag, "needed", "")) for tag in tags if tag.entry.d_tag == "DT_NEEDED"}
    searched = {str(getattr(tag, "runpath", "")) for tag in tags if tag.entry.d_tag == "DT_RUNPATH"}
    found = [f"needs {name}" for name in sorted(needed - _NEEDED)]
    found += [f"searches {path}" for path in sorted(searched - {"$ORIGIN"})]
    return found + ["names folders of this machine"] * (str(source.resolve()).encode() in content)


def facts_of(python: str) -> str:
    """The file of the module of facts for an interpreter."""
    program = "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))"
    suffix = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    return f"npr_kernels/_facts{suffix}"
