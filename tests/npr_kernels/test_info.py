"""info() and the package's face."""

from __future__ import annotations

import json
from importlib import metadata

import pytest

import npr_kernels as nk
from npr_kernels.backends import native


def test_info_is_json_and_complete():
    facts = json.loads(json.dumps(nk.info()))
    assert facts["version"] == nk.__version__ == metadata.version("npr-kernels")
    assert set(facts["backends"]) == set(nk.available_backends()) == {"reference", "cpu", "triton", "cuda"}
    assert {"python", "torch", "numpy", "pillow", "triton"} <= set(facts["versions"])
    for name, state in facts["backends"].items():
        assert state["available"] == nk.available_backends()[name]
        assert state["available"] or state["reason"]
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
