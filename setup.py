"""Builds the extension: the library of ops ``npr_kernels/libnpr_kernels.so`` and the module ``npr_kernels._facts``.

Everything is compiled by one ninja file. The library knows nothing of Python: it has the bindings to torch, the CPU
kernels once per instruction set and, where nvcc is found, the CUDA kernels, which know nothing of torch, so that a CPU
build of torch does as well. The module tells one Python facts about the build; nothing needs it, so that a wheel serves
every Python, as its tag says.

Environment:
    CXX                   the C++ compiler; without one the package installs without its extension.
    CXXFLAGS, LDFLAGS     further flags for it, compiling and linking.
    NPR_CUDA              1: fail without nvcc; 0: leave CUDA out; unset: use nvcc where it is found.
    TORCH_CUDA_ARCH_LIST  GPU targets, such as "8.0;9.0+PTX"; by default 8.0, 9.0, 10.0+PTX and 12.0.
    CUDA_HOME             where nvcc is, if not on PATH; a toolkit of pip's packages is site-packages/nvidia/cu13.
    NPR_PYTHONS           further interpreters, separated by spaces, to build the module of facts for.
    NPR_SANITIZE          1: let AddressSanitizer and UndefinedBehaviorSanitizer watch the host code, for tests.
    MAX_JOBS              parallel compilations; by default one per processor.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).parent.resolve()
CSRC = ROOT / "csrc"
LIBRARY = "libnpr_kernels.so"

# torch's stable ABI from this version on: the oldest torch that the built extension runs under.
TORCH_TARGET_VERSION = "0x020b000000000000"  # 2.11
# Machine code for what is common, and PTX for the rest and what is to come: of the oldest target that has no newer
# generation without code, so that a driver can compile it for each of them.
CUDA_TARGETS = ("8.0", "9.0", "10.0+PTX", "12.0")

X86 = platform.machine().lower() in ("x86_64", "amd64")
CPU_KERNELS = sorted(path for path in (CSRC / "cpu").glob("*.cpp") if path.name != "dispatch.cpp")
INSTRUCTION_SETS = {"baseline": ""}
if X86:
    INSTRUCTION_SETS["avx2"] = "-mavx2 -mfma -mf16c"
    # GCC warns of its own AVX-512 headers.
    INSTRUCTION_SETS["avx512"] = (
        "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c "
        "-Wno-uninitialized -Wno-maybe-uninitialized -Wno-unknown-warning-option"
    )
# What is compiled once more for an instruction set that serves it alone: name, flags.
FURTHER = {"quantised": {"avx512vnni": f"{INSTRUCTION_SETS['avx512']} -mavx512vnni"}} if X86 else {}
# Flags for all instruction sets: products that are rounded before they are added, as processors without FMA do it.
FLAGS = {"quantised": "-ffp-contract=off"}


def say(message: str) -> None:
    print(f"npr-kernels: {message}", file=sys.stderr, flush=True)


def find_compiler() -> str | None:
    """The C++ compiler to use; None when there is none."""
    asked = os.environ.get("CXX")
    candidates = [asked] if asked else ["c++", "g++", "clang++"]
    return next((name for name in candidates if shutil.which(shlex.split(name)[0])), None)


def find_cuda() -> Path | None:
    """The CUDA toolkit to use, as NPR_CUDA wants it; None to leave CUDA out."""
    wanted = os.environ.get("NPR_CUDA", "")
    if wanted not in ("", "0", "1"):
        raise CompileError(f"NPR_CUDA must be 0 or 1, got {wanted!r}")
    if wanted == "0":
        return None
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    if nvcc := shutil.which("nvcc"):
        homes.insert(1, str(toolkit_of(nvcc)))
    for home in homes:
        if home and (Path(home) / "bin" / "nvcc").exists():
            return Path(home)
    if wanted == "1":
        raise CompileError("NPR_CUDA=1, but nvcc was found neither on PATH nor in CUDA_HOME")
    say("nvcc not found: building for the CPU only")
    return None


def pythons() -> dict[str, str]:
    """Where the headers are of each Python that gets a module of facts, by the module's file name.

    They are this Python, if it has headers, and those of NPR_PYTHONS, which must have them.
    """
    found = {}
    program = "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'), sysconfig.get_paths()['include'])"
    for python in (sys.executable, *shlex.split(os.environ.get("NPR_PYTHONS", ""))):
        try:
            told = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise CompileError(f"NPR_PYTHONS must name interpreters, got {python!r}: {error}") from None
        suffix, include = told.rstrip().split(" ", 1)
        if (Path(include) / "Python.h").exists():
            found[f"_facts{suffix}"] = include
        elif python != sys.executable:
            raise CompileError(f"{python}, of NPR_PYTHONS, has no headers: {include} lacks Python.h")
    return found


def sanitizers() -> str:
    """Flags, with a space before them, for NPR_SANITIZE=1; otherwise none."""
    wanted = os.environ.get("NPR_SANITIZE", "")
    if wanted not in ("", "0", "1"):
        raise CompileError(f"NPR_SANITIZE must be 0 or 1, got {wanted!r}")
    # vptr asks for type information that torch hides. A finding ends the process, so that no test passes over it.
    return (
        " -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=all"
        if wanted == "1"
        else ""
    )


def toolkit_of(nvcc: str) -> Path:
    """The toolkit that an nvcc on PATH belongs to, also when it is a wrapper script."""
    dry_run = subprocess.run([nvcc, "--dryrun", "-c", "-x", "cu", os.devnull], capture_output=True, text=True)
    top = re.search(r"^#\$ TOP=(.+)$", dry_run.stderr, re.MULTILINE)
    return Path(top.group(1)).resolve() if top else Path(nvcc).resolve().parent.parent


def cuda_targets() -> list[str]:
    """What nvcc generates: sm_90, machine code, and compute_90, PTX, and so on."""
    targets = []
    for item in os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split() or CUDA_TARGETS:
        number = item.removesuffix("+PTX").replace(".", "")
        if not re.fullmatch(r"\d{2,3}[af]?", number):
            raise CompileError(f"TORCH_CUDA_ARCH_LIST must name targets such as 8.0 or 9.0, got {item!r}")
        targets += [f"sm_{number}"] + ([f"compute_{number}"] if item.endswith("+PTX") else [])
    return targets


def cuda_libraries(cuda: Path) -> Path:
    """The toolkit's folder of libraries: lib64 in NVIDIA's own, lib in pip's, targets/*/lib in some others."""
    for folder in (cuda / "lib64", cuda / "lib", *sorted(cuda.glob("targets/*/lib"))):
        if (folder / "libcudart_static.a").exists():
            return folder
    raise CompileError(f"{cuda} has no libcudart_static.a in lib64, lib or targets/*/lib; pip's package of it is "
                       "nvidia-cuda-runtime")  # fmt: skip


