"""Which path of the CPU kernels runs: the processor's best, or the one that NPR_CPU asks for."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
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

# Reads what each process shall do: for what is asked for in NPR_CPU, which arguments of Python. Prints what came of it.
# PyTorch, which knows nothing of NPR_CPU, is imported once for all.
_PROCESSES = """
import json, os, runpy, sys, tempfile, traceback
import torch

def run(npr_cpu, code, arguments):
    os.environ.pop("NPR_CPU", None)
    if npr_cpu is not None:
        os.environ["NPR_CPU"] = npr_cpu
    sys.argv = ["-c", *arguments]
    try:
        exec(code, {"__name__": "__main__"})
    except SystemExit as error:
        return error.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

results = []
for each in json.load(sys.stdin):
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = os.fork()
        if process == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            status = run(*each)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        out.seek(0), err.seek(0)
        results.append([status, out.read(), err.read()])
print(json.dumps(results))
"""

# What a process says of its path, and the bits that this path computes.
_FACTS = """
import json, sys
import npr_kernels as nk
from tests.npr_kernels.test_instruction_sets import digest
print(json.dumps({**nk.info()["cpu"], "digest": digest(int(sys.argv[1]))}))
"""
_INFO = "import runpy; runpy.run_module('detector.cli', run_name='__main__')"


def digest(seed: int) -> str:
    """A fingerprint of a convolution that each path rounds in its own way."""
    rng = np.random.default_rng(seed)
    out = nk.npr_conv2d(draw_images(rng, (1, 3, 40, 40)), draw_weight(rng, 8, 3))
    return hashlib.sha256(out.numpy().tobytes()).hexdigest()


def processes(*jobs: tuple[str | None, str, list[str]]) -> list[tuple[int, str, str]]:
    """Of each job (what NPR_CPU is, program, its arguments), the exit status and what it wrote to stdout and stderr."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # the packages that are tested here
    command = [sys.executable, "-c", _PROCESSES]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, input=json.dumps(jobs), capture_output=True, text=True, check=True
    )
    return [tuple(result) for result in json.loads(done.stdout)]


def test_every_path_of_the_extension_is_tested():
    assert set(native.extension.instruction_sets()) <= set(implementations.CPU_INSTRUCTION_SETS)


def test_the_path_that_npr_cpu_asks_for_runs_or_the_best(seed):
    available = native.extension.instruction_sets()
    asked = [None, "", *available]
    for name, (status, out, err) in zip(
        asked, processes(*((each, _FACTS, [str(seed)]) for each in asked)), strict=True
    ):
        assert (status, err) == (0, "")
        cpu = json.loads(out)
        assert cpu["instruction_sets"] == list(available)
        assert available[0] == "baseline"
        assert cpu["instruction_set"] == (name or available[-1])
        assert cpu["instruction_set_reason"] == ("NPR_CPU asks for it" if name else "the best that runs here")
        with implementations.instruction_set(cpu["instruction_set"]):
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


def test_a_path_that_does_not_run_here_is_refused_in_one_line():
    available = ", ".join(native.extension.instruction_sets())
    names = ("sse", "AVX2", "avx512 ")
    found = processes(*(job for name in names for job in ((name, "import npr_kernels", []), (name, _INFO, ["info"]))))
    for name, imported, info in zip(names, found[::2], found[1::2], strict=True):
        expected = f"NPR_CPU must be one of {available} on this processor, got {name!r}"
        assert imported[0] == 1
        assert imported[2].splitlines()[-1] == f"ValueError: {expected}"
        assert info == (1, "", f"npr: error: {expected}\n")


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("nm"), reason="needs nm on Linux")
def test_no_path_shares_a_function_with_another():
    """What compilers emit of an inline function, the linker keeps once: that of AVX-512 might then run on AVX2."""
    symbols = subprocess.run(["nm", "-C", native.LIBRARY], capture_output=True, text=True, check=True).stdout
    if "npr::cpu::" not in symbols:
        pytest.skip("the library is stripped")
    assert not re.findall(r"^\w+ [WV] .*\bnpr::.*", symbols, re.MULTILINE)
