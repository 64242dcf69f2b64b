"""Linking for an older C library than this machine's: what manylinux_2_28 promises, without a machine of that age.

A library records the version of each symbol that it takes from glibc and libstdc++, and does not load where one is
missing. Four things are newer here than it need be:

- glibc 2.34 moved the threads, dlopen and shared memory from libraries of their own into libc, under new versions, and
  kept the old ones for programs that were linked before. Stubs of these libraries, with the old versions, are linked
  against instead: empty functions that no process ever runs.
- glibc 2.29 has an exp, log and pow of its own that leave errno alone. The old versions are there too: the same way.
- Headers of libstdc++ ask glibc 2.32 whether the process has one thread, and call functions that older ones lack to
  throw and to count references to an exception: definitions of our own answer, and a member of the static libstdc++.
- String streams are compiled in rather than taken from libstdc++, whose own have had functions added to them.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

GLIBC = (2, 28)

# Library of the old versions: the one that has both, and which names.
_LIBRARIES = {
    "libdl.so.2": ("libc.so.6", r"dl\w+"),
    "librt.so.1": ("libc.so.6", r"(aio|lio|mq|shm|timer)_\w+"),
    "libpthread.so.0": ("libc.so.6", r"(pthread|sem)_\w+"),
    "libm.so.6": ("libm.so.6", r"\w+"),
}
_STREAMS = """
#include <istream>
#include <ostream>
#undef _GLIBCXX_EXTERN_TEMPLATE
#define _GLIBCXX_EXTERN_TEMPLATE 0
#include <sstream>
#undef _GLIBCXX_EXTERN_TEMPLATE
#define _GLIBCXX_EXTERN_TEMPLATE 1
"""
_ANSWERS = """
#include <cstdlib>
#include <exception>
#include <new>
// glibc 2.32; zero: there may be more threads than one.
extern "C" {
extern char __libc_single_threaded;
char __libc_single_threaded = 0;
}
namespace std {
// libstdc++ of GCC 11.
void __throw_bad_array_new_length() { throw std::bad_array_new_length(); }
}  // namespace std
// What the member of the static library takes from another.
namespace __cxxabiv1 {
void __terminate(std::terminate_handler handler) {
  handler();
  std::abort();
}
}  // namespace __cxxabiv1
"""
_MEMBER = "eh_ptr.o"  # std::exception_ptr


def flags(compiler: str, folder: Path) -> dict[str, str]:
    """CXXFLAGS and LDFLAGS for setup.py, and in ``folder`` what they name."""
    folder.mkdir(parents=True, exist_ok=True)
    streams, answers = folder / "streams.h", folder / "answers.cpp"
    streams.write_text(_STREAMS)
    answers.write_text(_ANSWERS)
    compiled, archive = answers.with_suffix(".o"), folder / "answers.a"
    _run(compiler, "-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-c", answers, "-o", compiled)
    _run("ar", "x", "--output", folder, _run(compiler, "-print-file-name=libstdc++.a").strip(), _MEMBER)
    archive.unlink(missing_ok=True)
    _run("ar", "rcs", archive, folder / _MEMBER, compiled)
    stubs = [_stub(compiler, folder / name, symbols) for name, symbols in older(compiler).items()]
    link = [archive, "-Wl,--push-state,--as-needed", *stubs, "-Wl,--pop-state"]
    return {"CXXFLAGS": shlex.join(["-include", str(streams)]), "LDFLAGS": shlex.join(map(str, link))}


def older(compiler: str) -> dict[str, dict[str, list[str]]]:
    """What has a version newer than GLIBC and an old one too: by the library that has or had that, and by version."""
    libraries: dict[str, dict[str, list[str]]] = {}
    for library, (present, pattern) in _LIBRARIES.items():
        path = _run(compiler, f"-print-file-name={present}").strip()
        said = _run("nm", "-D", "--with-symbol-versions", path)
        found = re.findall(r" (\w+)(@@?)GLIBC_([\d.]+)$", said, re.MULTILINE)
        new = {name for name, default, version in found if default == "@@" and _number(version) > GLIBC}
        old: dict[str, str] = {}
        for name, _, version in sorted(found, key=lambda symbol: _number(symbol[2])):
            if name in new and _number(version) <= GLIBC and re.fullmatch(pattern, name):
                old[name] = version
        for name, version in old.items():
            libraries.setdefault(library, {}).setdefault(f"GLIBC_{version}", []).append(name)
    return libraries


def _stub(compiler: str, target: Path, symbols: dict[str, list[str]]) -> Path:
    source, script = target.with_suffix(".c"), target.with_suffix(".map")
    source.write_text("".join(f"void {name}(void) {{}}\n" for names in symbols.values() for name in names))
    script.write_text("".join(f"{version} {{ {'; '.join(names)}; }};\n" for version, names in symbols.items()))
    options = [
        "-fPIC",
        "-fno-builtin",
        "-shared",
        "-nostdlib",
        f"-Wl,-soname,{target.name}",
        f"-Wl,--version-script={script}",
    ]
    _run(compiler, "-x", "c", *options, source, "-o", target)
    return target


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _run(command: str, *arguments: str | Path) -> str:
    done = subprocess.run([*shlex.split(command), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"release.old_glibc: needs GCC, its static libstdc++ and binutils: {command} said: {done.stderr}")
    return done.stdout
