"""The first verdict comes soon after torch itself: nothing is imported on the way that it does not need.

Processor time of `npr detect` of one photograph was 1.3 times that of `import torch` when this was written; tests
assert no times, but an import too many is how such a time is lost.
"""

import os
import subprocess
import sys

import numpy as np
from PIL import Image

# What a verdict needs beside torch and the standard library. Some of it torch imports itself.
NEEDED = {"PIL", "detector", "npr_kernels", "numpy", "rich", "safetensors"}

# Parts of torch that a second or more goes into, and that `import torch` leaves out.
HEAVY = {"torch._dynamo", "torch._inductor", "torch.export", "torch.onnx", "torch.testing", "torch.utils.tensorboard"}

_PROGRAM = """
import sys
import torch
before = set(sys.modules)
from detector.cli import main
status = main(["detect", sys.argv[1]])
print(*sorted(set(sys.modules) - before))
sys.exit(status)
"""


def test_a_verdict_imports_what_it_needs(tmp_path):
    pixels = np.random.default_rng().integers(0, 256, (321, 481, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path / "photo.jpg")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.splitlines()[-1].split()
    assert "detector.commands.detect" in loaded
    packages = {name.split(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    unknown = {name for name in packages if not name.startswith("_")} - NEEDED - {"torch"}
    assert unknown == set()
    assert {part for name in loaded for part in HEAVY if name == part or name.startswith(f"{part}.")} == set()
