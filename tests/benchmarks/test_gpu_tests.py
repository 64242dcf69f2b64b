"""The GPU tests' own run: a fault costs its own test, and what became of each is known even of a run that is ended."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest

from tests.emulator.compilation import ROOT
from tests.npr_kernels.cuda import gpu_tests

CONFTEST = """
import faults_of_here, sys
sys.path.insert(0, {root!r})
from tests.gpu_faults import Faults

class Planted(Faults):
    def seconds(self, item):
        return 0.2 if "hangs" in item.name else 600.0

def synchronise():
    if faults_of_here.fault:
        raise RuntimeError("an illegal memory access was encountered")

def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: as in this project")
    config.pluginmanager.register(Planted(synchronise))
"""

TESTS = """
import faults_of_here, pytest, time
pytestmark = pytest.mark.gpu

@pytest.fixture(autouse=True)
def device():
    assert not faults_of_here.fault

def test_a(): pass
def test_fault():
    faults_of_here.fault = True
    assert False
def test_b(): pass
def test_fails(): assert 1 == 2
def test_hangs(): time.sleep(3600)
def test_c(): pass
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "faults_of_here.py").write_text("fault = False\n")
    (tmp_path / "conftest.py").write_text(CONFTEST.format(root=str(ROOT)))
    (tmp_path / "test_it.py").write_text(textwrap.dedent(TESTS))
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    return tmp_path


def log_of(project, *options):
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *options, str(project)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    return subprocess.run(command, cwd=project, capture_output=True, text=True, env=environment, timeout=600).stdout


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("xdist") is None, reason="needs pytest-xdist")
def test_a_fault_costs_its_own_test(project):
    of = gpu_tests.summary(log_of(project, "-p", "xdist", "-n", "1", "--dist", "load"))
    assert of == {
        "passed": "3",
        "failed": "3",
        **{f"test_it.py::test_{name}": "failed" for name in ("fault", "fails", "hangs")},
    }


def test_without_other_processes_a_fault_is_the_end(project):
    log = log_of(project)
    assert gpu_tests.summary(log) == {"passed": "1", "failed": "1", "test_it.py::test_fault": "failed"}
    assert "the device is not usable any more: an illegal memory access was encountered" in log


@pytest.mark.slow
def test_a_run_that_is_late_is_ended_with_what_it_started(tmp_path):
    log = tmp_path / "log"
    script = (
        "import subprocess, sys; print('t.py::test_a PASSED [ 50%]', flush=True); subprocess.run(['sleep', '3600'])"
    )
    assert gpu_tests.run([sys.executable, "-c", script], log, 3.0) is None
    assert gpu_tests.run([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "other", 600.0) == 3
    if log.read_text():  # which a machine under load may not have come to
        assert gpu_tests.summary(log.read_text()) == {"passed": "1"}
