"""info() and the package's face."""

from __future__ import annotations

import json
from contextlib import nullcontext
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

import npr_kernels as nk
from npr_kernels import backends
from npr_kernels.backends import native
from tests import needs


def test_info_is_json_and_complete():
    facts = json.loads(json.dumps(nk.info()))
    assert facts["version"] == nk.__version__ == metadata.version("npr-kernels")
    assert set(facts["backends"]) == set(nk.available_backends()) == {"reference", "cpu", "triton", "cuda"}
    assert {"python", "torch", "numpy", "pillow", "triton"} <= set(facts["versions"])
    for name, state in facts["backends"].items():
        assert state["available"] == nk.available_backends()[name]
        assert state["available"] or state["reason"]
    assert facts["chosen"]["cpu"] in ("cpu", "reference")
    assert len(facts["chosen"]) == 1 + len(facts["devices"])
    assert facts["threads"] >= 1


@pytest.fixture
def forgetful():
    """What native found out is found out anew, in the test and after it."""
    functions = (native.serves, native.unavailable_reason)
    for function in functions:
        function.cache_clear()
    yield
    for function in functions:
        function.cache_clear()


def test_without_the_extension_there_is_no_instruction_set(monkeypatch, forgetful):
    monkeypatch.setattr(native, "extension", None)
    cpu, build = nk.info()["cpu"], nk.info()["build"]
    assert build is None
    assert (cpu["instruction_set"], cpu["instruction_set_reason"], cpu["instruction_sets"]) == (None, None, [])


@needs.extension
def test_without_facts_the_ops_run(monkeypatch, forgetful):
    """As under a Python that the wheel has no module for."""
    whole = nk.info()
    monkeypatch.setattr(native, "facts", None)
    assert nk.info() == whole | {"build": {"cuda_targets": whole["build"]["cuda_targets"]}}


def test_public_names_exist():
    assert all(hasattr(nk, name) for name in nk.__all__)


@pytest.mark.parametrize(
    ("target", "capability", "runs"),
    [
        ("sm_80", (8, 0), True),
        ("sm_80", (8, 9), True),
        ("sm_86", (8, 0), False),
        ("sm_80", (9, 0), False),
        ("sm_90", (9, 0), True),
        ("sm_90a", (9, 0), True),
        ("sm_100", (10, 3), True),
        ("sm_100a", (10, 3), False),
        ("sm_100f", (10, 3), True),
        ("sm_100", (12, 0), False),
        ("compute_100", (9, 0), False),
        ("compute_100", (10, 0), True),
        ("compute_100", (11, 0), True),
        ("compute_90a", (10, 0), False),
    ],
)
def test_devices_that_compiled_kernels_cover(target, capability, runs):
    assert native.covers(target, capability) == runs


@pytest.fixture
def two_devices(monkeypatch, forgetful):
    """An extension with kernels for two targets that finds nothing wrong, and two devices, of which one has such a
    target: its extension, their capabilities, and on which devices it was asked."""
    asked = []
    extension = SimpleNamespace(cuda_targets=lambda: ["sm_80", "sm_90"], cuda_unavailable_reason=lambda: None)
    capabilities = {0: (12, 0), 1: (9, 0)}
    monkeypatch.setattr(native, "extension", extension)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device", lambda index: asked.append(index) or nullcontext())
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device=None: capabilities[device.index if device else 0]
    )
    return SimpleNamespace(extension=extension, capabilities=capabilities, asked=asked)


def test_the_extensions_own_runtime_has_the_last_word(two_devices):
    """It may be newer than the driver serves, where torch's is not. It is asked on a device that has its code."""
    two_devices.extension.cuda_unavailable_reason = lambda: "the driver is too old"
    assert native.unavailable_reason("cuda") == "the driver is too old"
    assert two_devices.asked == [1]


def test_a_device_that_the_compiled_kernels_do_not_cover(monkeypatch, two_devices):
    """It is left to Triton, and the reason names it."""
    capabilities = two_devices.capabilities
    monkeypatch.setattr(backends.triton, "unavailable_reason", lambda: None)
    monkeypatch.setattr(backends.triton, "serves", lambda device: device.type == "cuda")
    assert backends.preferred(torch.device("cuda", 0)) == "triton"
    assert backends.preferred(torch.device("cuda", 1)) == "cuda"
    capabilities[1] = (7, 5)
    native.serves.cache_clear()
    native.unavailable_reason.cache_clear()
    assert native.unavailable_reason("cuda") == "the device is sm_120, the kernels were compiled for sm_80, sm_90"
