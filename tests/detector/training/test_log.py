import json
import sys

import pytest

from detector.training.log import RunLog, read_log


def write_steps(folder, first, last):
    log = RunLog(folder, first - 1, verbose=False)
    for step in range(first, last + 1):
        log.write("train", step, 1, loss=step / 10)
    log.sync()
    log.close()


@pytest.mark.parametrize("rest", ["", '{"event": "train", "st', '{"event": "train", "step": 6}', "[1, 2]\n"])
def test_no_line_is_doubled(tmp_path, rest):
    write_steps(tmp_path, 1, 5)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write(rest)
    write_steps(tmp_path, 4, 7)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 7]
    assert lines[0] == {"event": "train", "step": 1, "epoch": 1, "loss": 0.1}
    assert read_log(tmp_path) == lines


def test_starts_anew(tmp_path):
    write_steps(tmp_path, 1, 5)
    write_steps(tmp_path, 1, 2)
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2]


def test_tensorboard_holds_the_same(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_steps(tmp_path, 1, 5)
    write_steps(tmp_path, 4, 7)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, round(event.value, 4)) for event in events.Scalars("train/loss")] == [
        (step, step / 10) for step in range(1, 8)
    ]


def test_missing_tensorboard_is_said_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = RunLog(tmp_path, 0)
    log.write("train", 1, 1, loss=0.5)
    log.write("train", 2, 1, loss=0.4)
    log.close()
    assert capsys.readouterr().err.count("TensorBoard is not installed") == 1
    assert len(read_log(tmp_path)) == 2
