"""read_ahead: what is loaded, in which order, how far ahead, and that nothing is left when it ends early."""

import threading
import time
from itertools import count, islice

import numpy as np
import pytest
import torch
from PIL import Image

from detector.data import ImageError, decode, read_ahead
from detector.data import reading as module


def readers():
    return [thread for thread in threading.enumerate() if thread.name == "reader"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert readers() == []


def slow(rng):
    """Squares, later ones often before earlier ones."""
    delays = rng.uniform(0, 0.004, 1000)

    def load(item, admit):
        time.sleep(delays[item])
        return item * item

    return load


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
@pytest.mark.parametrize("ordered", [True, False])
def test_every_item_once_with_its_result(workers, ordered, rng):
    number = int(rng.integers(0, 60))
    found = list(read_ahead(range(number), slow(rng), workers=workers, ordered=ordered))
    assert sorted(found) == [(item, item * item) for item in range(number)]
    if ordered:
        assert found == sorted(found)


def test_in_order_or_as_they_are_ready():
    gate = threading.Event()

    def load(item, admit):
        if item == 0:
            assert gate.wait(10)
        return item

    unordered = read_ahead(range(5), load, workers=2, ordered=False)
    assert [next(unordered)[0] for _ in range(4)] == [1, 2, 3, 4]
    gate.set()
    assert list(unordered) == [(0, 0)]
    assert [item for item, _ in read_ahead(range(5), load, workers=2)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("ordered", [True, False])
def test_an_endless_source_is_drawn_no_further_than_the_bound(ordered):
    drawn = 0

    def items():
        nonlocal drawn
        for item in count():
            drawn += 1
            yield item

    results = read_ahead(items(), lambda item, admit: item, workers=3, ordered=ordered, most_waiting=7)
    for taken, _ in enumerate(islice(results, 2000), start=1):
        assert drawn - taken < 7
    results.close()
    assert drawn < 2007


@pytest.mark.parametrize("ordered", [True, False])
def test_bytes_that_wait_stay_within_the_room(ordered, rng):
    """But for one result, the next in the order, which is let in at any rate: without it nothing would go on."""
    sizes = rng.integers(0, 60, 300).tolist()
    sizes[::50] = [1000] * 6  # each larger than all the room
    lock = threading.Lock()
    waiting, most, inside = 0, 0, {}

    def load(item, admit):
        nonlocal waiting, most
        admit(sizes[item])
        with lock:
            inside[item] = sizes[item]
            most = max(most, sum(inside.values()) - max(inside.values()))
        return item

    for item, _ in read_ahead(range(300), load, workers=4, ordered=ordered, room=100):
        with lock:
            del inside[item]
    assert inside == {}
    # What was just taken still counts here until the consumer's turn: one result more than in the reader's own count.
    assert most <= 100 + 60


def test_waits_for_room_are_no_work():
    """Workers that wait for room begin nothing, and go on when results are taken."""
    begun = []

    def load(item, admit):
        admit(60)
        begun.append(item)
        return item

    results = read_ahead(range(10), load, workers=4, room=100)
    assert next(results) == (0, 0)
    time.sleep(0.1)
    # What was next in the order, and at most one that was let in before it.
    assert len(begun) in (2, 3)
    assert {0, 1} <= set(begun)
    assert [item for item, _ in results] == list(range(1, 10))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_comes_in_its_place(workers):
    def load(item, admit):
        if item == 3:
            raise KeyError("three")
        return item

    results = read_ahead(count(), load, workers=workers)
    assert [item for item, _ in islice(results, 3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="three"):
        next(results)
    assert readers() == []


def test_an_exception_of_the_source_ends_the_threads():
    def items():
        yield 1
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(read_ahead(items(), lambda item, admit: time.sleep(0.05), workers=2))
    assert readers() == []


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_closed_in_the_middle(taken):
    """Even while workers wait for room."""

    def load(item, admit):
        admit(10)
        return item

    results = read_ahead(count(), load, workers=3, room=15)
    for _ in range(taken):
        next(results)
    results.close()
    assert readers() == []


def test_dropped_in_the_middle():
    """By a consumer that fails: the generator goes with the frame that held it."""

    def consume():
        for item, _ in read_ahead(count(), lambda item, admit: item, workers=2):
            if item == 5:
                raise RuntimeError

    with pytest.raises(RuntimeError):
        consume()
    assert readers() == []


def test_a_thread_that_never_ends_is_left_behind(monkeypatch):
    monkeypatch.setattr(module, "SECONDS_TO_END", 0.05)
    gate = threading.Event()

    def load(item, admit):
        if item == 1:
            gate.wait(30)
        return item

    results = read_ahead(range(2), load, workers=2)
    assert next(results) == (0, 0)
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 5
    assert len(readers()) == 1
    assert readers()[0].daemon
    gate.set()
    readers()[0].join(10)


def test_torch_uses_one_thread_in_each_and_as_many_as_before_outside():
    before = torch.get_num_threads()
    results = read_ahead(range(20), lambda item, admit: torch.get_num_threads(), workers=3)
    assert {threads for _, threads in results} == {1}
    assert torch.get_num_threads() == before


def test_wrong_arguments():
    with pytest.raises(ValueError, match="workers must not be negative, got -1"):
        next(read_ahead([], slow, workers=-1))
    with pytest.raises(ValueError, match="most_waiting must be at least 1, got 0"):
        next(read_ahead([], slow, workers=1, most_waiting=0))


def test_decoding_is_the_same_on_any_number_of_threads(tmp_path, rng):
    paths = []
    for i in range(24):
        pixels = rng.integers(0, 256, (*rng.integers(2, 90, 2), 3)).astype(np.uint8)
        paths.append(tmp_path / f"{i}.{('png', 'jpg', 'webp', 'tif')[i % 4]}")
        Image.fromarray(pixels).save(paths[-1])
    paths[7].write_bytes(b"\x89PNG broken")
    paths.insert(3, tmp_path / "gone.png")

    def load(path, admit):
        try:
            return decode(path, admit=admit)
        except ImageError as error:
            return str(error)

    alone = [result for _, result in read_ahead(paths, load, workers=0)]
    assert [i for i, result in enumerate(alone) if isinstance(result, str)] == [3, 8]
    for workers in (1, 4):
        shared = [result for _, result in read_ahead(paths, load, workers=workers, room=9000)]
        for one, other in zip(alone, shared, strict=True):
            assert one == other if isinstance(one, str) else torch.equal(one, other)


def test_decode_asks_for_what_it_takes(tmp_path, rng):
    height, width = (int(side) for side in rng.integers(2, 50, 2))
    path = tmp_path / "a.png"
    Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8)).save(path)
    asked = []
    image = decode(path, admit=asked.append)
    assert asked == [image.numel() * image.element_size()] == [3 * height * width]
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(ImageError):
        decode(tmp_path / "b.png", admit=asked.append)
    assert len(asked) == 1


def test_what_admit_raises_is_no_damage_of_the_file(tmp_path):
    class Stop(BaseException):
        pass

    def stop(size):
        raise Stop

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(Stop):
        decode(tmp_path / "a.png", admit=stop)
