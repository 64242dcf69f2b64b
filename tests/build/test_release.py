"""What `make wheel` and cibuildwheel are told, and what they would find wrong."""

from __future__ import annotations

import ctypes
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from npr_kernels.backends import native
from tests import needs
from tests.build.conftest import ROOT, run

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="Python before 3.11 cannot read pyproject.toml by itself")

pytest.importorskip("elftools", reason="needs the extra release")
from release import contents, old_glibc, smoke, wheel

COMPILER = "c++"
needs_compiler = pytest.mark.skipif(
    sys.platform != "linux" or not all(map(shutil.which, (COMPILER, "ar", "nm"))), reason="needs Linux and a compiler"
)

# What the extension asks of the C library and of libstdc++, and gives the answer: 42.
PROGRAM = """
#include <dlfcn.h>
#include <pthread.h>
#include <cmath>
#include <exception>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <vector>
extern "C" int __attribute__((visibility("default"))) answer(int n) {
  pthread_key_t key;
  if (pthread_key_create(&key, nullptr) != 0 || dlsym(RTLD_DEFAULT, "malloc") == nullptr) return 1;
  std::exception_ptr error;
  try {
    throw std::runtime_error("4");
  } catch (...) {
    error = std::current_exception();
  }
  const auto copy = std::make_shared<std::exception_ptr>(error);
  std::stringstream text;
  try {
    std::rethrow_exception(*copy);
  } catch (const std::exception& caught) {
    text << caught.what() << n;
  }
  return std::stoi(text.str()) + int(std::vector<int>(n).size()) - int(std::lround(std::log(std::exp(double(n)))));
}
"""


