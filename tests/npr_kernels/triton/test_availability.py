"""The Triton backend loads when it is asked for and not before, and a broken Triton is a reason, not an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from npr_kernels.backends import triton


def python(code: str, **environment: str) -> str:
    variables = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"} | environment
    result = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


BROKEN = {
    "raise ImportError('no such thing')": "Triton cannot be imported (ImportError: no such thing)",
    "raise OSError('libcuda is odd')": "Triton cannot be imported (OSError: libcuda is odd)",
    "__version__ = '3.5.1'": "Triton is 3.5.1, older than 3.6",
}

# What a process finds: whether importing the package imports Triton, then the reason with each of the modules named
# triton in the folders that are its arguments, and with the real one.
FINDINGS = """
import json, sys
import npr_kernels
from npr_kernels.backends import triton

imported, reasons = "triton" in sys.modules, []
for folder in [*sys.argv[1:], None]:
    sys.modules.pop("triton", None)
    sys.path[:0] = [folder] if folder else []
    triton.unavailable_reason.cache_clear()
    reasons.append(npr_kernels.info()["backends"]["triton"]["reason"])
    assert npr_kernels.available_backends()["triton"] == (reasons[-1] is None)
    del sys.path[: 1 if folder else 0]
print(json.dumps([imported, *reasons]))
"""


@pytest.fixture(scope="module")
def findings(tmp_path_factory) -> list:
    folders = []
    for text in BROKEN:
        folders.append(tmp_path_factory.mktemp("broken"))
        (folders[-1] / "triton").mkdir()
        (folders[-1] / "triton" / "__init__.py").write_text(text)
    code = f"import sys; sys.argv[1:] = {list(map(str, folders))!r}\n{FINDINGS}"
    return json.loads(python(code))


def test_import_does_not_import_triton(findings):
    assert findings[0] is False


@pytest.mark.parametrize("triton", BROKEN)
def test_unusable_triton_is_a_reason(findings, triton):
    assert findings[1 + list(BROKEN).index(triton)] == BROKEN[triton]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_device_is_a_reason(findings):
    pytest.importorskip("triton")
    assert findings[-1] == "torch sees no CUDA device"


def test_interpreter_serves_the_cpu():
    pytest.importorskip("triton")
    code = """
import npr_kernels, torch
from npr_kernels.backends import triton
print(triton.unavailable_reason(), *(triton.serves(torch.device(d)) for d in ("cpu", "cuda")), sep="|")
"""
    reason, *serves = python(code, TRITON_INTERPRET="1").split("|")
    if "needs NumPy before" in reason:
        pytest.skip(reason)
    assert (reason, serves) == ("None", ["True", "False"])


@pytest.mark.parametrize(
    ("version", "numpy", "runs"),
    [((3, 6), "2.3.5", True), ((3, 6), "2.4.0", False), ((3, 6), "2.5.2", False), ((3, 7), "2.5.2", True)],
)
def test_interpreter_and_numpy(monkeypatch, version, numpy, runs):
    monkeypatch.setattr(np, "__version__", numpy)
    reason = triton._no_interpreter(version)
    assert reason is None if runs else numpy in reason
