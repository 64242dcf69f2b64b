"""info() and the package's face."""

from __future__ import annotations

import json
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

import npr_kernels as nk
from npr_kernels import backends
from npr_kernels.backends import native


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


def test_instruction_set_in_use_is_the_best():
    if native.extension is None:
        assert nk.info()["build"] is None
        return
    cpu = nk.info()["cpu"]
    assert cpu["instruction_set"] == cpu["instruction_sets"][-1]
    assert cpu["instruction_sets"][0] == "baseline"


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
    ],
)
def test_devices_that_compiled_kernels_cover(target, capability, runs):
    assert native.covers(target, capability) == runs


def test_a_device_that_the_compiled_kernels_do_not_cover(monkeypatch):
    """It is left to Triton, and the reason names it."""
    if native.extension is None:
        pytest.skip("the extension was not built")
    targets = SimpleNamespace(build_info=lambda: {"cuda_targets": ["sm_80", "sm_90"]})
    monkeypatch.setattr(native, "extension", targets)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    capabilities = {0: (12, 0), 1: (9, 0)}
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device=None: capabilities[device.index if device else 0]
    )
    monkeypatch.setattr(backends.triton, "unavailable_reason", lambda: None)
    monkeypatch.setattr(backends.triton, "serves", lambda device: device.type == "cuda")
    for function in (native.serves, native.unavailable_reason):
        function.cache_clear()
    try:
        assert backends.preferred(torch.device("cuda", 0)) == "triton"
        assert backends.preferred(torch.device("cuda", 1)) == "cuda"
        capabilities[1] = (7, 5)
        for function in (native.serves, native.unavailable_reason):
            function.cache_clear()
        assert native.unavailable_reason("cuda") == "the device is sm_120, the kernels were compiled for sm_80, sm_90"
    finally:
        for function in (native.serves, native.unavailable_reason):
            function.cache_clear()
