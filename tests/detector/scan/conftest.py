"""A small detector, files for it, and one Ray for all tests that scan."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack

import numpy as np
import pytest
from PIL import Image

from detector.cli import main


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ray takes seconds to start, and processes of its own: `make scan` and CI run what needs it."""
    for item in items:
        if "ray_here" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def pictures(tmp_path, rng):
    """A folder with images, one of them large, and files that are none."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for number, size in enumerate([*rng.integers(16, 60, (9, 2)), (1400, 1500)]):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        name = f"{number}.jpg" if number % 2 else f"more/{number} é.png"
        Image.fromarray(pixels).save(folder / name)
    (folder / "cut.jpg").write_bytes((folder / "1.jpg").read_bytes()[:200])
    (folder / "empty.png").touch()
    (folder / "text.webp").write_text("no image")
    return folder


@pytest.fixture(scope="session")
def ray_here(tmp_path_factory):
    """Ray, started once: scans of this process use it. Gives the folder that it was started in."""
    from detector.scan import cluster

    before, folder = os.getcwd(), tmp_path_factory.mktemp("started")
    os.chdir(folder)
    with ExitStack() as stack:
        try:
            stack.enter_context(cluster.running(None, 2))
            assert os.getcwd() == str(folder)
        finally:
            os.chdir(before)
        yield folder


@pytest.fixture
def no_progress(monkeypatch):
    """However slow the machine is."""
    monkeypatch.setattr("detector.console.SECONDS_BETWEEN_LINES", float("inf"))


@pytest.fixture
def scan(ray_here, no_progress, weights, capsys):
    """Runs `npr scan --json` here; gives the exit status and the summary."""

    def run(*arguments):
        capsys.readouterr()
        status = main(["scan", *map(str, arguments), "--weights", str(weights), "--json"])
        said = capsys.readouterr()
        assert said.err == "", said.err
        return status, json.loads(said.out)

    return run


@pytest.fixture
def detect(weights, capsys):
    """The lines of `npr detect --json --facts`, by path."""

    def run(*arguments):
        capsys.readouterr()
        main(["detect", *map(str, arguments), "--weights", str(weights), "--json", "--facts"])
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return {line["path"]: line for line in lines}

    return run
