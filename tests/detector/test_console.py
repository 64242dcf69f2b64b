import pytest

from detector import console
from detector.console import Meter, say


def test_messages_are_not_markup(capsys):
    say("loss [bold] 0.5 [/nowhere]")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "loss [bold] 0.5 [/nowhere]\n"


def test_plain_lines_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    with Meter("epoch 1/2", 4, done=1) as meter:
        meter.advance(1)
        meter.note("loss 0.5")
        meter.advance(2)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("epoch 1/2 2/4  ")
    assert second.startswith("epoch 1/2 4/4  loss 0.5  ")
    assert second.endswith("0:00 left")


def test_the_total_may_come_later(capsys, monkeypatch):
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    with Meter("detect", None) as meter:
        meter.advance(1)
        meter.total = 9
        meter.skip(6)
        rate = meter.rate
        meter.advance(1)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("detect 1  ")
    assert first.endswith(" images/s")
    assert second.startswith("detect 8/9  ")
    assert meter.rate < 3 * rate  # what was skipped was not done


def test_a_bar_leaves_standard_output_alone(capsys, monkeypatch):
    monkeypatch.setattr(console, "messages", console.Console(force_terminal=True, stderr=True))
    with Meter("detect", None) as meter:
        print("a result")
        meter.advance(1)
    captured = capsys.readouterr()
    assert captured.out == "a result\n"
    assert "detect" in captured.err


def test_lines_are_rare(capsys):
    with Meter("evaluate", 100) as meter:
        for _ in range(100):
            meter.advance(1)
    assert capsys.readouterr().err == ""


def test_silence(capsys, monkeypatch):
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    with Meter("evaluate", 2, verbose=False) as meter:
        meter.advance(2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.4, "1:01"), (3599.6, "1:00:00"), (7325, "2:02:05")])
def test_durations(seconds, text):
    assert console._duration(seconds) == text
