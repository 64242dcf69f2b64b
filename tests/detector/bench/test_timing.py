"""Turns by a clock that the test decides."""

from types import SimpleNamespace

from detector.bench import timing


def turn(durations, seconds):
    state = SimpleNamespace(now=0.0)
    left = iter(durations)

    def call():
        state.now += next(left)

    return timing.turn(call, seconds, lambda: state.now)


def test_the_first_call_of_several_does_not_count():
    assert turn([4, 1, 1, 1, 1], 7) == [1, 1, 1]


def test_a_call_that_takes_the_whole_turn_counts():
    assert turn([9, 1], 2) == [9]
    assert turn([9, 1], 0) == [9]
