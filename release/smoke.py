"""Installs the wheel into clean environments without a compiler, and compares verdicts with the source tree's.

Each interpreter gets a virtual environment and, first, a torch. Then the seconds are counted that it takes to install
the wheel and what it depends on and to the first verdict of ``npr detect``. The verdicts of images made on the spot
must be those of the source tree with its own build, under the same torch, to the last bit of each score.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

# Smooth noise with grain, at sizes odd and even; as it is, and the finer half of it repeated, as up-sampling does.
_IMAGES = """
import sys
import numpy as np
from PIL import Image
seed, folder = int(sys.argv[1]), sys.argv[2]
rng = np.random.default_rng(seed)
for i, (height, width) in enumerate([(256, 256), (301, 222), (480, 640), (1100, 1300)]):
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((width, height), 3)
    photo = np.clip(np.asarray(coarse) + rng.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)
    repeated = photo[::2, ::2].repeat(2, 0).repeat(2, 1)[:height, :width]
    Image.fromarray(photo).save(f"{folder}/photo{i}.png")
    Image.fromarray(photo).save(f"{folder}/photo{i}.jpg", quality=90)
    Image.fromarray(repeated).save(f"{folder}/repeated{i}.png")
"""
_INSTALLED = """
import json, npr_kernels
print(json.dumps({"file": npr_kernels.__file__, **npr_kernels.info()}))
"""


def check_source_build() -> None:
    """Ends the program where the source tree has no build of its own, which verdicts are compared with."""
    if not (ROOT / "npr_kernels" / "libnpr_kernels.so").exists():
        sys.exit(f"release.smoke: there is no build in {ROOT} to compare with: python setup.py build_ext --inplace")


def run(wheel: Path, pythons: list[str], torches: list[str], folder: Path) -> None:
    """Ends the program with the first thing that is wrong."""
    seed = secrets.randbits(32)
    for python, torch in zip(pythons, itertools.cycle(torches), strict=False):
        shutil.rmtree(folder, ignore_errors=True)
        try_one(wheel, python, torch, folder, seed)
    shutil.rmtree(folder, ignore_errors=True)


def try_one(wheel: Path, python: str, torch: str, folder: Path, seed: int) -> None:
    venv, images = folder / "venv", folder / "images"
    images.mkdir(parents=True)
    call([python, "-m", "venv", venv])
    interpreter = venv / "bin" / "python"
    pip = [interpreter, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-compile"]
    call([*pip, *torch.split()])
    # Nothing to compile with: what is on PATH otherwise is not.
    bare = {"PATH": str(venv / "bin"), "CXX": "/nonexistent/c++"}
    begin = time.monotonic()
    call([*pip, "--only-binary", ":all:", wheel], bare)
    installed = time.monotonic()
    call([interpreter, "-c", _IMAGES, seed, images])
    made = time.monotonic()
    detect = ["-m", "detector.cli", "detect", "--json"]
    call([venv / "bin" / "npr", "detect", "--json", images / "photo0.png"], bare)
    first = time.monotonic() - made + installed - begin

    facts = json.loads(call([interpreter, "-c", _INSTALLED], bare))
    wrong = []
    if not Path(facts["file"]).is_relative_to(venv):
        wrong.append(f"{facts['file']} was imported")
    if not facts["backends"]["cpu"]["available"]:
        wrong.append(f"the CPU kernels do not run: {facts['backends']['cpu']['reason']}")
    if "compiler" not in (facts["build"] or {}):
        wrong.append("it has no module of facts for this Python")
    here = verdicts(call([interpreter, *detect, "--exact", images], bare))
    source = {"PYTHONPATH": str(ROOT)}
    found = json.loads(call([interpreter, "-c", _INSTALLED], source))
    if not (Path(found["file"]).is_relative_to(ROOT / "npr_kernels") and found["backends"]["cpu"]["available"]):
        wrong.append(f"there is no source build in {ROOT} to compare with")
    there = verdicts(call([interpreter, *detect, "--exact", images], source))
    if here != there or len(here) != 12:
        wrong.append(f"verdicts differ, seed {seed}:\n{here}\n{there}")
    versions = facts["versions"]
    what = f"Python {versions['python']}, torch {versions['torch']}"
    if wrong:
        sys.exit(f"{what}: " + "; ".join(wrong))
    said = {verdict["verdict"] for verdict in here}
    print(
        f"{what}: first verdict {first:.1f} s after the start of the installation "
        f"({installed - begin:.1f} s of it pip's); {len(here)} images, {', '.join(sorted(said))}, as from source; "
        f"CPU {facts['cpu']['instruction_set']}, GPU targets {', '.join(facts['build']['cuda_targets']) or 'none'}",
        flush=True,
    )


def verdicts(lines: str) -> list[dict[str, Any]]:
    """What is said of each image, but for the versions that said it."""
    found = [json.loads(line) for line in lines.splitlines()]
    return [{key: value for key, value in verdict.items() if key != "versions"} for verdict in found]


def call(command: Sequence[object], environment: Mapping[str, str] | None = None) -> str:
    """What it prints. Nothing of this process's own Python, or of the source tree, is seen by it unasked."""
    outside = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "NPR_", "VIRTUAL_ENV"))
    }
    words = [str(part) for part in command]
    # From the root of the file system, so that no package is found in the folder that it runs in.
    environment = outside | dict(environment or {})
    done = subprocess.run(words, cwd="/", env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"release.smoke: {' '.join(words)[:400]} failed")
    return done.stdout
