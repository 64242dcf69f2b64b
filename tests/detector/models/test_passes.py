"""Passes: each on one thread of torch's, side by side, in order, within bounds."""

import threading
import time

import pytest
import torch

from detector.models import passes
from detector.models.passes import Passes


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    """torch set to that many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_every_pass_has_one_thread_and_no_gradients(threads):
    def look():
        time.sleep(0.01)  # so that all threads take part
        return torch.get_num_threads(), torch.is_inference_mode_enabled(), threading.get_ident()

    with Passes(threads) as running:
        assert torch.get_num_threads() == threads, "the caller's setting stays"
        seen = [running.start(look, 1) for _ in range(4 * threads)]
        numbers, inference, names = zip(*(future.result() for future in seen), strict=True)
    assert set(numbers) == {1}
    assert set(inference) == {True}
    assert len(set(names)) == threads
    assert (threading.get_ident() in names) == (threads == 1)
    assert torch.get_num_threads() == threads
    assert not torch.is_inference_mode_enabled()


def test_threads_that_come_later_have_the_setting_of_the_process(threads):
    found = []
    with Passes(threads):
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
    assert found == [threads]


def test_a_function_may_wait_for_those_before_it(threads):
    with Passes(threads) as running:
        sums = []
        for start in range(10):
            parts = [running.start(lambda x=start + i: x, 1) for i in range(5)]
            sums.append(running.start(lambda parts=parts: sum(part.result() for part in parts), 0))
        assert [future.result() for future in sums] == [5 * start + 10 for start in range(10)]


def test_an_exception_comes_with_the_result(threads):
    def fail():
        raise ArithmeticError("no such number")

    with pytest.raises(ArithmeticError, match="no such number"), Passes(threads) as running:
        running.start(fail, 1).result()
    assert torch.get_num_threads() == threads


def test_what_is_under_way_is_bounded(monkeypatch):
    monkeypatch.setattr(passes, "MAX_PIXELS_AT_ONCE", 100)
    lock, pixels, most = threading.Lock(), [0], [0]

    def work(size):
        with lock:
            pixels[0] += size
            most[0] = max(most[0], pixels[0])
        time.sleep(0.002)
        with lock:
            pixels[0] -= size

    with Passes(3) as running:
        for size in (40, 30, 30, 60, 1, 1, 1, 1, 1, 1, 1, 99, 2, 50, 51):
            running.start(lambda size=size: work(size), size)
            assert len(running._started) <= 6
        assert most[0] <= 100
        running.start(lambda: work(500), 500).result()  # larger than all that may be: alone
    assert most[0] == 500


def test_no_thread_is_left():
    before = threading.active_count()
    with Passes(2) as running:
        for _ in range(4):
            running.start(lambda: time.sleep(0.01), 1)
        assert threading.active_count() == before + 2
    assert threading.active_count() == before
