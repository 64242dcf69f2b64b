"""Examples run as they stand: those of the docstrings, and the Python of README and docs."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import npr_kernels
from detector.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]

MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted([*ROOT.glob("detector/**/*.py"), *ROOT.glob("npr_kernels/**/*.py")])
    if ">>> " in path.read_text(encoding="utf-8")
]


def is_called(public):
    return callable(public) and not (isinstance(public, type) and issubclass(public, Warning))


# Of npr_kernels all that is called, and what a newcomer calls first of the rest.
WITH_EXAMPLES = {
    *(
        f"{each.__module__}.{each.__qualname__}"
        for each in map(vars(npr_kernels).get, npr_kernels.__all__)
        if is_called(each)
    ),
    "npr_kernels.periodicity.coherence",
    "npr_kernels.resampling.profiles",
    "npr_kernels.texture.textured_cells",
    "detector.data.decode.decode",
    "detector.data.delivery.Delivery.parse",
    "detector.data.layouts.find_images",
    "detector.evaluation.metrics.compute_metrics",
    "detector.evaluation.running.RunningMetrics",
    "detector.explain.activation.explain",
    "detector.models.detector.Detector.from_pretrained",
    "detector.models.detector.Detector.score",
}

pytestmark = pytest.mark.filterwarnings("ignore::npr_kernels.NPRFallbackWarning")


@pytest.fixture
def files(tmp_path, monkeypatch, rng):
    """The files that examples speak of, in a folder that is the current one: photo.jpg, and `data` with two images in
    `real` and three in `fake`."""
    monkeypatch.chdir(tmp_path)
    save_noise("photo.jpg", (320, 480), rng)
    for label, count in (("real", 2), ("fake", 3)):
        Path("data", label).mkdir(parents=True)
        for number in range(count):
            save_noise(f"data/{label}/{number}.png", (64, 64), rng)


def save_noise(path, size, rng):
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def examples_of(module):
    """Those of the docstrings, each starting with no name defined: they import what they use, as their reader must."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [test for test in finder.find(importlib.import_module(module), module, globs={}) if test.examples]


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.usefixtures("files")
def test_examples_of_docstrings(module):
    runner = doctest.DocTestRunner(verbose=False)
    report: list[str] = []
    for test in examples_of(module):
        runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).attempted > 0
    assert not report, "".join(report)


def test_what_is_called_first_has_examples():
    found = {test.name for module in MODULES for test in examples_of(module)}
    assert WITH_EXAMPLES - found == set()


def python_of(page):
    """The blocks of a page, one after another, with the lines that they have there."""
    lines = page.read_text(encoding="utf-8").splitlines()
    kept, inside = [], False
    for line in lines:
        fence = re.match(r"```(\w*)", line)
        inside = fence[1] == "python" if fence else inside
        kept.append("" if fence or not inside else line)
    return "\n".join(kept)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")], ids=lambda page: page.name
)
@pytest.mark.usefixtures("files")
def test_the_python_of_pages(page):
    code = python_of(page)
    if "onnxruntime" in code:
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
        assert main(["export", "--format", "onnx"]) == 0  # the command that the page names before
    exec(compile(code, str(page), "exec"), {})
