"""`npr detect` that is killed, terminated and interrupted: what it leaves, and how it goes on with --resume."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from detector.cli import main
from detector.data import Preprocessing
from detector.models import NPRDetector, save_checkpoint
from tests import needs

# Imports once and forks for every command, which so begins in no time.
SERVER = """
import os, sys, json
import detector.detection, detector.journal, detector.evaluation, detector.commands.rank
from detector.cli import main
print("ready", flush=True)
for line in sys.stdin:
    words = json.loads(line)
    child = os.fork()
    if child == 0:
        os.dup2(os.open(words.pop(0), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(os.open(words.pop(0), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        status = main(words)
        sys.stdout.flush()
        os._exit(status)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def server():
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Forty images of several sizes, every tenth broken."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng()
    for i in range(40):
        path = folder / f"{i:02}.png"
        Image.fromarray(rng.integers(0, 256, (*rng.integers(60, 120, 2), 3), dtype=np.uint8)).save(path)
        if i % 10 == 9:
            path.write_bytes(b"\x89PNG broken")
    return folder


def start(server, tmp_path, *words):
    """The process's id."""
    words = [str(tmp_path / "out"), str(tmp_path / "err"), *map(str, words)]
    server.stdin.write(json.dumps(words) + "\n")
    server.stdin.flush()
    return int(server.stdout.readline())


def end(server):
    """The exit status; minus the signal's number where that killed it."""
    return int(server.stdout.readline())


def wait_for_lines(path, number, seconds=60.0):
    """Until the file has so many lines."""
    stop = time.monotonic() + seconds
    while not path.exists() or path.read_bytes().count(b"\n") < number:
        assert time.monotonic() < stop, f"fewer than {number} lines after {seconds} s"
        time.sleep(0.0005)


@pytest.fixture
def straight(pictures, weights, tmp_path, capsys):
    """The lines of a run that nothing ends early."""
    path = tmp_path / "straight.jsonl"
    assert main(["detect", str(pictures), "--weights", str(weights), "--resume", str(path)]) == 1
    assert capsys.readouterr().out == ""
    return path.read_bytes()


def test_the_lines_are_those_of_standard_output(pictures, weights, straight, capsys):
    assert main(["detect", str(pictures), "--weights", str(weights), "--json"]) == 1
    assert capsys.readouterr().out.encode() == straight


@pytest.mark.parametrize("options", [[], ["--unordered"], ["--workers", "0"]])
def test_killed_at_any_moment_nothing_is_lost_or_doubled(server, pictures, weights, straight, tmp_path, rng, options):
    path = tmp_path / "r.jsonl"
    command = ["detect", pictures, "--weights", weights, "--resume", path, *options]
    kills, lines = 0, 0
    while lines < 40:
        child = start(server, tmp_path, *command)
        wait_for_lines(path, min(lines + int(rng.integers(1, 9)), 40))
        time.sleep(rng.uniform(0, 0.01))
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(child, signal.SIGKILL)
        status = end(server)
        kills += status == -signal.SIGKILL
        lines = path.read_bytes().count(b"\n")
    assert kills >= 3, "the process was hardly caught alive"
    start(server, tmp_path, *command)
    assert end(server) == 1  # there are errors among what was done before
    if "--unordered" in options:
        assert sorted(path.read_bytes().splitlines()) == sorted(straight.splitlines())
    else:
        assert path.read_bytes() == straight


@pytest.mark.parametrize(
    ("number", "status", "message"),
    [(signal.SIGTERM, 143, "npr: terminated\n"), (signal.SIGINT, 130, "npr: interrupted\n")],
)
def test_terminated_and_interrupted_it_leaves_whole_lines(
    server, pictures, weights, straight, tmp_path, rng, number, status, message
):
    found = []
    for _ in range(6):
        (tmp_path / "out").unlink(missing_ok=True)
        child = start(server, tmp_path, "detect", pictures, "--weights", weights, "--json")
        wait_for_lines(tmp_path / "out", int(rng.integers(1, 30)))
        os.kill(child, number)
        found.append(end(server))
        out = (tmp_path / "out").read_bytes()
        assert out.endswith(b"\n")
        assert straight.startswith(out)
        assert found[-1] in (status, 1)
        said = needs.besides_fallback((tmp_path / "err").read_text())
        assert said == (message if found[-1] == status else "")
    assert status in found


def test_a_path_given_twice_gets_one_line(pictures, weights, tmp_path):
    path = tmp_path / "r.jsonl"
    words = [f"{pictures}/03.png", f"{pictures}/0[234].png", f"{pictures}/03.png", "--weights", weights]
    assert main(["detect", *map(str, words), "--resume", str(path)]) == 0
    assert [json.loads(line)["path"][-6:] for line in path.open()] == ["03.png", "02.png", "04.png"]
    before = path.stat()
    assert main(["detect", *map(str, words), "--resume", str(path)]) == 0
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threshold", "0.25"], "its results are of another threshold, 0.5, not 0.25; name another file"),
        (["--policy", "centre"], "its results are of another policy, none, not centre; name another file"),
        (["--facts"], "its results are of another facts, false, not true; name another file"),
    ],
)
def test_other_settings_are_refused(pictures, weights, tmp_path, capsys, options, message):
    command = ["detect", f"{pictures}/00.png", "--weights", str(weights), "--resume", str(tmp_path / "r")]
    assert main(command) == 0
    before = (tmp_path / "r").read_bytes()
    assert main([*command, *options]) == 1
    assert capsys.readouterr().err == f"npr: error: {tmp_path}/r: {message}\n"
    assert (tmp_path / "r").read_bytes() == before
    # The same options from the start are taken up.
    assert main([*command[:-1], str(tmp_path / "s"), *options]) == 0
    assert main([*command[:-1], str(tmp_path / "s"), *options]) == 0


def test_another_model_decoder_or_version_is_refused(pictures, weights, tmp_path, capsys):
    torch.manual_seed(1)
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, NPRDetector(Preprocessing(crop=16)))
    path = tmp_path / "r.jsonl"
    command = ["detect", f"{pictures}/00.png", "--resume", str(path), "--weights"]
    assert main([*command, str(weights)]) == 0
    assert main([*command, str(other)]) == 1
    error = capsys.readouterr().err
    line = json.loads(path.read_bytes())
    assert error.startswith(f"npr: error: {path}: its results are of another model, {line['model']}, not ")
    assert error.count("\n") == 1
    for key, value in {"decoder": "Pillow 1", "versions": {"npr-kernels": "0", "torch": "1"}}.items():
        path.write_text(json.dumps(line | {key: value}) + "\n")
        assert main([*command, str(weights)]) == 1
        assert f"its results are of another {key}, " in capsys.readouterr().err


def test_a_file_of_another_kind_is_not_written_to(pictures, weights, tmp_path, capsys):
    photo = tmp_path / "photo.png"
    photo.write_bytes((pictures / "00.png").read_bytes())
    assert main(["detect", str(photo), "--weights", str(weights), "--resume", str(photo)]) == 1
    assert "photo.png: line 1 is no result of this command" in capsys.readouterr().err
    assert photo.read_bytes() == (pictures / "00.png").read_bytes()


@pytest.mark.parametrize("options", [["--workers", "0"], ["--workers", "1"], ["--workers", "5"]])
def test_workers_change_no_byte(pictures, weights, straight, capsys, options):
    main(["detect", str(pictures), "--weights", str(weights), "--json", *options])
    assert capsys.readouterr().out.encode() == straight
    main(["detect", str(pictures), "--weights", str(weights), "--json", "--unordered", *options])
    assert sorted(capsys.readouterr().out.encode().splitlines()) == sorted(straight.splitlines())


@pytest.mark.parametrize("options", [[], ["--json"], ["--policy", "centre"]])
def test_rank_goes_on_from_its_file(server, pictures, weights, tmp_path, capsys, options):
    """Killed on the way, and with files of which nobody asks now: the ranking is the one without the file."""
    path = tmp_path / "r.jsonl"
    files = [pictures, f"{pictures}/03.png"]
    assert main(["rank", *map(str, files), "--weights", str(weights), *options]) == 1
    expected = capsys.readouterr().out
    command = ["rank", *files, "--weights", weights, "--resume", path, *options]
    child = start(server, tmp_path, *command)
    wait_for_lines(path, 7)
    os.kill(child, signal.SIGKILL)
    end(server)
    assert main([*map(str, command)]) == 1
    assert capsys.readouterr().out == expected
    assert path.read_bytes().count(b"\n") == 40
    assert main(["rank", f"{pictures}/03.png", *map(str, command[3:])]) == 0
    assert "03.png" in capsys.readouterr().out
    assert path.read_bytes().count(b"\n") == 40
    assert main([*map(str, command), "--no-unsure"]) == 1
    assert "its results are of another unsure, true, not false" in capsys.readouterr().err
