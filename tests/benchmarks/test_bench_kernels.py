"""bench_kernels, with the kernels on the emulator, and how its runs and profiles become rows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.gpu import programs, report
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.journal import Row, read
from benchmarks.gpu.programs import Programs
from npr_kernels.residuals import RESIDUALS
from tests import emulator
from tests.emulator.compilation import ROOT, cached, run

SOURCES = ROOT / "csrc" / "bench"
TINY = ["--images", "1", "--size", "16", "--rounds", "1", "--calls", "1"]


@pytest.fixture(scope="module")
def built() -> Path:
    """A folder with bench_kernels on the emulator, and one that has wrong operations, spoilt."""
    cxx = emulator.compiler()
    if cxx is None:
        pytest.skip("the CUDA emulator needs a C++20 compiler, as CXX or g++")
    library = Path(emulator.kernels()._name)
    spoilt = emulator.HERE / "spoilt.cpp"
    flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", *emulator.INCLUDES]

    def make(folder: Path) -> None:
        objects = [folder / "bench.o", folder / "spoilt.o"]
        for source, target in zip((SOURCES / "bench_kernels.cpp", spoilt), objects, strict=True):
            run([cxx, *flags, "-c", str(source), "-o", str(target)])
        for name, own in (("bench_kernels", objects[:1]), ("spoilt", objects)):
            run([cxx, *map(str, own), str(library), f"-Wl,-rpath,{library.parent}", "-o", str(folder / name)])

    return cached("bench_kernels", [*sorted(SOURCES.iterdir()), spoilt], (cxx, flags, str(library)), make)


def listed(program: Path) -> list[str]:
    return subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()


def measured(program: Path, name: str) -> tuple[int, dict]:
    done = subprocess.run([program, name, *TINY], capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout)


def residual_of(name: str) -> str:
    return next((residual for residual in ("npr+haar", "haar") if name.endswith(f"-{residual}")), "npr")


@pytest.mark.slow
@pytest.mark.parametrize("residual", RESIDUALS)
def test_every_kernel_is_measured(built, residual):
    names = [name for name in listed(built / "bench_kernels") if residual_of(name) == residual]
    operations = {"conv_forward", "conv_backward", "stem_forward", "stem_forward_codes", "stem_backward", "moments"}
    assert {name.partition("-")[0] for name in names} == operations
    for name in names:
        status, outcome = measured(built / "bench_kernels", name)
        assert status == 0, outcome
        least, most = outcome["of"]
        assert 0 < least <= outcome["us"] <= most
        assert outcome["deviation"] <= (0.01 if "bf16" in name and "forward" in name else 1e-3)
        if name.startswith("moments"):
            assert outcome["bytes"] == 3 * 16 * 16


@pytest.mark.slow
def test_what_is_wrong_has_no_time(built):
    status, outcome = measured(built / "spoilt", "conv_forward-bf16")
    assert status == 1
    assert outcome == {"work": "conv_forward-bf16", "wrong": "off by 1, at most 0.0079 is right"}
    status, outcome = measured(built / "spoilt", "moments")
    assert status == 1
    assert outcome == {"work": "moments", "error": "cudaMemcpy: cudaMemcpy failed"}  # of what nobody wrote
    status, outcome = measured(built / "spoilt", "conv_backward-f32")
    assert outcome["error"] == "conv_backward:  planted "
    assert measured(built / "spoilt", "stem_forward-bf16")[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["soup"], ["moments", "--images", "0"], ["moments", "--size"]])
def test_usage(built, arguments):
    done = subprocess.run([built / "bench_kernels", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: bench_kernels")


# ---- Rows -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path):
    """Writes a program of the shell."""

    def write(name: str, script: str) -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return write


FAKE = """
case "$1" in
  --list) printf 'a-bf16\\nb-f32\\nmoments\\n' ;;
  a-bf16) echo '{"work": "a-bf16", "us": 2.5, "of": [2, 3], "bytes": 1000}' ;;
  b-f32) echo "Segmentation fault" >&2; exit 139 ;;
  moments) echo '{"work": "moments", "wrong": "off by 3"}'; exit 1 ;;
  late) sleep 3600 ;;
