"""Signals as exceptions: at once, at the end of a line, and not at all where they were ignored."""

import os
import signal

import pytest

from detector.signals import Terminated, as_exceptions, held_back, status_of

SIGNALS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "exception"), SIGNALS.items())
def test_raised_at_once(number, exception):
    done = []

    def work():
        with as_exceptions():
            send(number)
            done.append("more")

    before = signal.getsignal(number)
    with pytest.raises(exception) as caught:
        work()
    assert done == []
    assert type(caught.value) is exception
    assert status_of(caught.value) == 128 + number
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("number", "exception"), SIGNALS.items())
def test_held_back_until_the_block_ends(number, exception):
    done = []

    def work():
        with as_exceptions():
            with held_back():
                send(number)
                done.append("line")
            done.append("next line")

    with pytest.raises(exception):
        work()
    assert done == ["line"]
    with as_exceptions(), held_back():  # nothing is left over
        pass


def test_a_second_signal_is_not_held_back():
    done = []

    def work():
        with as_exceptions(), held_back():
            send(signal.SIGINT)
            done.append("line")
            send(signal.SIGTERM)
            done.append("more")

    for _ in range(2):  # nothing is left over
        done.clear()
        with pytest.raises(Terminated):
            work()
        assert done == ["line"]


def test_an_error_in_the_block_comes_first():
    def work():
        with as_exceptions(), held_back():
            send(signal.SIGINT)
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        work()


@pytest.mark.parametrize("number", SIGNALS)
def test_ignored_signals_stay_ignored(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with as_exceptions():
            send(number)
    finally:
        signal.signal(number, before)