class BuildWithNinja(build_ext):
    """Writes a ninja file for the extension and runs it."""

    def run(self) -> None:
        if find_compiler() is None:
            say("no C++ compiler found: installing without the extension; everything runs on the PyTorch reference")
            return
        super().run()

    def get_outputs(self) -> list[str]:
        return [path for path in super().get_outputs() if Path(path).exists()]

    def copy_extensions_to_source(self) -> None:
        if find_compiler() is not None:
            super().copy_extensions_to_source()

    def get_ext_filename(self, fullname: str) -> str:
        # Asked for the full name and for its last part. A part's name is that of its file, a dot in it being a slash.
        *package, name = fullname.split(".")
        return str(Path(*package, name.replace("/", ".")))

    def build_extensions(self) -> None:
        import ninja

        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        folder = Path(self.get_ext_fullpath(self.extensions[0].name)).resolve().parent
        folder.mkdir(parents=True, exist_ok=True)
        (build / "build.ninja").write_text(ninja_file(folder))
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        command = [str(Path(ninja.BIN_DIR) / "ninja"), "-C", str(build), "-j", jobs]
        if subprocess.run(command).returncode != 0:
            raise CompileError("compiling the extension failed; the compiler's messages are above")


class WheelForEveryPython(bdist_wheel):
    """No file in it is bound to one Python, but for the facts that the others do without."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def ninja_file(folder: Path) -> str:
    """How to make the library of ops and the modules of facts in a folder."""
    import pybind11
    import torch
    from torch.utils.cpp_extension import include_paths, library_paths

    cuda = find_cuda()
    kernels = sorted((CSRC / "cuda").glob("*.cu")) if cuda else []
    targets = cuda_targets() if cuda else []
    darwin = sys.platform == "darwin"

    file = NinjaFile()
    file.variable("cxx", find_compiler())
    file.variable("common", f"-std=c++20 -O3 -fPIC -fvisibility=hidden -Wall -Wextra -I{quoted(CSRC)}{sanitizers()}")
    # Messages name the file that they come from, wherever it was when it was compiled.
    file.variable("asked", f"-ffile-prefix-map={quoted(ROOT)}/= {os.environ.get('CXXFLAGS', '')}")
    file.rule("cxx", "$cxx $common $flags $asked -MMD -MF $out.d -c $in -o $out", depfile=True)
    file.rule("link", f"$cxx -shared{sanitizers()} $in -o $out $flags {os.environ.get('LDFLAGS', '')}")

    bindings = [f"-isystem {quoted(path)}" for path in include_paths()]
    bindings += [
        f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}",
        "-DTORCH_STABLE_ONLY",
        string("NPR_CUDA_TARGETS", ",".join(targets)),
    ]
    libraries = [f"-L{quoted(path)}" for path in library_paths()] + ["-ltorch_cpu"]
    if cuda:
        bindings += ["-DNPR_WITH_CUDA", f"-isystem {quoted(cuda / 'include')}"]
        libraries += [f"-L{quoted(cuda_libraries(cuda))}", "-lcudart_static", "-lrt", "-ldl", "-lpthread"]
    objects = [
        file.compile("cxx", source, f"{source.stem}.o", " ".join(bindings))
        for source in sorted(CSRC.glob("bindings*.cpp"))
    ]
    x86 = "-DNPR_X86" if X86 else ""
    objects.append(file.compile("cxx", CSRC / "cpu" / "dispatch.cpp", "cpu_dispatch.o", x86))
    for source in CPU_KERNELS:
        for name, flags in (INSTRUCTION_SETS | FURTHER.get(source.stem, {})).items():
            flags = f"-DNPR_ISA={name} {flags} {FLAGS.get(source.stem, '')}"
            objects.append(file.compile("cxx", source, f"cpu_{source.stem}_{name}.o", flags))
    if cuda:
        codes = " ".join(f"-gencode=arch=compute_{t.split('_')[1]},code={t}" for t in targets)
        file.variable("nvcc", str(cuda / "bin" / "nvcc"))
        file.rule(
            "nvcc",
            f"$nvcc -std=c++20 -O3 -Xcompiler -fPIC,-fvisibility=hidden -I{quoted(CSRC)} {codes} "
            "-MMD -MF $out.d -c $in -o $out",
            depfile=True,
        )
        objects += [file.compile("nvcc", source, f"cuda_{source.stem}.o") for source in kernels]
    name = f"-install_name @rpath/{LIBRARY} -undefined dynamic_lookup" if darwin else f"-Wl,-soname,{LIBRARY}"
    file.link(objects, folder / LIBRARY, " ".join([name, *libraries]))

    facts = [
        string("NPR_BUILD_TORCH", torch.__version__),
        string("NPR_BUILD_CUDA", cuda_version(cuda) if cuda else ""),
        f"-isystem {quoted(pybind11.get_include())}",
    ]
    beside = "-Wl,-rpath,@loader_path -undefined dynamic_lookup" if darwin else "-Wl,-rpath,'$$ORIGIN'"
    for name, include in pythons().items():
        compiled = file.compile(
            "cxx", CSRC / "facts.cpp", f"{name}.o", " ".join([*facts, f"-isystem {quoted(include)}"])
        )
        file.link([compiled, folder / LIBRARY], folder / name, beside)
    return file.text()


def quoted(path: str | Path) -> str:
    return shlex.quote(str(path))


def string(name: str, value: str) -> str:
    """The flag that defines a macro as a string."""
    return shlex.quote(f'-D{name}="{value}"')


def cuda_version(cuda: Path) -> str:
    text = subprocess.run([cuda / "bin" / "nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"release ([\d.]+)", text)
    return found.group(1) if found else "unknown"


class NinjaFile:
    """The few statements of a ninja file that the build needs."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def variable(self, name: str, value: str) -> None:
        self._lines.append(f"{name} = {value}")

    def rule(self, name: str, command: str, depfile: bool = False) -> None:
        self._lines += [f"rule {name}", f"  command = {command}", f"  description = {name} $out"]
        if depfile:
            self._lines += ["  depfile = $out.d", "  deps = gcc"]

    def compile(self, rule: str, source: Path, out: str, flags: str = "") -> str:
        self._lines += [f"build {out}: {rule} {self._escaped(source)}", f"  flags = {flags}"]
        return out

    def link(self, objects: Sequence[str | Path], target: Path, flags: str) -> None:
        parts = " ".join(map(self._escaped, objects))
        self._lines += [f"build {self._escaped(target)}: link {parts}", f"  flags = {flags}"]

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"

    @staticmethod
    def _escaped(path: str | Path) -> str:
        return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


setup(
    ext_modules=[Extension("npr_kernels." + name.replace(".", "/"), sources=[]) for name in (LIBRARY, *pythons())],
    cmdclass={"build_ext": BuildWithNinja, "bdist_wheel": WheelForEveryPython},
)
