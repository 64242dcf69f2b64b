"""A few hundred inputs of the fuzzer, always the same ones; and that it finds what is planted."""

import itertools
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from detector.data import ImageError, decode
from detector.image_formats import readable_formats
from tests.fuzz import decode as target
from tests.fuzz.corpus import KINDS, corpus, mutations

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def prepared(monkeypatch, tmp_path):
    """What the fuzzer sets for its process, until the test ends."""
    monkeypatch.setattr(sys.modules["detector.data.decode"], "MAX_PIXELS", target.MAX_PIXELS)
    monkeypatch.setattr(target, "FOLDER", tmp_path)
    with warnings.catch_warnings():
        target.prepare()
        yield


def is_image(data):
    try:
        decode(data)
    except ImageError:
        return False
    return True


def test_the_corpus_has_images_of_every_format():
    files = corpus(7)
    assert {name for name, _, _ in KINDS} >= set(readable_formats())
    assert len(files) > 20
    assert sum(map(is_image, files)) > len(files) - 3  # one holds floating-point samples
    assert corpus(7) == files


def test_files_of_a_seed_do_not_tell_the_time():
    first = corpus(3)
    time.sleep(1.1)  # the clock that they could tell has seconds
    assert corpus(3) == first


def test_a_few_hundred_mutations(tmp_path):
    inputs = list(itertools.islice(mutations(corpus(1), 1), 400))
    assert inputs == list(itertools.islice(mutations(corpus(1), 1), 400))
    for data in inputs:
        target.one_file(tmp_path / "file", data)
    # Some must get as far as the codecs, and some no farther.
    assert 40 < sum(map(is_image, inputs)) < 360


def plant(monkeypatch, answer):
    def planted(data):
        if len(data) % 7 == 0:
            return answer()
        return decode(data)

    monkeypatch.setattr(target, "decode", planted)


def escape():
    raise KeyError("Orientation")


def two_lines():
    raise ImageError("<bytes>", "is damaged (one\ntwo)")


def no_image():
    return decode(corpus(1)[0]).float()


def speak():
    os.write(2, b"TIFFReadDirectory: Warning, Unknown field.\n")
    raise ImageError("<bytes>", "is damaged")


@pytest.mark.parametrize("fault", [escape, two_lines, no_image, speak])
def test_what_is_planted_is_found_and_kept(fault, monkeypatch, tmp_path, capsys):
    plant(monkeypatch, fault)
    failed = target.loop(seconds=600, seed=3, count=40)
    kept = [path for path in tmp_path.iterdir() if path.name != "last"]
    assert failed > 0
    assert kept
    assert all(len(path.read_bytes()) % 7 == 0 for path in kept)
    assert f"{failed} failed" in capsys.readouterr().out
    with pytest.raises((KeyError, AssertionError)):
        target.one_input(kept[0].read_bytes())


def test_a_count_of_inputs(tmp_path, capsys):
    assert target.loop(seconds=600, seed=3, count=20) == 0
    assert "20 inputs from seed 3, 0 failed" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


_HANGING = """
import sys
import time
from pathlib import Path
from tests.fuzz import decode as target

def hang(data):
    while True:
        pass

target.FOLDER, target.MAX_SECONDS, target.decode = Path(sys.argv[1]), 1.0, hang
target.enable_reports()
target.loop(seconds=600, seed=3)
"""


def test_an_input_that_does_not_end_is_kept_and_its_place_told(tmp_path):
    command = [sys.executable, "-c", _HANGING, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGALRM
    assert " in hang\n" in done.stderr
    assert (tmp_path / "last").read_bytes() == next(mutations(corpus(3), 3))