def shared(folder: Path, program: str, compile_flags: str = "", link_flags: str = "") -> Path:
    (folder / "program.cpp").write_text(program)
    command = [COMPILER, "-std=c++20", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", *shlex.split(compile_flags)]
    run(*command, "program.cpp", "-o", "program.so", *shlex.split(link_flags), cwd=folder)
    return folder / "program.so"


def newest(library: Path) -> dict[str, tuple[int, ...]]:
    """The newest version of each of the runtime's libraries that a library asks for."""
    said = subprocess.run(
        ["nm", "-D", "--undefined-only", "--with-symbol-versions", library], capture_output=True, text=True
    )
    found: dict[str, tuple[int, ...]] = {}
    for name, version in re.findall(r"@(GLIBC|GLIBCXX|CXXABI)_([\d.]+)$", said.stdout, re.MULTILINE):
        found[name] = max(found.get(name, ()), tuple(map(int, version.split("."))))
    return found


@needs_compiler
def test_what_is_linked_for_an_older_c_library_runs_on_it_and_here(tmp_path):
    """manylinux_2_28 has glibc 2.28 and the libstdc++ of GCC 8."""
    flags = old_glibc.flags(COMPILER, tmp_path / "old")
    library = shared(tmp_path, PROGRAM, flags["CXXFLAGS"], flags["LDFLAGS"])
    asked = newest(library)
    assert asked["GLIBC"] <= old_glibc.GLIBC == (2, 28)
    assert asked["GLIBCXX"] <= (3, 4, 25)
    assert asked["CXXABI"] <= (1, 3, 11)
    assert ctypes.CDLL(str(library)).answer(2) == 42


@needs_compiler
@needs.extension
def test_the_library_asks_for_nothing_newer_than_that_can_replace():
    said = subprocess.run(
        ["nm", "-D", "--undefined-only", "--with-symbol-versions", native.LIBRARY], capture_output=True
    )
    found = re.findall(r" (\w+)@GLIBC_([\d.]+)$", said.stdout.decode(), re.MULTILINE)
    assert found
    newer = {name for name, version in found if tuple(map(int, version.split("."))) > old_glibc.GLIBC}
    replaced = {
        name for versions in old_glibc.older(COMPILER).values() for names in versions.values() for name in names
    }
    assert newer <= replaced | {"__libc_single_threaded"}


@pytest.fixture
def built(tmp_path):
    """An unpacked source distribution of two files, and a wheel of it as it should be."""
    source, out = tmp_path / "source", tmp_path / "out"
    for name in ("npr_kernels/__init__.py", "detector/page/index.html"):
        (source / name).parent.mkdir(parents=True)
        (source / name).write_text("a file")
    metadata = (
        "Metadata-Version: 2.4\nName: npr-kernels\nVersion: 7.8.9\nRequires-Python: >=3.10\nRequires-Dist: torch\n"
    )
    (source / "PKG-INFO").write_text(metadata)
    out.mkdir()
    files = {"npr_kernels/": b"", "npr_kernels/__init__.py": b"a file", "detector/page/index.html": b"a file"}
    library = shared(out, "int f() { return 0; }").read_bytes()
    files |= {contents.LIBRARY: library, "npr_kernels/_facts.so": library}
    files |= {
        "npr_kernels-7.8.9.dist-info/METADATA": metadata.encode(),
        "npr_kernels-7.8.9.dist-info/licenses/LICENSE": b"terms",
    }
    return source, out, files


def problems(built, name=f"npr_kernels-7.8.9-py3-none-{contents.PLATFORM}.whl"):
    source, out, files = built
    with zipfile.ZipFile(out / name, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return contents.problems(out / name, source, {"npr_kernels/_facts.so"})


@needs_compiler
def test_a_wheel_as_it_should_be(built):
    assert problems(built) == []


@needs_compiler
def test_a_wheel_for_one_python_or_another_system(built):
    (said,) = problems(built, "npr_kernels-7.8.9-cp311-cp311-linux_x86_64.whl")
    assert said == f"it should be npr_kernels-7.8.9-py3-none-{contents.PLATFORM}.whl"


@needs_compiler
@pytest.mark.parametrize("name", ["detector/page/index.html", contents.LIBRARY, "npr_kernels/_facts.so"])
def test_a_file_that_is_missing(built, name):
    del built[2][name]
    assert problems(built) == [f"{name} is missing"]


@needs_compiler
@pytest.mark.parametrize(
    "name", ["tests/test_it.py", "npr_kernels/_facts.cpython-39.so", "npr_kernels.libs/libgomp.so"]
)
def test_a_file_too_many(built, name):
    built[2][name] = b""
    assert problems(built) == [f"{name} should not be in it"]


@needs_compiler
def test_other_metadata_and_no_licence(built):
    files = built[2]
    del files["npr_kernels-7.8.9.dist-info/licenses/LICENSE"]
    files["npr_kernels-7.8.9.dist-info/METADATA"] = (
        b"Metadata-Version: 2.4\nName: npr-kernels\nRequires-Python: >=3.12\n"
    )
    missing, python, dependencies = problems(built)
    assert missing == "its licence is missing"
    assert python == "its Requires-Python is ['>=3.12'], not ['>=3.10']"
    assert dependencies == "its Requires-Dist is None, not ['torch']"


@needs_compiler
def test_a_library_that_finds_things_on_this_machine_alone(built):
    source, out, files = built
    program = f'const char* where() {{ return "{source.resolve()}/csrc/npr.h"; }}'
    flags = "-Wl,-rpath,/opt/here -Wl,--no-as-needed -lresolv"
    files[contents.LIBRARY] = shared(out, program, "-fvisibility=default", flags).read_bytes()
    assert problems(built) == [
        f"{contents.LIBRARY} needs libresolv.so.2",
        f"{contents.LIBRARY} searches /opt/here",
        f"{contents.LIBRARY} names folders of this machine",
    ]


@pytest.fixture
def configured():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["cibuildwheel"]


def test_cibuildwheel_has_facts_for_every_python_that_it_tries(configured):
    numbers = [re.fullmatch(r"cp(3\d+)-\*", name)[1] for name in configured["build"]]
    assert numbers[0] == "310"
    further = configured["linux"]["environment"]["NPR_PYTHONS"].split()
    assert further == [f"/opt/python/cp{number}-cp{number}/bin/python" for number in numbers[1:]]


def test_cibuildwheel_repairs_as_make_wheel_does(configured):
    linux = configured["linux"]
    image = f"manylinux_{'_'.join(map(str, old_glibc.GLIBC))}"
    assert {linux[f"manylinux-{arch}-image"] for arch in linux["archs"]} == {image}
    assert f"--exclude {wheel.LEFT_OUT} " in linux["repair-wheel-command"]
    assert f"--exclude {wheel.LEFT_OUT.removesuffix('.so')} " in configured["macos"]["repair-wheel-command"]


@pytest.mark.parametrize(("system", "arch"), [("linux", "x86_64"), ("linux", "aarch64"), ("macos", "arm64")])
def test_cibuildwheel_accepts_its_configuration(configured, system, arch):
    pytest.importorskip("cibuildwheel")
    assert arch in configured[system]["archs"]
    command = [sys.executable, "-m", "cibuildwheel", "--platform", system, "--archs", arch, "--print-build-identifiers"]
    done = subprocess.run([*command, ROOT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kinds = {"linux": "manylinux", "macos": "macosx"}
    assert done.stdout.split() == [f"{name[:-2]}-{kinds[system]}_{arch}" for name in configured["build"]]


def test_there_must_be_a_build_to_compare_with(tmp_path, monkeypatch):
    (tmp_path / "npr_kernels").mkdir()
    monkeypatch.setattr(smoke, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="there is no build in"):
        smoke.check_source_build()
    (tmp_path / "npr_kernels" / "libnpr_kernels.so").touch()
    smoke.check_source_build()
