"""What every test shares: Triton's interpreter where no GPU is, no tuning, two threads, and fresh random input.

The environment is set here, at import, because Triton and torch read it when they are first imported.
"""

from __future__ import annotations

import os
import secrets
import signal

# Tests that pytest-xdist runs side by side share the processors: numpy, which is told before its import, does not
# divide its products among threads that then wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

from tests.gpu_faults import Faults

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("NPR_TRITON_TUNE", "0")  # results must not depend on what else the GPU does

# Shells start what runs in the background with SIGINT ignored, which tests of interruptions and their children inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Two threads, unless pytest-xdist already runs tests side by side on the same processors.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


def pytest_configure(config: pytest.Config) -> None:
    if torch.cuda.is_available():
        config.pluginmanager.register(Faults(torch.cuda.synchronize))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture
def seed() -> int:
    """A seed drawn anew for each test and printed, which shows it when the test fails; NPR_TEST_SEED fixes it."""
    value = int(os.environ.get("NPR_TEST_SEED") or secrets.randbits(32))
    print(f"NPR_TEST_SEED={value}")
    return value


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """NumPy's generator on the test's seed; torch's global generator starts from the same one."""
    torch.manual_seed(seed)
    return np.random.default_rng(seed)
