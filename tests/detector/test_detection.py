"""detect and find_files on endless sources: how far ahead they draw, what they keep, and that they end cleanly."""

import json
import os
import threading
from itertools import count, islice

import numpy as np
import pytest
import torch
from PIL import Image

from detector.data import Preprocessing
from detector.detection import MOST_HELD_BACK, Content, Detection, detect, find_files
from detector.doubt import Reason
from detector.models import NPRDetector, inference
from detector.models.transfers import Transfers
from tests.detector.models.played import PlayedDevice


@pytest.fixture
def model():
    torch.manual_seed(0)
    return NPRDetector(Preprocessing(crop=16))


@pytest.fixture
def pictures(tmp_path, rng):
    paths = []
    for i in range(5):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(rng.integers(0, 256, (*rng.integers(16, 40, 2), 3), dtype=np.uint8)).save(paths[-1])
    return paths


class Endless:
    """Paths without an end, and how many were drawn."""

    def __init__(self, path_of):
        self.drawn, self._path_of = 0, path_of

    def __iter__(self):
        for i in count():
            self.drawn += 1
            yield self._path_of(i)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ordered", [True, False])
def test_an_endless_source_is_drawn_a_bounded_number_ahead(model, pictures, workers, ordered):
    files = Endless(lambda i: pictures[i % 5])
    detections = detect(model, files, workers=workers, ordered=ordered)
    for number, detection in enumerate(islice(detections, 400), start=1):
        assert detection.score is not None
        assert files.drawn - number <= 40
    detections.close()


@pytest.mark.parametrize("kind", ["missing files", "arguments that mean no file"])
def test_errors_without_an_end_come_as_they_are_found(model, tmp_path, kind):
    files = Endless(lambda i: f"{tmp_path}/{i}" if kind == "missing files" else Detection(str(i), error="matches none"))
    detections = detect(model, files, workers=2)
    for number, detection in enumerate(islice(detections, 2000)):
        assert detection.path.endswith(str(number))
        assert detection.error
        assert files.drawn - number <= MOST_HELD_BACK + 40
    detections.close()


def test_an_image_that_waits_for_others_of_its_size_holds_back_no_more_than_the_bound(model, pictures, monkeypatch):
    """As on a GPU, where batches are gathered: the first image is alone of its size."""

    def in_batches(model, views, batch_size, start):
        return inference.gather(model, views, batch_size, start, Transfers(PlayedDevice(), model))

    monkeypatch.setattr(inference, "_one_by_one", in_batches)
    files = Endless(lambda i: pictures[0] if i == 0 else pictures[1])
    detections = detect(model, files, batch_size=4, workers=2)
    first = next(detections)
    assert (first.path, first.error) == (pictures[0], None)
    assert files.drawn <= MOST_HELD_BACK + 40
    assert [next(detections).path for _ in range(1000)] == [pictures[1]] * 1000
    detections.close()


@pytest.mark.parametrize("taken", [1, 7])
def test_closed_in_the_middle_no_thread_is_left(model, pictures, taken):
    before = set(threading.enumerate())
    detections = detect(model, Endless(lambda i: pictures[i % 5]), workers=3)
    for _ in range(taken):
        next(detections)
    detections.close()
    assert set(threading.enumerate()) == before


def test_a_source_that_fails_leaves_no_thread(model, pictures):
    def files():
        yield from pictures
        raise KeyboardInterrupt

    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        list(detect(model, files(), workers=2))
    assert set(threading.enumerate()) == before


def test_results_do_not_depend_on_workers_or_order(model, pictures, tmp_path, rng):
    files = [*pictures, str(tmp_path / "gone.png"), Detection("x", error="matches no file"), *reversed(pictures)]
    alone = list(detect(model, files))
    assert [detection.path for detection in alone] == [getattr(file, "path", file) for file in files]
    for workers in (1, 4):
        assert list(detect(model, files, workers=workers)) == alone
        unordered = list(detect(model, files, workers=workers, ordered=False))
        assert sorted(map(repr, unordered)) == sorted(map(repr, alone))


def test_files_in_memory_are_as_those_on_the_disk(model, pictures, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    paths = [*pictures, str(tmp_path / "bad.png")]
    expected = list(detect(model, paths))
    files = []
    for path in paths:
        with open(path, "rb") as file:
            files.append(Content(path, file.read()))
    for path in paths:
        os.remove(path)  # nothing of that name is opened
    assert list(detect(model, files, workers=2)) == expected


def test_files_are_found_as_they_are_drawn(tmp_path, monkeypatch):
    for i in range(3):
        (tmp_path / f"{i}").mkdir()
        (tmp_path / f"{i}" / "a.png").touch()
    (tmp_path / "empty").mkdir()
    looked = []
    scandir = os.scandir
    monkeypatch.setattr("os.scandir", lambda path: looked.append(os.path.basename(path)) or scandir(path))
    files = find_files(map(str, [tmp_path, tmp_path / "empty", tmp_path / "gone"]))
    assert next(files) == f"{tmp_path}/0/a.png"
    assert looked == [tmp_path.name, "0"]
    assert list(files) == [
        f"{tmp_path}/1/a.png",
        f"{tmp_path}/2/a.png",
        Detection(f"{tmp_path}/empty", error="is a folder without images"),
        f"{tmp_path}/gone",
    ]


@pytest.mark.parametrize(
    "detection",
    [
        Detection("a.png", error="is empty"),
        Detection("b", 0.25, 30, 20, threshold=0.125, llr=-1.5, sha256="00"),
        Detection("c", 0.75, 30, 20, sha256="00", reasons=(Reason("tiny", "small"),), read=0.5, interval=(0.5, 1.0)),
        Detection("d", 1e-17, 30, 20, sha256="00", reasons=()),
    ],
)
def test_detections_from_their_lines(detection):
    line = json.loads(json.dumps(detection.to_dict() | {"model": "m"}))
    assert Detection.from_dict(line) == detection


@pytest.mark.parametrize("line", [{}, {"path": "a", "interval": [0, 1]}, {"path": "a", "reasons": [{"x": 1}]}])
def test_what_is_no_detection(line):
    with pytest.raises(ValueError, match="a damaged detection"):
        Detection.from_dict(line)
