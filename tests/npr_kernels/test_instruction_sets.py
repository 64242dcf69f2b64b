"""Which path of the CPU kernels runs: the processor's best, or the one that NPR_CPU asks for."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import npr_kernels as nk
from npr_kernels.backends import native
from tests import needs
from tests.npr_kernels import implementations
from tests.npr_kernels.inputs import draw_images, draw_weight

pytestmark = needs.extension

ROOT = Path(__file__).parents[2]

# What a process says of its path, and the bits that this path computes.
_PROGRAM = """
import json, sys
import npr_kernels as nk
from tests.npr_kernels.test_instruction_sets import digest
print(json.dumps({**nk.info()["cpu"], "digest": digest(int(sys.argv[1]))}))
"""


def digest(seed: int) -> str:
    """A fingerprint of a convolution that each path rounds in its own way."""
    rng = np.random.default_rng(seed)
    out = nk.npr_conv2d(draw_images(rng, (1, 3, 40, 40)), draw_weight(rng, 8, 3))
    return hashlib.sha256(out.numpy().tobytes()).hexdigest()


def process(*command: str, npr_cpu: str | None) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "NPR_CPU"}
    if npr_cpu is not None:
        environment["NPR_CPU"] = npr_cpu
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)  # the packages that are tested here
    return subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)


def facts(npr_cpu: str | None, seed: int) -> dict:
    done = process("-c", _PROGRAM, str(seed), npr_cpu=npr_cpu)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_path_of_the_extension_is_tested():
    assert set(native.extension.instruction_sets()) <= set(implementations.CPU_INSTRUCTION_SETS)


@pytest.mark.parametrize("unset", [None, ""], ids=repr)
def test_the_best_path_runs_unasked(unset, seed):
    cpu = facts(unset, seed)
    assert cpu["instruction_sets"][0] == "baseline"
    assert cpu["instruction_set"] == cpu["instruction_sets"][-1]
    assert cpu["instruction_set_reason"] == "the best that runs here"


def test_the_path_that_npr_cpu_asks_for_runs(instruction_set, seed):
    cpu = facts(instruction_set, seed)
    assert cpu["instruction_set"] == instruction_set
    assert cpu["instruction_set_reason"] == "NPR_CPU asks for it"
    assert cpu["digest"] == digest(seed)


def test_paths_can_be_told_apart_by_their_bits(seed):
    """Or the comparison above would hold whichever ran: multiply-adds round once, the plain path twice."""
    names = native.extension.instruction_sets()
    if len(names) == 1:
        pytest.skip("there is one path alone")
    digests = []
    for name in (names[0], names[-1]):
        with implementations.instruction_set(name):
            digests.append(digest(seed))
    assert digests[0] != digests[1]


@pytest.mark.parametrize("name", ["sse", "AVX2", "avx512 "])
def test_a_path_that_does_not_run_here_is_refused_in_one_line(name):
    available = ", ".join(native.extension.instruction_sets())
    expected = f"NPR_CPU must be one of {available} on this processor, got {name!r}"
    done = process("-c", "import npr_kernels", npr_cpu=name)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"ValueError: {expected}"
    done = process("-m", "detector.cli", "info", npr_cpu=name)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"npr: error: {expected}\n")
