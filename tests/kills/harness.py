"""Kills commands with SIGKILL at random moments, looks at what they leave, has them go on, and compares the end.

What a command writes is looked at after every kill: a file under its final name must be whole, a file that is not must
be told by its name, which starts with a dot. In the end nothing may be there but what a run that was never killed
writes, with the same content.

A command runs in a child of this process, forked after all that it needs was imported, so that kills fall into its work
and not into the import of torch; nothing else of it differs. This process must not have started threads before.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL.Image
from safetensors import safe_open

KILLS_OF_A_ROUND = (1, 5)
"""At least and at most, between two starts from nothing."""

APPENDED = "tensorboard"
"""A folder to which every start of a training adds a file, in a format made for being cut off."""

PATIENCE = 1800.0
"""Seconds after which a command counts as hanging."""


_TOOK = re.compile(r">\d+\.\d min(, resumed)?<")
"""How long a stage of a study took, on a page."""


class Broken(AssertionError):
    """A kill left, or led to, what it must not."""


@dataclass(frozen=True)
class Work:
    """A command that is killed.

    Attributes:
        name: of it.
        arguments: words after `npr`, given the folder that it writes into, which a kill may have left as it is.
        forget: keys of its JSON files that tell of the clock or of how often it was started.
        whole: raises Broken where what the folder shows is not whole, beyond its files one by one.
        run: what the words are given to; returns the exit status.
    """

    name: str
    arguments: Callable[[Path], list[str]]
    forget: frozenset[str] = frozenset()
    whole: Callable[[Path], None] = lambda folder: None
    run: Callable[[list[str]], int] = field(default=lambda words: _npr(words))


def _npr(words: list[str]) -> int:
    from detector.cli import main

    return main(words)


@dataclass
class Tally:
    """What was done to a work."""

    kills: int = 0
    rounds: int = 0
    starts: int = 0


def torment(work: Work, folder: Path, kills: int, seed: int, *, say: Callable[[str], None] = print) -> Tally:
    """Kills the work so many times, in as many rounds as it takes.

    Args:
        work: the command.
        folder: made and used; the command's own is `out` in it, at the same path in every round.
        kills: how often a process is caught alive and killed.
        seed: of the moments.
        say: told of every round.

    Raises:
        Broken: see there.
    """
    draw = random.Random(f"{seed} {work.name}")
    folder.mkdir(parents=True)
    out, reference = folder / "out", folder / "reference"
    out.mkdir()
    seconds, events = _measure(work, out, folder)
    check_whole(out, work)
    check_clean(out)
    out.rename(reference)
    say(f"{work.name}: {seconds:.1f} s and {events} changes of files when it is left alone")
    tally = Tally()
    while tally.kills < kills:
        out.mkdir()
        tally.rounds += 1
        moments = []
        for _ in range(min(draw.randint(*KILLS_OF_A_ROUND), kills - tally.kills)):
            # Half of the kills fall at any moment, half between two changes of files, where most can go wrong.
            moment = Moment(draw.uniform(0, seconds)) if draw.random() < 0.5 else Moment(event=draw.randint(1, events))
            tally.starts += 1
            status = start(work, out, folder, moment)
            if status == -signal.SIGKILL:
                moments.append(str(moment))
                tally.kills += 1
                check_whole(out, work)
            elif status == 0:  # what was left of the work took no longer
                break
            else:
                raise Broken(f"{work.name}: exit status {status} after kills at {moments}: {_said(folder)}")
        tally.starts += 1
        if (status := start(work, out, folder)) != 0:
            raise Broken(f"{work.name}: exit status {status} after kills at {moments}: {_said(folder)}")
        check_whole(out, work)
        check_clean(out)
        differing = list(differences(reference, out, work.forget))
        if differing:
            raise Broken(f"{work.name}: after kills at {moments}: {'; '.join(differing)}")
        say(f"{work.name}: {tally.kills} of {kills}; killed at {', '.join(moments) or '-'}: the same in the end")
        shutil.rmtree(out)
    return tally


@dataclass(frozen=True)
class Moment:
    """When a process is killed: after so many seconds of computing, or before so manieth change of files."""

    seconds: float | None = None
    event: int | None = None

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s" if self.event is None else f"change {self.event}"


def start(work: Work, out: Path, folder: Path, moment: Moment | None = None) -> int:
    """Runs the work once; returns its exit status, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        _become(work, out, folder, None if moment is None else moment.event)
    return _wait(child, None if moment is None else moment.seconds)


