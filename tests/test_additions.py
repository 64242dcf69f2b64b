"""What CONTRIBUTING.md says of adding things is true: one of each is added to a copy, in the files that it names alone,
and the command line knows it."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.xdist_group("additions")  # they share one copy


class Addition(NamedTuple):
    """Something added.

    Attributes:
        paragraph: of CONTRIBUTING.md, by its first words.
        lines: by file, after which text what is put in, "" for the end; a file that is not there is made.
    """

    paragraph: str
    lines: dict[str, list[tuple[str, str]]]


DETECTOR = """
from torch import nn
from detector.data import Preprocessing
from detector.models.detector import Detector
from npr_kernels import NPRConv

class TinyDetector(Detector):
    original_preprocessing = Preprocessing(crop=8)
    architecture = {}
    feature_stride = 2
    feature_reach = 2

    def __init__(self, preprocessing=None):
        super().__init__()
        self.preprocessing = preprocessing or self.original_preprocessing
        self.conv = NPRConv(3, 4)
        self.fc = nn.Linear(4, 1)
        nn.init.zeros_(self.fc.weight)
        nn.init.ones_(self.fc.bias)

    @property
    def classifier(self):
        return self.fc

    def stem(self, images):
        return self.conv(images)
"""

STEP = """

@dataclass(frozen=True)
class Invert(Step):
    def __str__(self) -> str:
        return "invert"

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        return 255 - image
"""

COMMAND = """
def add_parser(subparsers):
    parser = subparsers.add_parser("greet")
    parser.add_argument("name")
    parser.set_defaults(run=run)

def run(args):
    print(f"good morning, {args.name}")
    return 0
"""

ADDITIONS = {
    "detector": Addition(
        "a detector",
        {
            "detector/models/tiny_detector.py": [("", DETECTOR)],
            "detector/models/checkpoint.py": [
                (
                    "from detector.models.detector import Detector\n",
                    "from detector.models.tiny_detector import TinyDetector\n",
                ),
                ("Callable[..., Detector]] = {\n", '    "TinyDetector": TinyDetector,\n'),
            ],
        },
    ),
    "generator": Addition(
        "a generator",
        {
            "detector/synth/families.py": [
                (
                    "\nFAMILIES: tuple[GeneratorSpec, ...] = (\n",
                    '    GeneratorSpec("fresh", "GAN-like", "bicubic", seed=99),\n',
                )
            ]
        },
    ),
    "learned generator": Addition(
        "a generator",
        {
            "detector/synth/learned/families.py": [
                ("LearnedSpec, ...] = (\n", '    LearnedSpec("fresh-unet", "unet", "nearest", 4),\n')
            ]
        },
    ),
    "network": Addition(
        "a generator",
        {
            "detector/synth/networks/table.py": [
                (
                    "NetworkSpec, ...] = (\n",
                    '    NetworkSpec("fresh-x2", 2, "nobody", "CC0", (("fresh", "file"),), 6),\n',
                )
            ]
        },
    ),
    "preset": Addition(
        "a preset",
        {
            "detector/evaluation/presets.py": [
                (
                    "\n_ALL = (\n",
                    '    Preset("fresh-1", "Fresh", _folders("Fresh=fresh"), "native", "whole", (), "nowhere"),\n',
                )
            ]
        },
    ),
    "delivery": Addition(
        "a delivery",
        {
            "detector/data/steps.py": [("", STEP)],
            "detector/data/delivery.py": [
                ("from detector.data.steps import (\n", "    Invert,\n"),
                ("\n_FORMS: dict[str, _Form] = {\n", '    "invert": _Form("invert", "", Invert),\n'),
            ],
        },
    ),
    "command": Addition(
        "a command",
        {
            "detector/commands/greet.py": [("", COMMAND)],
            "detector/cli.py": [("\nCOMMANDS = {\n", '    "greet": "say good morning",\n')],
        },
    ),
}

# Runs the lines of its input as commands; for each it prints a line of JSON, the exit status and what the command said.
PROGRAM = """
import contextlib, io, json, shlex, sys
from detector.cli import main
from detector.models import save_checkpoint
from detector.models.tiny_detector import TinyDetector
save_checkpoint("tiny.safetensors", TinyDetector())
for line in sys.stdin.read().splitlines():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(shlex.split(line))
        except SystemExit as end:
            status = end.code
    print(json.dumps([status, out.getvalue(), err.getvalue()]))
"""

COMMANDS = {
    "detect": "detect picture.png --weights tiny.safetensors --json",
    "build": "synth --out made --families fresh --train-family fresh --count 1 --train-count 1 --scenes 24 --size 32",
    "list": "synth --list --json",
    "list learned": "synth --list --learned --json",
    "list networks": "synth --list --networks --json",
    "list presets": "eval --list-presets",
    "eval": "eval data --weights tiny.safetensors --preset fresh-1 --json eval.json",
    "deliver": "eval data --weights tiny.safetensors --delivery invert --json delivered.json",
    "greet": "greet Ada",
    "help": "--help",
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the detector with everything added."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "detector", folder / "detector", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "npr_kernels").symlink_to(ROOT / "npr_kernels")
    for addition in ADDITIONS.values():
        for name, lines in addition.lines.items():
            path = folder / name
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            for after, line in lines:
                assert not after or text.count(after) == 1, f"{name}: once {after!r}"
                text = text.replace(after, after + line) if after else text + line
            path.write_text(text, encoding="utf-8")
    rng = np.random.default_rng()
    for path in (
        "picture.png",
        *(f"data/test/fresh/{label}/{i}.png" for label in ("0_real", "1_fake") for i in (0, 1)),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(folder / path)
    return folder


@pytest.fixture(scope="module")
def said(copy):
    """What each of COMMANDS says there, all having been run, in one process."""
    lines = "\n".join(COMMANDS.values())
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=copy, input=lines, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = dict(zip(COMMANDS, map(json.loads, done.stdout.splitlines()), strict=True))
    assert {name: err for name, (status, _, err) in results.items() if status != 0} == {}
    return {name: out for name, (_, out, _) in results.items()}


def test_a_detector_is_added(said):
    assert json.loads(said["detect"])["score"] == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-6)


def test_generators_are_added(said, copy):
    for name, wanted in (("list", "fresh"), ("list learned", "fresh-unet"), ("list networks", "fresh-x2")):
        assert wanted in {spec["name"] for spec in json.loads(said[name])}
    assert len(list((copy / "made/test/fresh/1_fake").iterdir())) == 1


def test_a_preset_is_added(said, copy):
    assert "fresh-1" in said["list presets"]
    assert "Fresh" in (copy / "eval.json").read_text(encoding="utf-8")


def test_a_delivery_is_added(said, copy):
    assert "invert" in (copy / "delivered.json").read_text(encoding="utf-8")


def test_a_command_is_added(said):
    assert said["greet"] == "good morning, Ada\n"
    assert "say good morning" in said["help"]


@pytest.mark.parametrize("name", ADDITIONS)
def test_contributing_names_every_file(name):
    """Itself, or the folder of a new one."""
    addition = ADDITIONS[name]
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (paragraph,) = re.findall(rf"^\*\*{addition.paragraph}.*?(?=\n\n)", text, re.DOTALL | re.MULTILINE)
    links = {(ROOT / link).resolve() for link in re.findall(r"\]\(([^)]+)\)", paragraph)}
    for file in addition.lines:
        path = (ROOT / file).resolve()
        assert path in links or path.parent in links, f"{file} is not in: {paragraph}"
