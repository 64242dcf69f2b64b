"""The tutorials as a reader takes them: every command and every piece of Python of a page, in order, in one folder."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detector.cli import main
from detector.synth.photos import procedural_photos

DOCS = Path(__file__).parents[1] / "docs"
TUTORIALS = sorted(DOCS.glob("tutorials/*.md"))

# What takes a reader minutes is done with less of it. Each is in some tutorial.
SMALLER = {"--train-count 600": "--train-count 4", "--count 40": "--count 2", "--epochs 6": "--epochs 1"}
FEWER = "--families nearest,fir"  # generators, where there would be all

pytestmark = pytest.mark.filterwarnings("ignore::npr_kernels.NPRFallbackWarning")


def blocks_of(page):
    """The fenced blocks, each with its language."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```(sh|python)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


@functools.cache
def photographs():
    """60, each 160 x 160 pixels: six cut from each of ten scenes."""
    scenes = [photo.load().permute(1, 2, 0).numpy() for photo in procedural_photos(10, 128, seed=1)]
    return [scene[y : y + 160, x : x + 160] for scene in scenes for y in (0, 160) for x in (0, 160, 320)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the files that tutorials speak of: photo.jpg, photos, data (two labels), archive."""
    monkeypatch.chdir(tmp_path)
    for number, pixels in enumerate(photographs()):
        save(pixels, f"photos/{number}.png")
    for number, pixels in enumerate(photographs()[:6]):
        save(pixels, f"archive/{number % 2}/{number}.jpg")
        save(pixels[:96, :96], f"data/some/{('0_real', '1_fake')[number % 2]}/{number}.png")
    save(photographs()[0], "photo.jpg")
    return tmp_path


def save(pixels, name):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(name)


def with_less_work(line):
    for much, little in SMALLER.items():
        line = line.replace(much, little)
    return f"{line} {FEWER}" if line.startswith("npr synth ") else line


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_tutorial(page, folder):
    names = {"__name__": "__main__"}
    blocks = blocks_of(page)
    if any("npr synth" in text for _, text in blocks):
        (folder / "data").rename(folder / "not-data")  # the page makes it
    for language, text in blocks:
        if language == "python":
            exec(compile(text, str(page), "exec"), names)
            continue
        for line in text.splitlines():
            assert line.startswith("npr "), f"{page.name} has a command of another program: {line}"
            assert main(shlex.split(with_less_work(line))[1:]) == 0, line


def test_what_is_made_smaller_is_in_the_tutorials():
    text = "".join(text for page in TUTORIALS for _, text in blocks_of(page))
    assert [much for much in SMALLER if much not in text] == []


def test_the_notebook_is_the_page():
    spec = importlib.util.spec_from_file_location("make_notebook", DOCS / "make_notebook.py")
    make_notebook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_notebook)
    page = make_notebook.PAGE
    kept = json.loads(page.with_suffix(".ipynb").read_text(encoding="utf-8"))
    assert any(cell.get("outputs") for cell in kept["cells"])
    for cell in kept["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = []
    assert kept == make_notebook.notebook(page.read_text(encoding="utf-8")), "run docs/make_notebook.py"
