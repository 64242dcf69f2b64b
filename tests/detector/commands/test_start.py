"""The first verdict comes soon after torch itself."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

resource = pytest.importorskip("resource", reason="needs processes' own time, which Windows does not count so")


def seconds(*words):
    """Of processor time, which other work on the machine changes little; the best of three."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], env=environment, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


@pytest.mark.slow
def test_first_verdict_within_one_and_a_half_times_the_import_of_torch(tmp_path):
    pixels = np.random.default_rng().integers(0, 256, (321, 481, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    verdict = seconds("-m", "detector.cli", "detect", str(tmp_path / "photo.jpg"))
    assert verdict <= 1.5 * seconds("-c", "import torch")
