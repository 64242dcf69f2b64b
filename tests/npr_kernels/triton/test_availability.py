"""The Triton backend loads when it is asked for and not before, and a broken Triton is a reason, not an error."""

from __future__ import annotations

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


def test_import_does_not_import_triton():
    assert python("import npr_kernels, sys; print('triton' in sys.modules)") == "False"


@pytest.mark.parametrize(
    ("triton", "expected"),
    [
        ("raise ImportError('no such thing')", "Triton cannot be imported (ImportError: no such thing)"),
        ("raise OSError('libcuda is odd')", "Triton cannot be imported (OSError: libcuda is odd)"),
        ("__version__ = '3.5.1'", "Triton is 3.5.1, older than 3.6"),
    ],
)
def test_unusable_triton_is_a_reason(tmp_path, triton, expected):
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text(triton)
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import npr_kernels
print(npr_kernels.info()["backends"]["triton"]["reason"])
assert not npr_kernels.available_backends()["triton"]
"""
    assert python(code) == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_device_is_a_reason():
    pytest.importorskip("triton")
    code = "import npr_kernels; print(npr_kernels.info()['backends']['triton']['reason'])"
    assert python(code) == "torch sees no CUDA device"


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