def _measure(work: Work, out: Path, folder: Path) -> tuple[float, int]:
    """Seconds of computing and number of changes of files of a run that is left alone, from which `out` is made."""
    child = os.fork()
    if child == 0:
        _become(work, out, folder, None)
    _, status, usage = os.wait4(child, 0)
    if status != 0:
        raise Broken(f"{work.name}: exit status {os.waitstatus_to_exitcode(status)}: {_said(folder)}")
    return usage.ru_utime + usage.ru_stime, int((folder / "changes").read_text())


def _become(work: Work, out: Path, folder: Path, fatal: int | None) -> None:
    """In the child: runs the work and ends. Killed before the fatal change of files; without one, counts them all."""
    status = 70
    try:
        errors = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(errors, 1)
        os.dup2(errors, 2)
        counted = _count_changes(out, fatal)
        status = work.run(work.arguments(out))
        (folder / "changes").write_text(str(counted()))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _count_changes(out: Path, fatal: int | None) -> Callable[[], int]:
    """Counts what this process is about to change under the folder, of which Python tells its audit hooks."""
    prefix, count = str(out), 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if not (
            (event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
            or event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")
        ):
            return
        if not any(_text(argument).startswith(prefix) for argument in arguments[:2]):
            return
        count += 1
        if count == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return lambda: count


def _text(path: Any) -> str:
    return os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""


def _wait(child: int, seconds: float | None) -> int:
    """Waits for the child's end, and brings it about when it has computed for so many seconds."""
    clock = (~child << 3) | 2  # CLOCK_PROCESS_CPUTIME_ID of another process, see clock_getcpuclockid(3)
    deadline = time.monotonic() + PATIENCE
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if (seconds is not None and time.clock_gettime(clock) >= seconds) or time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if time.monotonic() > deadline:
                raise Broken(f"no end after {PATIENCE:.0f} s")
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)


def _said(folder: Path) -> str:
    return " ".join((folder / "said").read_text(errors="replace").split())[-1500:]


def is_temporary(path: Path) -> bool:
    """Whether the name of the file, or of a folder that it lies in, says that it is not final."""
    return any(part.startswith(".") for part in path.parts)


def files_of(folder: Path) -> list[Path]:
    """Relative to the folder, sorted, but those of APPENDED."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return sorted(path for path in files if APPENDED not in path.parts)


def check_whole(out: Path, work: Work) -> None:
    """Raises Broken where a file under a final name is not whole."""
    for path in files_of(out):
        if is_temporary(path):
            continue
        try:
            content_of(out / path)
        except Exception as error:
            raise Broken(f"{work.name}: {path} is not whole: {type(error).__name__}: {error}") from error
    work.whole(out)


def check_clean(out: Path) -> None:
    """Raises Broken where something temporary is left."""
    left = [path for path in out.rglob("*") if is_temporary(path.relative_to(out))]
    if left:
        raise Broken(f"left behind: {', '.join(str(path.relative_to(out)) for path in left[:5])}")


def content_of(path: Path, forget: frozenset[str] = frozenset()) -> Any:
    """What a file says, comparable with ==, or an exception where it is not whole.

    A log is written on and on and may end within a line; a run that goes on drops that.
    """
    match path.suffix:
        case ".safetensors" | ".state":
            with safe_open(path, "np") as file:
                for name in file.keys():  # noqa: SIM118
                    file.get_tensor(name)
        case ".json":
            return _forgetting(json.loads(path.read_text()), forget)
        case ".jsonl":
            *lines, _ = path.read_text().split("\n")
            return [_forgetting(json.loads(line), forget) for line in lines]
        case ".png":
            with PIL.Image.open(path) as image:
                image.load()
        case ".html":
            text = path.read_text()
            if not text.endswith("</html>\n"):
                raise ValueError("its end is missing")
            return _TOOK.sub("", text)
        case ".csv":
            lines = path.read_text().split("\n")
            if lines[-1] or len({line.count(",") for line in lines[:-1]}) != 1:
                raise ValueError("its end is missing")
        case _:
            raise ValueError("a kind of file that this does not know")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _forgetting(value: Any, forget: frozenset[str]) -> Any:
    """JSON without the keys, however deep."""
    if isinstance(value, dict):
        return {key: _forgetting(inner, forget) for key, inner in value.items() if key not in forget}
    return [_forgetting(inner, forget) for inner in value] if isinstance(value, list) else value


def differences(reference: Path, out: Path, forget: frozenset[str]) -> Iterator[str]:
    """In what two folders differ, but for the keys."""
    wanted, found = set(files_of(reference)), set(files_of(out))
    yield from (f"{path} is missing" for path in sorted(wanted - found))
    yield from (f"{path} is too much" for path in sorted(found - wanted))
    for path in sorted(wanted & found):
        if content_of(reference / path, forget) != content_of(out / path, forget):
            yield f"{path} has another content"
