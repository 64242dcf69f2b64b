"""The line and the thread that scores what waits in it, without a detector."""

import threading
import time

import pytest

from detector.detection import Content, Detection
from detector.serve.scorer import Closed, Expired, QueueFull, Scorer, retry_after

FOREVER = 3600.0


class Detector:
    """Says a score for each file, once it is let; remembers the batches."""

    def __init__(self):
        self.batches, self.begun, self.go = [], threading.Semaphore(0), threading.Semaphore(0)

    def detect(self, files):
        self.batches.append([])
        for content in files:
            self.batches[-1].append(content.name)
            self.begun.release()
            assert self.go.acquire(timeout=60)
            if content.data == b"fail":
                raise RuntimeError("failed")
            yield Detection(content.name, score=0.5)


@pytest.fixture
def detector():
    return Detector()


@pytest.fixture
def scorer_of(detector):
    scorers = []

    def make(**options):
        options = {"queue": 100, "batch_size": 3, "delay": 0} | options
        scorers.append(Scorer(detector.detect, lambda content: content.name.upper(), **options))
        scorers[-1].start()
        return scorers[-1]

    yield make
    detector.go.release(1000)
    for scorer in scorers:
        scorer.close()


def contents(names):
    return [Content(name, b"") for name in names]


def test_batches_in_order_and_at_most_so_large(scorer_of, detector):
    scorer = scorer_of()
    (first,) = scorer.submit(contents("a"), FOREVER)
    assert detector.begun.acquire(timeout=60)
    futures = scorer.submit(contents("bcde"), FOREVER) + scorer.submit(contents("f"), FOREVER)
    detector.go.release(6)
    assert [future.result(60)[0].path for future in [first, *futures]] == list("abcdef")
    assert detector.batches == [["a"], ["b", "c", "d"], ["e", "f"]]


def test_pictures_come_after_the_others_of_the_batch(scorer_of, detector):
    scorer = scorer_of(delay=FOREVER, batch_size=2)
    detector.go.release(2)
    (drawn,) = scorer.submit(contents("a"), FOREVER, drawn=True)
    (plain,) = scorer.submit(contents("b"), FOREVER)
    assert plain.result(60) == (Detection("b", score=0.5), None)
    assert drawn.result(60) == (Detection("a", score=0.5), "A")


def test_what_nobody_waits_for_is_not_scored(scorer_of, detector):
    scorer = scorer_of()
    scorer.submit(contents("a"), FOREVER)
    assert detector.begun.acquire(timeout=60)
    cancelled, kept = scorer.submit(contents("bc"), FOREVER)
    (late,) = scorer.submit(contents("d"), 0.0)
    assert cancelled.cancel()
    detector.go.release(10)
    assert kept.result(60)[0].path == "c"
    with pytest.raises(Expired):
        late.result(60)
    assert detector.batches == [["a"], ["c"]]


def test_a_failure_is_that_of_its_batch_alone(scorer_of, detector):
    scorer = scorer_of()
    scorer.submit(contents("a"), FOREVER)
    assert detector.begun.acquire(timeout=60)
    files = [Content("b", b""), Content("c", b"fail"), Content("d", b""), Content("e", b"")]
    futures = scorer.submit(files, FOREVER)
    detector.go.release(10)
    assert futures[0].result(60)[0].path == "b"
    for future in futures[1:3]:
        with pytest.raises(RuntimeError, match="failed"):
            future.result(60)
    assert futures[3].result(60)[0].path == "e"


def test_what_would_come_too_late_is_refused(scorer_of, detector):
    scorer = scorer_of(batch_size=1)
    detector.go.release()
    scorer.submit(contents("a"), FOREVER)[0].result(60)
    end = time.monotonic() + 60
    while not scorer._seconds_a_file or scorer._scoring:
        assert time.monotonic() < end
    scorer._seconds_a_file = 2.0
    scorer.submit(contents("b"), 1.0)  # nothing is before it
    assert detector.begun.acquire(timeout=60)
    assert detector.begun.acquire(timeout=60)
    with pytest.raises(QueueFull) as full:
        scorer.submit(contents("c"), 3.9)
    assert full.value.seconds == 2.0
    scorer.submit(contents("c"), 4.1)
    with pytest.raises(QueueFull):
        scorer.submit(contents("de"), 7.9)


def test_hurry_and_close_score_what_waits(scorer_of, detector):
    scorer = scorer_of(delay=FOREVER, batch_size=50)
    detector.go.release(10)
    (first,) = scorer.submit(contents("a"), FOREVER)
    scorer.hurry()
    assert first.result(60)[0].path == "a"
    scorer = scorer_of(delay=FOREVER, batch_size=50)
    futures = scorer.submit(contents("bc"), FOREVER)
    scorer.close()
    assert [future.result(0)[0].path for future in futures] == ["b", "c"]
    assert not scorer.alive
    with pytest.raises(Closed):
        scorer.submit(contents("d"), FOREVER)


def test_retry_after_is_whole_seconds_within_bounds():
    assert [retry_after(seconds) for seconds in (0, 0.2, 1.5, 1e9)] == [1, 1, 2, 60]
