"""What setup.py decides from the environment: compiler, CUDA toolkit, GPU targets."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest
from setuptools.errors import CompileError

from tests.build.conftest import ROOT


@pytest.fixture
def configuration(monkeypatch) -> ModuleType:
    """setup.py as a module, without running setup()."""
    monkeypatch.setattr("setuptools.setup", lambda **options: None)
    for name in ("CXX", "NPR_CUDA", "NPR_PYTHONS", "NPR_SANITIZE", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("npr_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def no_nvcc(configuration, monkeypatch):
    monkeypatch.setattr(configuration.shutil, "which", lambda name: None)
    monkeypatch.setattr(configuration.Path, "exists", lambda path: False)


def toolkit(tmp_path: Path) -> Path:
    nvcc = tmp_path / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.touch()
    return tmp_path / "cuda"


def test_cuda_is_found(configuration, monkeypatch, tmp_path):
    home = toolkit(tmp_path)
    monkeypatch.setenv("CUDA_HOME", str(home))
    assert configuration.find_cuda() == home
    monkeypatch.setenv("NPR_CUDA", "1")
    assert configuration.find_cuda() == home
    monkeypatch.setenv("NPR_CUDA", "0")
    assert configuration.find_cuda() is None


@pytest.mark.usefixtures("no_nvcc")
def test_without_nvcc_one_line_is_printed(configuration, capfd):
    assert configuration.find_cuda() is None
    assert capfd.readouterr().err == "npr-kernels: nvcc not found: building for the CPU only\n"


@pytest.mark.usefixtures("no_nvcc")
def test_cuda_asked_for_but_missing(configuration, monkeypatch, capfd):
    monkeypatch.setenv("NPR_CUDA", "1")
    with pytest.raises(CompileError, match="NPR_CUDA=1, but nvcc was found neither on PATH nor in CUDA_HOME"):
        configuration.find_cuda()
    monkeypatch.setenv("NPR_CUDA", "0")
    assert configuration.find_cuda() is None
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("value", ["2", "yes", "-1"])
def test_npr_cuda_is_0_or_1(configuration, monkeypatch, value):
    monkeypatch.setenv("NPR_CUDA", value)
    with pytest.raises(CompileError, match=f"NPR_CUDA must be 0 or 1, got '{value}'"):
        configuration.find_cuda()


@pytest.mark.parametrize(("value", "watched"), [(None, False), ("", False), ("0", False), ("1", True)])
def test_sanitizers_are_asked_for(configuration, monkeypatch, value, watched):
    if value is not None:
        monkeypatch.setenv("NPR_SANITIZE", value)
    assert ("-fsanitize=address,undefined" in configuration.sanitizers().split()) == watched


def test_npr_sanitize_is_0_or_1(configuration, monkeypatch):
    monkeypatch.setenv("NPR_SANITIZE", "memory")
    with pytest.raises(CompileError, match="NPR_SANITIZE must be 0 or 1, got 'memory'"):
        configuration.sanitizers()


@pytest.mark.parametrize(
    ("value", "targets"),
    [
        (None, ["sm_80", "sm_90", "sm_100", "compute_100", "sm_120"]),
        ("", ["sm_80", "sm_90", "sm_100", "compute_100", "sm_120"]),
        ("8.0", ["sm_80"]),
        ("8.0;9.0", ["sm_80", "sm_90"]),
        ("8.6 9.0a", ["sm_86", "sm_90a"]),
        ("10.0+PTX", ["sm_100", "compute_100"]),
    ],
)
def test_gpu_targets(configuration, monkeypatch, value, targets):
    if value is not None:
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", value)
    assert configuration.cuda_targets() == targets


@pytest.mark.parametrize("folder", ["lib64", "lib", "targets/x86_64-linux/lib"])
def test_libraries_of_a_toolkit(configuration, tmp_path, folder):
    """As NVIDIA, pip and conda lay it out, of which others have folders without it."""
    for name in ("lib64", "lib", "targets/x86_64-linux/lib"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(CompileError, match=r"has no libcudart_static\.a in lib64, lib or targets/\*/lib"):
        configuration.cuda_libraries(tmp_path)
    (tmp_path / folder / "libcudart_static.a").touch()
    assert configuration.cuda_libraries(tmp_path) == tmp_path / folder


@pytest.mark.parametrize("value", ["Hopper", "9", "9.0;x", "sm_90"])
def test_unknown_gpu_targets(configuration, monkeypatch, value):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", value)
    with pytest.raises(CompileError, match=r"TORCH_CUDA_ARCH_LIST must name targets such as 8\.0 or 9\.0, got '"):
        configuration.cuda_targets()


def test_facts_for_this_python_and_further_ones(configuration, monkeypatch):
    (own,) = configuration.pythons()
    assert own == f"_facts{sysconfig.get_config_var('EXT_SUFFIX')}"
    monkeypatch.setenv("NPR_PYTHONS", f"{sys.executable} {sys.executable}")
    assert list(configuration.pythons()) == [own]


@pytest.mark.parametrize("value", ["/nonexistent/python", "false"])
def test_further_pythons_must_be_interpreters(configuration, monkeypatch, value):
    monkeypatch.setenv("NPR_PYTHONS", value)
    with pytest.raises(CompileError, match=f"NPR_PYTHONS must name interpreters, got '{value}'"):
        configuration.pythons()


def test_further_pythons_must_have_headers(configuration, monkeypatch, tmp_path):
    """This one may lack them: then it does without facts."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho .cpython-39.so {tmp_path}\n")
    python.chmod(0o755)
    monkeypatch.setenv("NPR_PYTHONS", str(python))
    with pytest.raises(CompileError, match=rf"of NPR_PYTHONS, has no headers: {tmp_path} lacks Python\.h"):
        configuration.pythons()
    monkeypatch.setenv("NPR_PYTHONS", "")
    monkeypatch.setattr(configuration.sys, "executable", str(python))
    assert configuration.pythons() == {}


def test_compiler_of_the_environment(configuration, monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    assert configuration.find_compiler() is None
    monkeypatch.setenv("CXX", "sh -c")
    assert configuration.find_compiler() == "sh -c"