esac
"""


def test_each_kernel_is_a_process(program, tmp_path):
    of = Programs(program("bench", FAKE), TINY, None, tmp_path)
    ask = lambda name: of.ask("measure", Row("kernels", programs.OP, name, "cuda", ""), 300)  # noqa: E731
    assert ask("a-bf16") == {"us": 2.5, "of": [2, 3], "bytes": 1000}
    assert ask("b-f32") == {"error": "it ended with status 139: Segmentation fault"}
    assert ask("moments") == {"wrong": "off by 3"}
    assert of.broken is None
    late = of.ask("measure", Row("kernels", programs.OP, "late", "cuda", ""), 0.2)
    assert late == {"error": "out of time"}
    assert of.broken == "out of time"


def test_profiles(program, tmp_path):
    script = """
    [ "$1" = --import ] && { echo "the details"; exit; }
    echo "$@" > "$0.log"
    for argument; do [ "$before" = --export ] && touch "$argument"; before=$argument; done
    """
    bench, row = program("bench", FAKE), Row("kernels", programs.NCU, "stem_forward_codes-bf16", "ncu", "")
    of = Programs(bench, TINY, str(program("ncu", script)), tmp_path / "profiles")
    assert of.ask("measure", row, 300) == {"said": "profiles/stem_forward_codes-bf16.ncu-rep"}
    assert (tmp_path / "profiles" / "stem_forward_codes-bf16.txt").read_text() == "the details\n"
    asked = (tmp_path / "ncu.log").read_text()
    assert "--kernel-name regex:^stem_forward_(kernel|channels) --launch-skip 1 --launch-count 1" in asked
    assert asked.rstrip().endswith(f"{bench} stem_forward_codes-bf16 {' '.join(TINY)} --rounds 1 --calls 1")
    denied = program("ncu", 'echo "==ERROR== ERR_NVGPUCTRPERM"; echo bye; exit 1')
    answer = Programs(bench, TINY, str(denied), tmp_path / "other").ask("measure", row, 300)
    assert answer == {"error": "it ended with status 1: ==ERROR== ERR_NVGPUCTRPERM"}


def test_the_step(program, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(programs, "find_ncu", lambda: str(program("ncu", "exit 1")))
    monkeypatch.setattr(programs, "gpu_name", lambda: "Some GPU")
    arguments = ["kernels", "--results", str(tmp_path), "--program", str(program("bench", FAKE))]
    assert main(arguments) == 1  # as two of the kernels are not well
    (only,) = read(tmp_path / report.JOURNAL)
    assert [(row.op, row.work) for row in only.outcomes] == [
        *(("bench_kernels", name) for name in ("a-bf16", "b-f32", "moments")),
        *(("ncu", name) for name in ("a-bf16", "moments")),
    ]
    said = capsys.readouterr().out
    assert said.startswith("Some GPU")
    assert "| a-bf16 | 2.5 | 2.0 to 3.0 | 0 |" in said
    assert "| moments | off by 3 | | |" in said
    with pytest.raises(SystemExit, match="nothing"):
        main([*arguments[:-1], str(tmp_path / "nothing")])


@pytest.mark.slow
def test_nvcc_takes_it(tmp_path):
    """Its own part; test_compile.py has the kernels compiled."""
    nvcc = shutil.which("nvcc", path=os.environ["PATH"] + ":" + os.environ.get("CUDA_HOME", "/usr/local/cuda") + "/bin")
    if nvcc is None:
        pytest.skip("nvcc was not found")
    flags = ["-std=c++20", "-O0", "-Xcompiler", "-Wall,-Werror", f"-I{ROOT / 'csrc'}"]
    run([nvcc, *flags, "-c", str(SOURCES / "bench_kernels.cpp"), "-o", str(tmp_path / "bench.o")])
