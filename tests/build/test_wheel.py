"""What is built installs and runs: with a compiler, without one, and under a second torch."""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.build.conftest import build_wheel, run, unpack

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("build")]

# Prints what a user sees: where the package came from, its backends, and whether a convolution is right.
# An editable install of the repository would otherwise lend its extension to a wheel that has none.
PROGRAM = """
import json, pathlib, sys, warnings
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    import torch
    import npr_kernels as nk
    images = torch.randint(0, 256, (2, 3, 17, 22), dtype=torch.uint8)
    weight = torch.randn(64, 3, 3, 3, requires_grad=True)
    for _ in range(2):
        out = nk.npr_conv2d(images, weight)
    out.square().sum().backward()
double = weight.detach().double().requires_grad_()
truth = nk.reference.npr_conv2d(images, double)
truth.square().sum().backward()
relative = lambda a, b: ((a - b).abs().max() / b.abs().max()).item()
print(json.dumps({
    "home": str(pathlib.Path(nk.__file__).parent.parent),
    "torch": torch.__version__,
    "backends": nk.info()["backends"],
    "build": nk.info()["build"],
    "error": relative(out, truth),
    "gradient_error": relative(weight.grad, double.grad),
    "warnings": [str(w.message) for w in said if issubclass(w.category, nk.NPRFallbackWarning)],
}))
"""


def facts_of(installed: Path, python: str = sys.executable) -> dict:
    done = run(python, "-c", PROGRAM, cwd=installed, PYTHONPATH=str(installed))
    facts = json.loads(done.stdout.splitlines()[-1])
    assert Path(facts["home"]) == installed
    assert facts["error"] <= 1e-6
    assert facts["gradient_error"] <= 1e-6
    return facts


def compiled() -> set[str]:
    return {"npr_kernels/libnpr_kernels.so", f"npr_kernels/_facts{sysconfig.get_config_var('EXT_SUFFIX')}"}


def test_source_distribution_is_complete(sdist, source):
    names = {name.split("/", 1)[1] for name in zipfile.ZipFile(sdist).namelist()}
    wanted = [
        path.relative_to(source).as_posix()
        for folder in ("csrc", "npr_kernels", "detector", "tests", "benchmarks", "release")
        for path in (source / folder).rglob("*")
        if path.is_file()
    ]
    wanted += ["setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile"]
    assert not [name for name in wanted if name not in names]


def test_contents_of_the_wheel(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"npr_kernels", "detector"}
    assert {"npr_kernels/py.typed", "detector/py.typed"} <= set(names)
    assert {name for name in names if name.endswith(".so")} == compiled()
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    python, abi, system = wheel.stem.split("-")[-3:]
    assert (python, abi) == ("py3", "none")
    assert system != "any"


def test_the_wheel_runs(wheel, tmp_path):
    facts = facts_of(unpack(wheel, tmp_path))
    assert facts["backends"]["cpu"] == {"available": True}
    assert facts["warnings"] == []
    has_nvcc = (
        shutil.which("nvcc") is not None or Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin/nvcc").exists()
    )
    assert facts["build"]["cuda_targets"] == (["sm_90"] if has_nvcc else [])


def test_the_wheel_runs_without_facts(wheel, tmp_path):
    """As under a Python that it has no module for."""
    installed = unpack(wheel, tmp_path)
    for module in (installed / "npr_kernels").glob("_facts*"):
        module.unlink()
    facts = facts_of(installed)
    assert facts["backends"]["cpu"] == {"available": True}
    assert facts["build"].keys() == {"cuda_targets"}
    assert facts["warnings"] == []


def test_the_wheel_runs_under_a_second_torch(wheel, tmp_path):
    python = os.environ.get("NPR_SECOND_PYTHON")
    if not python:
        pytest.skip("NPR_SECOND_PYTHON names no interpreter with another torch >= 2.11")
    facts = facts_of(unpack(wheel, tmp_path), python)
    assert facts["torch"] != facts["build"]["torch"]
    assert facts["backends"]["cpu"] == {"available": True}
    assert facts["warnings"] == []


def test_without_a_compiler(source, tmp_path):
    """Installs, says so, and runs on the reference, saying so once."""
    built, said = build_wheel(source, tmp_path / "wheel", CXX="/nonexistent/c++")
    assert said.count("no C++ compiler found") == 1
    assert not [name for name in zipfile.ZipFile(built).namelist() if name.endswith(".so")]
    facts = facts_of(unpack(built, tmp_path / "installed"))
    assert facts["build"] is None
    assert facts["backends"]["cpu"]["available"] is False
    assert "not built" in facts["backends"]["cpu"]["reason"]
    (warning,) = facts["warnings"]
    assert "npr_conv2d runs on the PyTorch reference" in warning
    assert "not built" in warning


def test_a_compiler_that_fails_is_an_error(source, tmp_path):
    done = run(
        sys.executable, "setup.py", "build_ext", "--build-temp", tmp_path / "t", "--build-lib", tmp_path / "l",
        cwd=source, check=False, CXX="false", NPR_CUDA="0",
    )  # fmt: skip
    assert done.returncode != 0
    assert "compiling the extension failed" in done.stdout
