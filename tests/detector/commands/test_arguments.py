"""How many threads and processes read images where the command line does not say."""

import argparse

import pytest
import torch

from detector.commands import arguments
from detector.commands.arguments import add_readers, count_readers, default_workers


@pytest.mark.parametrize(
    ("cores", "on_cpu", "on_gpu", "readers"), [(1, 0, 0, 1), (2, 2, 1, 2), (4, 2, 3, 4), (64, 2, 8, 8)]
)
def test_by_cores(monkeypatch, cores, on_cpu, on_gpu, readers):
    """Two cores are enough to decode beside the steps of a training; one is not."""
    monkeypatch.setattr(arguments, "count_cores", lambda: cores)
    assert default_workers(torch.device("cpu")) == on_cpu
    assert default_workers(torch.device("cuda")) == on_gpu
    parser = argparse.ArgumentParser()
    add_readers(parser)
    assert count_readers(parser.parse_args([])) == readers
    assert count_readers(parser.parse_args(["--workers", "0"])) == 0
