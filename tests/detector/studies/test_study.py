"""`npr study`: its stages, that it goes on where it was killed, and what it records."""

import json
import re
import shlex
from dataclasses import replace

import pytest

from detector.cli import _parser
from detector.report import write_report
from detector.studies.record import FILE, Finished, Record, Training, read_record, write_record
from detector.studies.study import FULL, QUICK, run_study, stages
from detector.synth import SUITE_28
from detector.training.recipes import DEFAULT
from detector.training.trainer import TrainConfig, train
from tests.detector.training.folders import make_data

NAMES = ["simulate", "train NPR", "train CNNDetection", "evaluate", "robustness", "report"]
TRAINING = Training("default", "random weights", 16, 32, 4, {"accuracy": 0.5, "average_precision": None})


class Executor:
    """In the place of `npr`: notes commands, makes each stage's file, and fails or is killed where it is told to."""

    def __init__(self, study):
        self.study, self.commands, self.failing, self.killed = study, [], None, None

    def __call__(self, command):
        self.commands.append(list(command))
        stage = next(stage for stage in self.study if list(stage.command) == list(command)[: len(stage.command)])
        if stage.name == self.killed:
            raise KeyboardInterrupt
        stage.begun.parent.mkdir(parents=True, exist_ok=True)
        stage.begun.touch()
        return 3 if stage.name == self.failing else 0

    def drain(self):
        """The first words of the commands since the last call."""
        words = [command[0] for command in self.commands]
        self.commands.clear()
        return words


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr(Training, "of", lambda run: TRAINING)
    return stages(tmp_path / "out", photos="photos")


@pytest.mark.parametrize("size", [FULL, QUICK])
@pytest.mark.parametrize("options", [{}, {"photos": "p q", "imagenet": "i.pth", "device": "cpu", "seed": 4}])
def test_every_stage_is_a_command(tmp_path, size, options):
    """As the command line itself reads it, also after a copy from the screen."""
    study = stages(tmp_path, size, **options)
    assert [stage.name for stage in study] == NAMES
    for stage in study:
        words = shlex.split(str(stage))
        assert words == ["npr", *stage.command]
        args = _parser(words[1]).parse_args(words[1:] + list(stage.again))
        assert args.command == words[1]
        if stage.name == "simulate":
            assert (args.suite, args.photos, args.seed) == ("28", options.get("photos"), options.get("seed", 0))
            assert args.train_family is None  # nearest, as of every closed-form suite
        if stage.name == "train CNNDetection":
            assert args.imagenet == options.get("imagenet")
        if stage.name == "robustness":
            assert args.limit == size.robustness_count < size.count
    assert size.families is None
    assert len(SUITE_28) == 28


def test_stages_run_once(tmp_path, study):
    execute = Executor(study)
    assert run_study(tmp_path / "out", study, execute) == 0
    assert execute.drain() == ["synth", "train", "train", "eval", "robustness", "report"]
    assert run_study(tmp_path / "out", study, execute) == 0
    assert execute.drain() == []
    recorded = json.loads((tmp_path / "out" / FILE).read_text())
    assert recorded["kind"] == "study"
    assert [stage["command"] for stage in recorded["finished"]] == [str(stage) for stage in study]
    assert list(recorded["trainings"]) == ["NPR", "CNNDetection"]


@pytest.mark.parametrize("name", NAMES)
def test_goes_on_where_it_was_killed(tmp_path, study, name):
    execute = Executor(study)
    execute.killed = name
    with pytest.raises(KeyboardInterrupt):
        run_study(tmp_path / "out", study, execute)
    before = execute.drain()
    execute.killed = None
    assert run_study(tmp_path / "out", study, execute) == 0
    assert before[:-1] + execute.drain() == ["synth", "train", "train", "eval", "robustness", "report"]


def test_a_failed_stage_ends_the_study_and_is_gone_on_with(tmp_path, study, capsys):
    execute = Executor(study)
    execute.failing = "train NPR"
    assert run_study(tmp_path / "out", study, execute) == 3
    assert "stage 2 of 6, train NPR: exit status 3" in capsys.readouterr().err
    assert execute.drain() == ["synth", "train"]
    execute.failing = None
    assert run_study(tmp_path / "out", study, execute) == 0
    assert [command[-1] == "--resume" for command in execute.commands] == [True, False, False, False, False]
    finished = json.loads((tmp_path / "out" / FILE).read_text())["finished"]
    assert [stage["resumed"] for stage in finished] == [False, True, False, False, False, False]
    assert "stage 6 of 6, report\n$ npr report" in capsys.readouterr().err


def test_what_relied_on_lost_files_is_done_again(tmp_path, study):
    execute = Executor(study)
    run_study(tmp_path / "out", study, execute)
    execute.drain()
    (tmp_path / "out/cnndetection/config.json").unlink()
    assert run_study(tmp_path / "out", study, execute) == 0
    assert execute.commands[0][-1] != "--resume"
    assert execute.drain() == ["train", "eval", "robustness", "report"]


def test_other_options_need_another_folder(tmp_path, study):
    execute = Executor(study)
    run_study(tmp_path / "out", study, execute)
    execute.drain()
    with pytest.raises(ValueError, match=r"--out holds a study of other options: it ran `npr synth .*photos"):
        run_study(tmp_path / "out", stages(tmp_path / "out", photos="others"), execute)
    assert execute.drain() == []


def test_records(tmp_path):
    assert read_record(tmp_path) == Record()
    record = Record(trainings={"NPR": TRAINING})
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    for text in ("{", "[]", '{"finished": [{"name": "x"}], "trainings": {}}'):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(ValueError, match=r"study\.json"):
            read_record(tmp_path)


def test_on_the_page(tmp_path):
    record = Record([Finished("simulate", "npr synth --photos '<b>'", 90.0)], {"NPR": replace(TRAINING, seen=36000)})
    write_report(tmp_path / "page.html", "title", [record.to_dict()])
    page = re.sub("</?span>", "", (tmp_path / "page.html").read_text())
    for text in ("random weights", "36\u202f000", "1.5 min", "npr synth --photos &#x27;&lt;b&gt;&#x27;"):
        assert text in page
    with pytest.raises(ValueError, match="damaged result of kind study"):
        write_report(tmp_path / "page.html", "title", [{"kind": "study"}])


def test_what_a_training_saw(tmp_path):
    make_data(tmp_path / "data")
    recipe = DEFAULT.changed(crop=16, batch_size=8, epochs=3)
    train(TrainConfig(str(tmp_path / "data"), str(tmp_path / "run"), recipe), verbose=False)
    training = Training.of(tmp_path / "run")
    assert (training.recipe, training.start) == ("default", "random weights")
    assert (training.images, training.seen, training.steps) == (32, 96, 12)
    assert 0 <= training.validation["accuracy"] <= 1
