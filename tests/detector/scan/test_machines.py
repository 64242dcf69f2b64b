"""A cluster of three machines, all on loopback: one that leads, and two that score, of which one is killed."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.detector.scan.packages import needed
from tests.detector.scan.rows import as_line, rows_of, told
from tests.kills.scan import start, wait_for_parts

needed("ray", "pyarrow")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for Ray's processes in /proc"),
]

PATIENCE = 100.0


@pytest.mark.usefixtures("no_token")
def test_one_of_two_machines_is_killed(pictures, tmp_path, weights, detect):
    """The one with the only actor, so that the other machine has one then; unless the scan ended meanwhile."""
    out = tmp_path / "out"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))  # names of sockets have a limit
        leader = ["--head", "--port", "0", "--include-dashboard", "false", "--temp-dir", str(folder / "ray")]
        stack.enter_context(machine("127.0.0.1", 0, folder / "leader", *leader))
        address = until(lambda: re.search(r"--address='([^']+)'", (folder / "leader").read_text()))[1]
        machines = []
        for host in ("127.0.0.2", "127.0.0.3"):  # one after the other; at the same time Ray's nodes may wait for ever
            machines.append(stack.enter_context(machine(host, 1, folder / host, "--address", address)))
            until(lambda host=host: "Ray runtime started" in (folder / host).read_text())
        raylets = [until(lambda node=node: children(node.pid, "raylet/raylet")) for node in machines]
        words = [str(pictures), "--weights", str(weights), "--out", str(out), "--block-size", "1"]
        scan = start([*words, "--actors", "1", "--address", address])
        wait_for_parts(scan, out, 2)
        killed = [raylet for (raylet,) in raylets if children(raylet, "ray::_Actor")]
        assert len(killed) <= 1
        for raylet in killed:
            os.kill(raylet, signal.SIGKILL)
        _, said = scan.communicate(timeout=PATIENCE)
        assert scan.returncode == 1, said  # of bad files
    rows = rows_of(out)
    wanted = detect(pictures)
    assert sorted(row["path"] for row in rows) == sorted(wanted)
    assert {row["path"]: as_line(row) for row in rows} == {path: told(line) for path, line in wanted.items()}


@pytest.fixture
def no_token(monkeypatch):
    """A cluster takes the one that this user may have, and asks for it."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


@contextmanager
def machine(host, cores, log, *words):
    """The process of a Ray node, which ends the node's others with it."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address", host]
    command += ["--num-cpus", str(cores), "--object-store-memory", str(80 * 2**20), "--disable-usage-stats", *words]
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE)


def until(look):
    """What it gives as soon as that is something."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, "no end"
        time.sleep(0.05)
    return found


def children(process, word):
    """Of a process, those with the word in their command."""
    found = []
    for name in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        try:
            command = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        if word.encode() in command:
            found.append(int(name))
    return found
